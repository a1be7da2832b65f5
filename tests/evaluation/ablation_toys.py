"""An ablation of toy size: two variants and a baseline, run once, in this process."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.__main__ import main
from evaluation.ablation import running
from nuwa_lightning.cli import main as train
from tests.commands.conftest import finished as finished
from tests.commands.conftest import lightning_may_warn

TOY = {
    "name": "test", "version": 1, "features": {"name": "tests.evaluation.toys.ToyFeatures"}, "resamples": 20,
    "splits": 3, "real": {"crop": "random", "count": 20, "side": 64, "short_sides": [64]},
    "generated": {"crop": "windows", "side": 64}, "metrics": {"kid": {}, "seams": {"patch": 8, "token": 4}},
}  # fmt: skip
ABLATION: dict[str, Any] = {
    "name": "toy",
    "question": "Does it run?",
    "base": "two.yaml",
    "real": "photos",
    "seeds": [0, 1],
    "options": {"trainer.max_steps": 4},
    "cells": {
        "nearby": {},
        "empty": {"overlays": ["empty.yaml"], "seeds": [0]},
        "window": {"overlays": ["window.yaml"], "sampler": "sliding_window", "seeds": [0], "note": "the baseline"},
    },
    "samples": {"views": {"size": "64x64", "count": 10, "protocol": "protocol.yaml"}},
}
WINDOW = {
    "model": {
        "init_args": {
            "patch_size": [4, 4],
            "context_pool": {"class_path": "EmptyContextPool"},
            "direction": {"class_path": "RasterDirectionController"},
            "token_order": "raster",
        }
    }
}


class Calls:
    """Trains in this process instead of another, and counts."""

    def __init__(self) -> None:
        self.commands: list[Sequence[str]] = []
        self.fail_after: int | None = None

    def __call__(self, command: Sequence[str], run: Path) -> None:
        self.commands.append(command)
        with lightning_may_warn():
            assert train(list(command[3:])) == 0
        if self.fail_after is not None and len(self.commands) > self.fail_after:
            raise KeyboardInterrupt


def write(folder: Path, finished: Path) -> None:
    """Recipes, photos, tokenizer and ablation of a working directory."""
    (folder / "photos").symlink_to(finished / "photos")
    shutil.copytree(finished / "cache", folder / "cache")
    shutil.copytree(finished / "one" / "tokenizer", folder / "one" / "tokenizer")
    shutil.copy(finished / "two.yaml", folder / "two.yaml")
    empty = {"model": {"init_args": {"context_pool": {"class_path": "EmptyContextPool"}}}}
    for name, content in (
        ("empty", empty), ("window", WINDOW), ("protocol", TOY), ("toy", ABLATION),
    ):  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="session")
def ablated(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """A working directory with a finished ablation in "runs/ablations/toy"; not to be changed."""
    folder = tmp_path_factory.mktemp("ablated")
    write(folder, finished)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NUWA_LIGHTNING_CACHE", str(folder / "cache"))
        patch.setattr(running, "_call", Calls())
        with lightning_may_warn():
            assert main(["ablate", "--config", "toy.yaml"]) == 0
    return folder
