"""Renderings: the same tokens whatever is written side by side, from any state, on endless and closed canvases."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.renderer import DecodingState, InfiniteRenderer, Rendering
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.planning.context import FullContextPool, NearbyContextPool, RecencyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController, SpiralDirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from tests.generation.small import small_model

POOL = NearbyContextPool((0, 1, 1))
GRIDS = (PatchGrid(1, 4, 5), PatchGrid(1, 3, 5, wrap="x"), PatchGrid(1, 5, 3, wrap="y"), PatchGrid(1, 3, 4, wrap="xy"))


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def renderer(max_rows: int, pool=POOL, direction=None) -> InfiniteRenderer:
    direction = direction or ArbitraryDirectionController()
    return InfiniteRenderer(small_model(pool), pool, direction, sampling=Sampling(top_k=0), max_rows=max_rows)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid.y}x{grid.x}{grid.wrap}")
@pytest.mark.parametrize("pool", [POOL, FullContextPool(), RecencyContextPool(3)], ids=lambda p: type(p).__name__)
def test_width_of_waves_and_count_change_no_token(grid: PatchGrid, pool) -> None:
    """Canvas k of a request is what its own seed gives alone, patch by patch."""
    alone = [sample_tokens(renderer(1, pool), grid, seeds=[seed]) for seed in (7, 8, 9)]
    assert not torch.equal(alone[0], alone[1])
    for max_rows in (4, 64):
        together = sample_tokens(renderer(max_rows, pool), grid, seeds=[7, 8, 9])
        assert torch.equal(together, torch.cat(alone))


def test_closed_canvases_heed_what_lies_across_the_seam() -> None:
    """The last column changes when the axis is closed, the first ones do not."""
    opened, closed = (sample_tokens(renderer(64), PatchGrid(1, 3, 6, wrap=wrap), seeds=[0]) for wrap in ("", "x"))
    assert torch.equal(opened[:, :, :10], closed[:, :, :10])
    assert not torch.equal(opened[:, :, 10:], closed[:, :, 10:])


def test_an_endless_canvas_is_written_column_by_column() -> None:
    """The same as a wide one, by a live set as high as the canvas, in waves."""
    wide = sample_tokens(renderer(64), PatchGrid(1, 4, 12), seeds=[3])
    tokens = torch.full_like(wide, -1)
    widest = 0
    for done in renderer(64).render(PatchGrid(1, 4, None), seeds=[3]):
        y, x = 2 * done.patch.y, 2 * done.patch.x
        widest = max(widest, done.wave)
        if x < 24:
            tokens[:, y : y + 2, x : x + 2] = done.tokens_BYX
        if done.patch == PatchIndex(0, 3, 40):
            break
        assert done.live <= 3 * 4 + 3
    assert torch.equal(tokens, wide)
    assert widest == 2


def everything(rendering: Rendering) -> list[tuple[PatchIndex, int, Tensor]]:
    return [(done.patch, done.wave, done.tokens_BYX) for wave in rendering for done in wave]


def through_a_file(decoding_state: DecodingState) -> DecodingState:
    copied: DecodingState = pickle.loads(pickle.dumps(decoding_state))
    return copied


@settings(max_examples=8, deadline=None)
@given(
    grid=st.sampled_from(GRIDS),
    direction=st.sampled_from([ArbitraryDirectionController(), SpiralDirectionController()]),
    stops=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    known=st.booleans(),
)
def test_any_state_goes_on_to_the_bit(grid: PatchGrid, direction, stops: list[int], known: bool) -> None:
    torch.set_default_dtype(torch.float32)  # bits, not roundings
    try:
        here = renderer(3, direction=direction)
        given = {PatchIndex(0, 1, 1): torch.arange(8).view(2, 2, 2)} if known else {}
        whole = everything(Rendering(here, grid, seeds=[1, 2], known=given))
        parts, decoding_state = [], None
        for stop in stops:
            part = Rendering(here, grid, seeds=[1, 2], known=given, decoding_state=decoding_state)
            parts += everything(itertools.islice(part, stop))  # type: ignore[arg-type]
            decoding_state = through_a_file(part.decoding_state())
        parts += everything(Rendering(here, grid, seeds=[1, 2], known=given, decoding_state=decoding_state))
    finally:
        torch.set_default_dtype(torch.float64)
    assert len(parts) == len(whole)
    for (patch, wave, tokens), (other, width, expected) in zip(parts, whole, strict=True):
        assert (patch, wave) == (other, width)
        assert torch.equal(tokens, expected)


def test_a_state_of_another_canvas_is_refused() -> None:
    rendering = Rendering(renderer(4), PatchGrid(1, 4, 5), seeds=[0])
    for _ in range(6):
        next(rendering)
    with pytest.raises(ValueError, match="of another canvas"):
        Rendering(renderer(4), PatchGrid(1, 7, 5), seeds=[0], decoding_state=rendering.decoding_state())


def test_tokens_are_decoded_on_the_threads_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    draw = Sampling.draw
    monkeypatch.setattr(Sampling, "draw", lambda *args: seen.append(torch.get_num_threads()) or draw(*args))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for count in (1, 2):
            seen.clear()
            list(dataclasses.replace(renderer(4), threads=count).render(PatchGrid(1, 1, 2), seeds=[0]))
            assert set(seen) == {count}
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UsageError, match="threads: 0"):
        dataclasses.replace(renderer(4), threads=0)
