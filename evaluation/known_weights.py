"""The weights that a network's name stands for: a number bears the name only if it comes from them."""

from __future__ import annotations

from typing import Final

LITE0: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INCEPTION: Final = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_FILE: Final = "weights-inception-2015-12-05-6726825d.pth"

KNOWN_SHA256: Final = {"lite0": LITE0, "inception": INCEPTION, "inception-clean": INCEPTION}
"""By the name of the features."""

RESERVED_PREFIXES: Final = frozenset({"lite0-", "lite0t-", "inception-", "clean-", "stlpips-", "fid-", "kid-"})
"""Prefixes of metric names that only the networks of this package may bear, in lower case."""
