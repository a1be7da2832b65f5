"""The hash of a whole file, which tells it from every other."""

import hashlib
import os


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file's content, in hexadecimal; it is never held whole in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
