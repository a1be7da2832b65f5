"""Images that are decoded without an error, but not as they are meant: the pixels they mean, or a word."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from nuwa_lightning.data.reading import ImageReadError, as_srgb, is_transparent, notes_of, read_image
from nuwa_lightning.data.tones import SHALLOWER
from nuwa_lightning.data.video_reading import read_clip
from tests.inputs.making import bits, chunk, colr, gray_profile, jpeg_2000, png, tiff_by_hand, webp, with_box
from tests.inputs.test_images import (
    ADOBE_ICC,
    GRAY,
    IN_SRGB,
    JPEG,
    RAMP,
    RGB,
    RGB12,
    RGB16,
    TWELVE,
    Case,
    check,
    raw,
    saved,
    three,
    tiff,
)

Write = Callable[[Path], object]
Floats = NDArray[np.float64]

ALPHA = RAMP / 65535
EDGED = np.pad(np.ones((8, 12)), ((8, 8), (12, 12)))
OVER = np.dstack([RGB, (255 * EDGED).astype(np.uint8)])


def over_white(colors: NDArray[np.generic], alpha: NDArray[np.generic]) -> Floats:
    """Colors of 0 to 255, alpha of 0 to 1."""
    return colors * alpha[..., None] + 255.0 * (1 - alpha[..., None])


def premultiplied(white: int, **options: object) -> Write:
    values = np.dstack([RGB / 255 * ALPHA[..., None], ALPHA])
    stored = np.rint(values * white).astype(np.uint8 if white == 255 and "deep" not in options else np.uint16)
    options.pop("deep", None)
    return tiff(stored, photometric="rgb", extrasamples=["assocalpha"], **options)


INK = np.dstack([RGB, np.roll(GRAY, 5, axis=1)]) / 255
PRINTED = 255 * (1 - INK[..., :3]) * (1 - INK[..., 3:])


def cmyk(white: int, **options: object) -> Write:
    return tiff(np.rint(INK * white).astype(np.uint16), photometric="separated", **options)


HOLE = 1000, 2000, 3000
PIERCED = np.where(EDGED[..., None] > 0, np.array(HOLE, np.uint16), RGB16)
PIERCED[0, 0] = 1001, 2001, 3001  # differs in the lower bytes alone
GRAY_PIERCED = np.where(EDGED > 0, np.uint16(1000), RAMP)
GRAY_PIERCED[0, 0] = 1001


def shallow_png(depth: int, hole: int) -> Write:
    head = struct.pack(">IIBBBBB", 36, 24, depth, 0, 0, 0, 0)
    samples = GRAY >> (8 - depth)
    content = re.sub(rb"(?s)(.{%d})" % (-(-36 * depth // 8)), rb"\0\g<1>", bits(samples, depth))
    parts = [chunk(b"IHDR", head), chunk(b"tRNS", struct.pack(">H", hole)), chunk(b"IDAT", zlib.compress(content))]
    return raw(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))


def pierced(depth: int, hole: int) -> NDArray[np.generic]:
    samples = GRAY >> (8 - depth)
    return three(np.where(samples == hole, 255, samples * (255 // (2**depth - 1))))


COLORS = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)


def palette(scale: int, colors: NDArray[np.uint8] = COLORS) -> Write:
    said = tuple((colors.T.astype(int) * scale).reshape(-1).tolist())
    return raw(tiff_by_hand(GRAY.tobytes(), 24, 36, {258: (8,), 262: (3,), 277: (1,), 320: said}))


def gray_tiff(depth: int, samples: NDArray[np.generic], **tags: int) -> Write:
    more = {int(name[1:]): (value,) for name, value in tags.items()}
    height, width = samples.shape
    return raw(tiff_by_hand(bits(samples, depth), height, width, {258: (depth,), 262: (1,), 277: (1,), **more}))


def color_tiff(samples: NDArray[np.generic], photometric: int, **tags: tuple[int, ...]) -> Write:
    more = {int(name[1:]): value for name, value in tags.items()}
    height, width, count = samples.shape
    depth = (8 * samples.dtype.itemsize,) * count
    tags_of = {258: depth, 262: (photometric,), 277: (count,), **more}
    return raw(tiff_by_hand(np.ascontiguousarray(samples).tobytes(), height, width, tags_of))


def jp2_with(replace: Callable[[bytes], bytes], values: NDArray[np.uint8] = RGB) -> Write:
    def write(path: Path) -> None:
        made = io.BytesIO()
        Image.fromarray(values).save(made, "JPEG2000")
        path.write_bytes(replace(made.getvalue()))

    return write


def rewritten(write: Write, *pairs: tuple[bytes, bytes]) -> Write:
    def again(path: Path) -> None:
        write(path)
        content = path.read_bytes()
        for old, new in pairs:
            assert content.count(old) == 1
            content = content.replace(old, new)
        path.write_bytes(content)

    return again


def without_adobe(path: Path) -> None:
    Image.fromarray(np.rint(INK * 255).astype(np.uint8), "CMYK").save(path, "JPEG", **JPEG)
    content = path.read_bytes()
    at = content.index(b"\xff\xee")
    path.write_bytes(content[:at] + content[at + 16 :])
    assert content[at + 4 : at + 9] == b"Adobe"


def exif_of_adobe_rgb(path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    Image.fromarray(RGB).save(path, "JPEG", exif=exif, **JPEG)


def bmp_with_profile(path: Path) -> None:
    rows = RGB[::-1, :, ::-1].tobytes()
    assert 36 * 3 % 4 == 0
    head = struct.pack("<IiiHHIIiiII", 124, 36, 24, 1, 24, 0, len(rows), 0, 0, 0, 0) + bytes(16) + b"DEBM" + bytes(48)
    head += struct.pack("<IIII", 0, 124 + len(rows), len(ADOBE_ICC), 0)
    size = 14 + len(head) + len(rows) + len(ADOBE_ICC)
    path.write_bytes(b"BM" + struct.pack("<IHHI", size, 0, 0, 14 + len(head)) + head + rows + ADOBE_ICC)


def bmp_with_alpha(path: Path) -> None:
    rows = OVER[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII4I", 56, 36, 24, 1, 32, 3, len(rows), 0, 0, 0, 0, *masks)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 70 + len(rows), 0, 0, 70) + head + rows)


def gif_of_a_part(path: Path) -> None:
    """A first image that is smaller than the screen, whose background is told to be red, with a transparent color."""
    colors = np.zeros((4, 3), np.uint8)
    colors[1:] = (10, 20, 30), (200, 100, 50), (255, 0, 0)
    part = Image.fromarray(np.tile(np.array([0, 1, 2], np.uint8), (6, 4)))
    part.putpalette(colors.tobytes())
    made = io.BytesIO()
    part.save(made, "GIF", transparency=0, background=3)
    content = made.getvalue()
    at = content.index(b"\x2c\0\0\0\0")
    content = content[:at] + struct.pack("<BHH", 0x2C, 4, 2) + content[at + 5 :]
    path.write_bytes(content[:6] + struct.pack("<HH", 36, 24) + content[10:])


GIF_PART = np.full((24, 36, 3), 255, np.uint8)
GIF_PART[2:8, 4:16] = np.array([[255, 255, 255], [10, 20, 30], [200, 100, 50]])[np.tile([0, 1, 2], (6, 4))]


def apng(default: bool) -> Write:
    def write(path: Path) -> None:
        frames = [Image.fromarray(values) for values in (RGB, RGB[::-1].copy(), RGB[:, ::-1].copy())]
        frames[0].save(path, "PNG", save_all=True, append_images=frames[1:], default_image=default)

    return write


SPRITE = np.dstack([RGB[:8, :12], np.full((8, 12), 255, np.uint8)])
SPRITE[:4, :6, 3] = 0
LAID = np.full((24, 36, 3), 255, np.uint8)
LAID[8:16, 12:24] = np.where(SPRITE[..., 3:] > 0, SPRITE[..., :3], 255)
OPAQUE = LAID.copy()
OPAQUE[8:16, 12:24] = SPRITE[..., :3]

CASES: dict[str, Case] = {
    "premultiplied, 8 bits": ("a.tif", premultiplied(255), over_white(RGB, ALPHA), 2, ""),
    "premultiplied, 16 bits": ("a.tif", premultiplied(65535), over_white(RGB, ALPHA), 3, "8 bits become 8"),
    "premultiplied, 12 bits in 16": (
        "a.tif",
        premultiplied(4095),
        over_white(RGB, ALPHA),
        2,
        "white is taken to be 4095",
    ),
    "premultiplied, 8 bits in 16": ("a.tif", premultiplied(255, deep=True), over_white(RGB, ALPHA), 2, "to be 255"),
    "premultiplied, 12 bits in 16, big-endian": (
        "a.tif",
        premultiplied(4095, byteorder=">"),
        over_white(RGB, ALPHA),
        2,
        "to be 4095",
    ),
    "premultiplied, 12 bits in 16, deflate": (
        "a.tif",
        premultiplied(4095, compression="zlib"),
        over_white(RGB, ALPHA),
        2,
        "to be 4095",
    ),
    "premultiplied, 14 bits in 16, told": (
        "a.tif",
        premultiplied(16383, extratags=[(281, 3, 1, 16383, False)]),
        over_white(RGB, ALPHA),
        2,
        "to be 16383",
    ),
    "CMYK, 16 bits": ("a.tif", cmyk(65535), PRINTED, 2, "8 bits become 8"),
    "CMYK, 12 bits in 16": ("a.tif", cmyk(4095), PRINTED, 2, "full ink is taken to be 4095"),
    "CMYK, 12 bits in 16, big-endian": ("a.tif", cmyk(4095, byteorder=">"), PRINTED, 2, "full ink is taken to be 4095"),
    "CMYK, 8 bits in 16, deflate": ("a.tif", cmyk(255, compression="zlib"), PRINTED, 2, "full ink is taken to be 255"),
    "JPEG 2000, 16 bits": (
        "a.j2k",
        lambda path: path.write_bytes(jpeg_2000(RGB16)),
        RGB16 / 257,
        1.5,
        "8 bits become 8",
    ),
    "JPEG 2000, lossy, 16 bits": (
        "a.j2k",
        lambda path: path.write_bytes(jpeg_2000(RGB16, lossy=True)),
        RGB16 / 257,
        1.5,
        "8 bits become 8",
    ),
    "JPEG 2000, 12 bits in 16": (
        "a.j2k",
        lambda path: path.write_bytes(jpeg_2000(RGB12)),
        RGB12 / 257,
        1,
        "it is nearly black",
    ),
    "JPEG 2000, gray of 12 bits in 16": (
        "a.jp2",
        lambda path: Image.fromarray(TWELVE).save(path),
        three(TWELVE / 4095 * 255),
        0.51,
        "to be 4095",
    ),
    "JPEG 2000 of Adobe RGB": (
        "a.jp2",
        jp2_with(lambda content: with_box(content, b"colr", colr(b"\2\0\0" + ADOBE_ICC))),
        IN_SRGB,
        1.5,
        "turned into sRGB",
    ),
    "JPEG 2000 of another space": (
        "a.jp2",
        jp2_with(lambda content: with_box(content, b"colr", colr(b"\1\0\0\0\0\0\x0e"))),
        RGB,
        1,
        "number 14",
    ),
    "JPEG 2000, transparent": ("a.jp2", jp2_with(bytes, OVER), over_white(RGB, EDGED), 1, ""),
    "WebP with frames that cover a part": (
        "a.webp",
        raw(webp((24, 36), [(8, 12, SPRITE[..., :3].copy()), (0, 0, RGB)])),
        OPAQUE,
        0,
        "",
    ),
    "WebP with frames that let through": ("a.webp", raw(webp((24, 36), [(8, 12, SPRITE), (0, 0, RGB)])), LAID, 0, ""),
    "WebP with frames that cover all": ("a.webp", raw(webp((24, 36), [(0, 0, RGB), (8, 12, SPRITE)])), RGB, 0, ""),
    "PNG of 16 bits with a transparent color": (
        "a.png",
        raw(png(PIERCED, chunk(b"tRNS", struct.pack(">3H", *HOLE)))),
        np.where((PIERCED == HOLE).all(-1)[..., None], 255, PIERCED / 257),
        1,
        "8 bits become 8",
    ),
    "PNG of 16 bits with a transparent gray": (
        "a.png",
        raw(png(GRAY_PIERCED, chunk(b"tRNS", struct.pack(">H", 1000)))),
        three(np.where(GRAY_PIERCED == 1000, 255, GRAY_PIERCED / 257)),
        0.51,
        "8 bits become 8",
    ),
    **{
        f"PNG of {depth} bits with a transparent gray": ("a.png", shallow_png(depth, 1), pierced(depth, 1), 0, "")
        for depth in (1, 2, 4)
    },
    "TIFF with a palette of 16 bits": ("a.tif", palette(257), COLORS[GRAY], 0, ""),
    "TIFF with a palette of 8 bits": ("a.tif", palette(1), COLORS[GRAY], 0, ""),
    "TIFF of 4 bits": ("a.tif", gray_tiff(4, GRAY >> 4), three((GRAY >> 4) * 17), 0, ""),
    "TIFF of 12 bits": ("a.tif", gray_tiff(12, TWELVE), three(TWELVE / 4095 * 255), 0.51, "8 bits become 8"),
    "TIFF of 12 bits, dark": (
        "a.tif",
        gray_tiff(12, TWELVE >> 4),
        three((TWELVE >> 4) / 4095 * 255),
        0.51,
        "to be 4095",
    ),
    "TIFF of 12 bits, odd width": (
        "a.tif",
        gray_tiff(12, TWELVE[:, :35]),
        three(TWELVE[:, :35] / 4095 * 255),
        0.51,
        "8 bits become 8",
    ),
    "TIFF of signed 16 bits": ("a.tif", tiff((RAMP >> 1).astype(np.int16)), three(RAMP / 257), 0.6, "to be 32767"),
    "TIFF of four samples": ("a.tif", color_tiff(OVER, 2), over_white(RGB, EDGED), 1, "is taken for transparency"),
    "TIFF of YCbCr": (
        "a.tif",
        color_tiff(np.asarray(Image.fromarray(RGB).convert("YCbCr")), 6, _530=(1, 1)),
        RGB,
        3,
        "",
    ),
    "TIFF of floats": ("a.tif", tiff(RGB.astype(np.float32) / 255, photometric="rgb"), RGB, 0, "not linear light"),
    "TIFF of gray floats": ("a.tif", tiff(GRAY.astype(np.float32) / 255), three(GRAY), 0, "not linear light"),
    "TIFF of floats with a profile": (
        "a.tif",
        tiff(GRAY.astype(np.float32) / 255, iccprofile=gray_profile(None)),
        three(GRAY),
        0,
        "",
    ),
    "four bands of JPEG 2000": (
        "a.j2k",
        lambda path: Image.fromarray(OVER).save(path, "JPEG2000", no_jp2=True),
        over_white(RGB, EDGED),
        1,
        "is taken for transparency",
    ),
    "CMYK JPEG": (
        "a.jpg",
        lambda path: Image.fromarray(np.rint(INK * 255).astype(np.uint8), "CMYK").save(path, **JPEG),
        PRINTED,
        6,
        "",
    ),
    "CMYK JPEG without Adobe's mark": ("a.jpg", without_adobe, PRINTED, 6, "without Adobe's mark"),
    "JPEG of RGB": ("a.jpg", saved(RGB, "JPEG", keep_rgb=True, **JPEG), RGB, 4, ""),
    "JPEG of Adobe RGB by its EXIF data": ("a.jpg", exif_of_adobe_rgb, RGB, 4, "Adobe RGB by its EXIF data"),
    "JPEG of half a profile": (
        "a.jpg",
        rewritten(saved(RGB, "JPEG", icc_profile=ADOBE_ICC, **JPEG), (b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2")),
        RGB,
        4,
        "its color profile cannot be used",
    ),
    "AVIF, premultiplied": (
        "a.avif",
        saved(OVER, "AVIF", quality=100, subsampling="4:4:4", alpha_premultiplied=True),
        over_white(RGB, EDGED),
        5,
        "",
    ),
    "AVIF of HDR": (
        "a.avif",
        rewritten(
            saved(RGB, "AVIF", quality=100, subsampling="4:4:4"), (b"colrnclx\0\1\0\x0d", b"colrnclx\0\x09\0\x10")
        ),
        RGB,
        4,
        "its cICP (9, 16, 6) is not read",
    ),
    "BMP with alpha": ("a.bmp", bmp_with_alpha, over_white(RGB, EDGED), 1, ""),
    "BMP of Adobe RGB": ("a.bmp", bmp_with_profile, IN_SRGB, 1.5, "turned into sRGB"),
    "GIF of a part": ("a.gif", gif_of_a_part, GIF_PART, 0, ""),
    "APNG": ("a.png", apng(False), RGB, 0, ""),
    "APNG with a default image": ("a.png", apng(True), RGB, 0, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_pixels(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    check(tmp_path, caplog, CASES[name])
    file, _, _, _, said = CASES[name]
    assert {*notes_of(read_image(tmp_path / file))} <= {SHALLOWER} or said


REFUSED: dict[str, tuple[Write, str]] = {
    "signed bytes": (tiff((GRAY.astype(int) - 128).astype(np.int8)), "int8 samples"),
    "negative": (tiff((RAMP.astype(int) - 32768).astype(np.int16)), "outside 0..32767"),
    "YCbCr of half the width": (color_tiff(RGB, 6, _530=(2, 1)), "a kind that is not read"),
    "YCbCr that does not tell its width": (color_tiff(RGB, 6), "a kind that is not read"),
    "inks of another kind": (color_tiff(OVER, 5, _332=(2,)), "a kind that is not read"),
    "L*a*b* of 16 bits": (color_tiff(RGB16, 8), "a kind that is not read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_line(tmp_path: Path, name: str) -> None:
    write, words = REFUSED[name]
    write(tmp_path / "a.tif")
    with pytest.raises(ImageReadError, match=re.escape(words)):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
def test_twelve_bits_of_alpha_are_opaque(tmp_path: Path, kind: str) -> None:
    opaque = np.dstack([RGB12, np.full_like(TWELVE, 4095)])
    tifffile.imwrite(tmp_path / "a.tif", opaque, photometric="rgb", extrasamples=[kind])
    assert not is_transparent(tmp_path / "a.tif")
    opaque[3, 4] = 4094 if kind == "unassalpha" else 0
    opaque[3, 4, 3] = 2000
    tifffile.imwrite(tmp_path / "a.tif", opaque, photometric="rgb", extrasamples=[kind])
    assert is_transparent(tmp_path / "a.tif")


@pytest.mark.parametrize("samples", [PIERCED, GRAY_PIERCED])
def test_a_transparent_color_lets_through(tmp_path: Path, samples: NDArray[np.uint16]) -> None:
    hole = chunk(b"tRNS", struct.pack(">3H", *HOLE) if samples.ndim == 3 else struct.pack(">H", 1000))
    (tmp_path / "a.png").write_bytes(png(samples, hole))
    assert is_transparent(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(png(np.where(samples < 4000, np.uint16(4000), samples), hole))
    assert not is_transparent(tmp_path / "a.png")


def test_an_opened_image_of_twelve_bits(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB12, photometric="rgb")
    with Image.open(tmp_path / "a.tif") as opened:
        assert "it is nearly black" in "; ".join(notes_of(as_srgb(opened)))


def test_frames_of_webp(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(webp((24, 36), [(8, 12, SPRITE), (0, 0, RGB)]))
    first, second = read_clip(tmp_path / "a.webp")
    np.testing.assert_array_equal(first, LAID)
    np.testing.assert_array_equal(second, RGB)
