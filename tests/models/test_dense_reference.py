"""One truth: a dense reference that shares no code with the model == joint training == patch by patch == decoding."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from nuwa_lightning.models.nuwa_infinity import PatchTransformer, RelativePatchEmbedding, attend, causal_mask
from nuwa_lightning.planning.context import ContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController, DirectionController
from nuwa_lightning.planning.direction import SpiralDirectionController as Spiral
from nuwa_lightning.planning.geometry import SYMMETRIES, PatchGrid, PatchIndex, Symmetry
from tests.generation.all_logits import all_logits, build, grouped_logits, masked_logits
from tests.strategies import ALL_SYMMETRIES, CONTROLLERS, POOLS
from tests.text.letters import Letters

DOWN, UP, RIGHT, LEFT = (1, 0), (-1, 0), (0, 1), (0, -1)
# In which direction the tokens of a run follow one another, and in which the runs do; numbered as in the weights.
WAYS = {
    "omega": (DOWN, RIGHT), "omega*": (DOWN, LEFT), "zeta": (RIGHT, DOWN), "zeta*": (RIGHT, UP),
    "up-right": (UP, RIGHT), "up-left": (UP, LEFT), "left-down": (LEFT, DOWN), "left-up": (LEFT, UP),
}  # fmt: skip
Way = tuple[tuple[int, int], tuple[int, int]]
Step = tuple[tuple[int, int, int], str]
BESIDE = [(0, -1, 0), (0, 0, -1), (0, -1, -1), (0, 1, -1)]
SAME_FRAME = [*BESIDE, (0, -2, 0), (0, 0, -2), (0, 2, -1), (0, -2, -1)]
AHEAD = [(0, 0, 1), (0, 1, 0), (0, -1, 1), (0, 1, 1)]
AROUND = list(itertools.product((-1, 0, 1), repeat=2))
WIDER = list(itertools.product((-1, -2), range(-2, 3), range(-2, 3)))

index, relative_to = RelativePatchEmbedding.index, Symmetry.relative_to


def on_canvas(way: Way, row: int, column: int) -> tuple[int, int]:
    """A vector of the canonical frame on the canvas."""
    (a, b), (c, d) = way
    return a * row + c * column, b * row + d * column


def in_frame(way: Way, y: int, x: int) -> tuple[int, int]:
    """A vector on the canvas in the canonical frame."""
    (a, b), (c, d) = way
    return a * y + b * x, c * y + d * x


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[name + ".weight"].T + w.get(name + ".bias", torch.zeros(()))


def norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[name + ".weight"] + w[name + ".bias"]


def attention(q_SX: Tensor, k_SX: Tensor, v_SX: Tensor, *, heads: int, seen: Tensor, entry: Tensor) -> Tensor:
    """One head after another; ``entry`` is added to keys ``[S, S, G, D]`` or to logits ``[S, S, H]``."""
    D = q_SX.shape[1] // heads
    out = []
    for h in range(heads):
        g = h * k_SX.shape[1] // q_SX.shape[1]
        q, k, v = q_SX[:, h * D : h * D + D], k_SX[:, g * D : g * D + D], v_SX[:, g * D : g * D + D]
        keys = k + (entry[:, :, g] if entry.ndim == 4 else 0)
        logits = (q[:, None] * keys).sum(-1) / math.sqrt(D) + (entry[:, :, h] if entry.ndim == 3 else 0)
        out.append(torch.softmax(torch.where(seen, logits, -math.inf), dim=-1) @ v)
    return torch.cat(out, dim=-1)


def motion(codes: Tensor, token: Callable[[tuple[int, int, int]], int]) -> list[float]:
    """How alike what stands beside a cell (or stood around it) is to what it would have come from, a step away."""
    found = []
    for to, back in ((BESIDE, -1), ([(-1, *yx) for yx in AROUND], -2)):
        alike = []
        for dy, dx in AROUND:
            pairs = [(token((t, y, x)), token((back, y + dy, x + dx))) for t, y, x in to]
            values = [math.exp(-float((codes[a] - codes[b]).square().mean())) for a, b in pairs if a >= 0 and b >= 0]
            alike.append(sum(values) / len(values) if values else math.nan)
        there = [value for value in alike if not math.isnan(value)]
        mean = sum(there) / max(1, len(there))
        found += [0.0 if math.isnan(value) else 4 * (value - mean) for value in alike]
    return found


def entries(steps: Sequence[Step], turn: Sequence[Way], extent: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Which offset and which relative symmetry any patch (column) has for any other (row)."""
    P = len(steps)
    offset_PP, relative_PP = torch.zeros(2, P, P, dtype=torch.long)
    # The entries of the table: time first, then rows, then columns; later frames are never seen.
    box = list(itertools.product(*(range(-e, (e if axis else 0) + 1) for axis, e in enumerate(extent))))
    for i, j in itertools.product(range(P), range(P)):
        t, y, x = (b - a for a, b in zip(steps[i][0], steps[j][0], strict=True))
        inside = [max(-e, min(e, v)) for v, e in zip((min(0, t), *in_frame(turn[i], y, x)), extent, strict=True)]
        offset_PP[i, j] = box.index(tuple(inside))
        between = tuple(zip(in_frame(turn[i], *turn[j][0]), in_frame(turn[i], *turn[j][1]), strict=True))
        relative_PP[i, j] = list(WAYS.values()).index(between)
    return offset_PP, relative_PP


