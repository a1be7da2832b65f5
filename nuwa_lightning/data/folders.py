"""Where downloaded and derived data lies, and a lock for building it once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_ENDS: Final = 1 << 19


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the cache folder (not created).

    The first of these that is set: the argument, ``$NUWA_LIGHTNING_CACHE``, ``$XDG_CACHE_HOME/nuwa_lightning``,
    ``~/.cache/nuwa_lightning``.
    """
    if cache is not None:
        return Path(cache).expanduser()
    own = os.environ.get("NUWA_LIGHTNING_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that relative paths there are to be ignored.
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "nuwa_lightning"


def content_key(path: str | os.PathLike[str]) -> str:
    """Return 40 hexadecimal digits that stand for the content of a file.

    Files up to 1 MiB are hashed whole; of larger ones the length and the first and last 512 KiB, so that a folder of
    a hundred thousand photos is told apart in a minute. Good for caches and for finding equal files, not for trust.

    Raises:
        OSError: if the file cannot be read.
    """
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= 2 * _ENDS:
            digest.update(file.read())
        else:
            digest.update(file.read(_ENDS))
            file.seek(-_ENDS, os.SEEK_END)
            digest.update(file.read(_ENDS))
    return digest.hexdigest()[:40]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (created if missing) for one builder at a time, across processes; others wait.

    The lock goes with the process, so a killed run leaves none behind. Without POSIX locks (Windows) nothing is held;
    every write is atomic anyway and only work is done twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
