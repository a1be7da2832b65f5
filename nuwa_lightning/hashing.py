"""The hash of a whole file, which tells it from every other."""

from __future__ import annotations

import hashlib
import os


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file's content, in hexadecimal; it is never held whole in memory.

    Args:
        path: the file.

    Raises:
        OSError: if it cannot be read.
    """
    # Block by block: Python 3.10 has no hashlib.file_digest.
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
