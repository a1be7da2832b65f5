"""A file that only grows, and that can be cut back to an earlier length."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


class AppendedFile:
    """Bytes, one after the other; unbuffered, so that what a killed process has written is the system's.

    Args:
        path: the file, which is there.
        length: cut it back to this length.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        self._file: BinaryIO = path.open("r+b", buffering=0)
        try:
            self._file.truncate(length)
            self._file.seek(length)
        except OSError:
            self._file.close()
            raise
        self.length = length

    def append(self, data: bytes) -> None:
        """Write at the end."""
        rest = memoryview(data)
        while rest:  # an unbuffered write may take only a part, above all on a nearly full disk
            rest = rest[self._file.write(rest) :]
        self.length += len(data)

    def patch(self, position: int, data: bytes) -> None:
        """Write over what is there."""
        self._file.seek(position)
        self._file.write(data)
        self._file.seek(self.length)

    def force(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
