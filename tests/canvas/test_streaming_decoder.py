"""Streaming decoding, whatever the order in which patches come, is decoding the whole canvas at once."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuwa_lightning.canvas.sample import sample_images, sample_tokens, stream_image
from nuwa_lightning.canvas.streaming_decoder import StreamingDecoder, to_uint8
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import PatchTransformer
from nuwa_lightning.models.patch_layer import TransformerConfig
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController, SpiralDirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex


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
def renderer(vqgan) -> InfiniteRenderer:
    torch.manual_seed(1)
    pool = NearbyContextPool((0, 1, 1))
    size = TransformerConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1)
    model = PatchTransformer(16, 4, patch_size=(4, 4), embedding_extent=pool.embedding_extent, size=size)
    model.set_codes(vqgan.codebook_KD)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return InfiniteRenderer(model.eval(), pool, ArbitraryDirectionController(), sampling=Sampling(top_k=0))


def assembled(
    vqgan: VQGAN, tokens_YX: torch.Tensor, *, patch: tuple[int, int], tile: int, order: random.Random
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Feed patches in random order; yield after each the tokens so far written and the canvas with its mask."""
    height, width = tokens_YX.shape
    decoder = StreamingDecoder(vqgan, (height, width), tile=tile)
    canvas = np.zeros((height * vqgan.downsample_factor, width * vqgan.downsample_factor, 3), np.uint8)
    times = np.zeros(canvas.shape[:2], int)
    corners = [(y, x) for y in range(0, height, patch[0]) for x in range(0, width, patch[1])]
    order.shuffle(corners)
    for n, (y, x) in enumerate(corners, start=1):
        for piece, pixels in decoder.put(tokens_YX[y : y + patch[0], x : x + patch[1]], top=y, left=x):
            top, left, bottom, right = (vqgan.downsample_factor * v for v in piece)
            canvas[top:bottom, left:right] = pixels
            times[top:bottom, left:right] += 1
        yield n, canvas, times


@settings(max_examples=12)
@given(
    st.integers(1, 5),
    st.integers(1, 7),
    st.sampled_from([(2, 2), (3, 2), (4, 4)]),
    st.sampled_from([3, 5, 8, 64]),
    st.integers(0, 99),
)
def test_tiles_are_the_whole_image_each_pixel_once(vqgan, rows, columns, patch, tile, seed):
    tokens_YX = torch.randint(
        0, 16, (rows * patch[0], columns * patch[1]), generator=torch.Generator().manual_seed(seed)
    )
    expected = to_uint8(vqgan.decode(tokens_YX[None])[0]).astype(int)
    for n, canvas, times in assembled(vqgan, tokens_YX, patch=patch, tile=tile, order=random.Random(seed)):
        assert times.max() <= 1
        # What has come out is final, long before the last patch.
        assert np.abs(canvas.astype(int) - expected)[times > 0].max(initial=0) <= 1, n
    assert times.min() == 1


def test_a_tile_comes_as_soon_as_it_and_its_margin_are_there(vqgan):
    tokens_YX = torch.zeros(8, 64, dtype=torch.long)
    decoder = StreamingDecoder(vqgan, (8, 64), tile=8)
    ready = []
    for x in range(0, 64, 4):
        ready += [(x, piece.left) for piece, _ in decoder.put(tokens_YX[:, x : x + 4], top=0, left=x)]
    halo = vqgan.decode_halo
    for x, left in ready:
        needed = min(left + 8 + halo, 64)
        assert x < needed <= x + 4
    assert len(ready) == 8


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 1), (3, 4)])
@pytest.mark.parametrize("tile", [4, 7, 64])
def test_a_streamed_image_is_the_image(vqgan, renderer, grid, tile):
    shape = PatchGrid(1, *grid)
    (expected,) = sample_images(renderer, vqgan, grid=shape, seeds=[7])
    canvas = np.zeros_like(expected)
    seen = 0
    watched: list[PatchIndex] = []
    for y, x, pixels in stream_image(
        renderer, vqgan, grid=shape, seed=7, tile=tile, watch=lambda d: watched.append(d.patch)
    ):
        canvas[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
        seen += pixels.shape[0] * pixels.shape[1]
    assert seen == expected.shape[0] * expected.shape[1]
    assert np.abs(canvas.astype(int) - expected.astype(int)).max() <= 1
    assert sorted(watched) == sorted(shape)


def test_known_patches_stay_as_they_are(vqgan, renderer):
    shape = PatchGrid(1, 2, 3)
    given_tokens = {PatchIndex(0, 0, 1): torch.full((1, 4, 4), 5), PatchIndex(0, 1, 2): torch.full((1, 4, 4), 9)}
    tokens_BYX = sample_tokens(renderer, shape, seeds=[3], known=given_tokens)
    assert (tokens_BYX[0, :4, 4:8] == 5).all()
    assert (tokens_BYX[0, 4:, 8:] == 9).all()
    pieces = list(stream_image(renderer, vqgan, grid=shape, seed=3, known=given_tokens))
    assert np.abs(pieces[0][2].astype(int) - to_uint8(vqgan.decode(tokens_BYX)[0]).astype(int)).max() <= 1


def test_every_order_fills_the_canvas_from_the_same_seed_anew(renderer):
    from dataclasses import replace

    shape = PatchGrid(1, 3, 3)
    spiral = replace(renderer, direction=SpiralDirectionController())
    first, again = (sample_tokens(spiral, shape, seeds=[1]) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sample_tokens(spiral, shape, seeds=[2]))


def test_pixels_are_rounded_to_the_nearest_and_clipped():
    image_3YX = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).expand(3, 1, 5)
    assert to_uint8(image_3YX)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    every = torch.arange(256).div(127.5).sub(1).expand(3, 1, 256)
    assert to_uint8(every)[0, :, 2].tolist() == list(range(256))


