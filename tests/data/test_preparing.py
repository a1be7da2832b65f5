"""Shrinking once: sizes, contents, what is kept on disk, and damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nuwa_lightning.data import preparing
from nuwa_lightning.data.photos import Photo
from nuwa_lightning.data.preparing import PreparedPhotos, as_pixels, prepare_photos, sizes_for
from tests.data.conftest import Paint, painted

sides = st.lists(st.integers(1, 600), min_size=1, max_size=5)


@given(st.integers(1, 900), st.integers(1, 900), sides, st.integers(1, 300))
def test_sizes(height: int, width: int, short_sides: list[int], crop: int) -> None:
    shapes = sizes_for((height, width), short_sides, crop)
    assert list(shapes) == sorted(set(shapes))
    for y, x in shapes:
        assert crop <= min(y, x) <= min(height, width)  # a crop fits, and nothing is enlarged
        assert abs(y * width - x * height) <= max(height, width)  # the proportions stay, but for rounding
        assert min(y, x) in {*short_sides, min(height, width)}
    for side in short_sides:
        if crop <= side <= min(height, width):
            assert side in {min(shape) for shape in shapes}
    assert bool(shapes) == (min(height, width) >= crop and max(short_sides) >= crop)


def prepare(paths: list[Path], cache: Path, **options: object) -> PreparedPhotos:
    photos = [Photo(path, path.name) for path in paths]
    settings = {"short_sides": (24, 40), "crop": 16, "cache": cache, "progress": False, **options}
    return prepare_photos(photos, settings.pop("short_sides"), **settings)


@pytest.mark.parametrize("limit_bytes", [1 << 20, 0])
def test_arrays(paint: Paint, tmp_path: Path, limit_bytes: int) -> None:
    """Kept on disk or decoded at every access: the same pixels."""
    paths = [paint("wide.png", 48, 96), paint("tall.jpg", 90, 48, 1, quality=95), paint("small.png", 30, 30, 2)]
    prepared = prepare(paths, tmp_path / "cache", limit_bytes=limit_bytes)
    assert [prepared.shapes(index) for index in range(3)] == [
        ((24, 48), (40, 80)),
        ((45, 24), (75, 40)),
        ((24, 24), (30, 30)),
    ]
    assert (tmp_path / "cache").exists() == (limit_bytes > 0)
    array = prepared.array(0, 0)
    assert (array.dtype, array.shape) == (np.uint8, (24, 48, 3))
    assert np.abs(array - painted(48, 96).reshape(24, 2, 48, 2, 3).mean((1, 3))).max() < 4  # no aliasing, no shift
    np.testing.assert_array_equal(prepared.array(2, 1), painted(30, 30, 2))
    assert prepared.largest_side == 48


def test_large_jpegs_are_reduced_without_harm(paint: Paint, tmp_path: Path) -> None:
    path = paint("large.jpg", 480, 640, quality=95)
    array = prepare([path], tmp_path / "cache").array(0, 1)
    with Image.open(path) as image:
        expected = np.asarray(image.resize((53, 40), Image.Resampling.LANCZOS))
    assert np.abs(array.astype(int) - expected).mean() < 1


def test_second_run_decodes_nothing(paint: Paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [paint("1.png"), paint("2.png", seed=2)]
    first = prepare(paths, tmp_path / "cache")
    paths[1] = paths[1].rename(tmp_path / "renamed.png")
    monkeypatch.setattr(preparing, "read_image", None)
    second = prepare(paths, tmp_path / "cache")
    for index in range(2):
        np.testing.assert_array_equal(first.array(index, 0), second.array(index, 0))
    assert isinstance(second.array(0, 0), np.memmap)


def test_a_changed_photo_is_shrunk_anew(paint: Paint, tmp_path: Path) -> None:
    before = prepare([paint("1.png")], tmp_path / "cache").array(0, 0).copy()
    after = prepare([paint("1.png", seed=5)], tmp_path / "cache").array(0, 0)
    assert (before != after).any()


def test_damaged_and_small_photos_are_named_once(
    paint: Paint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torn, text, small = paint("torn.png", seed=1), tmp_path / "text.png", paint("small.png", 15, 99)
    torn.write_bytes(torn.read_bytes()[:-300])
    text.write_text("no image")
    prepared = prepare([torn, paint("good.png"), text, small], tmp_path / "cache")
    assert [prepared.photo(index).key for index in range(len(prepared))] == ["good.png"]
    assert {entry.path for entry in prepared.skipped} == {torn, text}
    assert [photo.path for photo in prepared.left_out["too_small"]] == [small]
    assert len(caplog.messages) == 4
    assert caplog.messages[-1] == "2 of 4 photos cannot be read"
    for name in ("torn.png", "text.png", "small.png"):
        assert sum(name in message for message in caplog.messages) == 1


def test_equal_names_in_two_folders(paint: Paint, tmp_path: Path) -> None:
    torn = paint("a/1.png")
    torn.write_bytes(torn.read_bytes()[:-300])
    prepared = prepare([torn, paint("b/1.png", seed=1)], tmp_path / "cache")
    assert [prepared.photo(index).path for index in range(len(prepared))] == [tmp_path / "b/1.png"]


def test_as_pixels() -> None:
    image = as_pixels(np.array([[[0, 255, 51]]], np.uint8))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[:, 0, 0], [-1, 1, -0.6], atol=1e-6)
