"""Checkpoints are whole or not there, and reading one runs nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from nuwa_lightning.callbacks.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from nuwa_lightning.errors import UsageError

CONTENT = {"state_dict": {"w": torch.arange(6.0)}, "global_step": 3}


class Canary:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self.path, "w"))


def test_what_is_written_is_read(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "new" / "a.ckpt"
    io.save_checkpoint(CONTENT, path)
    for found in (
        io.load_checkpoint(tmp_path / "new" / "a.ckpt"),
        read_checkpoint(tmp_path / "new/a.ckpt", mapped=True),
    ):
        assert found["global_step"] == 3
        assert torch.equal(found["state_dict"]["w"], torch.arange(6.0))
    io.remove_checkpoint(path)
    io.remove_checkpoint(path)
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(TypeError, match="storage_options"):
        io.save_checkpoint(CONTENT, tmp_path / "a.ckpt", storage_options={})


@pytest.mark.parametrize("fails", ["save", "replace"])
def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch, fails):
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint(CONTENT, path)
    before = path.read_bytes()

    def half(content: object, file: Path) -> None:
        Path(file).write_bytes(before[:100])
        raise OSError("disk full")

    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(*((torch, "save", half) if fails == "save" else (os, "replace", crash)))
    with pytest.raises(OSError, match="disk full"):
        io.save_checkpoint({**CONTENT, "global_step": 4}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_it_is_written_beside_its_place_and_forced_to_the_disk(tmp_path, monkeypatch):
    events: list[tuple[str, str]] = []
    replace, fsync, save = os.replace, os.fsync, torch.save
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(("fsync", "")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(("replace", str(Path(a).parent))), replace(a, b)))
    monkeypatch.setattr(torch, "save", lambda c, f: (events.append(("save", str(Path(f).parent))), save(c, f)))
    AtomicCheckpointIO().save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    here = str(tmp_path)
    assert events == [("save", here), ("fsync", ""), ("replace", here), ("fsync", "")]


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({**CONTENT, "hyper_parameters": Canary(str(tmp_path / "dead"))}, tmp_path / "a.ckpt")
    for weights_only in (True, False, None):
        with pytest.raises(UsageError, match="is no checkpoint"):
            AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=weights_only)
    assert not (tmp_path / "dead").exists()


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`|You're resuming")
def test_the_trainer_writes_and_reads_through_it(tmp_path):
    def trainer(steps: int) -> Trainer:
        return Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            plugins=[AtomicCheckpointIO()],
            max_steps=steps,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    first = trainer(2)
    first.fit(BoringModel())
    first.save_checkpoint(tmp_path / "a.ckpt")
    second = trainer(3)
    second.fit(BoringModel(), ckpt_path=str(tmp_path / "a.ckpt"))
    assert second.global_step == 3
