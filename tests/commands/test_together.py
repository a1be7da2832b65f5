"""Processes that train together: one makes what is missing, by itself, and the others wait for it."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import pytest

from nuwa_lightning.commands import tokenizer

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
