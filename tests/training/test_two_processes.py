"""Two processes with half of the batch each learn what one process learns with all of it, every loss on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nuwa_lightning.generation.coarse_plan import CoarsePlan
from nuwa_lightning.generation.local import LocalityLocalDecoder, MaskedLocalDecoder
from nuwa_lightning.models.nuwa_infinity import ABSENT, TransformerConfig
from nuwa_lightning.models.perceptual import PerceptualLoss
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.text.base import TextEncoder
from nuwa_lightning.tokenizers.pretrained import save_tokenizer
from nuwa_lightning.tokenizers.published import PublishedVQGAN
from nuwa_lightning.training.conditioning import Conditions
from nuwa_lightning.training.losses import AdversarialTerm, LossTerm, LossWeights, PerceptualTerm
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
from nuwa_lightning.training.optimization import OptimizerConfig
from nuwa_lightning.training.pixel_guided_module import PixelGuidedModule
from nuwa_lightning.training.scaling import ScalingConfig
from nuwa_lightning.training.vqgan_module import VQGANModule
from tests.models.test_quantizer import Restarting
from tests.together import run_together
from tests.training.small import published

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


def photo(number: int) -> dict[str, Tensor]:
    return {"image": image(number)}


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


def stage_1(start: VQGAN | PublishedVQGAN | None = None, **options: Any) -> VQGANModule:
    with TemporaryDirectory() as folder:
        if start is not None:
            save_tokenizer(f"{folder}/start", start)
            options["start_from"] = f"{folder}/start"
        made = VQGANModule(SIZE, loss=LOSS, unquantized_steps=3, warmup_steps=2, lr=1e-3, **options)
    if start is None:
        made.vqgan.quantizer = Restarting(8, 4)
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
    "stage 1": (stage_1, photo),
    "decoder": (lambda: stage_1(VQGAN.build(SIZE), train_only="decoder"), photo),
    "pixel-guided": (guided, clip),
    "joint": (lambda: stage_2(plan=CoarsePlan(dropout=0.3), scaling=ScalingConfig(accumulate_grad_batches=2)), window),
    # in raster order, plans do not share masks: processes have different numbers of groups
    "raster": (lambda: stage_2(token_order="raster", optimize="accumulated"), window),
    "masked": (lambda: stage_2(token_order="raster", local_decoder=MaskedLocalDecoder(), conditions=NO_TEXT), window),
    "locality": (lambda: stage_2(local_decoder=LocalityLocalDecoder(steps=3, schedules=(4, 3, 2))), window),
    "per patch": (lambda: stage_2(token_order="raster", optimize="per_patch"), window),
    "per patch, masked": (lambda: stage_2(optimize="per_patch", local_decoder=MaskedLocalDecoder()), window),
}
if find_spec("diffusers"):
    CASES["published"] = (lambda: stage_1(published()), photo)


class Logged(Callback):
    """Keeps what every step logs, over all processes."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        found = trainer.callback_metrics.items()
        self.steps.append({name: value.item() for name, value in found if name.startswith("train/")})


def train(folder: Path, case: str, *, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """Train in double precision, so that sums in another order hardly differ."""
    make, sample = CASES[case]
    seed_everything(0, verbose=False)
    model, logged = make(), Logged()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        precision="64-true",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        callbacks=[logged],
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
    return {"weights": weights, "logged": logged.steps, "steps": trainer.global_step}


SOON = ("joint",)
LATER = tuple(case for case in CASES if case not in SOON)
Trained = Callable[[tuple[str, ...]], Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Give a folder with what each of two processes came to in some cases."""

    @cache
    def folder(cases: tuple[str, ...]) -> Path:
        root = tmp_path_factory.mktemp("trained")
        ended = run_together([__file__, root, *cases], timeout=900)
        assert [status for status, _ in ended] == [0, 0], ended
        return root

    return folder


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("case", [*SOON, *(pytest.param(case, marks=pytest.mark.slow) for case in LATER)])
def test_two_processes_learn_what_one_learns(trained: Trained, case: str, tmp_path: Path) -> None:
    folder = trained(SOON if case in SOON else LATER)
    one, (first, second) = train(tmp_path, case), (torch.load(folder / f"{case}{rank}.pt") for rank in range(2))
    assert one["steps"] == first["steps"] == second["steps"] == 6
    assert len(one["logged"]) == len(first["logged"]) >= 6
    for mine, theirs in zip(one["logged"], first["logged"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-6, abs=1e-7)
    for key, value in one["weights"].items():
        assert torch.equal(first["weights"][key], second["weights"][key]), key
        torch.testing.assert_close(first["weights"][key], value, rtol=1e-6, atol=1e-7, msg=lambda m, k=key: f"{k}: {m}")
    start = CASES[case][0]().state_dict()
    assert any(not torch.equal(start[key], value.to(start[key].dtype)) for key, value in one["weights"].items())
    if case == "stage 1":
        assert one["weights"]["vqgan.quantizer.restarts"] > 0


if __name__ == "__main__":
    for name in sys.argv[2:]:
        number = int(os.environ["RANK"])
        found = train(Path(sys.argv[1]), name, rank=number, world=2)
        torch.save(found, Path(sys.argv[1]) / f"{name}{number}.pt")
