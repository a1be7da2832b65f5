"""This process and its children: memory that the C library keeps, and children that end with their parent."""

from __future__ import annotations

import ctypes
import signal
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Raise glibc's thresholds, where there is glibc.

    A training step frees and asks for the same large tensors again. By default each goes back to the system and comes
    anew, page by page, zeroed: 14 to 20 % of a step of either stage on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library: nothing to tune
        return
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_TOP_PAD, 64 << 20)


def die_with_parent() -> None:
    """Ask Linux to stop this process when its parent dies, so that a killed run leaves nothing behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
