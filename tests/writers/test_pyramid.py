"""Pyramids are what halving the whole image gives, and tiles have places of their own, however long it becomes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nuwa_lightning.writers import open_writer
from nuwa_lightning.writers.pyramid import cut, grow, halved, level_count, level_size, write_through
from nuwa_lightning.writers.slabs import SlabLayout

Array = np.ndarray[Any, np.dtype[np.uint8]]
TILE = 8
LEVELS = 8
SQUARE = ((0, 0), (0, 1), (1, 0), (1, 1))


class Levels:
    """Levels in memory, large enough for any size that is tried; they refuse what lies outside."""

    def __init__(self, size: tuple[int, int], channels: int = 3) -> None:
        self.size = size
        self._levels = [np.zeros((200, 200, channels), np.uint8) for _ in range(LEVELS)]

    def put(self, level: int, pixels_YXC: Array, y: int, x: int) -> None:
        rows, columns = pixels_YXC.shape[:2]
        self._check(level, y + rows, x + columns)
        self._levels[level][y : y + rows, x : x + columns] = pixels_YXC

    def get(self, level: int, y: int, x: int, rows: int, columns: int) -> Array:
        self._check(level, y + rows, x + columns)
        return self._levels[level][y : y + rows, x : x + columns].copy()

    def whole(self, level: int) -> Array:
        return self.get(level, 0, 0, *level_size(self.size, level))

    def _check(self, level: int, bottom: int, right: int) -> None:
        height, width = level_size(self.size, level)
        assert bottom <= height
        assert right <= width


def brute(canvas: Array, level: int) -> Array:
    """Halve by loops, as the definition says."""
    for _ in range(level):
        height, width = canvas.shape[0], canvas.shape[1]
        out = np.zeros((-(-height // 2), -(-width // 2), canvas.shape[2]), np.uint8)
        for y, x, c in np.ndindex(*out.shape):
            four = [int(canvas[min(2 * y + i, height - 1), min(2 * x + j, width - 1), c]) for i, j in SQUARE]
            out[y, x, c] = (sum(four) + 2) // 4 if c < 3 else min(four)
        canvas = out
    return canvas


def noise(height: int, width: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(3, 4), st.integers(0, 99))
def test_halving_is_the_mean_of_four_and_the_least_mark(rows: int, columns: int, channels: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns, channels), np.uint8)
    np.testing.assert_array_equal(halved(pixels), brute(pixels, 1))


def test_levels_go_on_until_one_fits_a_tile() -> None:
    for height, width in ((1, 1), (8, 8), (9, 1), (16, 3), (17, 17), (64, 65), (200, 1)):
        count = level_count((height, width), TILE)
        assert max(level_size((height, width), count - 1)) <= TILE
        if count > 1:
            assert max(level_size((height, width), count - 2)) > TILE
    assert level_size((5, 1_000_001), 3) == (1, math.ceil(1_000_001 / 8))


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_any_order_gives_the_same_pyramid(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    canvas = noise(height, width, seed)
    store = Levels((height, width))
    count = level_count((height, width), TILE)
    corners = [(y, x) for y in range(0, height, rows) for x in range(0, width, columns)]
    np.random.default_rng(seed).shuffle(corners)
    for y, x in corners:
        part = canvas[y : y + rows, x : x + columns]
        write_through(store, part, int(y), int(x), size=(height, width), levels=count)
    for level in range(count):
        np.testing.assert_array_equal(store.whole(level), brute(canvas, level))


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 20), st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 9))
def test_a_canvas_may_grow_and_be_cut(height: int, kept: int, steps: list[int], seed: int) -> None:
    whole = noise(height, sum(steps), seed)
    store = Levels((height, 0))
    width = 0
    for step in steps:
        store.size = (height, width + step)
        grow(store, old=(height, width), new=store.size, tile=TILE)
        part = whole[:, width : width + step]
        write_through(store, part, 0, width, size=store.size, levels=level_count(store.size, TILE))
        width += step
    for level in range(level_count(store.size, TILE)):
        np.testing.assert_array_equal(store.whole(level), brute(whole, level))
    kept = min(kept, width)
    store.size = (height, kept)
    cut(store, old=(height, width), new=store.size, levels=level_count(store.size, TILE))
    for level in range(level_count(store.size, TILE)):
        np.testing.assert_array_equal(store.whole(level), brute(whole[:, :kept], level))


@settings(max_examples=25)
@given(st.integers(1, 200), st.integers(1, 40))
def test_every_tile_has_a_place_of_its_own_and_none_is_left_free(breadth: int, slabs: int) -> None:
    layout = SlabLayout(breadth, TILE, levels=20)
    taken = []
    for level in range(level_count((breadth, slabs * TILE), TILE)):
        for slab in range(-(-slabs // 2**level)):
            for place in range(math.ceil(math.ceil(breadth / 2**level) / TILE)):
                taken.append(layout.slot(level, slab, place))
    assert sorted(taken) == list(range(layout.total(slabs)))


@given(st.integers(1, 200), st.integers(1, 60))
def test_places_stay_when_the_canvas_goes_on(breadth: int, slabs: int) -> None:
    """What a canvas of some slabs holds lies before everything that further slabs bring."""
    layout = SlabLayout(breadth, TILE, levels=20)
    end = layout.total(slabs)
    assert layout.slot(0, slabs - 1, 0) < end <= layout.slot(0, slabs, 0)


@pytest.mark.parametrize("size", [(130, 300), (2048, 1100), (256, 256), (1, 5000), (513, 1)])
@pytest.mark.parametrize("endless", ["", "x", "y"])
def test_tiff_pages_are_the_pyramid(tmp_path: Path, size: tuple[int, int], endless: str) -> None:
    """Pillow sees pages, tifffile sees one series with levels; both are what Pillow makes by halving."""
    height, width = size
    canvas = noise(height, width, 0)
    known = (None if endless == "x" else width, None if endless == "y" else height)
    with open_writer(tmp_path / "a.tif", *known) as writer:
        for y, x in _corners(height, width, endless):
            writer.write(canvas[y : y + 200, x : x + 200], y=y, x=x)
        if endless:
            writer.cut(width, height)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff, Image.open(tmp_path / "a.tif") as image:
        levels = tiff.series[0].levels
        if min(size) < 2:  # tifffile does not take such narrow pages for a series
            levels = [series.levels[0] for series in tiff.series]
        assert image.n_frames == len(levels) == level_count(size, 256)
        for number, level in enumerate(levels):
            image.seek(number)
            np.testing.assert_array_equal(np.asarray(image), level.asarray())
            assert level.keyframe.is_reduced == (number > 0)
            if number == 0 or max(size) <= 300:
                np.testing.assert_array_equal(level.asarray(), brute(canvas, number))
            if not height % 2**number and not width % 2**number:
                box = Image.fromarray(canvas).reduce(2**number)
                assert np.abs(np.asarray(box).astype(int) - level.asarray()).max() <= number / 2


def _corners(height: int, width: int, endless: str) -> list[tuple[int, int]]:
    """Return corners in an order that goes on along the endless axis."""
    corners = [(y, x) for y in range(0, height, 200) for x in range(0, width, 200)]
    return sorted(corners, key=lambda corner: corner[::-1]) if endless == "x" else corners
