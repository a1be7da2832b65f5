"""The log of a canvas: records of fixed size, appended, of which the last one at a position holds (ours).

A record is the position (t, y, x) as int32, the tokens ``[B, rows, columns]`` as uint16 or uint32, and a CRC-32 of both
that begins with the number of the record; all little-endian. A reader needs no lock: a record that is being written is
not whole yet, and is taken in the next time.

Shape legend: B images of one canvas (one a seed), Y/X rows and columns.
"""

import itertools
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.canvas.facts import UNWRITTEN, CanvasFacts
from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.tokenizers.tiling import Rectangle

_IMAGE_BLOCK: Final = 64
_VIDEO_BLOCK: Final = 8
_AT_ONCE: Final = 1 << 14
_BYTES: Final = 1 << 26
_NEAR: Final = 16


@final
class TokenLog:
    """Which record holds at each position, 4 bytes each; tokens stay on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index: dict[tuple[int, int, int], NDArray[np.uint32]] = {}
        self.length = 0
        """How many records are taken in."""
        self.patches = 0
        """How many positions hold tokens."""

    @property
    def facts(self) -> CanvasFacts:
        """What the canvas is."""
        return self._facts

    @facts.setter
    def facts(self, facts: CanvasFacts) -> None:
        tokens = "<u2" if facts.codebook_size <= 2**16 else "<u4"
        shape = (len(facts.seeds), *facts.patch_size)
        self._facts, self._dtype = facts, np.dtype([("at", "<i4", 3), ("tokens", tokens, shape), ("sum", "<u4")])
        if not self._index:  # each frame of a video has blocks of its own, and they may be of few patches
            self._block = _IMAGE_BLOCK if facts.grid.t == 1 else _VIDEO_BLOCK

    @property
    def record_bytes(self) -> int:
        """How long a record is."""
        return self._dtype.itemsize

    def clear(self) -> None:
        """Forget all records."""
        self._index, self.length, self.patches = {}, 0, 0

    def packed(self, patches: Iterable[tuple[PatchIndex, Tensor]]) -> tuple[list[PatchIndex], bytes]:
        """Return positions and bytes of records of patches, tokens ``[B, rows, columns]`` each, to be appended."""
        positions, data = [], bytearray()
        for number, (patch, tokens_BYX) in enumerate(patches, start=self.length):
            record: Any = np.zeros((), self._dtype)
            record["at"] = position = self._facts.stage.position(patch)
            record["tokens"] = tokens_BYX.numpy()
            record["sum"] = _sum_of_record(record.tobytes()[:-4], number)
            positions.append(position)
            data += record.tobytes()
        return positions, bytes(data)

    def extend(self, *, end: int | None = None, found: list[PatchIndex] | None = None) -> None:
        """Take in the records that follow, up to number ``end`` or to a torn one; ``found`` gets their positions."""
        size = self._dtype.itemsize
        if not self._path.is_file():  # a pipe would keep its reader waiting
            raise UsageError("canvas", self._path, "is not there: put back a copy of the folder")
        with self._path.open("rb") as file:
            while end is None or self.length < end:
                file.seek(self.length * size)
                most = max(1, min(_AT_ONCE, _BYTES // size))
                data = file.read((most if end is None else min(most, end - self.length)) * size)
                records = np.frombuffer(data[: len(data) // size * size], self._dtype)
                if not len(records):
                    break
                for n, record in enumerate(records):
                    raw = memoryview(data)[n * size : (n + 1) * size - 4]
                    position = PatchIndex(*map(int, record["at"]))
                    if (
                        _sum_of_record(raw, self.length) != record["sum"]
                        or not self._facts.holds(position)
                        or int(record["tokens"].max()) >= self._facts.codebook_size
                    ):
                        return
                    self.note(position)
                    if found is not None:
                        found.append(position)

    def note(self, position: PatchIndex) -> None:
        """Take in that the next record is of a position."""
        (t, y, x), side = position, self._block
        block_YX = self._index.get((t, y // side, x // side))
        if block_YX is None:
            block_YX = self._index[t, y // side, x // side] = np.zeros((side, side), np.uint32)
        self.length += 1
        self.patches += int(block_YX[y % side, x % side] == 0)
        block_YX[y % side, x % side] = self.length

    def read(
        self, area: Rectangle, *, t: int = 0, number: int = 0, corner: tuple[int, int, int] | None = None
    ) -> Tensor:
        """Return the tokens of an area of one image (or frame), int64 ``[Y, X]``; ``UNWRITTEN`` where there are none.

        The area counts from the ``corner`` of the grid on the lattice, by default where it is now, and may stick out.
        """
        rows, columns = self._facts.patch_size
        top, left = area.top // rows, area.left // columns
        bottom, right = -(-area.bottom // rows), -(-area.right // columns)
        corner = self._facts.corner if corner is None else corner
        numbers_YX = self._numbers(t + corner[0], (top + corner[1], left + corner[2]), (bottom - top, right - left))
        tokens_YXyx = np.full((*numbers_YX.shape, rows, columns), UNWRITTEN, np.int64)
        written_YX = numbers_YX > 0
        if written_YX.any():
            tokens_YXyx[written_YX] = self._records(numbers_YX[written_YX])["tokens"][:, number]
        tokens_YX = tokens_YXyx.transpose(0, 2, 1, 3).reshape((bottom - top) * rows, (right - left) * columns)
        y, x = area.top - top * rows, area.left - left * columns
        return torch.from_numpy(tokens_YX[y : y + area.bottom - area.top, x : x + area.right - area.left].copy())

    def patch(self, patch: PatchIndex) -> Tensor | None:
        """Return the tokens ``[B, rows, columns]`` of a patch, if it is there."""
        t, y, x = self._facts.stage.position(patch)
        number_N = self._numbers(t, (y, x), (1, 1))[0]
        return torch.from_numpy(self._records(number_N)["tokens"][0].astype(np.int64)) if number_N[0] else None

    def written(self) -> Iterable[PatchIndex]:
        """Yield the patches that are there."""
        for (t, row, column), block_YX in sorted(self._index.items()):
            for y, x in np.argwhere(block_YX).tolist():
                yield self._facts.stage.patch(PatchIndex(t, row * self._block + y, column * self._block + x))

    def _records(self, numbers_N: NDArray[np.uint32]) -> Any:
        """Return the records of these numbers, from 1.

        They are read and not mapped: another process may cut the log, and what is mapped then kills whoever looks.

        Raises:
            ValueError: if the log is shorter by now.
        """
        wanted, back_N = np.unique(numbers_N, return_inverse=True)
        size, found = self._dtype.itemsize, []
        with self._path.open("rb", buffering=0) as file:
            for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > _NEAR) + 1):
                file.seek((int(run[0]) - 1) * size)
                data = file.read((int(run[-1]) - int(run[0]) + 1) * size)
                found.append(np.frombuffer(data, self._dtype, count=int(run[-1]) - int(run[0]) + 1)[run - run[0]])
        return np.concatenate(found)[back_N]

    def _numbers(self, t: int, start: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.uint32]:
        """Return the numbers (from 1) of the records of an area of the log's positions; 0 where there are none."""
        numbers_YX = np.zeros(shape, np.uint32)
        side = self._block
        spans = [range(s // side, (s + n - 1) // side + 1) for s, n in zip(start, shape, strict=True)]
        for row, column in itertools.product(*spans):
            block_YX = self._index.get((t, row, column))
            if block_YX is None:
                continue
            here, there = [], []
            for block, s, n in zip((row, column), start, shape, strict=True):
                first, last = max(s, block * side), min(s + n, (block + 1) * side)
                here.append(slice(first - s, last - s))
                there.append(slice(first - block * side, last - block * side))
            numbers_YX[here[0], here[1]] = block_YX[there[0], there[1]]
        return numbers_YX


def _sum_of_record(data: bytes | memoryview, number: int) -> int:
    return zlib.crc32(data, number & 0xFFFFFFFF)
