"""Captions of a folder of photos or videos: beside each file, or in one file for all; see docs/captions.md.

A file for all is CSV with a header, JSON lines, or the ``metadata.jsonl`` or ``metadata.csv`` of a Hugging Face image
folder. A row names a file by its path from the folder and has one caption, or a list of them of which the first counts.

Encodings: see `nuwa_lightning.texts`. Accents written in one character or in two make no difference, neither in
names nor in captions.
"""

import csv
import io
import json
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, final

from nuwa_lightning.data.folders import regular_stat
from nuwa_lightning.errors import UsageError, some_of
from nuwa_lightning.texts import check_text, decoded

_LOG = logging.getLogger(__name__)

FOUND_BY_NAME: Final = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
"""Names under which a file for all is found when none is named."""

_FILE_KEYS: Final = ("file_name", "file", "filename", "image", "video", "path")
_CAPTION_KEYS: Final = ("caption", "text", "captions", "prompt", "description")


@final
@dataclass(frozen=True)
class Captions:
    """Captions of the files below a folder."""

    folder: Path
    source: Path | None
    by_path: Mapping[str, str]

    def of(self, path: Path) -> str:
        """Return the caption of a file below the folder: that beside it, else that in the file for all, else ""."""
        if (beside := text_beside(path)) is not None:
            try:
                check_text(text := decoded(beside.read_bytes(), beside))
                return _tidy(text)
            except (OSError, UnicodeError) as error:
                raise UsageError("captions", beside, f"cannot be read ({_said(error)}): save it as UTF-8") from None
        return self.by_path.get(_composed(path.relative_to(self.folder).as_posix()), "")


def text_beside(path: Path) -> Path | None:
    """Return the ``NAME.txt`` beside a file, however accents are written in its name; None if there is none."""
    named = path.with_suffix(".txt")
    forms = (named.name, *(unicodedata.normalize(form, named.name) for form in ("NFC", "NFD")))
    found = (named.with_name(name) for name in dict.fromkeys(forms))
    return next((text for text in found if text.is_file()), None)


@final
class CaptionedFolders:
    """Captions of several folders, such as those of training and of validation, which may share one file."""

    def __init__(self, source: str | None = None) -> None:
        self._source = source
        self._read: dict[Path, Captions] = {}
        self._found: list[tuple[Captions, dict[Path, str]]] = []

    def of(self, folder: Path, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the captions of the files ``paths`` below ``folder``, "" for none."""
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
        _tell("captions without a file", sorted(lost | (beside or set())), where)
        bare = {
            path: path.relative_to(said.folder).as_posix()
            for said, captions in self._found
            for path, caption in captions.items()
            if not caption
        }
        _tell("files without a caption", sorted(bare.values()), where)

    def _lost(self) -> set[str]:
        """Return what files for all tell of and no folder holds."""
        lost: set[str] = set()
        for place, known in self._read.items():
            here = {
                _composed(path.relative_to(said.folder).as_posix())
                for said, captions in self._found
                for path in captions
                if said.source == place
            }
            lost |= known.by_path.keys() - here
        return lost

    def _lost_beside(self) -> set[str] | None:
        """Return the texts that lie beside nothing; None if none lies beside a file: then they are no captions."""
        texts = (text_beside(path) for _, captions in self._found for path in captions)
        beside = {text for text in texts if text is not None}
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
    """Return the captions of the files below ``folder``, refused if their file is missing, damaged, or of another kind.

    ``source`` is the file for all, from the folder or from the working directory; by default one of `FOUND_BY_NAME`.
    """
    path = _locate(folder, source)
    if path is None:
        return Captions(folder, None, {})
    try:
        rows = list(_rows(path, option))
    except OSError as error:
        raise UsageError(option, path, f"cannot be read ({_said(error)}): name a CSV or JSON-lines file") from None
    except (UnicodeError, csv.Error) as error:
        raise UsageError(option, path, f"is damaged ({error}): save it as UTF-8 CSV or JSON lines") from None
    by_path: dict[str, str] = {}
    lines: dict[str, int] = {}
    again: list[str] = []
    several: dict[tuple[str, ...], int] = {}
    for number, row in rows:
        try:
            names, captions = _pick(row, _FILE_KEYS, "file name"), _pick(row, _CAPTION_KEYS, "caption")
            name, caption = (next(iter(found.values())) for found in (names, captions))
            check_text(caption)
        except ValueError as error:
            raise UsageError(option, path, f"line {number} {error}: correct it") from None
        name, caption = _composed(PurePosixPath(name.replace("\\", "/")).as_posix()), _tidy(caption)
        if by_path.setdefault(name, caption) != caption:
            again.append(f"line {number} ({name}, line {lines[name]})")
        lines.setdefault(name, number)
        for found in (names, captions):
            if len(set(found.values())) > 1:
                several.setdefault(tuple(found), number)
    for (first, *others), number in several.items():
        _LOG.warning("%s: line %d has %s and %s: %s counts", path, number, first, ", ".join(others), first)
    _tell("captions of a file that has another one, which counts", again, str(path))
    return Captions(folder, path, by_path)


def _locate(folder: Path, source: str | None) -> Path | None:
    if source is None:
        return next((folder / name for name in FOUND_BY_NAME if (folder / name).is_file()), None)
    return next((p for p in (folder / source, Path(source).expanduser()) if p.is_file()), Path(source))


def _rows(path: Path, option: str) -> Iterator[tuple[int, Sequence[tuple[str, Any]]]]:
    """Yield the number of each line and what stands in it, by column."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".jsonl", ".ndjson"):
        raise UsageError(option, path, "is of another kind: name a .csv, .tsv or .jsonl file")
    regular_stat(path)
    lines = list(io.StringIO(decoded(path.read_bytes(), path), newline=""))
    if suffix in (".csv", ".tsv"):
        yield from _cells(path, lines, "\t" if suffix == ".tsv" else ",", option)
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, object_pairs_hook=tuple)  # with all that is there twice
        except (ValueError, RecursionError) as error:
            raise UsageError(option, path, f"line {number} is no JSON ({error}): correct it") from None
        if not isinstance(found, tuple):
            raise UsageError(option, path, f"line {number} is no JSON object: write one for each file")
        yield number, found


