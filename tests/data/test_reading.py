"""Reading: the right pixels, or one clear error that names the file."""

from __future__ import annotations

import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning.data.reading import ImageReadError, image_size, list_images, read_image
from nuwa_lightning.errors import UsageError
from tests.data.conftest import painted

BASE = painted(12, 20)

# What a camera did to the image, undone by hand: EXIF orientation -> upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


def pixels(path: Path, **options: object) -> np.ndarray:
    image = read_image(path, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_exif_rotation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(BASE).save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    expected = UPRIGHT[orientation](BASE)
    np.testing.assert_array_equal(pixels(path), expected)
    assert image_size(path) == expected.shape[:2]


def test_exif_after_the_pixels_of_a_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(BASE).save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = len(content) - 12
    assert start < content.index(b"IDAT")
    moved = content[:start] + content[end:last] + content[start:end] + content[last:]
    (tmp_path / "a.png").write_bytes(moved)
    assert image_size(tmp_path / "a.png") == (20, 12)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), UPRIGHT[6](BASE))


def test_the_size_of_a_png_is_read_without_decoding(tmp_path: Path) -> None:
    Image.fromarray(BASE).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: content.index(b"IDAT") + 10])
    assert image_size(tmp_path / "a.png") == (12, 20)


def test_exif_rotation_of_a_reduced_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = painted(160, 320)
    Image.fromarray(wide).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert image_size(tmp_path / "a.jpg") == (320, 160)
    small = pixels(tmp_path / "a.jpg", min_side=40)
    assert small.shape == (80, 40, 3)
    expected = np.rot90(wide, -1).reshape(80, 4, 40, 4, 3).mean((1, 3))
    assert np.abs(small - expected).mean() < 3


@pytest.mark.parametrize("min_side", [1, 39, 40, 41, 79, 80, 81, 159, 160, 500])
def test_a_reduced_jpeg_keeps_its_least_side(tmp_path: Path, min_side: int) -> None:
    Image.fromarray(painted(160, 170)).save(tmp_path / "a.jpg")
    shape = pixels(tmp_path / "a.jpg", min_side=min_side).shape
    assert min(shape[:2]) >= min(min_side, 160)
    assert shape[1] / shape[0] == pytest.approx(170 / 160, rel=0.05)


def test_alpha_lies_over_white(tmp_path: Path) -> None:
    alpha = np.linspace(0, 255, 20).astype(np.uint8) * np.ones((12, 1), np.uint8)
    Image.fromarray(np.dstack([BASE, alpha])).save(tmp_path / "a.png")
    weight = alpha[..., None] / 255
    np.testing.assert_allclose(pixels(tmp_path / "a.png"), BASE * weight + 255 * (1 - weight), atol=1)


def test_grey_with_alpha(tmp_path: Path) -> None:
    grey, alpha = BASE[..., 0], BASE[..., 1]
    Image.fromarray(np.dstack([grey, alpha])).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as written:
        assert written.mode == "LA"
    expected = grey * (alpha / 255) + 255 - alpha
    for channel in range(3):
        np.testing.assert_allclose(pixels(tmp_path / "a.png")[..., channel], expected, atol=1)


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palette_with_a_transparent_colour(tmp_path: Path, suffix: str) -> None:
    colours = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 0]], np.uint8)
    places = np.arange(48).reshape(6, 8) % 3
    image = Image.frombytes("P", (8, 6), places.astype(np.uint8).tobytes())
    image.putpalette(colours.tobytes())
    image.save(tmp_path / f"a{suffix}", transparency=1)
    expected = colours[places].copy()
    expected[places == 1] = 255
    np.testing.assert_array_equal(pixels(tmp_path / f"a{suffix}"), expected)


