"""Two processes with half of the batch each learn what one process learns with all of it, every loss on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader, Dataset

from nuwa_lightning.models.vqgan import VQGANConfig
from nuwa_lightning.training.losses import AdversarialTerm, LossWeights, PerceptualTerm
from nuwa_lightning.training.vqgan_module import VQGANModule

SIZE = VQGANConfig(
    codebook_size=8,
    codebook_dim=4,
    encoder_channels=(8, 12),
    encoder_blocks=(1, 1),
    decoder_channels=(12, 8),
    decoder_blocks=(1, 1),
)
LOSS = LossWeights(
    squared=0.5,
    perceptual=PerceptualTerm(weight=0),
    adversarial=AdversarialTerm(weight=0.3, start=0.25, ramp=0.25, channels=8, layers=1),
)


class Images(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return 32 // self.world

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # a global batch is four images in a row: this process has its part of them
        share = 4 // self.world
        number = index // share * 4 + self.rank * share + index % share
        small = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(number)) * 2 - 1
        return {"image": torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")[0]}


def train(folder: Path, rank: int, world: int) -> None:
    seed_everything(0, verbose=False)
    model = VQGANModule(SIZE, loss=LOSS, unquantized_steps=3, warmup_steps=2, lr=1e-3)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=8,
        limit_val_batches=0,
    )
    trainer.fit(model, DataLoader(Images(rank, world), batch_size=4 // world))
    assert model.discriminator is not None
    torch.save({"vqgan": model.vqgan.state_dict(), "discriminator": model.discriminator.state_dict()}, folder / "w.pt")


@pytest.mark.slow
def test_stage_1_with_the_adversarial_loss(tmp_path: Path, repository: Path) -> None:
    runs = {"one": [(0, 1)], "two": [(0, 2), (1, 2)]}
    for name, ranks in runs.items():
        processes = []
        for rank, world in ranks:
            folder = tmp_path / name / str(rank)
            folder.mkdir(parents=True)
            environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
            if world > 1:
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571", "WORLD_SIZE": "2"}
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
                environment |= {"TORCHELASTIC_RUN_ID": "test"}
            command = [sys.executable, __file__, str(folder), str(rank), str(world)]
            processes.append(subprocess.Popen(command, env=environment))
        assert [process.wait(timeout=300) for process in processes] == [0] * len(ranks)
    one, first, second = (torch.load(tmp_path / p / "w.pt", weights_only=True) for p in ("one/0", "two/0", "two/1"))
    for part, state in one.items():
        for key, value in state.items():
            assert torch.equal(first[part][key], second[part][key]), key
            torch.testing.assert_close(first[part][key], value, rtol=2e-3, atol=2e-4)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
