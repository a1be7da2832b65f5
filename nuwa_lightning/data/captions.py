"""Captions of a folder of photos or videos: beside each file, or in one file for all; see docs/captions.md.

A file for all is CSV with a header, JSON lines, or the ``metadata.jsonl`` or ``metadata.csv`` of a Hugging Face image
folder. A row names a file by its path from the folder and has one caption, or a list of them of which the first counts.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, final

from nuwa_lightning.errors import UsageError, some_of

_LOG = logging.getLogger(__name__)

FOUND_BY_NAME: Final = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
"""Names under which a file for all is found when none is named."""

_FILE_KEYS: Final = ("file_name", "file", "filename", "image", "video", "path")
_CAPTION_KEYS: Final = ("caption", "text", "captions", "prompt", "description")


@final
@dataclass(frozen=True)
class Captions:
    """Captions of the files below a folder.

    Attributes:
        folder: the folder.
        source: the file for all, or None.
        by_path: its captions, by path from the folder.
    """

    folder: Path
    source: Path | None
    by_path: Mapping[str, str]

    def of(self, path: Path) -> str:
        """Return the caption of a file below the folder: that beside it, else that in the file for all, else ""."""
        beside = path.with_suffix(".txt")
        if beside.is_file():
            return _tidy(beside.read_text(encoding="utf-8", errors="replace"))
        return self.by_path.get(path.relative_to(self.folder).as_posix(), "")


@final
class CaptionedFolders:
    """Captions of several folders, such as those of training and of validation, which may share one file.

    Args:
        source: the file for all; see `read_captions`.
    """

    def __init__(self, source: str | None = None) -> None:
        self._source = source
        self._read: dict[Path, Captions] = {}
        self._found: list[tuple[Captions, dict[Path, str]]] = []

    def of(self, folder: Path, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the captions of the files ``paths`` below ``folder``, "" for none.

        Raises:
            UsageError: see `read_captions`.
        """
        place = _locate(folder, self._source)
        known = None if place is None else self._read.get(place)
        said = read_captions(folder, self._source) if known is None else replace(known, folder=folder)
        if place is not None:
            self._read[place] = said
        captions = {path: said.of(path) for path in paths}
        self._found.append((said, captions))
        return captions

    def tell_missing(self) -> None:
        """Say in one line how many captions have no file, and in one how many files have no caption."""
        lost, beside = self._lost(), self._lost_beside()
        if beside is None and not self._read:
            return  # a set without captions
        where = ", ".join(str(place) for place in self._read or dict.fromkeys(said.folder for said, _ in self._found))
        _tell("captions without a file", lost | (beside or set()), where)
        bare = {
            path: path.relative_to(said.folder).as_posix()
            for said, captions in self._found
            for path, caption in captions.items()
            if not caption
        }
        _tell("files without a caption", bare.values(), where)

    def _lost(self) -> set[str]:
        """Return what files for all tell of and no folder holds."""
        lost: set[str] = set()
        for place, known in self._read.items():
            here = {
                path.relative_to(said.folder).as_posix()
                for said, captions in self._found
                for path in captions
                if said.source == place
            }
            lost |= known.by_path.keys() - here
        return lost

    def _lost_beside(self) -> set[str] | None:
        """Return the texts that lie beside nothing; None if none lies beside a file: then they are no captions."""
        beside = {path.with_suffix(".txt") for _, captions in self._found for path in captions}
        lost: set[str] = set()
        any_beside = False
        for folder in dict.fromkeys(said.folder for said, _ in self._found):
            for text in folder.rglob("*.txt"):
                name = text.relative_to(folder)
                if text in beside:
                    any_beside = True
                elif not any(part.startswith(".") for part in name.parts):
                    lost.add(name.as_posix())
        return lost if any_beside else None


def read_captions(folder: Path, source: str | None = None, *, option: str = "captions") -> Captions:
    """Return the captions of the files below ``folder``.

    Args:
        folder: a folder of photos or videos.
        source: the file for all, from the folder or from the working directory; by default one of `FOUND_BY_NAME`.
        option: what the user called ``source``.

    Raises:
        UsageError: if the file is missing, damaged, or of another kind.
    """
    path = _locate(folder, source)
    if path is None:
        return Captions(folder, None, {})
    try:
        rows = list(_rows(path, option))
    except OSError as error:
        raise UsageError(option, path, f"cannot be read ({error.strerror}): name a CSV or JSON-lines file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(option, path, f"is damaged ({error}): save it as UTF-8 CSV or JSON lines") from None
    by_path: dict[str, str] = {}
    for number, row in rows:
        name, caption = _pick(row, _FILE_KEYS), _pick(row, _CAPTION_KEYS)
        if name is None or caption is None:
            hint = (
                f"line {number} has no {'file name' if name is None else 'caption'}: columns are file_name and caption"
            )
            raise UsageError(option, path, hint)
        by_path.setdefault(PurePosixPath(name.replace("\\", "/")).as_posix(), _tidy(caption))
    return Captions(folder, path, by_path)


def _locate(folder: Path, source: str | None) -> Path | None:
    if source is None:
        return next((folder / name for name in FOUND_BY_NAME if (folder / name).is_file()), None)
    return next((p for p in (folder / source, Path(source).expanduser()) if p.is_file()), Path(source))


def _rows(path: Path, option: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".jsonl", ".ndjson"):
        raise UsageError(option, path, "is of another kind: name a .csv, .tsv or .jsonl file")
    with path.open(encoding="utf-8-sig", newline="") as file:
        if suffix in (".csv", ".tsv"):
            for row in (reader := csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")):
                yield reader.line_num, row
            return
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except ValueError as error:
                raise UsageError(option, path, f"line {number} is no JSON ({error}): correct it") from None
            if not isinstance(found, dict):
                raise UsageError(option, path, f"line {number} is no JSON object: write one for each file")
            yield number, found


def _pick(row: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    lower = {str(key).strip().lower(): value for key, value in row.items() if key is not None}
    for key in keys:
        value = lower.get(key)
        if isinstance(value, list):
            value = value[0] if value else ""
        if isinstance(value, str):
            return value
    return None


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _tell(what: str, names: Collection[str], where: str) -> None:
    if names:
        _LOG.warning("%s: %d %s: %s", where, len(names), what, some_of(sorted(names), count=3))
