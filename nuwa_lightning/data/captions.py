"""Captions of a folder of photos or videos: beside each file, or in one file for all; see docs/captions.md.

A file for all is CSV with a header, JSON lines, or the ``metadata.jsonl`` or ``metadata.csv`` of a Hugging Face image
folder. A row names a file by its path from the folder and has one caption, or a list of them of which the first counts.

Texts are UTF-8 or UTF-16; what is neither is read as Windows wrote it (cp1252), and that is said. Accents written in
one character or in two make no difference, neither in names nor in captions.
"""

import codecs
import csv
import io
import json
import logging
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, final

from nuwa_lightning.data.folders import regular_stat
from nuwa_lightning.errors import UsageError, some_of

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
                return _tidy(decoded(beside.read_bytes(), beside))
            except (OSError, UnicodeError) as error:
                raise UsageError("captions", beside, f"cannot be read ({_said(error)}): save it as UTF-8") from None
        return self.by_path.get(_composed(path.relative_to(self.folder).as_posix()), "")


def text_beside(path: Path) -> Path | None:
    """Return the ``NAME.txt`` beside a file, however accents are written in its name; None if there is none."""
    named = path.with_suffix(".txt")
    forms = (named.name, *(unicodedata.normalize(form, named.name) for form in ("NFC", "NFD")))
    found = (named.with_name(name) for name in dict.fromkeys(forms))
    return next((text for text in found if text.is_file()), None)


def decoded(raw: bytes, path: Path) -> str:
    """Return the text of a file."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16")
    if b"\0" in raw[:200]:  # UTF-16 without a mark: of Latin text every other byte is zero
        return raw.decode("utf-16-le" if raw[1:2] == b"\0" else "utf-16-be")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252")
        _LOG.warning("%s: not UTF-8, read as cp1252: save it as UTF-8 if that is wrong", path)
        return text


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
    for number, row in rows:
        name, caption = _pick(row, _FILE_KEYS), _pick(row, _CAPTION_KEYS)
        if name is None or caption is None:
            hint = (
                f"line {number} has no {'file name' if name is None else 'caption'}: columns are file_name and caption"
            )
            raise UsageError(option, path, hint)
        by_path.setdefault(_composed(PurePosixPath(name.replace("\\", "/")).as_posix()), _tidy(caption))
    return Captions(folder, path, by_path)


def _locate(folder: Path, source: str | None) -> Path | None:
    if source is None:
        return next((folder / name for name in FOUND_BY_NAME if (folder / name).is_file()), None)
    return next((p for p in (folder / source, Path(source).expanduser()) if p.is_file()), Path(source))


def _rows(path: Path, option: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
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
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(option, path, f"line {number} is no JSON ({error}): correct it") from None
        if not isinstance(found, dict):
            raise UsageError(option, path, f"line {number} is no JSON object: write one for each file")
        yield number, found


def _cells(path: Path, lines: list[str], delimiter: str, option: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the rows of a table; some programs part cells by semicolons, and may say so in a first line ``sep=;``."""
    skipped = 1 if lines and re.fullmatch(r"\s*sep=.\s*", lines[0]) else 0
    head = lines[skipped] if len(lines) > skipped else ""
    for other in (delimiter, ";", "\t"):
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
        yield number, dict(zip(header, row, strict=False))


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
    return _composed(" ".join(text.split()))


def _composed(text: str) -> str:
    """Return the text with each accented letter as one character (NFC); macOS writes two in names."""
    return unicodedata.normalize("NFC", text)


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _tell(what: str, names: Collection[str], where: str) -> None:
    if names:
        _LOG.warning("%s: %d %s: %s", where, len(names), what, some_of(sorted(names), count=3))