def tiled_over(vqgan: VQGAN, tokens_YX: torch.Tensor, wrap: str) -> np.ndarray:
    """Decode enough copies laid side by side, and cut the middle out."""
    height, width = tokens_YX.shape
    down, right = ("y" in wrap) * (1 + vqgan.decode_halo // height), ("x" in wrap) * (1 + vqgan.decode_halo // width)
    pixels = to_uint8(vqgan.decode(tokens_YX.repeat(1 + 2 * down, 1 + 2 * right)[None])[0])
    top, left = (n * length * vqgan.downsample_factor for n, length in ((down, height), (right, width)))
    return pixels[top : top + height * vqgan.downsample_factor, left : left + width * vqgan.downsample_factor]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 7),
    st.sampled_from(["x", "y", "xy"]),
    st.sampled_from([3, 5, 64]),
    st.integers(0, 99),
    st.integers(0, 30),
)
def test_closed_canvases_are_decoded_across_the_seam(vqgan, rows, columns, wrap, tile, seed, stop):
    """Even where a canvas is smaller than the margin; and a decoder that goes on from its state does the same."""
    tokens_YX = torch.randint(0, 16, (rows * 2, columns * 2), generator=torch.Generator().manual_seed(seed))
    expected = tiled_over(vqgan, tokens_YX, wrap).astype(int)
    decoder = StreamingDecoder(vqgan, tuple(tokens_YX.shape), tile=tile, wrap=wrap)
    canvas = np.full_like(expected, -1)
    corners = [(y, x) for y in range(0, rows * 2, 2) for x in range(0, columns * 2, 2)]
    random.Random(seed).shuffle(corners)
    for n, (y, x) in enumerate(corners):
        if n == stop:
            decoder = StreamingDecoder(vqgan, tuple(tokens_YX.shape), tile=tile, wrap=wrap, state=decoder.state())
        for piece, pixels in decoder.put(tokens_YX[y : y + 2, x : x + 2], top=y, left=x):
            top, left, bottom, right = (vqgan.downsample_factor * v for v in piece)
            assert (canvas[top:bottom, left:right] == -1).all()
            canvas[top:bottom, left:right] = pixels
    assert np.abs(canvas - expected).max() <= 1
    assert all(len(kept) == 0 for name, kept in decoder.state().items() if name != "slabs"), "nothing is kept"


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.sampled_from([3, 8]), st.booleans(), st.integers(0, 40))
def test_an_endless_canvas_is_cut_as_if_it_had_ended_there(vqgan, rows, written, tile, upright, stop):
    """Columns come ragged, by fronts; whatever is complete is the image of just that size, in bounded memory."""
    height, width = rows * 4, 2 * written + 2 * rows
    tokens_YX = torch.randint(0, 16, (height, width), generator=torch.Generator().manual_seed(written))
    corners = sorted(((y, x) for y in range(0, height, 4) for x in range(0, width, 2)), key=lambda c: c[1] + c[0])

    def turned(a):
        return a.transpose(-2, -1) if upright else a

    size = (None, height) if upright else (height, None)
    decoder = StreamingDecoder(vqgan, size, tile=tile)
    pieces = []
    for n, (y, x) in enumerate(corners[: rows * written]):
        if n == stop:
            decoder = StreamingDecoder(vqgan, size, tile=tile, state=decoder.state())
        at = {"top": x, "left": y} if upright else {"top": y, "left": x}
        pieces += list(decoder.put(turned(tokens_YX[y : y + 4, x : x + 2]), **at))
        held = decoder.state()["places"].shape[0]
        assert held <= (-(-height // tile) + 1) * (3 + (2 * vqgan.decode_halo + 2 * rows + tile) // tile)
    complete = decoder.complete
    assert complete == min(sum(2 for yy, _ in corners[: rows * written] if yy == y) for y in range(0, height, 4))
    pieces += list(decoder.cut())
    if not complete:
        assert pieces == []
        return
    expected = to_uint8(vqgan.decode(turned(tokens_YX[:, :complete])[None].contiguous())[0]).astype(int)
    canvas = np.full_like(expected, -1)
    for piece, pixels in pieces:
        top, left, bottom, right = (vqgan.downsample_factor * v for v in piece)
        canvas[top:bottom, left:right] = pixels
    assert np.abs(canvas - expected).max() <= 1
