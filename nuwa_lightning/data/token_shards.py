"""Shards: the token grids of very many images or videos, read one grid at a time (ours).

A shard is a safetensors file of four tables. ``photos`` uint32 (N, 5): first grid, number of grids, where the text
starts, its length, its checksum. ``grids`` uint32 (G, 10): photo, length of the shorter side, mirrored, sub-token
shift, where the tokens start, rows, columns, first frame, frames, checksum (CRC-32 of the other nine and of the
tokens). ``tokens`` uint16 or, for codebooks above 65,536, uint32. ``texts``: JSON of the key and caption of each photo.
The metadata hold the fingerprint of the tokenizer and the size of its codebook. ``index.json`` lists the shards.

Of a set only that list is held: a grid is read with `os.pread`, which leaves no page of the file in the process, and
checked against its checksum.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final, overload

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from nuwa_lightning.atomic import atomic_write
from nuwa_lightning.data.sources import SPLITS, Sample, Source, Split
from nuwa_lightning.data.token_bank import BankEntry, Fits, TokenGrids, Tokens
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256
from nuwa_lightning.plain_data import fits, parse_json, read_json

# Legend: N photos or videos, G grids; T frames, Y, X tokens along the axes.

VERSION: Final = 1
_OPEN: Final = 256
"""Files held open at once."""
_LONGEST_HEADER: Final = 1 << 20
_LONGEST: Final = 1 << 30
_TABLES: Final = {"photos": ("U32", 5), "grids": ("U32", 10), "tokens": (None, 0), "texts": ("U8", 0)}


@final
@dataclass(frozen=True)
class ShardEntry(BankEntry):
    """A grid of a shard; ``photo`` counts through all shards, those of the validation split last.

    Attributes:
        crc: checksum of the grid.
    """

    crc: int = 0


def token_type(codebook_size: int) -> npt.DTypeLike:
    """Return what tokens are stored as."""
    return np.uint16 if codebook_size <= 65536 else np.uint32


@final
class ShardBuilder:
    """Collects photos or videos, and writes them as one shard.

    Args:
        fingerprint: of the tokenizer.
        codebook_size: of the tokenizer.
    """

    def __init__(self, fingerprint: str, codebook_size: int) -> None:
        self._about = {"fingerprint": fingerprint, "codebook_size": codebook_size, "version": VERSION}
        self._kind = token_type(codebook_size)
        self._tokens: list[npt.NDArray[Any]] = []
        self._photos: list[tuple[int, ...]] = []
        self._grids: list[tuple[int, ...]] = []
        self._texts = bytearray()
        self._size = 0
        self._captions = 0
        self._smallest: tuple[int, ...] | None = None

    def add(self, key: str, caption: str, grids: Sequence[tuple[BankEntry, Tokens]]) -> None:
        """Add a photo with all its grids; where their tokens start is set here."""
        text = json.dumps({"key": key, "caption": caption}).encode()
        self._photos.append((len(self._grids), len(grids), len(self._texts), len(text), zlib.crc32(text)))
        self._texts += text
        self._captions += bool(caption)
        for entry, tokens_TYX in grids:
            flat = np.ascontiguousarray(tokens_TYX, self._kind).ravel()
            row = _row(entry, len(self._photos) - 1, self._size)
            self._grids.append((*row, _checksum(row, flat)))
            self._tokens.append(flat)
            self._size += len(flat)
            shape = (entry.frames, entry.y, entry.x)
            self._smallest = tuple(map(min, shape, self._smallest or shape))

    def write(self, path: Path) -> dict[str, Any] | None:
        """Write the shard, whole or not at all, and return what the index says of it; None if there is nothing."""
        if not self._photos:
            return None
        if self._size >= 1 << 32:
            raise UsageError("photos_per_shard", len(self._photos), "a shard holds 2^32 tokens at most: give fewer")
        tables = {
            "photos": np.array(self._photos, np.uint32),
            "grids": np.array(self._grids, np.uint32).reshape(-1, 10),
            "tokens": np.concatenate(self._tokens),
            "texts": np.frombuffer(bytes(self._texts), np.uint8),
        }
        with atomic_write(path) as partial:
            save_file(tables, partial, {"nuwa_lightning": json.dumps(self._about)})
        return {
            "file": path.name,
            "photos": len(self._photos),
            "tokens": self._size,
            "captions": self._captions,
            "smallest": list(self._smallest or ()),
            "sha256": file_sha256(path),
        }


@final
class TokenShards(TokenGrids, Source):
    """The shards in a folder; a source as well, of what they were made of.

    Args:
        folder: what ``make-shards`` wrote.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        self._index: dict[str, Any] = {}
        self._open: OrderedDict[str, _Shard] = OrderedDict()

    def prepare(self) -> None:
        """Read the index.

        Raises:
            UsageError: if it is not there, or damaged.
        """
        if self._index:
            return
        path = self.folder / "index.json"
        try:
            index = read_json(path, longest=_LONGEST)
        except OSError:
            made = len(list(self.folder.glob("parts/*.json")))
            hint = f"{made} parts are made, not all: run make-shards (again), it goes on where it was"
            raise UsageError("data.shards", self.folder, hint) from None
        except ValueError as error:
            raise UsageError("data.shards", path, f"damaged ({error}); run make-shards again") from None
        shard = {"file": str, "photos": int, "tokens": int, "captions": int}
        good = fits(index, dict[str, Any]) and fits(index.get("smallest"), list[int]) and len(index["smallest"]) == 3
        good = good and fits(index.get("shards"), dict[str, list[dict[str, Any]]]) and {*index["shards"]} == {*SPLITS}
        every = [one for split in SPLITS for one in index["shards"][split]] if good else []
        good = good and all(fits(one.get(name), kind) for one in every for name, kind in shard.items())
        good = good and all(Path(one["file"]).name == one["file"] and one["photos"] > 0 for one in every)
        if not good or not isinstance(index.get("fingerprint"), str) or not fits(index.get("codebook_size"), int):
            raise UsageError("data.shards", path, "damaged; run make-shards again")
        self._files = [one["file"] for one in every]
        self._ends = list(itertools.accumulate(one["photos"] for one in every))
        self._index = index

    @property
    def index(self) -> dict[str, Any]:
        """What ``index.json`` says."""
        self.prepare()
        return self._index

    def count(self, split: Split) -> int:
        """Return the number of photos or videos of a split."""
        return sum(one["photos"] for one in self.index["shards"][split])

    @property
    def name(self) -> str:
        return str(self.index["name"])

    @property
    def left_out(self) -> tuple[Sequence[str], Sequence[str]]:
        left_out = self.index.get("left_out", {})
        return left_out.get("skipped", []), left_out.get("too_small", [])

    def __len__(self) -> int:
        """Return the number of tokens in all shards."""
        return sum(one["tokens"] for split in SPLITS for one in self.index["shards"][split])

    def fitting(self, split: Split, fits: Fits, captions: Sequence[str] | None = None) -> _Photos:
        """Return the photos of a split, each read when it is asked for: all grids that were written fit a window."""
        start = 0 if split == "train" else self.count("train")
        return _Photos(self, start, self.count(split))

    def entries(self, photo: int) -> list[ShardEntry]:
        """Return the grids of a photo."""
        shard, number = self._shard_of(photo)
        first, count, *_ = shard.photo(number)
        rows: list[list[int]] = shard.rows("grids", first, count).tolist()
        if not rows or any(row[0] != number for row in rows):
            raise shard.damaged
        return [ShardEntry(photo, side, bool(flip), *rest) for _, side, flip, *rest in rows]

    def text(self, photo: int) -> dict[str, str]:
        """Return the ``key`` and the ``caption`` of a photo."""
        shard, number = self._shard_of(photo)
        _, _, start, length, crc = shard.photo(number)
        said = shard.read("texts", start, length)
        if zlib.crc32(said) != crc:
            raise shard.damaged
        found: dict[str, str] = parse_json(said)
        return found

    def tokens(self, entry: BankEntry) -> Tokens:
        """Return the tokens of a grid as (T, Y, X), read and checked.

        Raises:
            UsageError: if they are damaged.
        """
        assert isinstance(entry, ShardEntry)
        shard, number = self._shard_of(entry.photo)
        kind = np.dtype(token_type(self.index["codebook_size"])).newbyteorder("<")
        flat = np.frombuffer(shard.read("tokens", entry.start * kind.itemsize, entry.size * kind.itemsize), kind)
        if _checksum(_row(entry, number, entry.start), flat) != entry.crc or flat.max() >= self.index["codebook_size"]:
            raise shard.damaged
        found: Tokens = flat.reshape(entry.frames, entry.y, entry.x)
        return found

    def _shard_of(self, photo: int) -> tuple[_Shard, int]:
        """Return the shard that holds a photo, and its number there."""
        self.prepare()
        place = bisect.bisect_right(self._ends, photo)
        name = self._files[place]
        shard = self._open.get(name)
        if shard is None:
            shard = self._open[name] = _Shard(self.folder / name, self._index)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].close()
        else:
            self._open.move_to_end(name)
        return shard, photo - (self._ends[place - 1] if place else 0)

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        while self._open:
            self._open.popitem()[1].close()

    def __del__(self) -> None:
        """Close the files."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out, so that loading processes open them themselves."""
        return {**self.__dict__, "_open": OrderedDict()}

    def listed(self, split: Split) -> Sequence[Sample]:
        """Return nothing: what the shards were made of may be gone."""
        return ()

    def option(self, split: Split) -> tuple[str, str]:
        return "data.shards", str(self.folder)

    def record(self) -> dict[str, object]:
        """Return what the shards were made of."""
        found: dict[str, object] = {"shards": str(self.folder), "name": self.name, "made_of": self.index.get("source")}
        return found | {split: self.count(split) for split in SPLITS}


