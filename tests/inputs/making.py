"""Making files by hand, byte by byte, where no library writes what is wanted."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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


def tiff_by_hand(pixels: bytes, height: int, width: int, tags: dict[int, tuple[int, ...]]) -> bytes:
    """A little-endian TIFF of one uncompressed strip; all its tags are 16-bit numbers."""
    said = {256: (width,), 257: (height,), 259: (1,), 273: (8,), 278: (height,), 279: (len(pixels),), **tags}
    start = 8 + len(pixels) + len(pixels) % 2
    rest = start + 2 + 12 * len(said) + 4
    entries, more = b"", b""
    for tag, values in sorted(said.items()):
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, more = struct.pack("<I", rest + len(more)), more + packed
        entries += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", start) + pixels.ljust(start - 8, b"\0")
    return head + struct.pack("<H", len(said)) + entries + bytes(4) + more


def bits(samples: NDArray[np.uint8 | np.uint16], depth: int) -> bytes:
    """Rows of samples (Y, X) of so many bits, each row from a byte on."""
    each = (samples[..., None] >> np.arange(depth)[::-1]) & 1
    return np.packbits(each.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def jpeg_2000(bands: NDArray[np.uint16], *, lossy: bool = False) -> bytes:
    """A codestream of three bands of 16 bits (Y, X, 3), put together from those of one that Pillow writes."""
    streams = []
    for band in np.moveaxis(bands, -1, 0):
        made = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(band))
        image.save(made, "JPEG2000", no_jp2=True, progression="CPRL", mct=0, irreversible=lossy)
        streams.append(made.getvalue())
    head, _, _ = streams[0].partition(b"\xff\x90")
    size = 4 + int.from_bytes(head[4:6], "big")  # where SIZ ends; it tells the bands last, three bytes each
    assert (head[40:42], size) == (b"\0\1", 45)
    head = head[:4] + struct.pack(">H", 41 + 6) + head[6:40] + b"\0\3" + 3 * head[42:45] + head[45:]
    bodies = [stream.partition(b"\xff\x93")[2].removesuffix(b"\xff\xd9") for stream in streams]
    tile = struct.pack(">HHHIBB", 0xFF90, 10, 0, 14 + sum(map(len, bodies)), 0, 1) + b"\xff\x93"
    return head + tile + b"".join(bodies) + b"\xff\xd9"


def webp(canvas: tuple[int, int], frames: list[tuple[int, int, NDArray[np.uint8]]]) -> bytes:
    """An animated WebP of (height, width) that does not tell of alpha: frames by place, from the top and the left."""
    height, width = canvas
    parts = b"VP8X" + struct.pack("<II", 10, 2) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts += b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    for top, left, pixels in frames:
        made = io.BytesIO()
        Image.fromarray(pixels).save(made, "WEBP", lossless=True, exact=True)
        numbers = (left // 2, top // 2, pixels.shape[1] - 1, pixels.shape[0] - 1, 100)
        content = b"".join(number.to_bytes(3, "little") for number in numbers) + b"\0" + made.getvalue()[12:]
        parts += b"ANMF" + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


def with_box(content: bytes, old: bytes, new: bytes) -> bytes:
    """A JP2 whose box of that name in its header is another one, or none."""
    at = content.index(old) - 4
    length = int.from_bytes(content[at : at + 4], "big")
    head = content.index(b"jp2h") - 4
    content = content[:at] + new + content[at + length :]
    size = int.from_bytes(content[head : head + 4], "big") + len(new) - length
    return content[:head] + struct.pack(">I", size) + content[head + 4 :]


def colr(content: bytes) -> bytes:
    """The box of a JP2 that tells its colors."""
    return struct.pack(">I", 8 + len(content)) + b"colr" + content
