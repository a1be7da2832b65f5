"""Decoding tile by tile, in whatever bands, is decoding the whole canvas at once."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuwa_lightning.canvas import decoding
from nuwa_lightning.canvas.canvas import Canvas
from nuwa_lightning.canvas.decoding import Crop, DecodedImage, TileDecoder, to_uint8
from nuwa_lightning.canvas.job import Generation, Order, cut_order, decoded, facts_of
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.writers.base import bands
from tests.generation.small import small_model

POOL = NearbyContextPool((0, 1, 1))


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    torch.manual_seed(0)
    size = VQGANConfig(
        16, 4, encoder_channels=(8, 8), encoder_blocks=(1, 1), decoder_channels=(12, 8), decoder_blocks=(1, 1)
    )
    made = VQGAN.build(size)
    for parameter in made.decoder.parameters():  # as trained: nothing is zero
        torch.nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def renderer() -> InfiniteRenderer:
    return InfiniteRenderer(small_model(POOL), POOL, ArbitraryDirectionController(), max_rows=6)


def laid_side_by_side(vqgan: VQGAN, tokens_YX: torch.Tensor, wrap: str) -> np.ndarray:
    """Decode enough copies of a closed canvas, and cut the middle out."""
    height, width = tokens_YX.shape
    down, right = ("y" in wrap) * (1 + vqgan.decode_halo // height), ("x" in wrap) * (1 + vqgan.decode_halo // width)
    pixels = to_uint8(vqgan.decode(tokens_YX.repeat(1 + 2 * down, 1 + 2 * right)[None])[0])
    f = vqgan.downsample_factor
    return pixels[down * height * f :, right * width * f :][: height * f, : width * f].astype(int)


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from(["", "x", "y", "xy"]),
    st.sampled_from([1, 3, 5, 64]),
    st.integers(1, 60),
    st.booleans(),
    st.data(),
)
def test_bands_are_the_whole_image(vqgan, size, wrap, tile, band, on_disk, data) -> None:
    tokens_YX = torch.randint(0, 16, size, generator=torch.Generator().manual_seed(tile))
    expected = laid_side_by_side(vqgan, tokens_YX, wrap)
    (top, bottom), (left, right) = (
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in expected.shape[:2]
    )
    tiles = TileDecoder(vqgan, size, lambda a: tokens_YX[a.top : a.bottom, a.left : a.right], tile=tile, wrap=wrap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_IN_MEMORY", 0 if on_disk else 1 << 20)
        image = DecodedImage(tiles, Crop((bottom - top, right - left), (top, left)))
        starts = range(0, image.height, band)
        made = np.concatenate([image.rows(start, min(start + band, image.height)) for start in starts])
        image.close()
    assert np.abs(made - expected[top:bottom, left:right]).max() <= 1


@pytest.mark.parametrize("columns", [500, 4000])
def test_a_wide_row_of_tiles_takes_no_memory(vqgan: VQGAN, tmp_path: Path, columns: int, monkeypatch) -> None:
    most = 1 << 18
    monkeypatch.setattr(decoding, "_IN_MEMORY", most)
    size, f = (16, columns), vqgan.downsample_factor
    tiles = TileDecoder(vqgan, size, lambda a: torch.zeros(a.bottom - a.top, a.right - a.left, dtype=torch.long), 50)
    image = DecodedImage(tiles, Crop((size[0] * f, size[1] * f)), folder=tmp_path)
    tracemalloc.start()  # of NumPy and Python
    assert sum(band_YX3.nbytes for band_YX3 in bands(image)) == 3 * 16 * columns * f**2
    assert tracemalloc.get_traced_memory()[1] < 1.5 * most
    tracemalloc.stop()
    image.close()


@pytest.mark.parametrize("wrap", ["", "x"])
def test_a_canvas_goes_on_from_every_wave_and_is_the_image(renderer, vqgan, tmp_path: Path, wrap: str) -> None:
    grid, seeds = PatchGrid(1, 3, 4, wrap=wrap), (5, 6)
    order = Order(grid, seeds, (48, 64), tile=3)
    tokens_BYX = sample_tokens(renderer, grid, seeds=seeds)
    facts = facts_of(order, renderer, vqgan, {})
    waves, stop = 1, 0
    while stop < waves:
        folder = tmp_path / str(stop)
        canvas = Canvas.create(folder, facts)
        first = Generation(order, renderer, canvas)
        canvas.commit(first.state({}))
        for _ in first:
            if first.waves == stop:
                canvas.commit(first.state({}))
            if first.waves == stop + 1:  # killed; these tokens were never sure to last
                break
        canvas.close()
        canvas = Canvas.open(folder)
        second = Generation(order, renderer, canvas, state=canvas.latest())
        assert second.waves == stop
        assert [progress.patches for progress in second][-1] == grid.size
        waves, stop = second.waves, stop + 1
        for n in range(2):
            image = decoded(canvas, vqgan, order, number=n)
            assert np.abs(image.rows(0, 48) - laid_side_by_side(vqgan, tokens_BYX[n], wrap)).max() <= 1
            image.close()
        canvas.close()
    assert stop > 3


def test_an_endless_canvas_counts_complete_columns(renderer, vqgan, tmp_path: Path) -> None:
    order = Order(PatchGrid(1, 3, None), (5,), (48, None), tile=3)
    canvas = Canvas.create(tmp_path / "c", facts_of(order, renderer, vqgan, {}))
    generation = Generation(order, renderer, canvas)
    for progress in generation:
        if progress.patches >= 20:
            break
    length = generation.length
    assert 0 < length <= 20 / 3
    canvas.commit(generation.state({}))
    assert Generation(order, renderer, canvas, state=canvas.latest()).length == length
    grid = PatchGrid(1, 3, length)
    with torch.inference_mode():
        expected = to_uint8(vqgan.decode(sample_tokens(renderer, grid, seeds=[5]))[0])
    cut = cut_order(order, length, (16, 16))
    assert cut is not None
    assert cut.size == (48, 16 * length)
    image = decoded(canvas, vqgan, cut)
    assert np.abs(image.rows(0, 48).astype(int) - expected).max() <= 1
    image.close()
    canvas.close()


def test_pixels_are_rounded_to_the_nearest_and_clipped() -> None:
    image_3YX = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).expand(3, 1, 5)
    assert to_uint8(image_3YX)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    every = torch.arange(256).div(127.5).sub(1).expand(3, 1, 256)
    assert to_uint8(every)[0, :, 2].tolist() == list(range(256))
