"""Images: the pixels that a viewer shows, or one line."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image

from nuwa_lightning.data import reading
from nuwa_lightning.data.reading import ImageReadError, image_size, notes_of, read_image
from nuwa_lightning.data.windows import open_windows
from tests.data.conftest import painted
from tests.inputs.making import ADOBE, P3, SRGB, chunk, gray_profile, in_srgb, png, rgb_profile, srgb_encoded

RGB = painted(24, 36)
GRAY = np.ascontiguousarray(RGB[..., 0])
RAMP = np.linspace(0, 65535, 24 * 36).astype(np.uint16).reshape(24, 36)
TWELVE = (RAMP >> 4).astype(np.uint16)
UNIT = (RAMP / 65535).astype(np.float32)
RGB16 = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
RGB12 = RGB16 >> 4
UNEVEN = np.tile(np.array([0, 127, 128, 2048, 4095], np.uint16), 24 * 36)[: 24 * 36 * 3].reshape(24, 36, 3)
PIXELS = NDArray[np.float64]


def three(gray: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.repeat(gray[..., None], 3, -1)


def tiff(values: NDArray[np.generic], **options: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, values, **options)


def saved(values: NDArray[np.uint8], form: str, **options: object) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(values).save(path, form, **options)


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def turned(form: str, *, orientation: int = 6, **options: object) -> Callable[[Path], None]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(RGB, form, exif=exif, **options)


def alpha_with_profile(path: Path) -> None:
    pixels = np.dstack([RGB, np.full((24, 36), 51, np.uint8)])
    Image.fromarray(pixels).save(path, "PNG", icc_profile=rgb_profile(ADOBE, 2.2))


def odd_exif(path: Path) -> None:
    """A rotation beside a tag whose content is of another type than it says, so that it cannot be written again."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x03"
    exif += b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"  # turned by 6
    exif += b"\x01\x0f\0\x03\0\0\0\x01\xff\xff\0\0"  # the maker is a number
    exif += b"\x82\x9a\0\x02\0\0\0\x04abc\0\0\0\0\0"  # the exposure is a text
    Image.fromarray(RGB).save(path, "JPEG", quality=100, subsampling=0, exif=exif)


def with_thumbnail(kind: int, old: bool = False) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        small = np.ascontiguousarray(RGB[::4, ::4])
        with tifffile.TiffWriter(path) as file:
            tags = [(255, 3, 1, 2, False)] if old else []
            file.write(small, photometric="rgb", subfiletype=kind, extratags=tags, metadata=None)
            file.write(RGB, photometric="rgb", metadata=None)

    return write


def lab(path: Path) -> None:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    ImageCms.applyTransform(Image.fromarray(96 + RGB // 4), transform).save(path, "TIFF")


def cmyk_with_rgb_profile(path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(path, "TIFF", icc_profile=rgb_profile(ADOBE, 2.2))


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(100000 * gamma)))


def chrm(red: float) -> bytes:
    values = (0.3127, 0.329, red, 0.33, 0.3, 0.6, 0.15, 0.06)
    return chunk(b"cHRM", struct.pack(">8I", *(round(100000 * value) for value in values)))


def deep_avif(path: Path) -> None:
    image = pyvips.Image.new_from_array(RGB16).copy(interpretation="rgb16")
    image.heifsave(str(path), bitdepth=10, compression="av1", lossless=True)


ADOBE_ICC, SRGB_ICC = rgb_profile(ADOBE, 2.2), rgb_profile(SRGB, None)
IN_SRGB = in_srgb(RGB, ADOBE, round(2.2 * 256) / 256)
BIG = rgb_profile(ADOBE, 2.2, padding=3 << 20)
LONG = chunk(b"tEXt", b"k\0" + b"x" * (3 << 20))
BOMB = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200 << 20), 9))
JPEG = dict(quality=100, subsampling=0)
GRAY_18 = 255 * srgb_encoded((GRAY / 255.0) ** (461 / 256))

