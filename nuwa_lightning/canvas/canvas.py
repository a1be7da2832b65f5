"""A canvas on the disk: a folder that holds tokens by position, how they were made, and where generation stands (ours).

===================  ===================================================================================================
``canvas.json``      what the canvas is and how it was made, with a checksum
``image.png``        the given pixels of an outpainting, ``mask.png`` where they are to be made anew; kept canvases only
``tokens.log``       one record of fixed size a patch, appended; of two at one position the later one holds
``state-000000012``  where generation stood after 12 waves: JSON and tensors under a checksum; the last two are kept
``lock``             held by the one process that has the canvas open
===================  ===================================================================================================

A record of the log is the position (t, y, x) as int32, the tokens ``[B, rows, columns]`` as uint16 or uint32, and a
CRC-32 of both that begins with the number of the record; all little-endian. A finished canvas is the first records of
the log, as many as ``canvas.json`` says: what is edited is appended first, and counts when that file is replaced. A
folder of a stranger runs no code: JSON, plain arrays, PNG and safetensors are all that is read, each checked before it
is used.

Shape legend: B images of one canvas (one a seed), Y/X rows and columns.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.atomic import fsync_path
from nuwa_lightning.canvas.facts import (
    UNWRITTEN,
    CanvasFacts,
    CanvasState,
    read_facts,
    read_state,
    told,
    write_facts,
    write_state,
)
from nuwa_lightning.canvas.keeping import GIVEN, keep_given
from nuwa_lightning.errors import UsageError, unwritable
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.request_fields import InputImage
from nuwa_lightning.tokenizers.tiling import Rectangle

_KEPT: Final = 2
_BLOCK: Final = 64
_AT_ONCE: Final = 1 << 14


@final
class Canvas:
    """An open canvas; no other process can open it before :meth:`close`.

    Memory holds 4 bytes a patch, tokens stay on the disk. Use :meth:`create` or :meth:`open`.

    Args:
        folder: the canvas.
        option: the option to name in errors.

    Raises:
        UsageError: if another process has it open, the folder holds something else, or cannot be made.
    """

    def __init__(self, folder: Path, *, option: str = "canvas") -> None:
        self.folder, self._option = folder, option
        self._log: BinaryIO | None = None
        self._index: dict[tuple[int, int, int], NDArray[np.uint32]] = {}
        self.length = 0
        """How many records the log has."""
        self.patches = 0
        """How many positions hold tokens."""
        try:
            folder.mkdir(exist_ok=True)
            strange = [path for path in folder.iterdir() if not _is_own(path)]
            if strange:
                raise UsageError(option, folder, f"holds {strange[0].name}, which is no part of a canvas: name another")
            self._lock = _locked(folder / "lock")
        except BlockingIOError:
            hint = "another process is writing it: wait, or name another one"
            raise UsageError(option, folder, hint) from None
        except OSError as error:
            raise self._unwritable(error) from error

    @classmethod
    def create(cls, folder: Path, facts: CanvasFacts, *, option: str = "canvas") -> Canvas:
        """Return a new, empty canvas."""
        made = cls(folder, option=option)
        made.begin(facts)
        return made

    @classmethod
    def open(cls, folder: Path, *, option: str = "canvas") -> Canvas:
        """Return the canvas in a folder, everything in it checked.

        Raises:
            UsageError: if there is none, it is damaged, or another process has it open.
        """
        if not (folder / "canvas.json").is_file():
            raise UsageError(option, folder, "holds no canvas: name a folder that --canvas made")
        made = cls(folder, option=option)
        try:
            made.load()
            made.check_whole()
        except BaseException:
            made.close()
            raise
        return made

    @property
    def begun(self) -> bool:
        """Whether the folder says what canvas it holds."""
        return (self.folder / "canvas.json").exists()

    @property
    def facts(self) -> CanvasFacts:
        """What it is."""
        return self._facts

    def begin(self, facts: CanvasFacts, image: InputImage | None = None) -> None:
        """Begin a canvas, and forget what was there.

        Args:
            facts: what it is.
            image: the given pixels, for a canvas that is kept.

        Raises:
            UsageError: if the disk is full or fails.
        """
        try:
            self._forget()
            if image is not None:
                facts = replace(facts, how={**facts.how, "given": keep_given(self.folder, image)})
            self._say(facts)
            self._open_log("wb")
        except OSError as error:
            raise self._unwritable(error) from error

    def amend(self, facts: CanvasFacts) -> None:
        """Say anew what the canvas is, in one step, of whose log ``facts.log`` records count; states before it go.

        Raises:
            UsageError: if the disk is full or fails; the canvas is what it was.
        """
        assert self._log is not None
        try:
            os.fsync(self._log.fileno())
            if self._facts.finished:
                self._drop(self._states())
            self._say(facts)
            if facts.finished:
                self._drop(self._states())
        except OSError as error:
            raise self._unwritable(error) from error

    def _say(self, facts: CanvasFacts) -> None:
        write_facts(self.folder / "canvas.json", facts)
        self._facts, self._dtype = facts, _record_type(facts)

    @staticmethod
    def _drop(paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def load(self) -> None:
        """Read what is in the folder; of the log is cut off what nothing counts on, such as a torn tail.

        Raises:
            UsageError: if it does not say what canvas it is.
        """
        try:
            self._facts = read_facts(self.folder / "canvas.json")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            hint = "does not say what is made there: choose overwrite to start again"
            raise UsageError(self._option, self.folder, hint) from None
        self._dtype = _record_type(self._facts)
        try:
            self._open_log("r+b" if (self.folder / "tokens.log").exists() else "wb")
            self._load_log()
            if self.length >= self._facts.log:  # or there is damage, and what comes after it may yet be saved
                self._cut_log(self.length)
                if self._facts.finished:
                    self._cut(self._facts.log)
        except OSError as error:
            raise self._unwritable(error) from error

    def check_whole(self) -> None:
        """Refuse a canvas of which tokens that were sure to last are damaged.

        Raises:
            UsageError: naming the record.
        """
        if self.length < self._facts.log:
            hint = f"record {self.length} is damaged, and so is the canvas: put back a copy of the folder"
            raise UsageError(self._option, self.folder / "tokens.log", hint)
        states = [] if self._facts.finished else map(read_state, self._states())
        newest = next((found for found in states if found is not None), None)
        if newest is not None and newest.facts["log"] > self.length:
            hint = f"record {self.length} is damaged: choose resume earlier"
            raise UsageError(self._option, self.folder / "tokens.log", hint)

    def latest(self, *, earlier: bool = False) -> CanvasState | None:
        """Return the newest state whose tokens are all there, or None before the first; cuts the log after these.

        Args:
            earlier: pass over a damaged one.

        Raises:
            UsageError: if it is damaged, telling whether the one before is good.
        """
        damaged: list[Path] = []
        for path in self._states():
            found = read_state(path)
            if found is None or found.facts["log"] > self.length:
                damaged.append(path)
                continue
            if damaged and not earlier:
                hint = f"is damaged; the state before it ({told(found.facts)}) is good: choose resume earlier"
                raise UsageError("resume", damaged[0], hint)
            self._drop(damaged)  # or they would count among the two that are kept
            self._cut(found.facts["log"])
            return found
        if damaged:
            hint = "is damaged, and there is no good one: choose overwrite to start again"
            raise UsageError("resume", damaged[0], hint)
        self._cut(self._facts.log)
        return None

    def put(self, patches: Iterable[tuple[PatchIndex, Tensor]]) -> None:
        """Store patches, tokens ``[B, rows, columns]`` each; they are sure to last from the next :meth:`commit` on.

        Raises:
            UsageError: if the disk is full or fails; the canvas is as it was before.
        """
        assert self._log is not None
        positions, data = [], bytearray()
        for number, (patch, tokens_BYX) in enumerate(patches, start=self.length):
            record = np.zeros((), self._dtype)
            record["at"] = position = self._facts.stage.position(patch)
            record["tokens"] = tokens_BYX.numpy()
            record["sum"] = _sum_of_record(record.tobytes()[:-4], number)
            positions.append(position)
            data += record.tobytes()
        try:
            self._log.seek(self.length * self._dtype.itemsize)
            left = memoryview(data)
            while left:
                left = left[self._log.write(left) :]
        except OSError as error:
            self._log.truncate(self.length * self._dtype.itemsize)
            raise self._unwritable(error) from error
        for position in positions:
            self._note(position)

    def commit(self, state: CanvasState) -> None:
        """Force everything to the disk, add a state, and drop those before the last two.

        Raises:
            UsageError: if the disk is full or fails; the states before stay.
        """
        assert self._log is not None
        try:
            os.fsync(self._log.fileno())
            write_state(self.folder / f"state-{state.waves:012d}", state, log=self.length)
        except OSError as error:
            raise self._unwritable(error) from error
        self._drop(self._states()[_KEPT:])

    def read(self, area: Rectangle, *, t: int = 0, number: int = 0) -> Tensor:
        """Return the tokens of an area of one image (or frame), int64 ``[Y, X]``; ``UNWRITTEN`` where there are none.

        Args:
            area: in tokens, from the corner of the grid; it may stick out.
            t: the frame.
            number: which of the B images.
        """
        rows, columns = self._facts.patch_size
        top, left = area.top // rows, area.left // columns
        bottom, right = -(-area.bottom // rows), -(-area.right // columns)
        corner = self._facts.corner
        numbers_YX = self._numbers(t + corner[0], (top + corner[1], left + corner[2]), (bottom - top, right - left))
        tokens_YXyx = np.full((*numbers_YX.shape, rows, columns), UNWRITTEN, np.int64)
        written_YX = numbers_YX > 0
        if written_YX.any():  # a map that lives this long only does not count as memory for long
            log = np.memmap(self.folder / "tokens.log", self._dtype, "r", shape=(self.length,))
            tokens_YXyx[written_YX] = log["tokens"][numbers_YX[written_YX] - 1, number]
        tokens_YX = tokens_YXyx.transpose(0, 2, 1, 3).reshape((bottom - top) * rows, (right - left) * columns)
        y, x = area.top - top * rows, area.left - left * columns
        return torch.from_numpy(tokens_YX[y : y + area.bottom - area.top, x : x + area.right - area.left].copy())

    def patch(self, patch: PatchIndex) -> Tensor | None:
        """Return the tokens ``[B, rows, columns]`` of a patch, if it is there."""
        t, y, x = self._facts.stage.position(patch)
        number = int(self._numbers(t, (y, x), (1, 1))[0, 0])
        if not number:
            return None
        log = np.memmap(self.folder / "tokens.log", self._dtype, "r", shape=(self.length,))
        return torch.from_numpy(log["tokens"][number - 1].astype(np.int64))

    def written(self) -> Iterable[PatchIndex]:
        """Yield the patches that are there."""
        for (t, row, column), block_YX in sorted(self._index.items()):
            for y, x in np.argwhere(block_YX).tolist():
                yield self._facts.stage.patch(PatchIndex(t, row * _BLOCK + y, column * _BLOCK + x))

    def remove(self) -> None:
        """Remove the canvas; killed on the way, it is one that never began. Nothing but its own files goes."""
        self._forget()
        (self.folder / "lock").unlink(missing_ok=True)
        self.close()
        try:
            self.folder.rmdir()
        except OSError:  # something of somebody else has come to lie there
            return

    def close(self) -> None:
        """Let another process have it."""
        if self._log is not None:
            self._log.close()
            self._log = None
        self._lock.close()

    def _forget(self) -> None:
        (self.folder / "canvas.json").unlink(missing_ok=True)
        if self._log is not None:
            self._log.close()
            self._log = None
        self._drop(path for path in self.folder.iterdir() if path.name != "lock" and _is_own(path))
        self._index, self.length, self.patches = {}, 0, 0

    def _states(self) -> list[Path]:
        """Return the files of the states, the newest first."""
        return sorted(self.folder.glob("state-" + 12 * "[0-9]"), reverse=True)

    def _open_log(self, mode: str) -> None:
        path = self.folder / "tokens.log"
        if path.is_symlink():
            raise UsageError(self._option, path, "is a link, which no canvas holds: name another folder")
        if self._log is not None:
            self._log.close()
        path.touch()
        self._log = path.open("r+b", buffering=0)
        if mode == "wb":
            self._log.truncate(0)
            fsync_path(self.folder)

    def _load_log(self) -> None:
        """Take in the log, up to its end or to a record that is damaged."""
        assert self._log is not None
        self._index, self.length, self.patches = {}, 0, 0
        size = self._dtype.itemsize
        while True:
            self._log.seek(self.length * size)
            data = self._log.read(_AT_ONCE * size)
            records = np.frombuffer(data[: len(data) // size * size], self._dtype)
            if not len(records):
                return
            for n, record in enumerate(records):
                raw = memoryview(data)[n * size : (n + 1) * size - 4]
                position = PatchIndex(*map(int, record["at"]))
                if (
                    _sum_of_record(raw, self.length) != record["sum"]
                    or not self._facts.holds(position)
                    or int(record["tokens"].max()) >= self._facts.codebook_size
                ):
                    return
                self._note(position)

    def _note(self, position: PatchIndex) -> None:
        t, y, x = position
        block_YX = self._index.get((t, y // _BLOCK, x // _BLOCK))
        if block_YX is None:
            block_YX = self._index[t, y // _BLOCK, x // _BLOCK] = np.zeros((_BLOCK, _BLOCK), np.uint32)
        self.length += 1
        self.patches += int(block_YX[y % _BLOCK, x % _BLOCK] == 0)
        block_YX[y % _BLOCK, x % _BLOCK] = self.length

    def _numbers(self, t: int, start: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.uint32]:
        """Return the numbers (from 1) of the records of an area of the log's positions; 0 where there are none."""
        numbers_YX = np.zeros(shape, np.uint32)
        spans = [range(s // _BLOCK, (s + n - 1) // _BLOCK + 1) for s, n in zip(start, shape, strict=True)]
        for row, column in itertools.product(*spans):
            block_YX = self._index.get((t, row, column))
            if block_YX is None:
                continue
            here, there = [], []
            for block, s, n in zip((row, column), start, shape, strict=True):
                first, last = max(s, block * _BLOCK), min(s + n, (block + 1) * _BLOCK)
                here.append(slice(first - s, last - s))
                there.append(slice(first - block * _BLOCK, last - block * _BLOCK))
            numbers_YX[here[0], here[1]] = block_YX[there[0], there[1]]
        return numbers_YX

    def _cut(self, length: int) -> None:
        """Forget the records from one on."""
        if length == self.length:
            return
        try:
            self._cut_log(length)
            self._load_log()
        except OSError as error:
            raise self._unwritable(error) from error

    def _cut_log(self, length: int) -> None:
        assert self._log is not None
        if os.fstat(self._log.fileno()).st_size != length * self._dtype.itemsize:
            self._log.truncate(length * self._dtype.itemsize)

    def _unwritable(self, error: OSError) -> UsageError:
        found = unwritable(self.folder, error, full="make room there")
        return UsageError(self._option, self.folder, found.hint)


def _is_own(path: Path) -> bool:
    """Say whether a name in the folder is one that a canvas gives."""
    name = path.name
    return name in ("canvas.json", "tokens.log", "lock", *GIVEN) or name.startswith(
        ("state-", ".state-", ".canvas.", ".image.", ".mask.")
    )


def _sum_of_record(data: bytes | memoryview, number: int) -> int:
    return zlib.crc32(data, number & 0xFFFFFFFF)


def _record_type(facts: CanvasFacts) -> np.dtype[Any]:
    tokens = "<u2" if facts.codebook_size <= 2**16 else "<u4"
    return np.dtype([("at", "<i4", 3), ("tokens", tokens, (len(facts.seeds), *facts.patch_size)), ("sum", "<u4")])


def _locked(path: Path) -> BinaryIO:
    file = path.open("ab")
    try:
        import fcntl
    except ImportError:  # no such locks on this system: the user minds
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file
