"""Every writer: what independent readers see is what was written, in whatever order, or nothing at all."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers import VIDEO_WRITERS, WRITERS, CanvasWriter, open_writer, read_metadata
from nuwa_lightning.writers.png import filtered
from tests.writers.conftest import file_content

LOSSLESS = (".png", ".tif", ".zarr")
METADATA = {"seed": 3, "size": [300, 200], "prompt": "a lake, café, 山", "nested": {"top_k": None}}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def read(path: Path) -> np.ndarray[Any, Any]:
    """Read by libraries that know nothing of the writer; TIFF by two, which must agree."""
    if path.suffix == ".zarr":
        zarr = pytest.importorskip("zarr")
        return np.asarray(zarr.open_group(path, mode="r")["0"]).transpose(1, 2, 0)
    with Image.open(path) as image:
        assert image.mode == "RGB"
        pixels = np.asarray(image)
    if path.suffix == ".tif":
        np.testing.assert_array_equal(tifffile.imread(path), pixels)
    return pixels


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    step=st.tuples(st.integers(40, 300), st.integers(40, 300)),
    suffix=st.sampled_from(LOSSLESS),
    seed=st.integers(0, 9),
)
def test_rectangles_in_any_order(
    tmp_path: Path, size: tuple[int, int], step: tuple[int, int], suffix: str, seed: int
) -> None:
    height, width = size
    canvas = noise(height, width, seed)
    corners = [(y, x) for y in range(0, height, step[0]) for x in range(0, width, step[1])]
    np.random.default_rng(seed).shuffle(corners)
    path = tmp_path / f"canvas{suffix}"
    with open_writer(path, width=width, height=height, overwrite=True) as writer:
        for y, x in corners:
            writer.write(canvas[y : y + step[0], x : x + step[1]], y=int(y), x=int(x))
    np.testing.assert_array_equal(read(path), canvas)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_real_photograph_overlap_and_gaps(
    tmp_path: Path, suffix: str, sample_photos: dict[str, np.ndarray[Any, Any]]
) -> None:
    photo = sample_photos["china.jpg"]
    path = tmp_path / f"photo{suffix}"
    expected = np.zeros((450, 700, 3), np.uint8)
    with open_writer(path, width=700, height=450) as writer:
        for y, x in ((3, 5), (20, 50)):
            expected[y : y + 427, x : x + 640] = photo
            writer.write(photo, y=y, x=x)
    np.testing.assert_array_equal(read(path), expected)


def test_png_of_a_photograph_is_no_larger_than_pillows(
    tmp_path: Path, sample_photos: dict[str, np.ndarray[Any, Any]]
) -> None:
    photo = sample_photos["flower.jpg"]
    ours, theirs = tmp_path / "ours.png", tmp_path / "theirs.png"
    with open_writer(ours, width=640, height=427) as writer:
        writer.write(photo, y=0, x=0)
    Image.fromarray(photo).save(theirs)
    assert ours.stat().st_size <= 1.02 * theirs.stat().st_size


def test_png_filters_against_their_definition() -> None:
    """Each row, whatever filter it names, gives back the pixels by the loops of the specification."""
    photo = np.cumsum(np.random.default_rng(0).integers(-2, 3, (9, 12, 3)), axis=1).astype(np.uint8)
    photo[5:] = photo[4]
    packed = filtered(photo, np.zeros((12, 3), np.uint8))
    assert len(set(packed[:, 0].tolist())) > 1
    above = [0] * 36
    for line, pixels in zip(packed.tolist(), photo.reshape(9, -1).tolist(), strict=True):
        number, row = line[0], []
        for i, value in enumerate(line[1:]):
            a, c = (row[i - 3], above[i - 3]) if i >= 3 else (0, 0)
            b = above[i]
            guess = a + b - c
            paeth = min((abs(guess - a), 0, a), (abs(guess - b), 1, b), (abs(guess - c), 2, c))[2]
            row.append((value + {0: 0, 1: a, 2: b, 4: paeth}[number]) % 256)
        above = row
        assert row == pixels


def test_jpeg_is_close_and_holds_its_comment(tmp_path: Path, sample_photos: dict[str, np.ndarray[Any, Any]]) -> None:
    photo = sample_photos["china.jpg"]
    path = tmp_path / "photo.jpg"
    with open_writer(path, width=640, height=427, metadata=METADATA) as writer:
        writer.write(photo[:, 300:], y=0, x=300)
        writer.write(photo[:, :300], y=0, x=0)
    assert np.abs(read(path).astype(int) - photo).mean() < 2
    assert read_metadata(path) == METADATA


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_metadata_comes_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"canvas{suffix.upper()}"
    with open_writer(path, width=300, height=200, metadata=METADATA) as writer:
        writer.write(noise(200, 300), y=0, x=0)
    assert read_metadata(path) == METADATA
    with open_writer(path, width=3, height=2, overwrite=True):
        pass
    assert read_metadata(path) == {}


def test_same_pixels_same_bytes(tmp_path: Path) -> None:
    for suffix in WRITERS:
        files = [tmp_path / suffix / name / f"a{suffix}" for name in "12"]
        for file, order in zip(files, ((0, 100), (100, 0)), strict=True):
            file.parent.mkdir(parents=True)
            with open_writer(file, width=200, height=50, metadata=METADATA) as writer:
                for x in order:
                    writer.write(noise(50, 200)[:, x : x + 100], y=0, x=x)
        first, second = (file_content(file, file.parent) for file in files)
        assert first == second


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_an_error_leaves_nothing_new(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"canvas{suffix}"
    with pytest.raises(KeyboardInterrupt), open_writer(path, width=30, height=20) as writer:
        writer.write(noise(20, 30), y=0, x=0)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with open_writer(path, width=3, height=2):
        pass
    before = file_content(path, tmp_path)
    writer = open_writer(path, width=30, height=20, overwrite=True)
    writer.write(noise(20, 30), y=0, x=0)
    writer.abort()
    writer.abort()
    assert file_content(path, tmp_path) == before
    with pytest.raises(ValueError, match="closed"):
        writer.write(noise(20, 30), y=0, x=0)


@pytest.mark.parametrize("suffix", sorted(WRITERS))
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, call: str
) -> None:
    writer = open_writer(tmp_path / f"canvas{suffix}", width=30, height=20)
    writer.write(noise(20, 30), y=0, x=0)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UsageError, match=r"--output: .*No space left on device"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("a.gif", (3, 3), r"must end in one of \.png, \.jpg, \.jpeg, \.tif, \.tiff, \.zarr, \.dzi"),
        ("a", (3, 3), "must end in one of"),
        ("none/a.png", (3, 3), "does not exist: make it first"),
        ("there.png", (3, 3), "exists already"),
        ("folder.png", (3, 3), r"is a folder, and \.png makes a file"),
        ("file.zarr", (3, 3), r"is a file, and \.zarr makes a folder"),
        ("folder.dzi", (3, 3), "folder_files: exists already"),
        ("a.zarr", (3, 2**31), "OME-Zarr holds at most 2147483647 pixels a side: no format holds more"),
        (
            "a.tif",
            (2**31, 3),
            "TIFF holds at most 2147483647 pixels a side: no format holds more than 2147483647: make",
        ),
        ("a.jpg", (2**31, 3), "JPEG holds at most 65535 pixels a side: no format holds more than 2147483647"),
        ("a.jpg", (65536, 3), r"JPEG holds at most 65535 pixels a side: use \.tif"),
        ("a.png", (3, 2**31), "PNG holds at most"),
        ("a.png", (0, 3), "at least 1 pixel"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(tmp_path: Path, name: str, size: tuple[int, int], message: str) -> None:
    (tmp_path / "there.png").touch()
    (tmp_path / "file.zarr").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder_files").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=message) as caught:
        open_writer(tmp_path / name, width=size[0], height=size[1])
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("pixels", "y", "x"),
    [
        (noise(5, 5), -1, 0),
        (noise(5, 5), 0, 26),
        (noise(5, 5), 16, 0),
        (noise(5, 5).astype(np.float32), 0, 0),
        (noise(5, 5)[..., :1], 0, 0),
    ],
)
def test_wrong_rectangles_are_refused(tmp_path: Path, pixels: np.ndarray[Any, Any], y: int, x: int) -> None:
    with open_writer(tmp_path / "a.png", width=30, height=20) as writer:  # noqa: SIM117
        with pytest.raises(ValueError, match=r"canvas|uint8"):
            writer.write(pixels, y=y, x=x)


def test_png_is_streamed(tmp_path: Path) -> None:
    """The memory that closing takes does not grow with the canvas, here of 50 MB."""
    with open_writer(tmp_path / "a.png", width=4096, height=4096) as writer:
        writer.write(noise(64, 64), y=4000, x=4000)
        tracemalloc.start()
        writer.close()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20 << 20


def test_a_huge_tiff_costs_no_memory_and_no_time(tmp_path: Path) -> None:
    """120 gigapixels: the file is sparse until it is written to; both ends hold what was written."""
    path = tmp_path / "huge.tif"
    mark = noise(64, 64)
    with open_writer(path, width=1_000_000, height=120_000, metadata=METADATA) as writer:
        writer.write(mark, y=0, x=0)
        writer.write(mark, y=119_936, x=999_936)
    assert path.stat().st_blocks * 512 < 64 << 20
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        assert page.shape == (120_000, 1_000_000, 3)
        tiff.filehandle.seek(page.dataoffsets[-1])
        last = page.decode(tiff.filehandle.read(3 * 256 * 256), len(page.dataoffsets) - 1)[0]
        assert [level.shape[:2] for level in tiff.series[0].levels][-1] == (30, 245)
    assert last is not None
    # 120000 = 468 * 256 + 192 and 1000000 = 3906 * 256 + 64: the last tile is cut to 192 rows of 64 columns.
    np.testing.assert_array_equal(last[0, 128:192, :64], mark)
    assert read_metadata(path) == METADATA


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".dzi", ".zarr"])
def test_torn_files_are_named_in_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with open_writer(path, width=30, height=20, metadata=METADATA) as writer:
        writer.write(noise(20, 30), y=0, x=0)
    head = path / "zarr.json" if path.is_dir() else path
    whole = head.read_bytes()
    for size in (*range(0, 60), len(whole) // 2):
        head.write_bytes(whole[:size])
        try:
            outcome: object = read_metadata(path)
        except UsageError as error:
            outcome = str(error)
        if isinstance(outcome, str):
            assert str(path) in outcome
            assert "\n" not in outcome
        else:
            assert outcome in ({}, METADATA)


def test_reading_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("no image")
    with pytest.raises(UsageError, match="is nothing that a writer"):
        read_metadata(path)
    for name in ("none.png", "."):
        with pytest.raises(UsageError, match="cannot be read"):
            read_metadata(tmp_path / name)


def test_a_jpeg_says_how_it_was_made_in_one_comment(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="JPEG holds 65533 bytes on how it was made, not 70014: use"):
        open_writer(tmp_path / "a.jpg", width=8, height=8, metadata={"prompt": "x" * 70_000})
    assert list(tmp_path.iterdir()) == []


def test_every_writer_says_what_it_holds() -> None:
    for writer in {*WRITERS.values(), *VIDEO_WRITERS.values()}:
        assert writer.format_name
        assert writer.longest_side >= 16383
    assert all(writer.fastest >= 50 for writer in VIDEO_WRITERS.values())
    assert {suffix for suffix, writer in WRITERS.items() if writer.lossless} == {*LOSSLESS, ".tiff"}


def test_writers_are_abstract_or_final() -> None:
    assert {cls for cls in WRITERS.values() if cls.__subclasses__()} == set()
    with pytest.raises(TypeError, match="abstract"):
        CanvasWriter("a", 1, 1)  # type: ignore[abstract]
