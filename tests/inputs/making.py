"""Making files by hand, byte by byte, where no library writes what is wanted."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

ADOBE = ((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457))
P3 = ((0.51512, 0.29198, 0.15710), (0.24120, 0.69225, 0.06657), (-0.00105, 0.04189, 0.78407))
SRGB = ((0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.71410))
"""Red, green and blue (columns) in XYZ relative to D50."""


def srgb_decoded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_encoded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1."""
    values = np.clip(values, 0, 1)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)


def in_srgb(pixels: NDArray[np.uint8], colorants: tuple[tuple[float, ...], ...], gamma: float) -> NDArray[np.float64]:
    """What a matrix profile means in sRGB, 0..255."""
    xyz = (pixels / 255.0) ** gamma @ np.array(colorants).T
    return 255 * srgb_encoded(xyz @ np.linalg.inv(np.array(SRGB)).T)


def _profile(space: bytes, tags: list[tuple[bytes, bytes]], *, padding: int = 0) -> bytes:
    data, table = b"", b""
    at = 128 + 4 + 12 * len(tags)
    for name, content in tags:
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content
    data += np.random.default_rng(0).bytes(padding)
    head = struct.pack(">I4sI4s4s4s", at + len(data), b"lcms", 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s4sI4s4sQI", 2026, 1, 1, 0, 0, 0, b"acsp", b"APPL", 0, b"none", b"none", 0, 1)
    head += struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * v) for v in (x, y, z)))


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma))
    table = np.rint(65535 * srgb_decoded(np.linspace(0, 1, 1024))).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + table.tobytes()


def _said() -> list[tuple[bytes, bytes]]:
    words = b"of a test"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words + bytes(1 + 4 + 4 + 2 + 1 + 67)
    return [(b"desc", desc), (b"cprt", b"text\0\0\0\0none\0"), (b"wtpt", _xyz(0.9642, 1.0, 0.8249))]


def rgb_profile(colorants: tuple[tuple[float, ...], ...], gamma: float | None, *, padding: int = 0) -> bytes:
    """An ICC profile of three colorants and one curve; None is that of sRGB."""
    columns = zip(*colorants, strict=True)
    tags = [(name, _xyz(*column)) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)]
    tags += [(name, _curve(gamma)) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return _profile(b"RGB ", _said() + tags, padding=padding)


def gray_profile(gamma: float | None) -> bytes:
    """An ICC profile of gray."""
    return _profile(b"GRAY", [*_said(), (b"kTRC", _curve(gamma))])


def chunk(kind: bytes, data: bytes, *, wrong: bool = False) -> bytes:
    """A chunk of a PNG, on demand with a wrong checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ wrong)


def png(samples: NDArray[np.uint8 | np.uint16], *before: bytes, after: bytes = b"") -> bytes:
    """A PNG of gray (Y, X), gray and alpha, RGB or RGBA (Y, X, samples), with chunks before and after the pixels."""
    depth = 8 * samples.dtype.itemsize
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(len(samples), -1)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if samples.ndim == 2 else samples.shape[2]]
    head = struct.pack(">IIBBBBB", samples.shape[1], len(samples), depth, kind, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [chunk(b"IHDR", head), *before, chunk(b"IDAT", content), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