def planned(coarse_TYX: Tensor, cell: tuple[int, int, int], offset: tuple[int, int]) -> int:
    """The token of the coarse plan at an offset on the canvas from a cell, -1 outside."""
    (_, height, width), t, y, x = coarse_TYX.shape, cell[0], cell[1] + offset[0], cell[2] + offset[1]
    return int(coarse_TYX[t, y, x]) if 0 <= y < height and 0 <= x < width else -1


def within(n: int, m: int, group_N: list[int] | None) -> bool:
    """Whether position n of a patch (BOS, tokens, queries) sees position m, if tokens are written in groups."""
    if group_N is None:
        return True
    by, of = (group_N[(p - 1) % len(group_N)] if p else -1 for p in (n, m))
    if m > len(group_N):  # a query
        return n > len(group_N) and of == by
    return of < by or (of == by and n <= len(group_N))


def dense_logits(  # noqa: C901 - one formula after another
    w: dict[str, Tensor],
    canvas_TYX: Tensor,
    steps: Sequence[Step],
    sees: Sequence[set[int]],
    *,
    side: int,
    heads: int,
    extent: tuple[int, int, int],
    raster: bool,
    ahead: bool,
    text_SE: Tensor | None,
    masked_PN: Tensor | None,
    coarse_TYX: Tensor | None = None,
    groups_PN: Tensor | None = None,
    rows: int | None = None,
) -> Tensor:
    """Return logits ``[P, N, K]``: the whole canvas as one masked sequence of U times BOS and N tokens.

    Of a causal model U = P. Of a bidirectional one U = 2 P: every patch as it is, then every patch with tokens masked;
    of a grouped one N queries follow the tokens of the latter, which are not masked.

    Args:
        w: weights of a model with patches of ``side`` x ``side`` tokens.
        canvas_TYX: tokens.
        steps: patch ``(t, y, x)`` and name of its symmetry, in the order of the plan.
        sees: the steps that each one sees.
        side: rows and columns of a patch.
        heads: query heads.
        extent: offsets beyond it share an embedding.
        raster: tokens row by row, without symmetries.
        ahead: whether neighbors on the other side are fed.
        text_SE: token states of a text.
        masked_PN: which tokens are masked, for a bidirectional model.
        coarse_TYX: the coarse plan, -1 where there is none.
        groups_PN: with which group each token is written, for a grouped model.
        rows: of patches of the canvas.
    """
    P, N, codes, width = len(steps), side * side, w["codebook_KE"], len(w["bos"])
    which = [0 if raster else list(WAYS).index(name) for _, name in steps]
    turn = [list(WAYS.values())[k] for k in which]
    write = [WAYS["zeta"]] * P if raster else turn
    # Where token n of patch i lies: in twice its coordinates from the middle of the patch.
    cell = {}
    for i, n in itertools.product(range(P), range(N)):
        t, y, x = steps[i][0]
        v = on_canvas(write[i], 2 * (n % side) + 1 - side, 2 * (n // side) + 1 - side)
        cell[i, n] = (t, y * side + (v[0] + side - 1) // 2, x * side + (v[1] + side - 1) // 2)
    at = {place: number for number, place in cell.items()}

    # All readings of all patches; context is always seen whole.
    units = list(itertools.product(([False] if masked_PN is None else [False, True]), range(P)))

    def token(i: int, n: int, offset: tuple[int, int, int], turned: bool | str = True, *, masked: bool = False) -> int:
        """The token at an offset from token n of patch i, -1 if it cannot be seen when that is predicted."""
        if turned == "plan":
            return planned(coarse_TYX, cell[i, n], on_canvas(write[i], *offset[1:]))
        v = on_canvas(write[i], *offset[1:]) if turned else offset[1:]
        place = tuple(a + b for a, b in zip(cell[i, n], (offset[0], *v), strict=True))
        j, m = at.get(place, (-1, -1))
        if groups_PN is None:
            there = m < n and not (masked and masked_PN[i, m])
        else:
            there = not masked or bool(groups_PN[i, m] < groups_PN[i, n])
        return int(canvas_TYX[place]) if j in sees[i] or (j == i and there) else -1

    moving, copies = extent[0] > 0, "copy_head.linear.weight" in w
    kinds = [(o, True) for o in SAME_FRAME + AHEAD * (ahead or groups_PN is not None)]
    kinds += [((-1, y, x), False) for y, x in AROUND] * moving + [((-2, 0, 0), False)] * moving
    kinds += [((0, y, x), "plan") for y, x in AROUND] * (coarse_TYX is not None)
    kinds += [(o, True) for o in WIDER] * (moving and copies)

    near = [[[token(i, n, *kind, masked=masked) for kind in kinds] for n in range(N)] for masked, i in units]
    near_UNK = torch.tensor(near)

    tokens_PN = torch.tensor([[int(canvas_TYX[cell[i, n]]) for n in range(N)] for i in range(P)])
    place_NW = torch.stack([w["position.rows"][n % side] + w["position.columns"][n // side] for n in range(N)])

    def reading(near_PNK: Tensor, hidden_PN: Tensor | None) -> Tensor:
        x_PNW = linear(w, "embed", codes[tokens_PN])
        if hidden_PN is not None:
            x_PNW = torch.where(hidden_PN[:, :, None], w["mask_token"], x_PNW)
        x_PLW = torch.cat([w["bos"].expand(P, 1, -1), x_PNW + place_NW], dim=1) + w["symmetries"][which][:, None]
        if "heights" in w and rows is not None:
            steps_down = [(2 * y + 1) * len(w["heights"]) // (2 * rows) for (_, y, _), _ in steps]
            x_PLW = x_PLW + w["heights"][steps_down][:, None]
        if "neighbor_embedding.linear.weight" in w:
            used = w["neighbor_embedding.linear.weight"].shape[1] // codes.shape[1]
            vectors = torch.cat([codes, codes[:1] * 0])[near_PNK[:, :, :used]].flatten(2)
            # Where token n is predicted: at the position before it, or at its own.
            x_PLW[:, slice(0, N) if masked_PN is None else slice(1, N + 1)] += linear(
                w, "neighbor_embedding.linear", vectors
            )
        return x_PLW

    whole = masked_PN is not None
    readings = [reading(near_UNK[:P], None)]
    if masked_PN is not None:
        readings.append(reading(near_UNK[P:], masked_PN))
    if groups_PN is not None:
        readings[1] = torch.cat([reading(near_UNK[P:], None), readings[1][:, 1:]], dim=1)
    x_SW = torch.cat([x_PLW.flatten(0, 1) for x_PLW in readings])

    def seen(query: tuple[tuple[bool, int], int], key: tuple[tuple[bool, int], int]) -> bool:
        (u, n), (v, m) = query, key
        if u != v:
            return not v[0] and v[1] in sees[u[1]] and m > 0
        return within(n, m, groups_PN[u[1]].tolist() if u[0] else None) if groups_PN is not None else m <= n or whole

    positions = [(unit, n) for unit in units for n in range(readings[unit[0]].shape[1])]
    seen_SS = torch.tensor([[seen(query, key) for key in positions] for query in positions])
    offset_PP, relative_PP = entries(steps, turn, extent)
    number_S = torch.tensor([i for (_, i), _ in positions])
    for a in (f"layers.{n}." for n in range(sum(name.endswith("norm_attention.weight") for name in w))):
        h = norm(w, a + "norm_attention", x_SW)
        own = torch.eye(P, dtype=torch.bool).view(P, P, *[1] * (w[a + "embedding.symmetries"].ndim - 1))
        entry = w[a + "embedding.offsets"][offset_PP] + w[a + "embedding.symmetries"][relative_PP] * ~own
        qkv = (linear(w, f"{a}attention.{name}", h) for name in ("query", "key", "value"))
        mixed = attention(*qkv, heads=heads, seen=seen_SS, entry=entry[number_S][:, number_S])
        x_SW = x_SW + w[a + "scale_attention"] * linear(w, a + "attention.out", mixed)
        if text_SE is not None:
            b = "text." + a
            y = norm(w, "text.norm", torch.cat([w["text.no_text"][None], linear(w, "text.project", text_SE)]))
            q = linear(w, b + "query", norm(w, b + "norm", x_SW))
            k, v = linear(w, b + "key", y), linear(w, b + "value", y)
            mixed = attention(q, k, v, heads=heads, seen=torch.tensor(True), entry=torch.zeros(1, 1, heads))
            x_SW = x_SW + w[b + "scale"] * linear(w, b + "out", mixed)
        value, gate = linear(w, a + "feed_forward.inner", norm(w, a + "norm_feed_forward", x_SW)).chunk(2, dim=-1)
        gated = value * gate * (1 + torch.erf(gate / math.sqrt(2))) / 2
        x_SW = x_SW + w[a + "scale_feed_forward"] * linear(w, a + "feed_forward.out", gated)

    L = readings[-1].shape[1]
    last_PLW = norm(w, "norm", x_SW)[-P * L :].view(P, L, width)
    h_PNW = last_PLW[:, :N] if masked_PN is None else last_PLW[:, -N:]
    logits_PNK = linear(w, "head", h_PNW) + linear(w, "code_head", h_PNW) @ codes.T
    for i, n in itertools.product(range(P), range(N if copies else 0)):
        moved = motion(codes, functools.partial(token, i, n, masked=units[-1][0])) if moving else []
        h = torch.cat([h_PNW[i, n], torch.tensor(moved)])
        for code, more in zip(near_UNK[i - P, n].tolist(), linear(w, "copy_head.linear", h), strict=True):
            if code >= 0:
                logits_PNK[i, n, code] += more
    return logits_PNK


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def worst(
    model: PatchTransformer,
    pool: ContextPool,
    direction: DirectionController,
    *,
    grid: PatchGrid = PatchGrid(2, 2, 3),  # noqa: B008 - frozen
    order: str = "mirrored",
    known: dict[PatchIndex, Tensor] | None = None,
    texts: tuple[str, str] | None = None,
    coarse_BTYX: Tensor | None = None,
    steps: int = 3,
) -> float:
    """Return the largest difference between the reference and any other way to score two canvases."""
    if model.grouped:
        found = grouped_logits(
            model, pool, direction, grid, order=order, known=known, texts=texts, coarse_BTYX=coarse_BTYX, steps=steps
        )
    elif model.bidirectional:
        found = masked_logits(model, pool, direction, grid, order=order, texts=texts, coarse_BTYX=coarse_BTYX)
    else:
        found = all_logits(model, pool, direction, grid, order=order, known=known, texts=texts, coarse_BTYX=coarse_BTYX)
    steps = [(tuple(step.patch), step.symmetry.name) for step in found.plan]
    patches = [step.patch for step in found.plan]
    # Select alone: what the pool forgets must not be missed.
    sees = [{patches.index(other) for other in pool.select(p, patches[:i])} for i, p in enumerate(patches)]
    differences = []
    for b in range(2):
        text_SE = Letters().states([texts[b]])[0].double() if texts else None
        dense_PNK = dense_logits(
            model.state_dict(), found.tokens_BTYX[b], steps, sees, side=2, heads=4, extent=pool.embedding_extent,
            raster=order == "raster", ahead=model.size.ahead, text_SE=text_SE,
            masked_PN=None if found.masked_BPN is None else found.masked_BPN[b],
            coarse_TYX=None if coarse_BTYX is None else coarse_BTYX[b],
            groups_PN=None if found.groups_BPN is None else found.groups_BPN[b],
            rows=grid.y,
        )  # fmt: skip
        differences += [found.joint_BPNK[b] - dense_PNK, found.stepped_BPNK[b] - dense_PNK]
        if found.decoded_BPNK is not None:
            is_known_P = torch.tensor([step.known for step in found.plan])
            assert torch.equal(found.decoded_BPNK[b].isnan().all((1, 2)), is_known_P)
            differences.append((found.decoded_BPNK[b] - dense_PNK)[~is_known_P])
    assert dense_PNK.std() > 0.1  # they say something
    return max(float(difference.abs().max()) for difference in differences)


@pytest.mark.parametrize("direction", CONTROLLERS, ids=str)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_one_truth(pool: ContextPool, direction: DirectionController) -> None:
    for num_kv_heads in (1, 2, 4):
        assert worst(build(pool, num_kv_heads), pool, direction) < 1e-9


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_options(pool: ContextPool) -> None:
    omega, every = ArbitraryDirectionController("omega*"), Spiral(symmetries=ALL_SYMMETRIES)
    assert worst(build(pool, 2, neighbor_embedding=False), pool, omega, order="raster") < 1e-9
    assert worst(build(pool, 2, "logit", copy_head=True), pool, every) < 1e-9
    model = build(pool, 1, text_dim=8, ahead=True, copy_head=True)
    known = {PatchIndex(0, 1, 1): torch.arange(8).view(2, 2, 2), PatchIndex(1, 0, 2): torch.arange(8).view(2, 2, 2)}
    grid = PatchGrid(3, 2, 3)
    assert worst(model, pool, every, order="raster", known=known, texts=("lake", ""), grid=grid) < 1e-9
    assert worst(model, pool, ArbitraryDirectionController(), known=known, texts=("", "snow"), grid=grid) < 1e-9


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_bidirectional(pool: ContextPool) -> None:
    """Decoding is held equal to the joint forward by the tests of the local decoders."""
    model = build(pool, 2, bidirectional=True)
    assert worst(model, pool, Spiral(symmetries=ALL_SYMMETRIES)) < 1e-9
    model = build(pool, 1, "logit", bidirectional=True, copy_head=True, text_dim=8, ahead=True)
    assert worst(model, pool, ArbitraryDirectionController(), order="raster", texts=("lake", "")) < 1e-9


@pytest.mark.parametrize("direction", CONTROLLERS, ids=str)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_grouped(pool: ContextPool, direction: DirectionController) -> None:
    for num_kv_heads in (1, 2, 4):
        model = build(pool, num_kv_heads, grouped=True, copy_head=True)
        assert worst(model, pool, direction, grid=PatchGrid(2, 1, 3)) < 1e-9


def test_grouped_with_everything_else() -> None:
    pool, grid = NearbyContextPool((2, 1, 1)), PatchGrid(3, 2, 3)
    known = {PatchIndex(0, 1, 1): torch.arange(8).view(2, 2, 2), PatchIndex(1, 0, 2): torch.arange(8).view(2, 2, 2)}
    model = build(pool, 2, "logit", text_dim=8, grouped=True, copy_head=True, coarse_plan=True)
    plans, every, texts = _plans(grid), Spiral(symmetries=ALL_SYMMETRIES), ("lake", "")
    for steps in (1, 2, 64):
        found = worst(model, pool, every, grid=grid, known=known, texts=texts, coarse_BTYX=plans, steps=steps)
        assert found < 1e-9
    model = build(pool, 1, grouped=True, neighbor_embedding=False)
    assert worst(model, pool, ArbitraryDirectionController(), order="raster", known=known) < 1e-9


def _plans(grid: PatchGrid) -> Tensor:
    """One canvas has a plan with holes, the other has none."""
    coarse_BTYX = torch.randint(-1, 16, (2, grid.t or 0, 2 * (grid.y or 0), 2 * (grid.x or 0)))
    coarse_BTYX[1] = -1
    return coarse_BTYX


@pytest.mark.parametrize(
    ("pool", "direction"),
    [*((pool, Spiral(symmetries=ALL_SYMMETRIES)) for pool in POOLS), *((POOLS[0], each) for each in CONTROLLERS)],
    ids=str,
)
def test_coarse_plan(pool: ContextPool, direction: DirectionController) -> None:
    grid = PatchGrid(2, 2, 3)
    model = build(pool, 2, coarse_plan=True, copy_head=True)
    assert worst(model, pool, direction, grid=grid, coarse_BTYX=_plans(grid)) < 1e-9


def test_coarse_plan_with_everything_else() -> None:
    pool, grid = NearbyContextPool((2, 1, 1)), PatchGrid(3, 2, 3)
    known = {PatchIndex(0, 1, 1): torch.arange(8).view(2, 2, 2), PatchIndex(1, 0, 2): torch.arange(8).view(2, 2, 2)}
    model = build(pool, 1, text_dim=8, ahead=True, copy_head=True, coarse_plan=True)
    plans, omega, texts = _plans(grid), ArbitraryDirectionController(), ("lake", "")
    assert worst(model, pool, omega, grid=grid, known=known, texts=texts, coarse_BTYX=plans) < 1e-9
    assert worst(model, pool, omega, grid=grid, order="raster", texts=texts, coarse_BTYX=plans) < 1e-9
    model = build(pool, 2, "logit", bidirectional=True, copy_head=True, coarse_plan=True)
    assert worst(model, pool, Spiral(symmetries=ALL_SYMMETRIES), grid=grid, coarse_BTYX=plans) < 1e-9


def test_heights() -> None:
    pool, every = NearbyContextPool((1, 1, 1)), Spiral(symmetries=ALL_SYMMETRIES)
    for heights, rows in ((2, 3), (3, 2), (8, 3)):
        grid = PatchGrid(1, rows, 2)
        assert worst(build(pool, 2, heights=heights), pool, every, grid=grid) < 1e-9
    plans, omega = _plans(grid), ArbitraryDirectionController()
    model = build(pool, 1, heights=4, copy_head=True, coarse_plan=True)
    assert worst(model, pool, omega, grid=grid, order="raster", coarse_BTYX=plans) < 1e-9
    assert worst(build(pool, 2, heights=4, grouped=True), pool, every, grid=grid) < 1e-9


def _sees_the_next_token(queries: int, context: int, *, start: int = 0, device: torch.device | None = None) -> Tensor:
    return causal_mask(queries, context, start=start, device=device).roll(-1, 2)


def _heads_in_another_order(q_RLHD: Tensor, k_RGSD: Tensor, v_RGSD: Tensor, *, bias: Tensor | None) -> Tensor:
    return attend(q_RLHD, k_RGSD.flip(1), v_RGSD.flip(1), bias=bias)


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        ("models.nuwa_infinity.causal_mask", _sees_the_next_token),
        ("models.nuwa_infinity.attend", _heads_in_another_order),
        ("generation.fast_transformer.attend", _heads_in_another_order),
        ("models.nuwa_infinity.RelativePatchEmbedding.index", lambda self, o: index(self, (o[0], -o[1], o[2]))),
        ("models.nuwa_infinity.RelativePatchEmbedding.own", lambda self: self.offsets[0]),
        ("models.nuwa_infinity.PatchLayer.place_own", lambda self, k: k),
        ("models.nuwa_infinity.AxialPosition.forward", lambda self: (self.rows[:, None] + self.columns).flatten(0, 1)),
        ("planning.geometry.Symmetry.relative_to", lambda self, other: relative_to(other, self)),
        ("planning.geometry.Symmetry.index", property(lambda self: (SYMMETRIES.index(self) + 1) % 8)),
        ("planning.schedule.framed_offset", lambda offset, frame, extent: offset.clamped(extent)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_found(where: str, wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of these are wrong in training and in decoding alike: comparing the two would not find them."""
    pool, direction = NearbyContextPool((1, 1, 1)), Spiral(symmetries=ALL_SYMMETRIES)
    model = build(pool, 2)
    monkeypatch.setattr(f"nuwa_lightning.{where}", wrong)
    assert worst(model, pool, direction) > 1e-3
