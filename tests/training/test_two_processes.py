"""Two processes with half of the batch each learn what one process learns with all of it, every loss on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nuwa_lightning.generation.coarse_plan import CoarsePlan
from nuwa_lightning.generation.local import LocalityLocalDecoder, MaskedLocalDecoder
from nuwa_lightning.models.nuwa_infinity import ABSENT, TransformerConfig
from nuwa_lightning.models.perceptual import PerceptualLoss
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.text.base import TextEncoder
from nuwa_lightning.training.conditioning import Conditions
from nuwa_lightning.training.losses import AdversarialTerm, LossTerm, LossWeights, PerceptualTerm
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
from nuwa_lightning.training.optimization import OptimizerConfig
from nuwa_lightning.training.pixel_guided_module import PixelGuidedModule
from nuwa_lightning.training.scaling import ScalingConfig
from nuwa_lightning.training.vqgan_module import VQGANModule

SIZE = VQGANConfig(
    codebook_size=8,
    codebook_dim=4,
    encoder_channels=(8, 12),
    encoder_blocks=(1, 1),
    decoder_channels=(12, 8),
    decoder_blocks=(1, 1),
)
BATCH = 4
PERCEPTUAL = PerceptualTerm(weight=0.3, kind="none", images=3, crop=16, start=0.2)
LOSS = LossWeights(
    squared=0.5,
    perceptual=PERCEPTUAL,
    adversarial=AdversarialTerm(weight=0.3, start=0.25, ramp=0.25, channels=8, layers=1),
)


class Edges(PerceptualLoss):
    """Takes the place of a trained network."""

    name = "edges"

    def __init__(self) -> None:
        super().__init__([torch.ones(4)])
        self.conv = nn.Conv2d(3, 4, 3).requires_grad_(False)

    def features(self, image_B3YX: Tensor) -> list[Tensor]:
        return [self.conv(image_B3YX)]


@dataclass(frozen=True)
class Vectors(TextEncoder):
    """Stands for what made the texts of the samples."""

    width: int = 8

    def fingerprint(self) -> str:
        return "vectors"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        raise NotImplementedError


class Sharp(LossTerm):
    def __call__(self, logits_MK: Tensor, target_M: Tensor) -> Tensor:
        return 0.1 * logits_MK.logsumexp(dim=1).square()


def image(number: int, *, side: int = 32) -> Tensor:
    small = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(number)) * 2 - 1
    return nn.functional.interpolate(small, (side, side), mode="bilinear")[0]


def clip(number: int) -> dict[str, Tensor]:
    wide = image(number, side=24)
    return {"video": torch.stack([wide[:, t : t + 16, 2 * t : 2 * t + 16] for t in range(3)])}


def window(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    tokens, coarse = (torch.randint(0, 16, (1, 4, 6), generator=generator) for _ in range(2))
    text = torch.randn(5, 8, generator=generator)
    there = torch.arange(5) < torch.randint(1, 6, (1,), generator=generator)
    return {"tokens": tokens, "coarse": torch.where(coarse < 2, ABSENT, coarse), "text": text, "text_mask": there}


class Share(Dataset[dict[str, Tensor]]):
    """The samples of one process: a batch of all processes is four samples in a row."""

    def __init__(self, make: Callable[[int], dict[str, Tensor]], rank: int, world: int, dtype: torch.dtype) -> None:
        self.make, self.rank, self.share, self.world, self.dtype = make, rank, BATCH // world, world, dtype

    def __len__(self) -> int:
        return 48 // self.world

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = index // self.share * BATCH + self.rank * self.share + index % self.share
        return {name: t.to(self.dtype) if t.is_floating_point() else t for name, t in self.make(number).items()}


def stage_1() -> VQGANModule:
    made = VQGANModule(SIZE, loss=LOSS, unquantized_steps=3, warmup_steps=2, lr=1e-3)
    made._perceptual = (Edges().double(),)
    return made


def guided() -> PixelGuidedModule:
    loss, descent = LossWeights(squared=0.5, perceptual=PERCEPTUAL), OptimizerConfig(0.01, 2)
    made = PixelGuidedModule((1, 1), loss=loss, slow_share=0.5, descent=descent)
    made._perceptual = (Edges().double(),)
    vqgan = VQGAN.build(SIZE).eval().requires_grad_(False)
    vqgan.quantizer.codebook_KD.copy_(nn.functional.normalize(torch.randn(8, 4), dim=1))
    made.attach_tokenizer(vqgan.double())
    return made


def stage_2(**options: Any) -> NuwaInfinityModule:
    conditions = Conditions(Vectors(), text_dropout=0.3, known_prob=0.4, closing_prob=0.4, token_noise=0.4)
    made = NuwaInfinityModule(
        16,
        4,
        patch_size=(2, 2),
        transformer=TransformerConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1),
        context_pool=NearbyContextPool((0, 1, 1)),
        **{"conditions": conditions, "lr": 0.01, **options},
        descent=OptimizerConfig(warmup_steps=2, label_smoothing=0.1),
        loss_terms=[Sharp()],
    )
    made.transformer.set_codes(torch.randn(16, 4))
    return made


NO_TEXT = Conditions(known_prob=0.4, closing_prob=0.4, token_noise=0.4)
CASES: dict[str, tuple[Callable[[], LightningModule], Callable[[int], dict[str, Tensor]]]] = {
    "stage 1": (stage_1, lambda number: {"image": image(number)}),
    "pixel-guided": (guided, clip),
    "joint": (lambda: stage_2(plan=CoarsePlan(dropout=0.3), scaling=ScalingConfig(accumulate_grad_batches=2)), window),
    # in raster order, plans do not share masks: processes have different numbers of groups
    "raster": (lambda: stage_2(token_order="raster", optimize="accumulated"), window),
    "masked": (lambda: stage_2(token_order="raster", local_decoder=MaskedLocalDecoder(), conditions=NO_TEXT), window),
    "locality": (lambda: stage_2(local_decoder=LocalityLocalDecoder(steps=3, schedules=(4, 3, 2))), window),
    "per patch": (lambda: stage_2(token_order="raster", optimize="per_patch"), window),
    "per patch, masked": (lambda: stage_2(optimize="per_patch", local_decoder=MaskedLocalDecoder()), window),
}


def train(folder: Path, rank: int, world: int) -> None:
    """Train every case, in double precision, so that sums in another order hardly differ."""
    for name, (make, sample) in CASES.items():
        seed_everything(0, verbose=False)
        model = make()
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            precision="64-true",
            devices=world,
            strategy="ddp" if world > 1 else "auto",
            use_distributed_sampler=False,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            max_steps=6,
            limit_val_batches=0,
        )
        trainer.fit(model, DataLoader(Share(sample, rank, world, torch.float64), batch_size=BATCH // world))
        weights = {key: value for key, value in model.state_dict().items() if not key.startswith("_")}
        logged = {key: value for key, value in trainer.callback_metrics.items() if key.startswith("train/")}
        torch.save({"weights": weights, "logged": logged, "steps": trainer.global_step}, folder / f"{name}.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A folder with what one process came to, and each of two."""
    root = tmp_path_factory.mktemp("trained")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, ranks in {"one": [(0, 1)], "two": [(0, 2), (1, 2)]}.items():
        processes = []
        for rank, world in ranks:
            folder = root / name / str(rank)
            folder.mkdir(parents=True)
            environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
            if world > 1:
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
                environment |= {"TORCHELASTIC_RUN_ID": "test"}
            command = [sys.executable, __file__, str(folder), str(rank), str(world)]
            processes.append(subprocess.Popen(command, env=environment))
        try:
            assert [process.wait(timeout=900) for process in processes] == [0] * len(ranks)
        finally:
            for process in processes:
                process.kill()
    return root


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(trained: Path, case: str) -> None:
    one, first, second = (torch.load(trained / p / f"{case}.pt") for p in ("one/0", "two/0", "two/1"))
    assert one["steps"] == first["steps"] == second["steps"] == 6
    start = CASES[case][0]().state_dict()
    assert one["logged"].keys() == first["logged"].keys()
    for part in ("logged", "weights"):
        for key, value in one[part].items():
            assert part == "logged" or torch.equal(first[part][key], second[part][key]), key
            torch.testing.assert_close(first[part][key], value, rtol=1e-6, atol=1e-7, msg=lambda m, k=key: f"{k}: {m}")
    assert any(not torch.equal(start[key], value.to(start[key].dtype)) for key, value in one["weights"].items())


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
