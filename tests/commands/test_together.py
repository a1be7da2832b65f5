"""Processes that train together: one makes what is missing, by itself, and the others wait for it."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator

from nuwa_lightning.commands import tokenizer
from nuwa_lightning.commands.trainer_flags import no_room
from tests.commands.conftest import Shell
from tests.together import environment

SCRIPT = """
import os, sys, time, pathlib
if any(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_PROCID")):
    sys.exit(3)
folder = pathlib.Path(sys.argv[1])
with open(folder.parent / "made", "a") as out:
    out.write("x")
time.sleep(0.5)
folder.mkdir()
(folder / "config.json").write_text("{}")
"""


def make(folder: Path, rank: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RANK", str(rank)), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "x"), ("SLURM_PROCID", "1")):
            patch.setenv(name, value)
        tokenizer._make(str(folder), [sys.executable, "-c", SCRIPT, str(folder)], "--tokenizer.recipe", "recipe")


def test_a_missing_tokenizer_is_made_once_and_outside_of_the_group(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "tokenizer"
    folder.parent.mkdir()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=make, args=(folder, rank)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (folder.parent / "made").read_text() == "x"


def test_room_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process on a CPU has room; several have none, even those that Lightning starts later."""
    alone = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    assert no_room(alone) is None
    several = Trainer(accelerator="cpu", devices=2, logger=False, enable_checkpointing=False)
    assert no_room(several) == "that is 2 processes, which need the cores"
    monkeypatch.setattr(alone.strategy, "accelerator", CUDAAccelerator())
    assert no_room(alone) == "that needs the device"


def test_two_processes_that_would_each_train_alone(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(1, 2, 29500).items():
        monkeypatch.setenv(name, value)
    done = shell("fit", "-c", "two.yaml", "--run", "new")
    assert done.status == 2
    assert done.error.startswith("error: --trainer.devices: auto: 2 processes were started, this is for 1")
    assert not Path("new").exists()
