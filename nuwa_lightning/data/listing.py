"""Which files below a folder are samples, in which order, and what else lies there."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TEXTS: Final = frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".md", ".yaml", ".yml", ".dzi"})
"""What lies beside samples on purpose: captions, notes, records."""


@dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Attributes:
        files: the samples.
        left_out: how many files of other kinds lie there, by suffix or by what they are; texts do not count.
    """

    files: list[Path]
    left_out: Counter[str]


def list_files(folder: str | os.PathLike[str], suffixes: Collection[str], *, natural: bool = False) -> Listing:
    """Return every file below ``folder`` that has one of ``suffixes`` (in lower case), and count the others.

    Sub-folders and linked folders are included, hidden ones (name starting with a dot) and what this program writes
    beside images (`own_kind`) are not; a folder that is linked into itself is visited once. ``natural`` sorts 2 before
    10, as frames of a video want it.

    Raises:
        FileNotFoundError: if ``folder`` is missing.
        NotADirectoryError: if it is not a folder.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(root)
    if not root.is_dir():
        raise NotADirectoryError(root)
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        own = {name: kind for name in folders if (kind := own_kind(name, files))}
        left_out.update(own.values())
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in own)
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith(".") or suffix in _TEXTS:
                continue
            path = Path(parent, name)
            if suffix not in suffixes:
                left_out[suffix or "no suffix"] += 1
            elif kind := own_kind(name, files) or ("pipe, socket or device" if _is_special(path) else None):
                left_out[kind] += 1
            else:
                found.append(path)
    return Listing(sorted(found, key=natural_key) if natural else sorted(found), left_out)


def own_kind(name: str, beside: Collection[str]) -> str | None:
    """Return what a file or folder is that no sample is made of, though image files are in it or its name says so."""
    if name.endswith(".preview.png"):
        return "preview"
    if name.endswith("_files") and f"{name.removesuffix('_files')}.dzi" in beside:
        return "Deep Zoom"
    return ".zarr" if name.endswith(".zarr") else None


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Return what sorts names as people count: ``2.png`` before ``10.png``."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(1, int(part), part) if number % 2 else (0, 0, part) for number, part in enumerate(parts)]


def said_of(left_out: Counter[str]) -> str:
    """Return counts in words, the most frequent first."""
    return ", ".join(
        f"{count} {kind}" for kind, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    )


def _is_special(path: Path) -> bool:
    """Say whether reading it may wait forever; what is missing is told by whoever opens it."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
