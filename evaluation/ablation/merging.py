"""Cells that were made elsewhere, taken over after they were found to be the same cells."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from evaluation.ablation.config import Ablation, Cell
from evaluation.ablation.running import DONE, finished, read_cell, reports_of
from nuwa_lightning.atomic import atomic_folder
from nuwa_lightning.errors import UsageError


def merge(ablation: Ablation, output: Path, others: Sequence[Path]) -> list[Cell]:
    """Copy the finished cells of other output folders that are not there yet; returns them.

    Checkpoints stay where they are: what a report needs is small.
    """
    taken = []
    for other in others:
        if not (other / "cells").is_dir():
            raise UsageError("merge", str(other), "is no output folder of an ablation: it holds no cells")
        for cell in ablation.grid():
            theirs = finished(cell, other)
            if theirs is None or finished(cell, output) is not None:
                continue
            for ours in _tokenizers(ablation, output):
                if ours != theirs["tokenizer"]:
                    hint = "was made with another tokenizer: share one, its folder can be copied"
                    raise UsageError("merge", f"{other}: {cell.label}", hint)
            _check_real(cell, other, _real_sets(ablation, output))
            target = cell.folder(output)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(target, overwrite=True) as partial:
                ignore = shutil.ignore_patterns("checkpoints", ".lock", "*.partial*")
                shutil.copytree(cell.folder(other), partial, ignore=ignore, dirs_exist_ok=True)
            taken.append(cell)
    return taken


def _real_sets(ablation: Ablation, output: Path) -> dict[str, dict[str, str]]:
    """Return hash and folder of the real images of the finished cells, by set of samples."""
    found: dict[str, dict[str, str]] = {name: {} for name in ablation.samples}
    for cell in ablation.grid():
        if (cell.folder(output) / DONE).is_file():
            for name, report in reports_of(cell, output).items():
                found[name][report["sets"]["real"]["sha256"]] = report["sets"]["real"]["folder"]
    return found


def _check_real(cell: Cell, other: Path, ours: dict[str, dict[str, str]]) -> None:
    for name, report in reports_of(cell, other).items():
        theirs = report["sets"]["real"]
        for folder in [folder for sha256, folder in ours[name].items() if sha256 != theirs["sha256"]]:
            hint = f"was scored against other real images ({theirs['folder']}, ours: {folder}): score both by the same"
            raise UsageError("merge", f"{other}: {cell.label}", hint)


def _tokenizers(ablation: Ablation, output: Path) -> set[str]:
    found = set()
    for cell in ablation.grid():
        path = cell.folder(output) / DONE
        if path.is_file():
            found.add(read_cell(path.parent)["tokenizer"])
    return found
