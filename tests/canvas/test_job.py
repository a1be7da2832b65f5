"""Productions: what reaches the sinks is the image, cropped, for every canvas of a request and from any record on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nuwa_lightning.canvas.job import GenerationJob, Order
from nuwa_lightning.canvas.sample import sample_images
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid
from tests.generation.small import small_model

POOL = NearbyContextPool((0, 1, 1))


class Canvas:
    """A sink in memory."""

    def __init__(self, height: int, width: int) -> None:
        self.pixels = np.full((height, width, 3), -1, int)

    def write(self, pixels_YX3: np.ndarray[Any, Any], *, y: int, x: int) -> None:
        place = self.pixels[y : y + pixels_YX3.shape[0], x : x + pixels_YX3.shape[1]]
        assert place.shape == pixels_YX3.shape, "inside"
        assert (place == -1).all(), "each pixel once"
        place[:] = pixels_YX3

    def state(self) -> dict[str, Any]:
        return {"written": int((self.pixels >= 0).sum())}


@pytest.fixture(scope="module")
def tokenizer() -> VQGAN:
    torch.manual_seed(0)
    size = VQGANConfig(
        16, 4, encoder_channels=(8, 8), encoder_blocks=(1, 1), decoder_channels=(12, 8), decoder_blocks=(1, 1)
    )
    return VQGAN.build(size).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def renderer() -> InfiniteRenderer:
    return InfiniteRenderer(small_model(POOL), POOL, ArbitraryDirectionController(), max_rows=6)


def test_several_canvases_are_cropped_each_in_its_own_sink(renderer, tokenizer) -> None:
    grid, seeds = PatchGrid(1, 3, 4), (5, 6, 7)
    sinks = [Canvas(40, 50) for _ in seeds]
    production = GenerationJob(Order(grid, seeds, (40, 50), origin=(3, 10), tile=3), renderer, tokenizer, sinks=sinks)
    seen = [(progress.patches, progress.wave) for progress in production]
    assert seen[-1][0] == production.patches == grid.size
    assert max(wave for _, wave in seen) == 6
    for pixels, sink in zip(sample_images(renderer, tokenizer, grid=grid, seeds=seeds), sinks, strict=True):
        assert np.abs(sink.pixels - pixels[3:43, 10:60]).max() <= 1


@pytest.mark.parametrize("grid", [PatchGrid(1, 3, 4), PatchGrid(1, 3, 4, wrap="x")], ids=["open", "closed"])
def test_it_goes_on_from_any_record(renderer, tokenizer, grid) -> None:
    order = Order(grid, (5, 6), (48, 64), tile=3)
    whole = [Canvas(48, 64) for _ in order.seeds]
    waves = sum(1 for _ in GenerationJob(order, renderer, tokenizer, sinks=whole))
    for stop in range(waves + 1):
        sinks = [Canvas(48, 64) for _ in order.seeds]
        first = GenerationJob(order, renderer, tokenizer, sinks=sinks)
        for _ in zip(range(stop), first, strict=False):
            pass
        record = first.record()
        assert record.number == stop
        assert record.facts["sinks"] == [sink.state() for sink in sinks]
        second = GenerationJob(order, renderer, tokenizer, sinks=sinks, record=record)
        assert second.patches == first.patches
        assert sum(1 for _ in second) == waves - stop
        for sink, expected in zip(sinks, whole, strict=True):
            assert np.array_equal(sink.pixels, expected.pixels)


def test_an_endless_canvas_ends_with_its_complete_columns(renderer, tokenizer) -> None:
    order = Order(PatchGrid(1, 3, None), (5,), (48, None), tile=3)
    sink = Canvas(48, 400)
    production = GenerationJob(order, renderer, tokenizer, sinks=[sink])
    for progress in production:
        if progress.patches >= 20:
            break
    length = production.length
    assert 0 < length <= 20 * 16 / 3
    production.end()
    (expected,) = sample_images(renderer, tokenizer, grid=PatchGrid(1, 3, length // 16), seeds=[5])
    assert np.abs(sink.pixels[:, :length] - expected).max() <= 1
    assert (sink.pixels[:, length:] == -1).all()
