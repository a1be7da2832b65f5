"""Skies that drift: the line is found where it was drawn, the land stands, the sky moves as told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from nuwa_lightning.data.skies import Drift, skyline
from nuwa_lightning.data.video_reading import VideoReadError
from nuwa_lightning.data.videos import Pan
from tests.data.test_videos import shifts


def landscape(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return clouds over rough hills, and the line between them."""
    random = np.random.default_rng(3)
    line_X = height * (0.5 + 0.1 * np.sin(np.linspace(0, 9, width)) + 0.02 * np.sin(np.linspace(0, 60, width)))
    small = Image.fromarray(random.integers(0, 255, (height // 12, width // 12), dtype=np.uint8))
    clouds = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(8)))
    sky_YX3 = np.stack([150 + 0.3 * clouds, 180 + 0.2 * clouds, 0 * clouds + 235], axis=2)
    land_YX3 = random.integers(20, 110, (height, width, 1)) * np.array([0.8, 1.0, 0.5])
    above_YX1 = (np.arange(height)[:, None] < line_X)[..., None]
    return np.where(above_YX1, sky_YX3, land_YX3).astype(np.uint8), line_X


def test_the_skyline_is_found() -> None:
    image_YX3, line_X = landscape(540, 960)
    small = np.asarray(Image.fromarray(image_YX3).resize((170, 96), Image.Resampling.BOX))
    found_X = skyline(small)
    assert found_X is not None
    expected_X = np.interp(np.linspace(0, 959, 170), np.arange(960), line_X) * 96 / 540
    assert np.abs(found_X - expected_X).mean() < 1.5


def test_the_skyline_between_two_plain_colours_is_found() -> None:
    image_YX3 = np.full((96, 170, 3), 200, np.uint8)
    image_YX3[40:] = (20, 90, 10)
    found_X = skyline(image_YX3)
    assert found_X is not None
    assert np.abs(found_X - 40).max() <= 1


def test_where_there_is_no_sky_none_is_told() -> None:
    random = np.random.default_rng(0)
    assert skyline(random.integers(0, 255, (96, 170, 3), dtype=np.uint8)) is None
    assert skyline(np.full((96, 170, 3), 90, np.uint8)) is None
    flowers = np.zeros((96, 170, 3), np.uint8)
    for x in range(0, 170, 10):  # rough all over, but for smooth pieces of any height above
        flowers[random.integers(10, 90) :, x : x + 10] = 200
    assert skyline(flowers) is None


@pytest.mark.parametrize("speed", [0.25, -0.25])
def test_the_sky_moves_by_whole_tokens_and_the_land_stands(tmp_path: Path, speed: float) -> None:
    """At 8 frames a second and 256 rows by 8 pixels a frame."""
    Image.fromarray(landscape(540, 960)[0]).save(tmp_path / "hills.png")
    frames = list(Drift(1.0, 24, 0.9, speed, (0.1, 0.5)).frames(tmp_path / "hills.png"))
    assert [time for time, _ in frames] == pytest.approx([n / 24 for n in range(24)])
    assert all(np.array_equal(frame[-60:], frames[0][1][-60:]) for _, frame in frames)
    taken = [frame for _, frame in frames[::3]]
    size = (round(256 * taken[0].shape[1] / taken[0].shape[0]), 256)
    moved = shifts(taken, size, rows=80)
    assert len(moved) == 7
    assert all(best == (8 if speed > 0 else -8) and apart < 1 for best, apart in moved)


def test_without_a_sky_the_camera_pans(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (300, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    drift, pan = Drift(1.0, 8, 0.9, 0.25, (0.1, 0.5)), Pan(1.0, 8, 0.7 * 0.9, 0.25, (0.1, 0.5))
    both = zip(drift.frames(tmp_path / "noise.png"), pan.frames(tmp_path / "noise.png"), strict=True)
    assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in both)
    with pytest.raises(VideoReadError):
        next(drift.frames(tmp_path / "none.png"))
