"""Every image format: what other programs read is what was given, at any size and in bands of any height."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05.image import Image as OmeImage
from PIL import Image

from nuwa_lightning.errors import UsageError
from nuwa_lightning.testing import check_writer
from nuwa_lightning.writers import ome
from nuwa_lightning.writers.base import ImageSource, packed, unpacked
from nuwa_lightning.writers.files import IMAGE_WRITERS, read_metadata, write_image
from nuwa_lightning.writers.vips import JpegWriter, tiff_header

Array = np.ndarray[Any, np.dtype[np.uint8]]
METADATA = {"seed": 3, "prompt": "waves, café, 山 ?> --> (a, ASCII, 3, 4)" + 300 * "x", "nested": {"top_k": None}}
SIZES = st.one_of(
    st.tuples(st.just(1), st.integers(1, 700)),
    st.tuples(st.integers(1, 700), st.just(1)),
    st.tuples(st.sampled_from([2, 3, 17, 31, 127, 257, 509]), st.sampled_from([2, 5, 13, 101, 255, 256, 511, 1021])),
)


class Canvas:
    """An array as a source; remembers what was asked for."""

    def __init__(self, pixels_YX3: Array, band: int = 64) -> None:
        self.pixels_YX3, self.band = pixels_YX3, band
        self.height, self.width = pixels_YX3.shape[:2]
        self.asked: list[tuple[int, int]] = []

    def rows(self, start: int, stop: int) -> Array:
        self.asked.append((start, stop))
        return self.pixels_YX3[start:stop]


def noise(height: int, width: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int) -> Array:
    """An image that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / 40 + c) + np.cos(x / (50 + 9 * c)) for c in range(3)]
    return (np.stack(waves, axis=-1) * 60 + 128).astype(np.uint8)


