"""One truth with text: joint logits == cached logits, for every text, under guidance, around given patches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.patch_batch import RowBatch
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.layout import lay_out, place_tokens, read_tokens
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TextStates, TransformerConfig
from nuwa_lightning.planning.context import FullContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import (
    ArbitraryDirectionController,
    DirectionController,
    SpiralDirectionController,
)
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex

GRID, PATCH = PatchGrid(1, 3, 3), (2, 2)


class Recorder:
    """Draws as usual and keeps every row's scores."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []
        self.inner = Sampling(top_k=0)

    def draw(self, logits_RK: Tensor, uniform_R: Tensor) -> Tensor:
        self.calls.append(logits_RK.clone())
        return self.inner.draw(logits_RK, uniform_R)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build() -> tuple[PatchTransformer, TextStates]:
    torch.manual_seed(0)
    size = TransformerConfig(16, 2, num_heads=4, num_kv_heads=2, layer_scale=1.0)
    model = PatchTransformer(16, 4, patch_size=PATCH, embedding_extent=(0, 1, 1), size=size, text_dim=6)
    model.set_codes(torch.randn(16, 4))
    for layer in model.layers:
        torch.nn.init.normal_(layer.embedding.symmetries, std=0.5)
    assert model.text is not None
    seen = torch.tensor([[False] * 4, [True] * 4, [True, True, False, False]])
    with torch.no_grad():
        return model.eval(), model.text.states(torch.randn(3, 4, 6), seen)