Case = tuple[str, Callable[[Path], object], NDArray[np.generic], float, str]
"""What is written, what must be read, by how much a level may differ, and what is said."""

CASES: dict[str, Case] = {
    "8-bit PNG": ("a.png", saved(RGB, "PNG"), RGB, 0, ""),
    "8-bit PNG by hand": ("a.png", raw(png(RGB)), RGB, 0, ""),
    "8-bit gray PNG": ("a.png", raw(png(GRAY)), three(GRAY), 0, ""),
    "8-bit JPEG": ("a.jpg", saved(RGB, "JPEG", **JPEG), RGB, 4, ""),
    "gray JPEG": ("a.jpg", saved(GRAY, "JPEG", quality=100), three(GRAY), 2, ""),
    "TIFF": ("a.tif", tiff(RGB, photometric="rgb"), RGB, 0, ""),
    "TIFF, big-endian": ("a.tif", tiff(RGB, photometric="rgb", byteorder=">"), RGB, 0, ""),
    "BigTIFF": ("a.tif", tiff(RGB, photometric="rgb", bigtiff=True), RGB, 0, ""),
    "TIFF, tiled": ("a.tif", tiff(RGB, photometric="rgb", tile=(16, 16)), RGB, 0, ""),
    "TIFF, deflate": ("a.tif", tiff(RGB, photometric="rgb", compression="zlib"), RGB, 0, ""),
    "TIFF, planar": ("a.tif", tiff(RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), RGB, 0, ""),
    "TIFF, planar, 16 bits": (
        "a.tif",
        tiff(RGB16.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
        RGB16 / 257,
        1,
        "8 bits become 8",
    ),
    "TIFF, white is zero": ("a.tif", tiff(255 - GRAY, photometric="miniswhite"), three(GRAY), 0, ""),
    "TIFF, white is zero, 16 bits": (
        "a.tif",
        tiff(65535 - RAMP, photometric="miniswhite"),
        three(RAMP / 257),
        0.51,
        "8 bits become 8",
    ),
    "TIFF, white is zero, 16 bits, big-endian": (
        "a.tif",
        tiff(65535 - RAMP, photometric="miniswhite", byteorder=">"),
        three(RAMP / 257),
        0.51,
        "",
    ),
    "16-bit gray PNG": ("a.png", raw(png(RAMP)), three(RAMP / 257), 0.51, "8 bits become 8"),
    "16-bit gray TIFF": ("a.tif", tiff(RAMP), three(RAMP / 257), 0.51, "8 bits become 8"),
    "16-bit gray TIFF, deflate": ("a.tif", tiff(RAMP, compression="zlib"), three(RAMP / 257), 0.51, "8 bits become 8"),
    "16-bit RGB PNG": ("a.png", raw(png(RGB16)), RGB16 / 257, 1, "8 bits become 8"),
    "16-bit RGB TIFF": ("a.tif", tiff(RGB16, photometric="rgb"), RGB16 / 257, 1, "8 bits become 8"),
    "12 bits in 16, told": (
        "a.tif",
        tiff(TWELVE // 2, extratags=[(281, 3, 1, 4095, False)]),
        three(TWELVE // 2 / 4095 * 255),
        0.51,
        "white is taken to be 4095",
    ),
    "12 bits in 16, not told": ("a.tif", tiff(TWELVE), three(TWELVE / 4095 * 255), 0.51, "white is taken to be 4095"),
    "12 bits in 16, PNG": ("a.png", raw(png(TWELVE)), three(TWELVE / 4095 * 255), 0.51, "white is taken to be 4095"),
    "12 bits in 16, white is zero": (
        "a.tif",
        tiff(4095 - TWELVE, photometric="miniswhite"),
        three(TWELVE / 4095 * 255),
        0.51,
        "",
    ),
    "8 bits in 16": ("a.tif", tiff(GRAY.astype(np.uint16)), three(GRAY), 0, "white is taken to be 255"),
    "16 bits, all black": ("a.tif", tiff(np.zeros((24, 36), np.uint16)), np.zeros((24, 36, 3)), 0, ""),
    "16 bits, all white": ("a.tif", tiff(np.full((24, 36), 65535, np.uint16)), np.full((24, 36, 3), 255), 0, ""),
    "RGB of 12 bits in 16": ("a.tif", tiff(RGB12, photometric="rgb"), RGB12 / 4095 * 255, 0.51, "to be 4095"),
    "RGB of 12 bits in 16, big-endian": (
        "a.tif",
        tiff(RGB12, photometric="rgb", byteorder=">"),
        RGB12 / 4095 * 255,
        0.51,
        "to be 4095",
    ),
    "RGB of 12 bits in 16, deflate": (
        "a.tif",
        tiff(RGB12, photometric="rgb", compression="zlib"),
        RGB12 / 4095 * 255,
        0.51,
        "to be 4095",
    ),
    "RGB of 12 bits in 16, tiled": (
        "a.tif",
        tiff(UNEVEN, photometric="rgb", tile=(16, 16)),
        UNEVEN / 4095 * 255,
        0.51,
        "to be 4095",
    ),
    "RGB of 12 bits in 16, planar": (
        "a.tif",
        tiff(RGB12.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
        RGB12 / 4095 * 255,
        0.51,
        "to be 4095",
    ),
    "RGB of 12 bits in 16, told": (
        "a.tif",
        tiff(RGB12 // 2, photometric="rgb", extratags=[(281, 3, 3, (4095, 4095, 4095), False)]),
        RGB12 // 2 / 4095 * 255,
        0.51,
        "to be 4095",
    ),
    "RGB of 14 bits in 16, told": (
        "a.tif",
        tiff(RGB16 >> 2, photometric="rgb", extratags=[(281, 3, 1, 16383, False)]),
        (RGB16 >> 2) / 16383 * 255,
        0.51,
        "to be 16383",
    ),
    "RGB of 12 bits in 16, PNG": ("a.png", raw(png(RGB12)), RGB12 / 4095 * 255, 0.51, "to be 4095"),
    "RGB of 8 bits in 16, PNG": ("a.png", raw(png(RGB.astype(np.uint16))), RGB, 0, "to be 255"),
    "RGB of 12 bits in 16 and 3 MB of text": ("a.png", raw(png(RGB12, LONG)), RGB12 / 4095 * 255, 0.51, "to be 4095"),
    "RGB of 12 bits in 16, transparent": (
        "a.png",
        raw(png(np.dstack([RGB12, RAMP]))),
        RGB12 / 4095 * (RAMP / 65535)[..., None] * 255 + 255 * (1 - RAMP / 65535)[..., None],
        2,
        "to be 4095",
    ),
    "gray of 12 bits in 16, transparent": (
        "a.png",
        raw(png(np.dstack([TWELVE, TWELVE[::-1]]))),
        three(255 - (4095 - TWELVE / 1.0) * TWELVE[::-1] / 4095**2 * 255),
        2,
        "to be 4095",
    ),
    "RGB of 16 bits, all black": ("a.png", raw(png(0 * RGB16)), 0 * RGB, 0, "8 bits become 8"),
    "float gray TIFF": ("a.tif", tiff(UNIT), three(UNIT * 255), 0.51, "8 bits become 8"),
    "float RGB TIFF": ("a.tif", tiff((RGB16 / 65535).astype(np.float32), photometric="rgb"), RGB16 / 257, 0.51, ""),
    "half float RGB TIFF": ("a.tif", tiff((RGB16 / 65535).astype(np.float16), photometric="rgb"), RGB16 / 257, 1, ""),
    "double RGB TIFF": ("a.tif", tiff(RGB16 / 65535, photometric="rgb"), RGB16 / 257, 0.51, ""),
    "float RGB TIFF, planar": (
        "a.tif",
        tiff((RGB16 / 65535).astype(np.float32).transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        RGB16 / 257,
        0.51,
        "",
    ),
    "Adobe RGB, PNG": ("a.png", saved(RGB, "PNG", icc_profile=ADOBE_ICC), IN_SRGB, 1.5, "turned into sRGB"),
    "Adobe RGB, TIFF": ("a.tif", saved(RGB, "TIFF", icc_profile=ADOBE_ICC), IN_SRGB, 1.5, "turned into sRGB"),
    "Adobe RGB, JPEG": ("a.jpg", saved(RGB, "JPEG", icc_profile=ADOBE_ICC, **JPEG), IN_SRGB, 8, "turned into sRGB"),
    "Adobe RGB, WebP": ("a.webp", saved(RGB, "WEBP", icc_profile=ADOBE_ICC, lossless=True), IN_SRGB, 1.5, "into sRGB"),
    "Adobe RGB, 16 bits": (
        "a.tif",
        tiff(RGB.astype(np.uint16) * 257, photometric="rgb", iccprofile=ADOBE_ICC),
        IN_SRGB,
        1.5,
        "turned into sRGB",
    ),
    "Adobe RGB, float": (
        "a.tif",
        tiff((RGB / 255).astype(np.float32), photometric="rgb", iccprofile=ADOBE_ICC),
        IN_SRGB,
        1.5,
        "turned into sRGB",
    ),
    "Adobe RGB, transparent": ("a.png", alpha_with_profile, IN_SRGB * 0.2 + 255 * 0.8, 1.5, "turned into sRGB"),
    "Adobe RGB told of gray": (
        "a.tif",
        tiff(GRAY, iccprofile=ADOBE_ICC),
        in_srgb(three(GRAY), ADOBE, 563 / 256),
        1.5,
        "turned into sRGB",
    ),
    "a damaged profile, TIFF": ("a.tif", tiff(RGB, photometric="rgb", iccprofile=ADOBE_ICC[:200]), RGB, 0, "be used"),
    "linear PNG": (
        "a.png",
        raw(png(RGB, gama(1.0))),
        255 * srgb_encoded(RGB / 255.0),
        0.51,
        "its gamma of 1 is turned into sRGB's",
    ),
    "linear PNG of gray": ("a.png", raw(png(GRAY, gama(1.0))), three(255 * srgb_encoded(GRAY / 255.0)), 0.51, "gamma"),
    "linear PNG of 16 bits": ("a.png", raw(png(RGB16, gama(1.0))), 255 * srgb_encoded(RGB16 / 65535.0), 0.51, "gamma"),
    "linear PNG of 16-bit gray": (
        "a.png",
        raw(png(RAMP, gama(1.0))),
        three(255 * srgb_encoded(RAMP / 65535.0)),
        0.51,
        "gamma",
    ),
    "linear PNG and 3 MB of text": (
        "a.png",
        raw(png(RGB, gama(1.0), LONG)),
        255 * srgb_encoded(RGB / 255.0),
        0.51,
        "gamma",
    ),
    "linear PNG, transparent": (
        "a.png",
        raw(png(np.dstack([RGB, np.full((24, 36), 51, np.uint8)]), gama(1.0))),
        255 * srgb_encoded(RGB / 255.0) * 0.2 + 255 * 0.8,
        1.5,
        "gamma",
    ),
    "PNG of gamma 1.8": (
        "a.png",
        raw(png(RGB, gama(1 / 1.8))),
        255 * srgb_encoded((RGB / 255.0) ** (1 / 0.55556)),
        0.51,
        "its gamma of 0.55556",
    ),
    "PNG of gamma 2.2": ("a.png", raw(png(RGB, gama(1 / 2.2))), RGB, 0, ""),
    "PNG of gamma and sRGB": ("a.png", raw(png(RGB, chunk(b"sRGB", b"\0"), gama(1.0))), RGB, 0, ""),
    "PNG of gamma 0": ("a.png", raw(png(RGB, gama(0))), RGB, 0, ""),
    "PNG of other primaries": (
        "a.png",
        raw(png(RGB, chrm(0.68))),
        RGB,
        0,
        "its primaries (cHRM) are not those of",
    ),
    "PNG of sRGB's primaries": ("a.png", raw(png(RGB, chrm(0.64))), RGB, 0, ""),
    "PNG of HDR": ("a.png", raw(png(RGB, chunk(b"cICP", bytes([9, 16, 0, 1])))), RGB, 0, "its cICP (9, 16, 0, 1) is"),
    "PNG of sRGB's cICP": ("a.png", raw(png(RGB, chunk(b"cICP", bytes([1, 13, 0, 1])))), RGB, 0, ""),
    "Display P3": (
        "a.png",
        saved(RGB, "PNG", icc_profile=rgb_profile(P3, 2.2)),
        in_srgb(RGB, P3, 563 / 256),
        1.5,
        "turned into sRGB",
    ),
    "sRGB told": ("a.png", saved(RGB, "PNG", icc_profile=SRGB_ICC), RGB, 0, ""),
    "sRGB told of gray": ("a.png", saved(GRAY, "PNG", icc_profile=SRGB_ICC), three(GRAY), 0, ""),
    "sRGB told of a palette": (
        "a.png",
        lambda path: Image.fromarray(RGB).quantize(64).save(path, "PNG", icc_profile=SRGB_ICC),
        np.asarray(Image.fromarray(RGB).quantize(64).convert("RGB")),
        0,
        "",
    ),
    "gray of gamma 1.8": (
        "a.png",
        saved(GRAY, "PNG", icc_profile=gray_profile(1.8)),
        three(GRAY_18),
        1.5,
        "turned into sRGB",
    ),
    "gray of sRGB's curve": ("a.png", saved(GRAY, "PNG", icc_profile=gray_profile(None)), three(GRAY), 0, ""),
    "gray profile of a colored image": ("a.png", saved(RGB, "PNG", icc_profile=gray_profile(1.8)), RGB, 0, "of gray"),
    "Adobe RGB told of CMYK": ("a.tif", cmyk_with_rgb_profile, RGB, 1, "not one of CMYK"),
    "a damaged profile": ("a.png", saved(RGB, "PNG", icc_profile=ADOBE_ICC[:200]), RGB, 0, "cannot be used"),
    "a profile of nothing": ("a.png", saved(RGB, "PNG", icc_profile=b"no profile"), RGB, 0, "cannot be used"),
    "L*a*b*": ("a.tif", lab, 96 + RGB // 4, 4, ""),
    "3 MB of text": ("a.png", raw(png(RGB, LONG)), RGB, 0, ""),
    "3 MB of text at the end": ("a.png", raw(png(RGB, after=LONG)), RGB, 0, ""),
    "a text that unpacks to 200 MB": ("a.png", raw(png(RGB, BOMB)), RGB, 0, ""),
    "a text that unpacks to 200 MB at the end": ("a.png", raw(png(RGB, after=BOMB)), RGB, 0, ""),
    "a text with a wrong checksum": ("a.png", raw(png(RGB, chunk(b"tEXt", b"k\0v", wrong=True))), RGB, 0, ""),
    "a profile with a wrong checksum": ("a.png", raw(png(RGB, chunk(b"iCCP", b"k\0\0v", wrong=True))), RGB, 0, ""),
    "a profile that does not unpack": ("a.png", raw(png(RGB, chunk(b"iCCP", b"k\0\0vvvv"))), RGB, 0, ""),
    "a profile of 3 MB": ("a.png", saved(RGB, "PNG", icc_profile=BIG), IN_SRGB, 1.5, "turned into sRGB"),
    "odd EXIF beside a rotation": ("a.jpg", odd_exif, np.rot90(RGB, -1), 4, ""),
    "damaged EXIF": ("a.png", raw(png(RGB, chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"))), RGB, 0, ""),
    "an orientation of 9": ("a.png", turned("PNG", orientation=9), RGB, 0, ""),
    "a thumbnail first": ("a.tif", with_thumbnail(1), RGB, 0, ""),
    "a thumbnail first, told the old way": ("a.tif", with_thumbnail(0, old=True), RGB, 0, ""),
    "AVIF": ("a.avif", saved(RGB, "AVIF", quality=100, subsampling="4:4:4"), RGB, 4, ""),
    "AVIF of 10 bits": ("a.avif", deep_avif, RGB16 / 257, 6, "8 bits become 8"),
    "AVIF, turned": ("a.avif", turned("AVIF", quality=100, subsampling="4:4:4"), np.rot90(RGB, -1), 4, ""),
    "AVIF named JPEG": ("a.jpg", saved(RGB, "AVIF", quality=100, subsampling="4:4:4"), RGB, 4, ""),
    "PNG named JPEG": ("a.jpg", saved(RGB, "PNG"), RGB, 0, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_pixels(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    check(tmp_path, caplog, CASES[name])


def check(tmp_path: Path, caplog: pytest.LogCaptureFixture, case: Case) -> None:
    file, write, expected, most, said = case
    path = tmp_path / file
    write(path)
    image = read_image(path)
    assert image.mode == "RGB"
    assert "icc_profile" not in image.info  # it would be written into what is made of the image
    assert np.abs(np.asarray(image, np.float64) - expected).max() <= most
    assert said in "; ".join(notes_of(image))
    assert image_size(path) == expected.shape[:2]
    with open_windows(path) as windows:
        found = windows.read(0, 0, *windows.size)
    logged = [message for message in caplog.messages if "held whole" not in message]
    assert sorted(logged) == sorted(f"{path}: {note}" for note in notes_of(image))
    assert np.abs(found.astype(np.float64) - expected).max() <= max(most, 1.5)


def test_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(RGB)).save(tmp_path / "a.heic", quality=-1, chroma=444)
    assert np.abs(np.asarray(read_image(tmp_path / "a.heic"), int) - RGB).max() <= 6
    monkeypatch.setattr(reading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageReadError, match=r"a\.heic.*where pillow-heif is installed"):
        read_image(tmp_path / "a.heic")


def heic_head(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def cut(path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue()[:-40])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (raw(b""), "not an image"),
    "a page of a server": (raw(b"<!DOCTYPE html><html><body>404</body></html>"), "not an image"),
    "zeros": (raw(bytes(5000)), "not an image"),
    "a pipe": (os.mkfifo, "a pipe, a socket or a device"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a pipe, a socket or a device"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
    "a link to nothing": (lambda path: path.symlink_to(path.parent / "gone"), "no such file"),
    "a folder": (Path.mkdir, "is a folder"),
    "cut short": (cut, "."),
    "HEIC without content": (heic_head, "."),
    "float gray above one": (tiff(UNIT * 2), "outside 0..1"),
    "float RGB above one": (tiff((RGB16 / 65535 * 2).astype(np.float32), photometric="rgb"), "outside 0..1"),
    "float RGB with holes": (tiff(np.full((24, 36, 3), np.nan, np.float32), photometric="rgb"), "outside 0..1"),
    "32-bit RGB": (tiff(RGB16.astype(np.uint32), photometric="rgb"), "save it with 8 or 16 bits"),
    "complex": (tiff(UNIT.astype(np.complex64)), "save it"),
    "five bands": (tiff(np.zeros((24, 36, 5), np.float32), photometric="minisblack", planarconfig="contig"), "save it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_line(tmp_path: Path, name: str) -> None:
    make, words = REFUSED[name]
    path = tmp_path / "a.tif"
    make(path)
    with pytest.raises(ImageReadError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert words in str(caught.value)