def _cells(
    path: Path, lines: list[str], delimiter: str, option: str
) -> Iterator[tuple[int, Sequence[tuple[str, Any]]]]:
    """Yield the rows of a table; some programs part cells by semicolons, and may say so in a first line ``sep=;``."""
    skipped = 1 if lines and re.fullmatch(r"\s*sep=.\s*", lines[0]) else 0
    head = lines[skipped] if len(lines) > skipped else ""
    for other in (delimiter, ";", "\t", "|"):
        names = {cell.strip().lower() for cell in head.rstrip("\r\n").replace('"', "").split(other)}
        if names & set(_FILE_KEYS) and names & set(_CAPTION_KEYS):
            delimiter = other
            break
    reader = csv.reader(lines[skipped:], delimiter=delimiter, strict=True)
    header = next(reader, [])
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        number = reader.line_num + skipped
        if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
            hint = f"line {number} has {len(row)} cells, the header {len(header)}: put captions with {delimiter!r} in"
            raise UsageError(option, path, f'{hint} quotation marks, "like this"')
        yield number, list(zip(header, row, strict=False))


def _pick(row: Sequence[tuple[str, Any]], keys: Sequence[str], what: str) -> dict[str, str]:
    """Return what a row has in the columns ``keys``, the one that counts first; empty ones count if there is no other.

    Raises:
        ValueError: if it has nothing, or a column twice.
    """
    lower = [(name.strip().lower(), value) for name, value in row]
    found: dict[str, str] = {}
    for key in keys:
        values = [value for name, value in lower if name == key]
        if len(values) > 1:
            raise ValueError(f"has {key} {len(values)} times")
        for value in values:
            text = next(iter(value), "") if isinstance(value, list) else value
            if isinstance(text, str):
                found[key] = text
    if not found:
        raise ValueError(f"has no {what}, columns are file_name and caption")
    return {key: text for key, text in found.items() if text.strip()} or found


def _tidy(text: str) -> str:
    return _composed(" ".join(text.split()))


def _composed(text: str) -> str:
    """Return the text with each accented letter as one character (NFC); macOS writes two in names."""
    return unicodedata.normalize("NFC", text)


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _tell(what: str, names: Sequence[str], where: str) -> None:
    if names:
        _LOG.warning("%s: %d %s: %s", where, len(names), what, some_of(names, count=3))
