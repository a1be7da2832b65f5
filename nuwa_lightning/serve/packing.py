"""Folders as ZIP files, block by block, so that one of any size is sent from flat memory (ours)."""

import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, final

_BLOCK: Final = 1 << 20


@final
class _Sink(io.RawIOBase):
    """A file that is only written, and read out block by block."""

    def __init__(self) -> None:
        self._data = bytearray()

    def writable(self) -> bool:
        """Return that it is."""
        return True

    def write(self, data: Any) -> int:
        """Take bytes."""
        self._data += data
        return len(data)

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        data, self._data = bytes(self._data), bytearray()
        return data


def zipped(root: Path, names: Iterable[str]) -> Iterator[bytes]:
    """Yield a ZIP of files and whole folders, uncompressed; locks and hidden files are left out.

    Args:
        root: what their names in the ZIP are relative to.
        names: of files and folders in ``root``.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for path in (found for name in names for found in _files(root / name)):
            shown = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "replace")
            entry = zipfile.ZipInfo.from_file(path, shown, strict_timestamps=False)
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                while block := source.read(_BLOCK):
                    target.write(block)
                    yield sink.taken()
    yield sink.taken()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for each in sorted(path.iterdir()):
            if each.name != "lock" and not each.name.startswith(".") and not each.is_symlink():
                yield from _files(each)
    else:
        yield path
