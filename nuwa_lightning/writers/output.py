"""What every output has in common: it appears whole or not at all, and a later process can go on with it (ours)."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from nuwa_lightning.atomic import PartialFile
from nuwa_lightning.errors import UsageError, unwritable

_Own = TypeVar("_Own", bound="Output")


class Output(ABC):
    """A file (or a folder) that takes long to write.

    It is made under a hidden name in the same folder and gets its own name in :meth:`close`; leaving a ``with`` block
    by an error, or :meth:`abort`, leaves nothing behind.

    **Going on after a kill.** :meth:`state` forces to the disk what has been written and tells as plain JSON where the
    writer stands. A writer that is made with that ``state``, in this process or in a later one, stands exactly there,
    whatever was written in between: the same is then written once more, in the same order and with the same pixels. So
    a format that writes in place needs no state of its own, and one that appends cuts its file back to the length that
    its state tells. The last two states that were taken stay usable; older ones need not. With ``keep`` an error (a
    full disk, a kill) leaves the unfinished file where it is.

    Args:
        path: the file to make; it is replaced if it exists.
        metadata: how it was made; anything that JSON can hold.
        keep: leave the unfinished file for a later writer with ``state`` when an error ends the ``with`` block, or when
            :meth:`close` fails.
        state: what :meth:`state` of an earlier writer, made with the same other arguments, returned: go on from there.

    Raises:
        UsageError: if the file cannot be made, or the unfinished file that ``state`` names is gone.
        ValueError: if ``state`` is that of something else.
    """

    format_name: ClassVar[str]
    """The name of the format, for messages."""
    longest_side: ClassVar[int]
    """The longest side in pixels that the format can hold."""
    folder: ClassVar[bool] = False
    """Whether the format is a folder of files."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, Any] | None = None,
        keep: bool = False,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self._keep = keep
        self._metadata = dict(metadata or {})
        self._open = True
        self._begun = False
        if state is not None and state.get("of") != self._shape():
            raise ValueError(f"{self.path}: the state is of {state.get('of')}, not of {self._shape()}")
        with self._telling_errors():
            try:
                name = None if state is None else str(state["partial"])
                self._file = PartialFile(self.path, name=name, folder=self.folder)
                try:
                    self._begin(self._file.path, self.description, None if state is None else state["own"])
                except BaseException:
                    self._give_up(keep=state is not None)
                    raise
            except FileNotFoundError as error:
                if state is None:
                    raise
                hint = "the unfinished file is gone: start again without --resume"
                raise UsageError("--output", str(error.filename), hint) from error
            self._begun = True

    @property
    def description(self) -> str:
        """The metadata as ASCII JSON."""
        return json.dumps(self._metadata, sort_keys=True, ensure_ascii=True)

    @abstractmethod
    def _shape(self) -> list[Any]:
        """Return, as plain JSON, what has to be the same when a later writer goes on."""

    @abstractmethod
    def _begin(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        """Prepare for writing. Cleans up if it fails.

        Args:
            partial: an empty file (or folder), or with ``state`` the unfinished one.
            description: ASCII JSON.
            state: what :meth:`_own_state` returned.
        """

    @abstractmethod
    def _own_state(self) -> Mapping[str, Any]:
        """Force what was written to the disk; return what :meth:`_begin` needs to go on from here, as plain JSON."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete the file under its hidden name."""

    @abstractmethod
    def _release(self) -> None:
        """Close what :meth:`_begin` opened; called once, after :meth:`_finish` or instead of it."""

    def state(self) -> dict[str, Any]:
        """Force what was written to the disk and return where the writer stands, as plain JSON (see the class).

        Raises:
            ValueError: if the writer is closed.
            UsageError: if the disk is full or fails.
        """
        self._check_open()
        with self._telling_errors():
            return {"of": self._shape(), "partial": self._file.path.name, "own": dict(self._own_state())}

    def close(self) -> None:
        """Complete the file and give it its name; closing twice does nothing.

        Raises:
            ValueError: if it cannot be completed as it is.
            UsageError: if the disk is full or fails; without ``keep`` nothing is left behind then.
        """
        if not self._open:
            return
        with self._telling_errors():
            try:
                self._finish()
                self._begun = False
                self._release()
                self._file.complete()
            except BaseException:
                self._give_up(keep=self._keep)
                raise
            self._open = False

    def abort(self) -> None:
        """Give up: remove what was written, leave a file of that name as it was."""
        self._give_up(keep=False)

    def suspend(self) -> None:
        """Close the unfinished file and leave it where it is, for a later writer with ``state``."""
        self._give_up(keep=True)

    def _give_up(self, *, keep: bool) -> None:
        if not self._open:
            return
        self._open = False
        if self._begun:
            self._begun = False
            self._release()
        if not keep:
            self._file.abandon()

    def __enter__(self: _Own) -> _Own:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._give_up(keep=self._keep)

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError(f"{self.path}: the writer is closed")

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self.path, error, full="free space there or name another file") from error
