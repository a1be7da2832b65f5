"""Logits of the joint training forward == those of decoding, on larger canvases than the dense reference is for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.models.layout import lay_out
from nuwa_lightning.models.nuwa_infinity import Neighbor, PatchTransformer
from nuwa_lightning.planning.context import ContextPool, EmptyContextPool, FullContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController, DirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import walk
from tests.generation.all_logits import PATCH, all_logits, build
from tests.strategies import DIRECTIONS, POOLS
from tests.text.letters import Letters

GRID = PatchGrid(2, 3, 3)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def max_difference(
    model: PatchTransformer,
    pool: ContextPool,
    *,
    direction: DirectionController,
    known: dict[PatchIndex, Tensor] | None = None,
    max_rows: int = 64,
    texts: tuple[str, str] | None = None,
    grid: PatchGrid = GRID,
) -> float:
    """Decode two canvases, score the same tokens jointly, return the largest difference."""
    found = all_logits(model, pool, direction, grid, known=known, max_rows=max_rows, texts=texts)
    written = torch.tensor([not step.known for step in found.plan])
    return float((found.decoded_BPNK - found.joint_BPNK)[:, written].abs().max())


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_known_patches_anywhere(pool: ContextPool) -> None:
    known = {PatchIndex(0, 1, 1): torch.randint(0, 16, (2, 2, 2)), PatchIndex(0, 0, 2): torch.randint(0, 16, (2, 2, 2))}
    direction = ArbitraryDirectionController()
    for ahead, repeat in itertools.product((False, True), repeat=2):
        model = build(pool, 2, ahead=ahead, copy_head=repeat)
        assert max_difference(model, pool, direction=direction, known=known) < 1e-9


def test_what_is_ahead_is_read_where_it_is_there() -> None:
    """A token beside a given patch that the order reaches later scores otherwise for it, through the input alone."""
    pool, direction = EmptyContextPool(), ArbitraryDirectionController("omega")

    def scores(model: PatchTransformer, *, given: int) -> Tensor:
        plan = list(direction.plan(PatchGrid(1, 1, 1)))
        layout = lay_out(
            plan, pool, grid=PatchGrid(1, 1, 1), patch_size=PATCH, embedding=model.layer(0).embedding,
            token_order="mirrored", neighbors=model.neighbors,
        )  # fmt: skip
        neighbors = layout.neighbors_PNK.clone()
        neighbors[:, 2:, model.neighbors.index(Neighbor(0, 0, 1))] = given
        return model(
            torch.zeros(1, 1, 4, dtype=torch.long),
            layout.symmetry_P[None],
            neighbors_BPNK=neighbors[None],
            groups=layout.groups,
        )

    model = build(pool, 2, ahead=True)
    assert len(model.neighbors) == len(build(pool, 2).neighbors) + 4
    changed = (scores(model, given=3) - scores(model, given=5)).abs().amax(dim=(0, 1, 3))
    assert changed[:2].max() == 0
    assert changed[2:].min() > 0


VIDEO_POOLS: list[ContextPool] = [
    NearbyContextPool((3, 1, 1)),
    NearbyContextPool((3, 2, 2)),
    FullContextPool((2, 1, 1)),
]


@pytest.mark.parametrize("pool", VIDEO_POOLS, ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS, ids=str)
def test_a_video_with_a_text_that_begins_with_given_frames(pool: ContextPool, direction: DirectionController) -> None:
    """The extents of the paper for animation and for text to video; the first frame is given, or parts of two.

    Three frames: how things move is asked of the last two before.
    """
    model = build(pool, 2, text_dim=Letters().width, copy_head=True)
    torch.nn.init.normal_(model.head.weight)
    for known in (
        {PatchIndex(0, y, x): torch.randint(0, 16, (2, 2, 2)) for y in range(3) for x in range(3)},
        {PatchIndex(t, 1, x): torch.randint(0, 16, (2, 2, 2)) for t, x in ((0, 0), (0, 2), (1, 1))},
        None,
    ):
        for rows in (1, 64):
            difference = max_difference(
                model,
                pool,
                direction=direction,
                known=known,
                max_rows=rows,
                texts=("lake", ""),
                grid=PatchGrid(3, 3, 3),
            )
            assert difference < 1e-9


def test_waves_change_nothing() -> None:
    pool, direction = NearbyContextPool((0, 1, 1)), ArbitraryDirectionController("zeta")
    model = build(pool, 2)
    grid = PatchGrid(1, 4, 6)
    canvases = [
        sample_tokens(InfiniteRenderer(model, pool, direction, max_rows=rows), grid, seeds=[1, 2])
        for rows in (1, 4, 64)
    ]
    assert torch.equal(canvases[0], canvases[1])
    assert torch.equal(canvases[0], canvases[2])
    alone = sample_tokens(InfiniteRenderer(model, pool, direction), grid, seeds=[2])
    assert torch.equal(alone[0], canvases[0][1])


@pytest.mark.parametrize("direction", DIRECTIONS[3:], ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["from nothing", "animated"])
def test_live_set_does_not_grow_with_the_number_of_frames(direction: DirectionController, given: bool) -> None:
    pool = NearbyContextPool((3, 1, 1))
    model = build(pool, 1)
    first = {PatchIndex(0, y, x): torch.zeros(1, 2, 2, dtype=torch.long) for y in range(2) for x in range(3)}
    peaks = []
    for frames in (10, 30):
        renderer = InfiniteRenderer(model, pool, direction, max_rows=8)
        video = renderer.render(PatchGrid(frames, 2, 3), seeds=[0], known=first if given else None)
        peaks.append(max(done.live for done in video))
    assert peaks[0] == peaks[1]


def test_live_set_does_not_grow_with_the_width() -> None:
    pool, direction = NearbyContextPool((0, 1, 1)), ArbitraryDirectionController()
    model = build(pool, 1)
    peaks = []
    for width in (6, 24):
        renderer = InfiniteRenderer(model, pool, direction, max_rows=1)
        peaks.append(max(done.live for done in renderer.render(PatchGrid(1, 2, width), seeds=[0])))
    assert peaks[0] == peaks[1]
    steps = walk(direction.plan(PatchGrid(1, 2, None)), pool, PatchGrid(1, 2, None))
    assert next(steps).context == ()
