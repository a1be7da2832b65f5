"""A canvas on the disk: a folder that holds tokens by position, how they were made, and where generation stands (ours).

===================  ===================================================================================================
``canvas.json``      what the canvas is and how it was made, with a checksum
``image.png``        the given pixels of an outpainting, ``mask.png`` where they are made anew, ``plan.png`` a plan
``tokens.log``       one record of fixed size a patch, appended; of two at one position the later one holds
``state-000000012``  where generation stood after 12 waves: JSON and tensors under a checksum; the last two are kept
``coarse-0``         the tokens of the coarse plan of a stage, written as a state is; drawn again where it is missing
``lock``             held by the one process that has the canvas open
===================  ===================================================================================================

A finished canvas is the first records of the log (:mod:`~nuwa_lightning.canvas.log`), as many as ``canvas.json`` says:
what is edited is appended first, and counts when that file is replaced. A folder of a stranger runs no code: JSON,
plain arrays, PNG and safetensors are all that is read, each checked before it is used.

Shape legend: B images of one canvas (one a seed), Y/X rows and columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final, final

from torch import Tensor

from nuwa_lightning.atomic import fsync_path, lock
from nuwa_lightning.canvas.facts import CanvasFacts, CanvasState, read_facts, read_state, told, write_facts, write_state
from nuwa_lightning.canvas.keeping import GIVEN, keep_given
from nuwa_lightning.canvas.log import TokenLog
from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.tokenizers.tiling import Rectangle
from nuwa_lightning.writers.vips import FULL

_KEPT: Final = 2


@final
class Canvas:
    """An open canvas; no other process can open it before :meth:`close`.

    Memory holds 4 bytes a patch, tokens stay on the disk. Use :meth:`create` or :meth:`open`.
    """

    def __init__(self, folder: Path, *, option: str = "canvas") -> None:
        self.folder, self._option = folder, option
        self._log: BinaryIO | None = None
        self._tokens = TokenLog(folder / "tokens.log")
        try:
            folder.mkdir(exist_ok=True)
            strange = [path for path in folder.iterdir() if not _is_own(path) or (path.exists() and not path.is_file())]
            if strange:
                raise UsageError(option, folder, f"holds {strange[0].name}, which is no part of a canvas: name another")
            self._lock = lock(folder / "lock", wait=False)
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
        """Return the canvas in a folder, everything in it checked."""
        if not (folder / "canvas.json").is_file():
            raise UsageError(option, folder, "holds no canvas: name the folder of a canvas that was kept")
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
        return self._tokens.facts

    @property
    def length(self) -> int:
        """How many records the log has."""
        return self._tokens.length

    @property
    def patches(self) -> int:
        """How many positions hold tokens."""
        return self._tokens.patches

    def begin(self, facts: CanvasFacts, request: GenerationRequest | None = None) -> None:
        """Begin a canvas, and forget what was there; the given pixels of a ``request`` are kept with it."""
        try:
            self._forget()
            given = {} if request is None else keep_given(self.folder, request)
            if given:
                facts = replace(facts, how={**facts.how, "given": given})
            self._say(facts)
            self._open_log("wb")
        except OSError as error:
            raise self._unwritable(error) from error

    def amend(self, facts: CanvasFacts) -> None:
        """Say anew what the canvas is, in one step, of whose log ``facts.log`` records count; states before it go.

        If the disk is full or fails the canvas is what it was.
        """
        assert self._log is not None
        try:
            os.fsync(self._log.fileno())
            if self.facts.finished:
                self._drop(self._states())
            self._say(facts)
            if facts.finished:
                self._drop(self._states())
        except OSError as error:
            raise self._unwritable(error) from error

    def _say(self, facts: CanvasFacts) -> None:
        write_facts(self.folder / "canvas.json", facts)
        self._tokens.facts = facts

    @staticmethod
    def _drop(paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def load(self) -> None:
        """Read what is in the folder; of the log is cut off what nothing counts on, such as a torn tail."""
        try:
            self._tokens.facts = read_facts(self.folder / "canvas.json")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            hint = "does not say what is made there: choose overwrite to start again"
            raise UsageError(self._option, self.folder, hint) from None
        try:
            self._open_log("r+b" if (self.folder / "tokens.log").exists() else "wb")
            self._load_log()
            if self.length >= self.facts.log:  # or there is damage, and what comes after it may yet be saved
                self._cut_log(self.length)
                if self.facts.finished:
                    self._cut(self.facts.log)
        except OSError as error:
            raise self._unwritable(error) from error

    def check_whole(self) -> None:
        """Refuse a canvas of which tokens that were sure to last are damaged."""
        if self.length < self.facts.log:
            hint = f"record {self.length} is damaged, and so is the canvas: put back a copy of the folder"
            raise UsageError(self._option, self.folder / "tokens.log", hint)
        if self.facts.finished and self.patches < self.facts.grid.size:
            hint = f"holds {self.patches} of {self.facts.grid.size} patches: put back a copy of the folder"
            raise UsageError(self._option, self.folder / "tokens.log", hint)
        states = [] if self.facts.finished or len(self.facts.stages) > 1 else [*map(read_state, self._states())]
        logs = [found.facts["log"] for found in states if found is not None]
        if logs and min(logs) > self.length:
            hint = f"record {self.length} is damaged, and no state is from before it: put back a copy of the folder"
            raise UsageError(self._option, self.folder / "tokens.log", hint)

    def latest(self, *, earlier: bool = False) -> CanvasState | None:
        """Return the newest state whose tokens are all there, or None before the first; cuts the log after these.

        A damaged one is refused, telling whether the one before is good, or passed over if ``earlier``.
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
            way_out = "go back by `undo`" if len(self.facts.stages) > 1 else "choose overwrite to start again"
            hint = f"is damaged, and there is no good one: {way_out}"
            raise UsageError("resume", damaged[0], hint)
        self._cut(self.facts.log)
        return None

    def put(self, patches: Iterable[tuple[PatchIndex, Tensor]]) -> None:
        """Store patches, tokens ``[B, rows, columns]`` each; they are sure to last from the next :meth:`commit` on.

        If the disk is full or fails the canvas is as it was before.
        """
        assert self._log is not None
        positions, data = self._tokens.packed(patches)
        try:
            self._log.seek(self.length * self._tokens.record_bytes)
            left = memoryview(data)
            while left:
                left = left[self._log.write(left) :]
        except OSError as error:
            self._log.truncate(self.length * self._tokens.record_bytes)
            raise self._unwritable(error) from error
        for position in positions:
            self._tokens.note(position)

    def commit(self, state: CanvasState) -> None:
        """Force everything to the disk, add a state, and drop those before the last two; on an error these stay."""
        assert self._log is not None
        try:
            os.fsync(self._log.fileno())
            write_state(self.folder / f"state-{state.waves:012d}", state, log=self.length)
        except OSError as error:
            raise self._unwritable(error) from error
        self._drop(self._states()[_KEPT:])

    def keep_coarse(self, number: int, tokens_TByx: Tensor, *, of: str) -> None:
        """Keep the coarse plan of a stage, told by a hash of what decides about it; without room it is not kept."""
        with suppress(OSError):
            write_state(self.folder / f"coarse-{number}", CanvasState(0, {"of": of}, {"tokens": tokens_TByx}), log=0)

    def coarse(self, number: int, *, of: str) -> Tensor | None:
        """Return the tokens that :meth:`keep_coarse` kept; None where there are none, or others."""
        found = read_state(self.folder / f"coarse-{number}")
        return found.tensors.get("tokens") if found and found.facts.get("of") == of else None

    def read(self, area: Rectangle, *, t: int = 0, number: int = 0) -> Tensor:
        """Return the tokens of an area of one image (or frame); see :meth:`TokenLog.read`."""
        return self._tokens.read(area, t=t, number=number)

    def patch(self, patch: PatchIndex) -> Tensor | None:
        """Return the tokens ``[B, rows, columns]`` of a patch, if it is there."""
        return self._tokens.patch(patch)

    def written(self) -> Iterable[PatchIndex]:
        """Yield the patches that are there."""
        return self._tokens.written()

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
        self._tokens.clear()

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
        self._tokens.clear()
        self._tokens.extend()

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
        if os.fstat(self._log.fileno()).st_size != length * self._tokens.record_bytes:
            self._log.truncate(length * self._tokens.record_bytes)

    def _unwritable(self, error: OSError) -> UsageError:
        hint = "make room there" if error.errno in FULL else "name a file in a folder that can be written to"
        return UsageError(self._option, self.folder, f"cannot be written ({error.strerror or error}): {hint}")


def _is_own(path: Path) -> bool:
    """Say whether a name in the folder is one that a canvas gives."""
    name = path.name
    return name in ("canvas.json", "tokens.log", "lock", *GIVEN) or name.startswith(
        ("state-", ".state-", "coarse-", ".coarse-", ".canvas.", ".image.", ".mask.", ".plan.")
    )