def joint(
    model: PatchTransformer,
    texts: TextStates,
    tokens: Tensor,
    *,
    direction: DirectionController,
    known: set[PatchIndex],
) -> tuple[Tensor, dict[PatchIndex, int]]:
    """Score two canvases under "no text" and under texts 1 and 2, in one training forward: ``[2, B, P, N, K]``."""
    plan = list(direction.plan(GRID, frozenset(known)))
    embedding = model.layer(0).embedding
    layout = lay_out(
        plan, NearbyContextPool((0, 1, 1)), grid=GRID, patch_size=PATCH, embedding=embedding, token_order="mirrored"
    )
    flat = torch.cat([tokens.flatten(1), torch.full((2, 1), ABSENT)], dim=1).repeat(2, 1)
    out = model(
        flat[:, layout.index_PN],
        layout.symmetry_P.expand(4, -1),
        neighbors_BPNK=flat[:, layout.neighbors_PNK],
        groups=layout.groups,
        text=texts.rows(torch.tensor([0, 0, 1, 2])),
    )
    return out.unflatten(0, (2, 2)).detach(), {step.patch: n for n, step in enumerate(plan)}


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.7, 3.5])
@pytest.mark.parametrize("holes", ["nothing known", "patches known", "parts known"])
@pytest.mark.parametrize("direction", [ArbitraryDirectionController("zeta*"), SpiralDirectionController()], ids=str)
def test_joint_equals_cached(
    direction: DirectionController, holes: str, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuwa_lightning.generation.prompts.PLAUSIBLE", 0.7)
    monkeypatch.setattr("nuwa_lightning.generation.prompts.MOST_PLAUSIBLE", 0.6)
    model, texts = build()
    known: dict[PatchIndex, Tensor] = {}
    if holes != "nothing known":
        known = {
            PatchIndex(0, 1, 1): torch.randint(0, 16, (2, 2, 2)),
            PatchIndex(0, 2, 0): torch.randint(0, 16, (2, 2, 2)),
        }
    whole = set(known)
    if holes == "parts known":
        known[PatchIndex(0, 1, 2)] = torch.tensor([[[3, ABSENT], [5, ABSENT]], [[4, ABSENT], [6, ABSENT]]])
    recorder = Recorder()
    renderer = InfiniteRenderer(model, NearbyContextPool((0, 1, 1)), direction, "mirrored", recorder)  # type: ignore[arg-type]
    prompts = Prompts(texts, lambda patch: (1, 2), guidance)
    tokens, written = torch.zeros(2, 6, 6, dtype=torch.long), []
    for done in renderer.render(GRID, seeds=[5, 6], known=known, prompts=prompts):
        _, y, x = done.patch
        tokens[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = done.tokens_BYX
        assert done.known == (done.patch in whole)
        if not done.known:
            written.append((done.patch, done.wave))
    for patch, given in known.items():
        found = tokens[:, 2 * patch.y : 2 * patch.y + 2, 2 * patch.x : 2 * patch.x + 2]
        assert torch.equal(found[given != ABSENT], given[given != ABSENT])
    (without, with_text), number = joint(model, texts, tokens, direction=direction, known=whole)
    expected = without + guidance * (with_text - without)
    if guidance > 1:  # of what is implausible with the text nothing is written
        odds = (with_text - with_text.max(-1, keepdim=True).values).exp()
        least = min(0.6, 0.7 * (guidance - 1))
        expected[odds < least] = -torch.inf
        assert 0.1 < (odds < least).double().mean() < 0.9
    calls, at = iter(recorder.calls), 0
    while at < len(written):
        wave = written[at][1]
        rows = torch.stack([next(calls) for _ in range(4)], dim=1)
        for s, (patch, _) in enumerate(written[at : at + wave]):
            torch.testing.assert_close(rows[2 * s : 2 * s + 2], expected[:, number[patch]], rtol=0, atol=1e-9)
        at += wave


def test_two_canvases_side_by_side_are_those_made_alone() -> None:
    model, texts = build()
    renderer = InfiniteRenderer(model, FullContextPool((0, 1, 1)), ArbitraryDirectionController())
    both = sample_tokens(renderer, GRID, seeds=[1, 2], prompts=Prompts(texts, lambda patch: (1, 2), 2.0))
    for canvas, (seed, text) in enumerate([(1, 1), (2, 2)]):
        alone = sample_tokens(renderer, GRID, seeds=[seed], prompts=Prompts(texts, lambda p, t=text: (t,), 2.0))
        assert torch.equal(both[canvas], alone[0])


def test_regions_read_their_own_text() -> None:
    model, texts = build()
    renderer = InfiniteRenderer(model, NearbyContextPool((0, 1, 1)), ArbitraryDirectionController("zeta"))
    first = sample_tokens(renderer, GRID, seeds=[3], prompts=Prompts(texts, lambda patch: (1,)))
    mixed = sample_tokens(renderer, GRID, seeds=[3], prompts=Prompts(texts, lambda patch: (1 + (patch.y > 0),)))
    assert torch.equal(first[:, :2], mixed[:, :2])
    assert not torch.equal(first[:, 2:], mixed[:, 2:])


def test_no_guidance_reads_no_text() -> None:
    model, texts = build()
    renderer = InfiniteRenderer(model, NearbyContextPool((0, 1, 1)), ArbitraryDirectionController())
    without = sample_tokens(renderer, GRID, seeds=[3], prompts=Prompts(texts, lambda patch: (0,)))
    assert torch.equal(without, sample_tokens(renderer, GRID, seeds=[3], prompts=Prompts(texts, lambda p: (2,), 0.0)))
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="guidance"):
            Prompts(texts, lambda patch: (0,), wrong)


@pytest.mark.parametrize("direction", [ArbitraryDirectionController("zeta*"), SpiralDirectionController()], ids=str)
def test_one_forward_is_for_both_halves(direction: DirectionController, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance makes the forwards twice as large, not twice as many."""
    model, texts = build()
    sizes: list[int] = []
    advance = RowBatch.advance
    monkeypatch.setattr(RowBatch, "advance", lambda rows, x_RlJ: sizes.append(len(x_RlJ)) or advance(rows, x_RlJ))
    forwards = {}
    for guidance in (1.0, 3.0):
        renderer = InfiniteRenderer(model, NearbyContextPool((0, 1, 1)), direction)
        sample_tokens(renderer, GRID, seeds=[5, 6], prompts=Prompts(texts, lambda patch: (1, 2), guidance))
        forwards[guidance] = list(sizes)
        sizes.clear()
    assert len(forwards[1.0]) >= GRID.y * 4 // 3  # four tokens a patch, waves of at most three
    assert forwards[3.0] == [2 * rows for rows in forwards[1.0]]


def test_parts_are_kept_in_every_view() -> None:
    """A patch given in part keeps its tokens where they lie, whatever the order in which it is written."""
    model, texts = build()
    part = torch.tensor([[[ABSENT, 7], [9, ABSENT]]])
    for order in ("omega", "omega*", "zeta", "zeta*"):
        renderer = InfiniteRenderer(model, NearbyContextPool((0, 1, 1)), ArbitraryDirectionController(order))
        canvas = sample_tokens(
            renderer, GRID, seeds=[0], known={PatchIndex(0, 1, 1): part}, prompts=Prompts(texts, lambda p: (1,))
        )
        assert canvas[0, 2, 3] == 7
        assert canvas[0, 3, 2] == 9
    symmetry = next(iter(ArbitraryDirectionController("zeta*").plan(GRID))).symmetry
    there = read_tokens(part[0], symmetry, token_order="mirrored")
    assert torch.equal(place_tokens(there, symmetry, patch_size=PATCH, token_order="mirrored"), part[0])


def test_strong_guidance_makes_nothing_likely_that_the_text_does_not() -> None:
    """A token that is a thousand times likelier with the text than without, and yet next to impossible with it."""
    _, texts = build()
    with_text = torch.tensor([[0.0, -1.0, -9.0, -30.0]])
    without = torch.tensor([[0.0, -0.5, -16.0, -30.0]])
    rows = torch.cat([with_text, without])
    strong = Prompts(texts, lambda patch: (1,), 4.0).guided(rows, canvases=1)
    assert strong[0].tolist() == [0, -2.5, -torch.inf, -torch.inf]
    weak = Prompts(texts, lambda patch: (1,), 0.5).guided(rows, canvases=1)
    torch.testing.assert_close(weak, (with_text + without) / 2)
