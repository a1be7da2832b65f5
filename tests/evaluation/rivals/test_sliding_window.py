"""The sliding window reads exactly what the trained model read, and moves as taming's does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.rivals.sliding_window import SlidingWindowSampler, next_logits, place
from nuwa_lightning.context import EmptyContextPool, NearbyContextPool
from nuwa_lightning.direction import RasterDirectionController
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.export import Generator
from nuwa_lightning.generation.layout import lay_out
from nuwa_lightning.generation.picture import sample_tokens
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.geometry import PatchGrid
from nuwa_lightning.modules.patch_transformer import PatchTransformer, TransformerSize


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    size = TransformerSize(width=16, depth=2, heads=2, kv_heads=2, layer_scale=1.0)
    model = PatchTransformer(11, 4, patch_size=(4, 4), embedding_extent=(0, 0, 0), size=size).double()
    torch.nn.init.normal_(model.head.weight)
    model.set_codes(torch.randn(11, 4, dtype=torch.float64))
    return Generator(model.eval(), EmptyContextPool(), RasterDirectionController(), "raster", "x")


def test_scores_equal_those_of_training(generator: Generator) -> None:
    """Token by token over one window: the joint forward of training, float64."""
    model, grid = generator.model, PatchGrid(1, 1, 1)
    plan = generator.direction.plan(grid, frozenset())
    laid = lay_out(
        plan, generator.pool, grid=grid, patch_size=(4, 4), embedding=model.layer(0).embedding, token_order="raster"
    )
    tokens_B16 = torch.randint(11, (3, 16))
    near = laid.near_PNK[0]
    near_BNK = torch.where(near < 0, -1, tokens_B16[:, near.clamp_min(0)])
    with torch.inference_mode():
        joint = model(
            tokens_B16[:, None], torch.zeros(3, 1, dtype=torch.long), near_BPNK=near_BNK[:, None], groups=laid.groups
        )[:, 0]
        for at in range(16):
            # What is not written yet must not matter.
            unwritten = tokens_B16.clone()
            unwritten[:, at:] = 7
            torch.testing.assert_close(next_logits(model, unwritten, at), joint[:, at], rtol=0, atol=1e-9)


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