@final
class _Photos(Sequence[Sequence[BankEntry]]):
    """The grids of each photo of a range, read when they are asked for."""

    def __init__(self, shards: TokenShards, start: int, count: int) -> None:
        self._shards, self._start, self._count = shards, start, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Sequence[BankEntry]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[BankEntry]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[Any]:
        if isinstance(index, slice):
            return [self[place] for place in range(self._count)[index]]
        return self._shards.entries(self._start + range(self._count)[index])


@final
class _Shard:
    """One file, whose tables are read in parts."""

    def __init__(self, path: Path, index: dict[str, Any]) -> None:
        self.path = path
        self.damaged = UsageError("data.shards", path, "damaged: delete it and run make-shards again, it is made anew")
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise UsageError("data.shards", path, f"{error.strerror}: run make-shards again") from None
        try:
            self._tables, fingerprint = self._header(np.dtype(token_type(index["codebook_size"])).itemsize)
        except (OSError, ValueError, KeyError, TypeError):
            self.close()
            raise self.damaged from None
        if fingerprint != index["fingerprint"]:
            self.close()
            raise UsageError(
                "data.shards", path, "is of another tokenizer than the others: delete it, and make it anew"
            )

    def _header(self, token_bytes: int) -> tuple[dict[str, tuple[int, int]], str]:
        length = int.from_bytes(os.pread(self._file, 8, 0), "little")
        if not 0 < length <= _LONGEST_HEADER:
            raise ValueError("no safetensors")
        header = parse_json(os.pread(self._file, length, 8))
        size, tables = os.fstat(self._file).st_size, {}
        for name, (kind, columns) in _TABLES.items():
            said, (start, stop) = header[name], header[name]["data_offsets"]
            good = said["dtype"] == (kind or {2: "U16", 4: "U32"}[token_bytes]) and 0 <= start <= stop
            good = good and (not columns or said["shape"][1:] == [columns])
            if not good or 8 + length + stop > size:
                raise ValueError(name)
            tables[name] = 8 + length + start, stop - start
        return tables, str(parse_json(header["__metadata__"]["nuwa_lightning"])["fingerprint"])

    def read(self, table: str, start: int, length: int) -> bytes:
        """Return bytes of a table."""
        first, size = self._tables[table]
        if not 0 <= start <= start + length <= size:
            raise self.damaged
        found = os.pread(self._file, length, first + start)
        if len(found) != length:
            raise self.damaged
        return found

    def rows(self, table: str, first: int, count: int) -> npt.NDArray[np.uint32]:
        """Return rows of a table of numbers."""
        columns = _TABLES[table][1]
        return np.frombuffer(self.read(table, 4 * columns * first, 4 * columns * count), "<u4").reshape(count, columns)

    def photo(self, number: int) -> list[int]:
        """Return the row of a photo."""
        return [int(value) for value in self.rows("photos", number, 1)[0]]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _row(entry: BankEntry, photo: int, start: int) -> tuple[int, ...]:
    e = entry
    return photo, e.short_side, int(e.flip), e.phase, start, e.y, e.x, e.first, e.frames


def _checksum(row: Sequence[int], flat: npt.NDArray[Any]) -> int:
    little = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
    return zlib.crc32(little.tobytes(), zlib.crc32(np.array(row, "<u4").tobytes()))