def test_palette_with_alpha_per_colour(tmp_path: Path) -> None:
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette(bytes([100, 0, 0, 0, 100, 0, 0, 0, 100]))
    image.save(tmp_path / "a.png", transparency=bytes([255, 0, 51]))
    np.testing.assert_allclose(pixels(tmp_path / "a.png")[0], [[100, 0, 0], [255, 255, 255], [204, 204, 224]], atol=1)


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    grey = BASE[..., 0]
    Image.fromarray(grey).save(tmp_path / "l.png")
    np.testing.assert_array_equal(pixels(tmp_path / "l.png"), np.repeat(grey[..., None], 3, -1))
    Image.fromarray(grey > 127).save(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as written:
        assert written.mode == "1"
    np.testing.assert_array_equal(pixels(tmp_path / "one.png")[..., 1], np.where(grey > 127, 255, 0))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    deep = np.linspace(0, 65535, 240).astype(np.uint16).reshape(12, 20)
    Image.fromarray(deep).save(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(pixels(tmp_path / f"a{suffix}")[..., 2], deep / 257, atol=0.51)


def test_deep_grey_big_endian_and_float(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 240).astype(">u2").reshape(12, 20)
    big = Image.frombytes("I;16B", (20, 12), deep.tobytes())
    big.save(tmp_path / "big.tif")
    np.testing.assert_allclose(pixels(tmp_path / "big.tif")[..., 0], deep.astype(float) / 257, atol=0.51)
    unit = np.linspace(0, 1, 240, dtype=np.float32).reshape(12, 20)
    Image.fromarray(unit).save(tmp_path / "unit.tif")
    np.testing.assert_allclose(pixels(tmp_path / "unit.tif")[..., 0], unit * 255, atol=0.51)


@pytest.mark.parametrize("value", [70000, -1])
def test_grey_of_unknown_range_is_refused(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.full((4, 4), value, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageReadError, match=r"a\.tif.*(range|outside)"):
        read_image(tmp_path / "a.tif")


def test_cmyk(tmp_path: Path) -> None:
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[..., 0] = 200  # much cyan
    cmyk[:8, :, 3] = 128  # the upper half darkened
    image = Image.frombytes("CMYK", (16, 16), cmyk.tobytes())
    key = 1 - cmyk[..., 3:] / 255
    expected = 255 * (1 - cmyk[..., :3] / 255) * key
    image.save(tmp_path / "a.tif")
    np.testing.assert_allclose(pixels(tmp_path / "a.tif"), expected, atol=2)

    image.save(tmp_path / "adobe.jpg", quality=100, subsampling=0)  # Pillow writes inverted, with Adobe's marker
    assert b"\xff\xee\x00\x0eAdobe" in (tmp_path / "adobe.jpg").read_bytes()
    np.testing.assert_allclose(pixels(tmp_path / "adobe.jpg"), expected, atol=4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tiff", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
        ("a.jp2", {"irreversible": False}),
        ("a.jpg", {"quality": 100, "subsampling": 0}),
        ("wrong-ending.txt", {"format": "PNG"}),
    ],
)
def test_every_format(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    Image.fromarray(BASE).save(tmp_path / name, **options)
    assert np.abs(pixels(tmp_path / name).astype(int) - BASE).max() <= (4 if name == "a.jpg" else 0)
    assert image_size(tmp_path / name) == (12, 20)


def test_first_image_of_several(tmp_path: Path) -> None:
    images = [Image.fromarray(painted(16, 16, seed)) for seed in (1, 2)]
    for name, kind in (("a.gif", "GIF"), ("a.tif", "TIFF"), ("a.mpo", "MPO")):
        images[0].save(tmp_path / name, format=kind, save_all=True, append_images=images[1:])
        assert np.abs(pixels(tmp_path / name).astype(int) - painted(16, 16, 1)).mean() < 12


def test_too_many_pixels(tmp_path: Path) -> None:
    Image.fromarray(BASE).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=240).size == (20, 12)
    for read in (read_image, image_size):
        with pytest.raises(ImageReadError, match=r"a\.png.*240 pixels.*max_pixels=239.*raise `max_pixels`"):
            read(tmp_path / "a.png", max_pixels=239)


def test_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(ImageReadError, match="60000x60000"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp", "a.gif", "a.jp2"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_file_cut_short_is_named(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ImageReadError, match=name.replace(".", r"\.")) as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UsageError)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ImageReadError, match="not an image in any of the formats"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(ImageReadError, match="no such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageReadError):
        read_image(tmp_path)
    Image.fromarray(BASE).save(tmp_path / "a.ppm")  # a format that is not on the list
    with pytest.raises(ImageReadError):
        image_size(tmp_path / "a.ppm")


def test_readers_in_threads_leave_no_trace(tmp_path: Path) -> None:
    Image.fromarray(BASE).save(tmp_path / "a.png")
    before = (Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: read_image(tmp_path / "a.png"), range(200)))
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_list_images(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.webp", "c/notes.txt", ".hidden/x.png", "b/._1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == ["a.webp", "b/1.png", "b/2.JPG"]
    with pytest.raises(FileNotFoundError):
        list_images(tmp_path / "none")
    with pytest.raises(NotADirectoryError):
        list_images(tmp_path / "a.webp")


def test_list_images_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "real")
    assert list_images(tmp_path / "set") == [tmp_path / "set" / "linked" / "1.png"]
