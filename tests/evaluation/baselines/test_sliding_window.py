"""The sliding window reads exactly what the trained model read, and moves as taming's does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.baselines.sliding_window import (
    Kept,
    SlidingWindowSampler,
    bytes_of,
    moves,
    next_logits,
    place,
    places_read,
)
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.fast_transformer import DecodingTransformer
from nuwa_lightning.generation.pretrained import Generator
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling, patch_uniforms
from nuwa_lightning.models.layout import lay_out
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.planning.context import EmptyContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import RasterDirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    size = TransformerConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=2, layer_scale=1.0)
    model = PatchTransformer(11, 4, patch_size=(4, 4), embedding_extent=(0, 0, 0), size=size).double()
    torch.nn.init.normal_(model.head.weight)
    model.set_codes(torch.randn(11, 4, dtype=torch.float64))
    return Generator(model.eval(), EmptyContextPool(), RasterDirectionController(), "raster", "x")


def scores_of_training(generator: Generator, tokens_B16: torch.Tensor) -> torch.Tensor:
    """Of every token of one window: the joint forward of training."""
    grid = PatchGrid(1, 1, 1)
    plan = generator.direction.plan(grid, frozenset())
    embedding = generator.model.layer(0).embedding
    laid = lay_out(plan, generator.pool, grid=grid, patch_size=(4, 4), embedding=embedding, token_order="raster")
    neighbors = laid.neighbors_PNK[0]
    near_BNK = torch.where(neighbors < 0, -1, tokens_B16[:, neighbors.clamp_min(0)])
    symmetries = torch.zeros(len(tokens_B16), 1, dtype=torch.long)
    return generator.model(tokens_B16[:, None], symmetries, neighbors_BPNK=near_BNK[:, None], groups=laid.groups)[:, 0]


def test_scores_equal_those_of_training(generator: Generator) -> None:
    """Token by token over one window, read at once or going on from what is kept, float64."""
    tokens_B16 = torch.randint(11, (3, 16))
    with torch.inference_mode():
        model, joint = DecodingTransformer(generator.model), scores_of_training(generator, tokens_B16)
        kept = Kept()
        for at in range(16):
            # What is not written yet must not matter.
            unwritten = tokens_B16.clone()
            unwritten[:, at:] = 7
            for found in (next_logits(model, unwritten, at, Kept()), next_logits(model, unwritten, at, kept)):
                torch.testing.assert_close(found, joint[:, at], rtol=0, atol=1e-9)


@pytest.mark.parametrize("most_kept", [0, 1 << 30])
def test_tokens_are_those_of_reading_every_window_anew(generator: Generator, most_kept: int) -> None:
    """Against the forward of training over the window of each token, nothing kept."""
    rows, columns, seeds, sampling = 9, 7, [3, 4], Sampling(top_k=5)
    expected = torch.zeros(2, rows, columns, dtype=torch.long)
    with torch.inference_mode():
        for y in range(rows):
            uniform = torch.stack([patch_uniforms(seed, PatchIndex(0, y, 0), columns) for seed in seeds])
            for x in range(columns):
                top, left = place(y, rows, 4), place(x, columns, 4)
                window = expected[:, top : top + 4, left : left + 4].flatten(1)
                scores = scores_of_training(generator, window)[:, (y - top) * 4 + x - left]
                expected[:, y, x] = sampling.draw(scores, uniform[:, x])
        found = SlidingWindowSampler(generator, sampling, most_kept=most_kept).tokens(rows, columns, seeds)
    assert torch.equal(found, expected)
    assert len(expected.unique()) > 3


def test_kept_windows_are_let_go_when_they_do_not_come_back() -> None:
    live, most = set(), 0
    for _, _, top, left, leaves in moves(12, 20, (4, 4)):
        live.add((top, left))
        most = max(most, len(live))
        if leaves:
            live.remove((top, left))
    assert not live
    assert most == 17  # the windows of one row of places
    alone = [len({(top, left)}) for *_, top, left, _ in moves(12, 20, (4, 4), keeps=False)]
    assert max(alone) == 1
    # A quarter of what reading every window anew would cost, where the canvas is twice the window's size.
    anew = sum((y - place(y, 32, 16)) * 16 + x - place(x, 32, 16) + 1 for y in range(32) for x in range(32))
    assert places_read(32, 32, (16, 16)) < anew / 3


def test_size_of_what_is_kept(generator: Generator) -> None:
    model, kept = DecodingTransformer(generator.model), Kept()
    with torch.inference_mode():
        next_logits(model, torch.zeros(3, 16, dtype=torch.long), 2, kept)
    assert bytes_of(model, 3) == sum(pair.nbytes for pairs in kept.pairs for pair in pairs)
    assert kept.length == 3


@given(st.integers(4, 40), st.integers(1, 4))
def test_the_window_moves_as_tamings(length: int, half: int) -> None:
    window = 2 * half
    if length < window:
        return
    for at in range(length):
        if at <= half:
            local = at
        elif length - at < half:
            local = window - (length - at)
        else:
            local = half
        assert place(at, length, window) == at - local or length - at == half


def test_a_canvas_of_one_window_is_one_patch_and_seeds_repeat(generator: Generator) -> None:
    greedy = Sampling(temperature=0.0)
    with torch.inference_mode():
        window = SlidingWindowSampler(generator, greedy).tokens(4, 4, [0, 1])
        renderer = InfiniteRenderer(generator.model, generator.pool, generator.direction, "raster", greedy)
        assert torch.equal(window, sample_tokens(renderer, PatchGrid(1, 1, 1), seeds=[0, 1]))
        drawn = SlidingWindowSampler(generator, Sampling())
        together, alone = drawn.tokens(6, 9, [3, 4]), drawn.tokens(6, 9, [4])
    assert together.shape == (2, 6, 9)
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_other_models_and_small_canvases_are_refused(generator: Generator) -> None:
    other = Generator(generator.model, NearbyContextPool(), generator.direction, "raster", "x")
    with pytest.raises(UsageError, match="needs a model of one window"):
        SlidingWindowSampler(other, Sampling())
    with pytest.raises(UsageError, match="smaller than the window of 4x4 tokens"):
        SlidingWindowSampler(generator, Sampling()).tokens(3, 8, [0])
