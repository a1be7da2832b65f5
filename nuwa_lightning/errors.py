"""The one error that the command line turns into a single line and exit status 2."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

_FULL: Final = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class UsageError(ValueError):
    """Something the user gave does not work: one line that names the option, the value and the cure."""

    def __init__(self, option: str, value: object, cure: str) -> None:
        self.option = option
        self.value = value
        self.cure = cure
        super().__init__(f"{option}: {value}: {cure}")


class LawError(UsageError):
    """A strategy (a context pool, a direction) broke one of its laws during a run: a fault of its class."""


def unwritable(path: Path, error: OSError, *, what: str = "", full: str = "make room there") -> UsageError:
    """Return what to tell when a file cannot be written.

    Args:
        path: the output.
        error: what the system said.
        what: which part of it, if not itself, such as ``its journal``.
        full: the cure where there is no room; elsewhere it is another file.
    """
    cure = full if error.errno in _FULL else "name a file in a folder that can be written to"
    subject = f"{what} " if what else ""
    return UsageError("--output", path, f"{subject}cannot be written ({error.strerror or error}): {cure}")
