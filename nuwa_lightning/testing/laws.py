"""How a check says which law a part breaks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nuwa_lightning.errors import LawError


def hold(part: object, law: str, holds: bool) -> None:
    """Refuse a part that does not hold a law."""
    if not holds:
        raise AssertionError(f"{type(part).__name__}: {law}")


@contextlib.contextmanager
def asked(part: object, method: str) -> Iterator[None]:
    """Turn an exception of the part's own into one that names its class and what was asked of it."""
    try:
        yield
    except LawError as error:
        raise AssertionError(f"{type(part).__name__}: {error.law}") from error
    except Exception as error:  # the class is the user's, and may do anything
        raise AssertionError(f"{type(part).__name__}: {method} is an error: {type(error).__name__}: {error}") from error