def mean_of_four(pixels: Array, *, up: bool) -> Array:
    """The rule of docs/formats.md, pixel by pixel: ``up`` counts an odd last row or column, else it is left out."""
    rows, columns = ((side + up) // 2 or 1 for side in pixels.shape[:2])
    half = np.zeros((rows, columns, 3), np.uint8)
    for y in range(rows):
        for x in range(columns):
            ys = [min(2 * y + d, pixels.shape[0] - 1) for d in (0, 1)]
            xs = [min(2 * x + d, pixels.shape[1] - 1) for d in (0, 1)]
            four = [pixels[i, j].astype(int) for i in ys for j in xs]
            half[y, x] = [math.floor(sum(int(p[c]) for p in four) / 4 + 0.5) for c in range(3)]
    return half


def deep_zoom(path: Path, level: int, height: int, width: int) -> Array:
    """Put the tiles of a level together; each must be there and none more."""
    folder = path.with_name(f"{path.stem}_files") / str(level)
    out = np.zeros((height, width, 3), np.uint8)
    expected = {(x, y) for x in range(-(-width // 256)) for y in range(-(-height // 256))}
    assert {tuple(map(int, found.stem.split("_"))) for found in folder.iterdir()} == expected
    for x, y in expected:
        with Image.open(folder / f"{x}_{y}.jpg") as tile:
            area = out[y * 256 : (y + 1) * 256, x * 256 : (x + 1) * 256]
            assert tile.size == area.shape[1::-1]
            assert not tile.getexif()
            area[:] = np.asarray(tile)
    return out


def read(path: Path) -> Array:
    """Return the pixels by a library that had no part in writing, as far as there is one."""
    if path.suffix == ".zarr":
        return np.asarray(zarr.open_group(path, mode="r")["0"]).transpose(1, 2, 0)
    if path.suffix == ".tif":
        return tifffile.imread(path)
    if path.suffix == ".dzi":
        properties = path.read_text()
        width, height = (int(properties.split(f'{name}="')[1].split('"')[0]) for name in ("Width", "Height"))
        return deep_zoom(path, math.ceil(math.log2(max(width, height))), height, width)
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


@pytest.mark.parametrize("suffix", sorted(set(IMAGE_WRITERS) - {".jpeg", ".tiff"}))
@settings(max_examples=12, deadline=None)
@given(size=SIZES, band=st.integers(1, 700), seed=st.integers(0, 99))
def test_pixels_come_back(suffix: str, size: tuple[int, int], band: int, seed: int) -> None:
    lossless = suffix in (".png", ".tif", ".zarr")
    canvas = Canvas(noise(*size, seed) if lossless else smooth(*size), band)
    taken: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write_image(canvas, path, metadata=METADATA, progress=taken.append)
        assert read_metadata(path) == METADATA
        found = read(path)
    assert found.shape == canvas.pixels_YX3.shape
    assert np.abs(found.astype(int) - canvas.pixels_YX3).mean() <= (0 if lossless else 3)
    edges = [*range(0, size[0], band), size[0]]
    assert canvas.asked == list(itertools.pairwise(edges))  # from top to bottom, each row once
    assert taken == edges[1:]


def test_tiff_pyramid(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_image(Canvas(noise(601, 1303)), path, metadata=METADATA)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
        assert all(page.is_tiled and page.tilewidth == 256 for page in tiff.pages)  # type: ignore[union-attr]
        assert unpacked(tiff.pages.first.description) == METADATA
        levels = [level.asarray() for level in tiff.series[0].levels]
    assert [level.shape[:2] for level in levels] == [(601, 1303), (300, 651), (150, 325), (75, 162)]
    for below, above in itertools.pairwise(levels):
        np.testing.assert_array_equal(above, mean_of_four(below, up=False))


def test_ome_zarr_pyramid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ome.zarr"
    monkeypatch.setattr(ome, "_AT_ONCE", 512)
    write_image(Canvas(noise(601, 1303), band=100), path, metadata=METADATA)
    group = zarr.open_group(path, mode="r")
    (multiscale,) = OmeImage.from_zarr(group).ome_attributes.multiscales
    assert multiscale.name == "a"
    levels = []
    for number, dataset in enumerate(multiscale.datasets):
        scale, shift = dataset.coordinateTransformations
        assert scale.scale == [1, 2**number, 2**number]
        assert shift.translation == [0, (2**number - 1) / 2, (2**number - 1) / 2]
        levels.append(np.asarray(group[dataset.path]).transpose(1, 2, 0))
    assert [level.shape[:2] for level in levels] == [(601, 1303), (301, 652), (151, 326), (76, 163)]
    for below, above in itertools.pairwise(levels):
        np.testing.assert_array_equal(above, mean_of_four(below, up=True))


def test_deep_zoom_pyramid(tmp_path: Path) -> None:
    path = tmp_path / "a.dzi"
    expected = smooth(333, 601)
    write_image(Canvas(expected), path)
    for level in range(10, -1, -1):
        found = deep_zoom(path, level, *expected.shape[:2])
        assert np.abs(found.astype(int) - expected).max() < 14
        expected = mean_of_four(expected, up=True)
    assert expected.shape == (1, 1, 3)


@pytest.mark.parametrize("suffix", sorted(set(IMAGE_WRITERS) - {".jpeg", ".tiff"}))
def test_equal_images_make_equal_bytes(tmp_path: Path, suffix: str) -> None:
    contents = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_image(Canvas(smooth(300, 555), band=41 if name == "x" else 64), tmp_path / name / f"a{suffix}")
        files = sorted(found for found in (tmp_path / name).rglob("*") if found.is_file())
        contents.append([(found.relative_to(tmp_path / name), found.read_bytes()) for found in files])
    assert contents[0] == contents[1]


_PEAK = """
import re, resource, sys
from pathlib import Path
import numpy as np
from nuwa_lightning.writers.files import write_image
class Stripes:
    band = 64
    def __init__(self, width, height):
        self.width, self.height = width, height
    def rows(self, start, stop):
        return np.broadcast_to((np.arange(start, stop) % 7)[:, None, None], (stop - start, self.width, 3)).astype("u1")
def peak():
    if sys.platform == "linux":  # whose other figure begins with the peak of the process that started this one
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20)
first, width, height = map(int, sys.argv[2:])
write_image(Stripes(first, 300), sys.argv[1].replace("image", "first"))
before = peak()
write_image(Stripes(width, height), sys.argv[1])
print(peak() - before)
"""


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".dzi", ".zarr"])
def test_memory_does_not_grow_with_the_height(tmp_path: Path, suffix: str) -> None:
    assert peak_of(tmp_path / f"image{suffix}", first=2000, size=(2000, 24000)) < 40  # of 144 MB


@pytest.mark.parametrize("suffix", [".png", ".tif", ".dzi", ".zarr"])
def test_memory_of_a_column_does_not_grow_with_the_cores(tmp_path: Path, suffix: str) -> None:
    """Writers hold some rows, so that memory is proportional to the width: 6 kB a column at most."""
    assert peak_of(tmp_path / f"image{suffix}", first=300, size=(30_000, 700), threads=64) < 180


def peak_of(path: Path, *, first: int, size: tuple[int, int], threads: int = 2) -> int:
    """Return by how many MB the peak of a process grows after an image ``first`` pixels wide."""
    command = [sys.executable, "-c", _PEAK, str(path), *map(str, (first, *size))]
    environment = {**os.environ, "VIPS_CONCURRENCY": str(threads)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".zarr"])
def test_widths_beyond_16_bits(tmp_path: Path, suffix: str) -> None:
    pixels = noise(9, 131_101)
    write_image(Canvas(pixels, band=4), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"a{suffix}"), pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".dzi", ".zarr"])
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, OSError])
def test_an_error_of_the_source_leaves_nothing(tmp_path: Path, suffix: str, error: type[BaseException]) -> None:
    class Broken(Canvas):
        def rows(self, start: int, stop: int) -> Array:
            if start > 100:
                raise error("row")
            return super().rows(start, stop)

    with pytest.raises(RuntimeError if error is OSError else error, match="row"):
        write_image(Broken(noise(300, 300)), tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pixels", [np.zeros((9, 9, 3), np.float32), np.zeros((9, 9, 4), np.uint8)])
def test_wrong_arrays_are_refused(tmp_path: Path, pixels: Array) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        write_image(Canvas(pixels), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


_FULL = """
import resource, sys
import numpy as np
from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.files import write_image
class Noise:
    width, height, band = 999, 999, 64
    def rows(self, start, stop):
        return np.random.default_rng(start).integers(0, 256, (stop - start, 999, 3), np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    write_image(Noise(), sys.argv[1])
except UsageError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".dzi", ".zarr", ".webp"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path.joinpath(*(8 * [60 * "d"]))
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", _FULL, str(folder / f"a{suffix}")]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert len(told.splitlines()) == 1
    assert "cannot be written" in told
    assert "free space" in told
    assert os.listdir(folder) == []


@pytest.mark.parametrize(("suffix", "longest"), [(".jpg", 65_000), (".png", 1_000_000)])
def test_long_metadata(tmp_path: Path, suffix: str, longest: int) -> None:
    canvas, path = Canvas(noise(8, 8)), tmp_path / f"a{suffix}"
    with pytest.raises(UsageError, match=f"holds {longest} bytes on how it was made"):
        write_image(canvas, path, metadata={"a": longest * "x"})
    for found in (path, tmp_path / "a.tif"):
        write_image(canvas, found, metadata={"a": (longest - 30) * "x"})
        assert len(read_metadata(found)["a"]) == longest - 30
        found.unlink()


def test_metadata_of_others_are_none_of_ours() -> None:
    assert unpacked(packed(METADATA)) == METADATA
    assert unpacked('{"options": {}, "size": [1, 2], "seed": 1}') == {"options": {}, "size": [1, 2], "seed": 1}
    for text in (None, "", b"\xff", "[1]", '{"shape": [3, 4]}', "[" * 100_000, json.dumps({"nuwa_lightning": 3})):
        assert unpacked(text) is None
    with pytest.raises(ValueError, match="JSON"):
        packed({"loss": float("nan")})


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 9))
def test_the_header_is_a_tiff(height: int, width: int) -> None:
    pixels = noise(height, width)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        path.write_bytes(tiff_header(width, height) + pixels.tobytes())
        np.testing.assert_array_equal(tifffile.imread(path), pixels)


class HalfJpeg(JpegWriter):
    """A writer of one's own: what ``writer=`` takes."""

    format_name = "rough JPEG"

    def __init__(self) -> None:
        super().__init__(quality=30)


def test_a_writer_of_ones_own(tmp_path: Path) -> None:
    canvas = Canvas(smooth(99, 99))
    write_image(canvas, tmp_path / "a.rough", writer=f"{__name__}.HalfJpeg" if __name__ in sys.modules else HalfJpeg())
    write_image(canvas, tmp_path / "b.rough", writer=JpegWriter(quality=99))
    assert (tmp_path / "a.rough").stat().st_size < (tmp_path / "b.rough").stat().st_size
    with pytest.raises(UsageError, match=r"a\.rough: the name must end in one of \.png"):
        write_image(canvas, tmp_path / "a.rough")
    write_image(canvas, tmp_path / "c.jpg", writer="nuwa_lightning.writers.vips.PngWriter")
    assert (tmp_path / "c.jpg").read_bytes()[:4] == b"\x89PNG"
    for wrong in ("json.JSONDecoder", "none.Such", "JpegWriter", "nuwa_lightning.writers.videos.GifWriter"):
        with pytest.raises(UsageError, match=f"writer: {wrong}: "):
            write_image(canvas, tmp_path / "d.png", writer=wrong)
    check_writer(HalfJpeg(), ".rough")


@pytest.mark.parametrize("suffix", sorted(IMAGE_WRITERS))
def test_our_own_writers_keep_the_laws(suffix: str) -> None:
    read_back: Callable[[Path], Array] | None = read if suffix in (".png", ".tif", ".zarr") else None
    check_writer(IMAGE_WRITERS[suffix](), suffix, read=read_back)


def test_the_check_bites() -> None:
    class Forgetful(JpegWriter):
        def write(self, source: ImageSource, path: Path, metadata: Any) -> None:
            super().write(source, path, {})

    class Littering(JpegWriter):
        def write(self, source: ImageSource, path: Path, metadata: Any) -> None:
            super().write(source, path, metadata)
            path.with_name("more").touch()

    with pytest.raises(AssertionError, match="metadata"):
        check_writer(Forgetful(), ".jpg")
    with pytest.raises(AssertionError, match="nothing else"):
        check_writer(Littering(), ".jpg")
    with pytest.raises(AssertionError, match="pixels"):
        check_writer(JpegWriter(), ".jpg", read=lambda path: np.asarray(Image.open(path)))


def test_the_writer_in_the_docs(tmp_path: Path) -> None:
    code = (Path(__file__).parents[2] / "docs/how-to/writer.md").read_text(encoding="utf-8").split("```")[1]
    names: dict[str, Any] = {}
    exec(code.removeprefix("python\n"), names)
    canvas = Canvas(noise(31, 17))
    write_image(canvas, tmp_path / "a.ppm", writer=names["PpmWriter"](), metadata=METADATA)
    np.testing.assert_array_equal(read(tmp_path / "a.ppm"), canvas.pixels_YX3)
