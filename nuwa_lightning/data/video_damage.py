"""Damage in H.264 and HEVC that a decoder paints over without a word.

A stretch of a file that was never written, or lost, reads as zeros. These codecs escape zeros: within a unit of theirs
(NAL; H.264 7.4.1, HEVC 7.4.2) the bytes 0, 0 are never followed by 0, 1 or 2. So such a stretch is found without
decoding, as is a unit whose length cannot be.
"""

from __future__ import annotations

import re
from typing import Final

_ZEROS: Final = re.compile(rb"\x00\x00[\x00-\x02]")
_ZEROS_BETWEEN: Final = re.compile(rb"\x00\x00(?:\x00+[^\x00\x01]|\x02)")
"""Where units are told apart by 0, 0, 1, any number of zeros may stand before that."""
_PADDING: Final = 8
"""Some tools leave zeros at the end of a unit; what is lost is longer."""


def length_bytes(codec: str, extradata: bytes | None) -> int | None:
    """Return how many bytes tell the length of a unit; 0 where start codes part units, None if the codec has none."""
    said = extradata or b""
    if codec == "h264":
        return (said[4] & 3) + 1 if len(said) > 6 and said[0] == 1 else 0
    if codec == "hevc":
        # A stream with start codes begins 0, 0, 1 or 0, 0, 0, 1.
        return (said[21] & 3) + 1 if len(said) > 22 and (said[0] or said[1] or said[2] > 1) else 0
    return None


def find_damage(packet: bytes, lengths: int) -> str | None:
    """Return what is wrong with a packet of H.264 or HEVC, or None."""
    if lengths == 0:
        return "a stretch of zeros" if _ZEROS_BETWEEN.search(packet) else None
    at = 0
    while at < len(packet):
        size = int.from_bytes(packet[at : at + lengths], "big")
        at += lengths
        if not 0 < size <= len(packet) - at:
            return f"a unit of {size} bytes where {max(0, len(packet) - at)} are left"
        unit = packet[at : at + size]
        kept = unit.rstrip(b"\0")
        if _ZEROS.search(kept) or len(unit) - len(kept) > _PADDING:
            return "a stretch of zeros"
        at += size
    return None
