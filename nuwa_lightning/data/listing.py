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


def list_files(
    folder: str | os.PathLike[str], suffixes: Collection[str], *, natural: bool = False, ours: bool = True
) -> Listing:
    """Return every file below ``folder`` that has one of ``suffixes`` (in lower case), and count the others.

    Sub-folders and linked folders are included, hidden ones (name starting with a dot) are not; a folder that is linked
    into itself is visited once.

    Args:
        folder: the folder.
        suffixes: those of the samples.
        natural: sort 2 before 10, as frames of a video want it, instead of by path.
        ours: leave out what this program writes beside images: previews and the tiles of a Deep Zoom image.

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
        tiles = {f"{Path(name).stem}_files" for name in files if name.endswith(".dzi")} if ours else set()
        left_out["Deep Zoom"] += len(tiles & set(folders))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in tiles)
        for name in files:
            if name.startswith("."):
                continue
            suffix = os.path.splitext(name)[1].lower()
            if suffix in _TEXTS:
                continue
            if suffix not in suffixes:
                left_out[suffix or "no suffix"] += 1
            elif ours and name.endswith(".preview.png"):
                left_out["preview"] += 1
            elif _is_special(path := Path(parent, name)):
                left_out["pipe, socket or device"] += 1
            else:
                found.append(path)
    return Listing(sorted(found, key=natural_key) if natural else sorted(found), +left_out)


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
