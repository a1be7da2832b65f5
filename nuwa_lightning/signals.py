"""What ends a command with one line and status 128 plus a signal; what the C library does for it and its children."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

STOPPING = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP", "SIGINT") if name in signal.Signals.__members__]
STOPPED = tuple(128 + number for number in STOPPING)
"""Exit statuses of a run that a signal has ended."""

ONE_STOP = 2.0
"""Seconds in which several signals are one."""
_PATIENCE = 0.5
"""Seconds that Python has to handle a signal before `beside_python` does."""


class Stopped(SystemExit):
    """A signal ends the run, with exit status 128 plus its number; ``told`` if another process has said so."""

    def __init__(self, number: int, step: int | None = None, *, told: bool = False) -> None:
        super().__init__(128 + number)
        self.name, self.number, self.step, self.told = signal.Signals(number).name, number, step, told

    def __str__(self) -> str:
        """Return the line that tells it."""
        if self.step is None:
            return f"stopped by {self.name} outside of the training loop: start it again"
        return f"stopped by {self.name} at step {self.step}: go on"


class Signals:
    """Raises :class:`Stopped` on SIGTERM, SIGHUP and SIGINT: at once or, while ``waiting``, when it is asked for.

    A signal that is ignored (``nohup``) stays ignored; a second one while waiting is obeyed at once, but one that comes
    within :data:`ONE_STOP` of the first: ``timeout`` and ``torchrun`` give theirs to a process and to its group.
    """

    def __init__(self, *, waiting: bool = False) -> None:
        self.waiting = waiting
        self.number = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.getsignal(number)
        self.install()
        return self

    def install(self) -> None:
        """Take the signals, also from Lightning, which does so when a training begins."""
        for number in self._before:
            signal.signal(number, self._handle)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() - self._since < ONE_STOP:
            return
        waits = self.waiting and not self.number
        self.number, self._since = number, time.monotonic()
        if not waits:
            raise Stopped(number)


@contextmanager
def beside_python(end: Callable[[int], None]) -> Iterator[None]:
    """Call ``end`` with a signal whose handler does not come to run, in a thread of its own.

    Handlers run between two steps of Python: a library that waits for other processes keeps them from it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    over = threading.Event()

    def watch() -> None:
        while number := os.read(reading, 1)[0]:
            if number in STOPPING and not over.wait(_PATIENCE):
                end(number)

    thread = threading.Thread(target=watch, daemon=True)
    before = signal.set_wakeup_fd(writing)
    thread.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        os.write(writing, b"\0")
        thread.join()
        os.close(reading)
        os.close(writing)


def leave_to_parent(_: int = 0) -> None:
    """Let a process that makes batches go on when its whole group gets a signal: the training ends it.

    PyTorch lets it die, and the training with it, before a checkpoint is written.
    """
    Signals(waiting=True).__enter__()


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> None:
    """Raise glibc's thresholds, where there is glibc.

    A training step frees and asks for the same large tensors again. By default each goes back to the system and comes
    anew, page by page, zeroed: 14 to 20 % of a step of either stage on a CPU. Threads share one heap, so that training
    has what is left free by those that shrink photographs.
    """
    mallopt = _glibc("mallopt")
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_TOP_PAD, 64 << 20)
    mallopt(_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Give the system back all that is free, where there is glibc: it keeps pages between blocks that are in use."""
    _glibc("malloc_trim")(0)


def _glibc(name: str) -> Callable[..., Any]:
    """Return a function of glibc; with another C library, where there is nothing to tune, one that does nothing."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            found: Callable[..., Any] = getattr(ctypes.CDLL("libc.so.6"), name)
            return found
    return lambda *_: None


def die_with_parent() -> None:
    """Ask Linux to stop this process when its parent dies, so that a killed run leaves nothing behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
