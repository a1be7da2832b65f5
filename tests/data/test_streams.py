"""Batches by number: order, and resumption in the middle of an epoch under Lightning itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint

from nuwa_lightning.data import CropSettings, FolderPhotos, ImageFolderDataModule, TokenDataModule
from nuwa_lightning.data.data_module import resume_note
from nuwa_lightning.data.streams import Batch, BatchStream, generator
from nuwa_lightning.data.token_data import BankSettings
from tests.data.test_token_data import Means


class Numbers:
    """Batch n holds n."""

    def batch(self, step: int) -> Batch:
        return {"step": torch.tensor(step)}


@given(st.integers(0, 30), st.integers(1, 12))
def test_stream_goes_on_from_the_position(start: int, length: int) -> None:
    stream = BatchStream(Numbers(), length=length, position=lambda: start)
    assert [int(batch["step"]) for batch in stream] == list(range(start, start + length))
    assert len(stream) == length
    assert stream.state_dict() == {"position": start}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_keep_the_order(workers: int) -> None:
    stream = BatchStream(Numbers(), length=10, position=lambda: 4, num_workers=workers)
    assert [int(batch["step"]) for batch in stream] == list(range(4, 14))


def test_generators_differ() -> None:
    draws = {float(generator(*numbers).random()) for numbers in ((0, 1), (0, 2), (1, 1), (-1, 1), (0, 1, 0), (0, 1, 1))}
    assert len(draws) >= 5  # a trailing zero may say the same
    assert generator(7, 1, 2).random() == generator(7, 1, 2).random()
    assert generator(-7).random() != generator(7).random()


class Memory(pl.LightningModule):
    """Keeps what it was shown, and stops by force where asked to."""

    def __init__(self, *, die_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[str] = []
        self.die_at = die_at

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.die_at is not None and self.global_step == self.die_at:
            raise RuntimeError("killed")
        self.seen.append(str(sorted((name, value.double().sum().item()) for name, value in batch.items())))
        return self.weight * 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def images(folder: Path) -> ImageFolderDataModule:
    crops = CropSettings(size=16, short_sides=(24, 40), val_short_sides=(24,))
    return ImageFolderDataModule(str(folder), crops=crops, batch_size=3, steps_per_epoch=5)


def tokens(folder: Path) -> TokenDataModule:
    data = TokenDataModule(
        FolderPhotos(str(folder)), grid=(4, 4), bank=BankSettings((40,)), batch_size=2, steps_per_epoch=5
    )
    data.attach_tokenizer(Means())
    return data


def fit(folder: Path, module: Memory, data: Any, *, ckpt: str | None = None, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **{"max_steps": 13, "callbacks": [], "enable_checkpointing": bool(options.get("callbacks")), **options},
    )
    trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return trainer


@pytest.mark.parametrize("make", [images, tokens])
@pytest.mark.parametrize("stop", [2, 5, 7, 10])
def test_a_resumed_run_sees_the_same_batches(
    photo_folder: Path, tmp_path: Path, make: Callable[[Path], Any], stop: int
) -> None:
    whole, first, rest = Memory(), Memory(), Memory()
    fit(tmp_path, whole, make(photo_folder))
    assert len(whole.seen) == len(set(whole.seen)) == 13
    saver = ModelCheckpoint(tmp_path / "saved", filename="at", every_n_train_steps=stop)
    fit(tmp_path, first, make(photo_folder), max_steps=stop, callbacks=[saver])
    saved = str(tmp_path / "saved" / "at.ckpt")
    again = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=stop)
    trainer = fit(tmp_path, rest, make(photo_folder), ckpt=saved, callbacks=[again])
    assert first.seen + rest.seen == whole.seen
    assert trainer.current_epoch == 3 or trainer.global_step == 13


@pytest.mark.parametrize("die_at", [1, 6, 9])
def test_a_run_that_died_within_a_step_repeats_that_step(photo_folder: Path, tmp_path: Path, die_at: int) -> None:
    whole, first, rest = Memory(), Memory(die_at=die_at), Memory()
    fit(tmp_path, whole, images(photo_folder))
    saver = ModelCheckpoint(tmp_path / "saved", filename="at", save_on_exception=True, every_n_train_steps=1000)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, first, images(photo_folder), callbacks=[saver])
    (saved,) = (tmp_path / "saved").glob("*.ckpt")
    again = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=1000)
    fit(tmp_path, rest, images(photo_folder), ckpt=str(saved), callbacks=[again])
    assert first.seen + rest.seen == whole.seen


def test_validation_between_changes_nothing(photo_folder: Path, tmp_path: Path) -> None:
    one, two = Memory(), Memory()
    fit(tmp_path, one, images(photo_folder), val_check_interval=2)
    fit(tmp_path, two, images(photo_folder), limit_val_batches=0, limit_train_batches=3)
    assert one.seen == two.seen


def test_changed_data_is_said(photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saver = ModelCheckpoint(tmp_path / "saved", filename="at", every_n_train_steps=2)
    fit(tmp_path, Memory(), images(photo_folder), max_steps=2, callbacks=[saver])
    (photo_folder / "a" / "00.png").unlink()
    (photo_folder / "a" / "02.png").unlink()
    with caplog.at_level(logging.WARNING):
        again = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=2)
        fit(tmp_path, Memory(), images(photo_folder), ckpt=str(tmp_path / "saved" / "at.ckpt"), callbacks=[again])
    said = [message for message in caplog.messages if "resuming" in message]
    assert said == ["resuming with other data than before (photos changed): the samples will differ"]


def test_resume_note() -> None:
    assert resume_note({}, {"seed": 1}) is None
    assert resume_note({"seed": 1, "old": 2}, {"seed": 1}) is None
    assert "seed" in str(resume_note({"seed": 1}, {"seed": 2}))


def test_batches_are_spread_over_photos(photo_folder: Path) -> None:
    data = images(photo_folder)
    data.prepare_data()
    seen = torch.cat([batch["index"] for batch in data.train_dataloader()]).numpy()
    count = len(data.prepared("train"))
    assert np.bincount(seen, minlength=count).max() <= -(-len(seen) // count) + 1
