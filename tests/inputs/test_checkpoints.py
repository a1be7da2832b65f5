"""Checkpoints are whole or not there, and reading one runs nothing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

    def half(content: object, file) -> None:
        file.write(before[:100])
        raise OSError("disk full")

    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(*((torch, "save", half) if fails == "save" else (os, "replace", crash)))
    with pytest.raises(UsageError, match=r"disk full.*: the one before it is kept"):
        io.save_checkpoint({**CONTENT, "global_step": 4}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the system")
@pytest.mark.parametrize("there", [False, True])
def test_no_room_is_one_line(tmp_path, there):
    """The system itself refuses the write, in the middle of the file."""
    import resource

    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    if there:
        io.save_checkpoint(CONTENT, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UsageError) as caught:
            io.save_checkpoint({"state_dict": {"w": torch.zeros(10**6)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be written (File too large)" in str(caught.value)
    assert ("the one before it is kept" in str(caught.value)) == there
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"] * there
    if there:
        assert io.load_checkpoint(path)["global_step"] == 3


@pytest.mark.parametrize("part", ["state_dict", "current_model_state"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_spoiled_weights_are_refused_by_name(tmp_path, part, value):
    content = {"state_dict": {"w": torch.ones(3)}, "current_model_state": {"w": torch.ones(3)}}
    content[part] = {"w": torch.ones(3), "layer.bias": torch.tensor([1.0, value])}
    torch.save(content, tmp_path / "a.ckpt")
    for mapped in (True, False):
        with pytest.raises(UsageError, match=r"layer\.bias holds NaN or infinity"):
            read_checkpoint(tmp_path / "a.ckpt", mapped=mapped)


def test_it_is_written_beside_its_place_and_forced_to_the_disk(tmp_path, monkeypatch):
    events: list[tuple[str, str]] = []
    replace, fsync, save = os.replace, os.fsync, torch.save
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(("fsync", "")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(("replace", str(Path(a).parent))), replace(a, b)))
    monkeypatch.setattr(torch, "save", lambda c, f: (events.append(("save", where(f))), save(c, f)))

    def where(sink) -> str:
        return str(Path(sink._file.name).parent)

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


def whole() -> dict[str, Any]:
    counts = {"total": {"ready": 2, "completed": 2, "started": 2, "processed": 2}}
    state = {"step": torch.tensor(2.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    return {
        "epoch": 1, "global_step": 2, "pytorch-lightning_version": "2.6.6", "callbacks": {},
        "state_dict": {"w": torch.ones(3)}, "current_model_state": {"w": torch.ones(3)},
        "loops": {"fit_loop": {"epoch_progress": counts, "epoch_loop.batch_progress": counts}},
        "optimizer_states": [{"state": {0: state}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.95), "params": [0]}]}],
        "lr_schedulers": [{"last_epoch": 2, "_step_count": 3, "base_lrs": [0.1], "_last_lr": [0.1]}],
    }  # fmt: skip


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        *way, last = path.split("/")
        for key in way:
            content = content[int(key) if key.isdecimal() else key]
        content[last] = value

    return change


STEP, BATCHES = "optimizer_states/0/state/0", "loops/fit_loop/epoch_loop.batch_progress/total"
WRONG = {
    **{f"{name} of {value!r:.9}": (put(name, value), name) for name, value in (
        ("epoch", "one"), ("epoch", 1.5), ("epoch", True), ("global_step", None), ("global_step", 2**70),
        ("loops", [1]), ("callbacks", "none"), ("optimizer_states", {}), ("optimizer_states", ["a"]),
        ("lr_schedulers", 7), ("state_dict", [1]), ("current_model_state", {"w": "ones"}),
        ("pytorch-lightning_version", 2.6),
    )},
    "text for a moment": (put(f"{STEP}/exp_avg", "ones"), "exp_avg in its optimizer_states is 'ones', no number"),
    "bytes for a step": (put(f"{STEP}/step", b"2"), "step in its optimizer_states"),
    "a moment that is NaN": (put(f"{STEP}/exp_avg_sq", torch.full((3,), float("nan"))), "exp_avg_sq holds NaN"),
    "a rate of text": (put("lr_schedulers/0/base_lrs", ["fast"]), "base_lrs in its lr_schedulers is 'fast', no number"),
    "a rate that is NaN": (put("lr_schedulers/0/_last_lr", [float("nan")]), "_last_lr holds NaN"),
    "a rate of a group": (put("optimizer_states/0/param_groups", [{"lr": "fast"}]), "lr in its optimizer_states"),
    "a count of text": (put(f"{BATCHES}/processed", "two"), "processed in its loops is 'two', no number"),
    "a count below 0": (put(f"{BATCHES}/ready", -1), "ready in its loops is -1"),
    "a count of parts": (put(f"{BATCHES}/started", 1.5), "started in its loops is 1.5"),
    "counts of tensors": (put("lr_schedulers/0/last_epoch", "2"), "last_epoch in its lr_schedulers"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_text_and_nonsense_where_numbers_belong(tmp_path, kind):
    path = tmp_path / "a.ckpt"
    torch.save(whole(), path)
    assert read_checkpoint(path)["global_step"] == 2
    change, words = WRONG[kind]
    change(content := whole())
    torch.save(content, path)
    for mapped in (True, False):
        with pytest.raises(UsageError, match=re.escape(words)) as caught:
            read_checkpoint(path, mapped=mapped)
        assert str(caught.value).startswith(f"ckpt_path: {path}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_file_that_is_cut(tmp_path, keep):
    torch.save(whole(), tmp_path / "a.ckpt")
    data = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "a.ckpt").write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(UsageError, match="a damaged one"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="there is no such file"):
        read_checkpoint(tmp_path / "a.ckpt")
