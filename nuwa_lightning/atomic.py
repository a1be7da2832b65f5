"""Files and folders that appear whole or not at all.

A reader never sees half a file: the content is written beside its final place, forced to the disk, and renamed.
The same folder is used on purpose, since a rename across file systems is a copy and can be torn.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nuwa_lightning.errors import UsageError


def fsync_path(path: Path) -> None:
    """Force one file or folder to the disk (folders: POSIX only, elsewhere nothing is done)."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, kind: str) -> Path:
    """Return a hidden name in the folder of ``path`` that keeps its suffix, since many libraries go by the suffix."""
    return path.with_name(f".{short_name(path.stem)}.{secrets.token_hex(4)}.{kind}{path.suffix}")


def short_name(name: str, *, longest: int = 80) -> str:
    """Return a name that leaves room for more behind it; one of more bytes than ``longest`` is told by its hash.

    >>> short_name("a.png"), len(short_name(300 * "a"))
    ('a.png', 80)
    """
    data = os.fsencode(name)
    if len(data) <= longest:
        return name
    return f"{data[: longest - 17].decode('ascii', 'ignore')}-{hashlib.sha256(data).hexdigest()[:16]}"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary file in the folder of ``path`` that replaces ``path`` when the block ends well.

    The temporary file may be opened as often as needed. It is removed, and ``path`` stays as it was, when the block
    raises. A symbolic link at ``path`` is followed, not replaced.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_write(folder / "a.txt") as partial:
        ...     _ = partial.write_text("whole")
        >>> (folder / "a.txt").read_text(), len(list(folder.iterdir()))
        ('whole', 1)

    Raises:
        OSError: if the folder is missing or cannot be written to.
    """
    target = Path(os.path.realpath(path))
    partial = _beside(target, "partial")
    # 0o666 lets the umask decide, as for any file that the user makes (mkstemp would leave it private).
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield partial
        fsync_path(partial)
        os.replace(partial, target)
        fsync_path(target.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path`` that becomes ``path`` when the block ends well.

    With ``overwrite`` an existing folder is first moved aside under a hidden name and removed last: a crash between the
    two renames leaves the old content whole under that name. Without it an existing, non-empty ``path`` is an error.

    Raises:
        FileExistsError: if ``path`` exists, is not an empty folder, and ``overwrite`` is false.
        OSError: if the parent folder is missing or cannot be written to.
    """
    target = Path(os.path.realpath(path))
    new = not target.exists()
    if not overwrite:
        _refuse_occupied(target)
    partial = _beside(target, "partial")
    partial.mkdir()
    try:
        yield partial
        for found in sorted(partial.rglob("*"), reverse=True):
            if not found.is_symlink():
                fsync_path(found)
        fsync_path(partial)
        _swap_in(partial, target, overwrite=overwrite)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        fsync_path(target.parent)
    except OSError:
        if new:  # what failed can be run again
            shutil.rmtree(target, ignore_errors=True)
        raise


def _refuse_occupied(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists already")


def _swap_in(partial: Path, target: Path, *, overwrite: bool) -> None:
    if not overwrite or not target.exists():
        _refuse_occupied(target)
        os.replace(partial, target)
        return
    old = _beside(target, "old")
    os.replace(target, old)
    try:
        os.replace(partial, target)
    except BaseException:
        os.replace(old, target)
        raise
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        with suppress(OSError):
            old.unlink()


def lock(path: Path, *, wait: bool) -> BinaryIO:
    """Open a file that one process at a time holds, until it closes it or ends, killed or not.

    Without POSIX locks (Windows) nothing is held: every write is atomic anyway, and only work is done twice.

    Raises:
        BlockingIOError: if another process holds it, unless one is to ``wait``.
    """
    file = path.open("ab")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except ImportError:
        return file
    except OSError:
        file.close()
        raise
    return file


def make_cache(folder: Path) -> None:
    """Make a folder of the cache, if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = f"cannot be made ({error.strerror}): name a folder, or set NUWA_LIGHTNING_CACHE to one"
        raise UsageError("data.cache", folder, hint) from None


def write_json(path: str | os.PathLike[str], data: object) -> None:
    """Write ``data`` as sorted, indented JSON, atomically; equal data gives equal bytes."""
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as partial:
        # A file name may hold bytes that are no UTF-8: Python keeps each as a surrogate, JSON writes it as \\udcXX.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
