"""Groups of tokens: how many, where, and in which order; what is hidden in training is not seen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, LocalityLocalDecoder, MaskedLocalDecoder
from nuwa_lightning.generation.local.group_order import VARIANTS, group_sizes, grown_groups
from nuwa_lightning.generation.patch_decoder import PatchDecoder, own_neighbors
from nuwa_lightning.generation.pretrained import Generator, begin_with, save_generator
from nuwa_lightning.generation.renderer import InfiniteRenderer, Rendering
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TokenMask, neighbors
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.training.plans import hide
from tests.generation.all_logits import build

NEARBY, OMEGA = NearbyContextPool((0, 1, 1)), ArbitraryDirectionController()
KINDS = neighbors(grouped=True)
SIDE = st.sampled_from([(1, 1), (1, 4), (4, 1), (3, 5), (8, 8)])


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def surroundings(size: tuple[int, int], written: set[tuple[int, int]]) -> Tensor:
    """Neighbors [1, N, K] in the context: cells (row, column) of the frame, outside of the patch."""
    rows, columns = size
    cells = [(row, column) for column in range(columns) for row in range(rows)]
    there = [[(y + kind.y, x + kind.x) in written - set(cells) for kind in KINDS] for y, x in cells]
    return torch.where(torch.tensor(there), 7, ABSENT)[None]


def groups(size: tuple[int, int], steps: int, variant: int, written: set[tuple[int, int]], part: set[int]) -> list[int]:
    N = size[0] * size[1]
    grown = grown_groups(
        surroundings(size, written),
        own_NK=own_neighbors(size, "mirrored", KINDS),
        kinds=KINDS,
        steps_R=[steps],
        variant_R=[variant],
        given_RN=torch.tensor([[place in part for place in range(N)]]),
    )
    found: list[int] = grown[0].tolist()
    return found


def test_group_sizes_are_those_of_the_paper() -> None:
    assert group_sizes(64, 8) == (1, 4, 6, 8, 9, 12, 12, 12)
    assert group_sizes(64, 10) == (1, 2, 4, 5, 7, 7, 9, 9, 10, 10)
    assert group_sizes(64, 64) == (1,) * 64


@given(st.integers(1, 300), st.integers(1, 400))
def test_group_sizes_add_up(tokens: int, steps: int) -> None:
    sizes = group_sizes(tokens, steps)
    assert sum(sizes) == tokens
    assert len(sizes) == min(tokens, steps)
    assert min(sizes) >= 1


@settings(max_examples=60, deadline=None)
@given(
    size=SIDE,
    steps=st.sampled_from([1, 3, 8, 10, 64]),
    variant=st.integers(0, VARIANTS - 1),
    written=st.sets(st.tuples(st.integers(-1, 8), st.integers(-1, 8)), max_size=20),
    part=st.sets(st.integers(0, 63), max_size=5),
)
def test_groups_are_a_partition_that_begins_with_what_is_given(
    size: tuple[int, int], steps: int, variant: int, written: set[tuple[int, int]], part: set[int]
) -> None:
    N = size[0] * size[1]
    part = {place for place in part if place < N}
    found = groups(size, steps, variant, written, part)
    assert [found.count(number) for number in range(max(found) + 1)] == list(group_sizes(N, steps))
    in_order = sorted(range(N), key=found.__getitem__)
    assert max((found[place] for place in part), default=0) <= found[in_order[max(0, len(part) - 1)]]


def reference_support(size: tuple[int, int], written: set[tuple[int, int]], cell: tuple[int, int]) -> float:
    near = [math.dist(cell, other) for other in written]
    return sum(1 / distance for distance in near if 0 < distance < 2)


@settings(max_examples=30, deadline=None)
@given(
    variant=st.integers(0, VARIANTS - 1),
    steps=st.sampled_from([8, 10, 16, 64]),
    sides=st.sets(st.sampled_from(["left", "above", "right"])),
)
def test_an_order_grows_from_what_is_written(variant: int, steps: int, sides: set[str]) -> None:
    size, written = (8, 8), set[tuple[int, int]]()
    written |= {(y, -1) for y in range(8)} if "left" in sides else set()
    written |= {(-1, x) for x in range(8)} if "above" in sides else set()
    written |= {(y, 8) for y in range(8)} if "right" in sides else set()
    found = groups(size, steps, variant, written, set())
    cells = [(place % 8, place // 8) for place in range(64)]
    for number in range(max(found) + 1):
        group = [cell for cell, own in zip(cells, found, strict=True) if own == number]
        left = [cell for cell, own in zip(cells, found, strict=True) if own >= number]
        support = {cell: reference_support(size, written, cell) for cell in left}
        # The best supported one is always among them, and nobody better is passed over but for being too close.
        best = max(support.values())
        assert max(support[cell] for cell in group) >= best - 1e-2
        supported = [cell for cell in group if support[cell] >= 1]
        least = min((support[cell] for cell in supported), default=math.inf)
        for cell in left:
            if cell not in group and support[cell] > least + 1e-2:
                assert min(math.dist(cell, other) for other in group) <= 1
        written |= set(group)


def test_where_nothing_is_written_it_begins_at_different_places() -> None:
    first = {groups((8, 8), 64, variant, set(), set()).index(0) for variant in range(VARIANTS)}
    assert len(first) > VARIANTS / 2


def model(size: tuple[int, int] = (4, 4)) -> PatchTransformer:
    torch.manual_seed(0)
    small = build(NEARBY, 2, grouped=True, copy_head=True)
    made = PatchTransformer(
        16, 4, patch_size=size, embedding_extent=NEARBY.embedding_extent, size=small.size, bidirectional=True,
        grouped=True,
    )  # fmt: skip
    made.set_codes(torch.randn(16, 4))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.mark.parametrize("grid", [PatchGrid(1, 4, 5), PatchGrid(1, 3, 4, wrap="xy")], ids=["open", "closed"])
def test_fronts_and_count_change_no_token(grid: PatchGrid) -> None:
    def tokens(max_rows: int, seeds: list[int]) -> Tensor:
        renderer = InfiniteRenderer(model(), NEARBY, OMEGA, max_rows=max_rows, local_decoder=LocalityLocalDecoder(6))
        return sample_tokens(renderer, grid, seeds=seeds)

    alone = torch.cat([tokens(1, [seed]) for seed in (7, 8)])
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(tokens(3, [7, 8]), alone)
    assert torch.equal(tokens(64, [7, 8]), alone)


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_state_goes_on_to_the_bit(stop: int) -> None:
    torch.set_default_dtype(torch.float32)  # bits, not roundings
    renderer = InfiniteRenderer(model(), NEARBY, OMEGA, local_decoder=LocalityLocalDecoder(5))
    grid = PatchGrid(1, 3, 4)
    whole = [done.tokens_BYX for wave in Rendering(renderer, grid, seeds=[1]) for done in wave]
    first = Rendering(renderer, grid, seeds=[1])
    parts = [done.tokens_BYX for wave in itertools.islice(first, stop) for done in wave]
    rest = Rendering(renderer, grid, seeds=[1], decoding_state=first.decoding_state())
    parts += [done.tokens_BYX for wave in rest for done in wave]
    assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))


@pytest.mark.parametrize(("steps", "calls"), [(64, 16), (5, 5), (1, 1)])
def test_a_patch_takes_as_many_steps_as_groups(steps: int, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    widths, read = list[int](), PatchDecoder.group_logits

    def counted(self: PatchDecoder, places_Rn: Tensor) -> Tensor:
        widths.append(places_Rn.shape[1])
        return read(self, places_Rn)

    monkeypatch.setattr(PatchDecoder, "group_logits", counted)
    renderer = InfiniteRenderer(model(), NEARBY, OMEGA, local_decoder=LocalityLocalDecoder(steps))
    sample_tokens(renderer, PatchGrid(1, 1, 1), seeds=[0])
    assert widths == list(group_sizes(16, steps))
    assert len(widths) == calls


def test_training_draws_schedules_and_orders() -> None:
    decoder = LocalityLocalDecoder(schedules=(64, 8), random_share=0.25)
    context = surroundings((8, 8), {(y, -1) for y in range(8)}).expand(400, -1, -1)[:, None]
    own = own_neighbors((8, 8), "mirrored", KINDS)
    found = decoder.training_groups(context, own, KINDS, torch.Generator().manual_seed(0))
    again = decoder.training_groups(context, own, KINDS, torch.Generator().manual_seed(0))
    assert found is not None
    assert again is not None
    assert torch.equal(found, again)
    steps = found[:, 0].amax(dim=1) + 1
    assert set(steps.tolist()) == {64, 8}
    assert abs(float((steps == 64).double().mean()) - 0.5) < 0.1
    for row in found[:, 0]:
        assert row.bincount().tolist() == list(group_sizes(64, int(row.max()) + 1))
    begins = (found[:, 0] == 0).to(torch.uint8).argmax(dim=1)
    # One that grows begins beside the context, a random one mostly not.
    assert abs(float((begins >= 8).double().mean()) - 0.25 * 7 / 8) < 0.08


def test_nobody_sees_what_is_written_later_or_along_with_it() -> None:
    made, (B, P, N) = model(), (2, 1, 16)
    torch.manual_seed(1)
    own, empty = own_neighbors((4, 4), "mirrored", made.neighbors), torch.zeros(B, P, dtype=torch.long)
    tokens_BPN = torch.randint(0, 16, (B, P, N))

    def scores(tokens_BPN: Tensor) -> tuple[Tensor, TokenMask]:
        near_BPNK = torch.where(own == ABSENT, ABSENT, tokens_BPN[:, :, own.clamp_min(0)])
        decoder, seeded = LocalityLocalDecoder(schedules=(4,)), torch.Generator().manual_seed(0)
        own_layouts: dict[int, Any] = dict.fromkeys(range(B))  # of other processes only are layouts looked at
        mask, _ = hide(near_BPNK, own_layouts, range(B), decoder, made, "mirrored", seeded)
        assert mask is not None
        with torch.no_grad():
            logits_BNK, _ = made.forward_step(
                tokens_BPN[:, 0], empty[:, 0], neighbors_RNK=near_BPNK[:, 0], context=[],
                offset_RC=empty[:, :0], symmetry_RC=empty[:, :0], token_mask=mask.of(lambda x: x[:, 0]),
            )  # fmt: skip
        return logits_BNK, mask

    before_BNK, mask = scores(tokens_BPN)
    assert mask.groups is not None
    for number in range(4):
        later_BPN = mask.groups >= number
        after_BNK, _ = scores(torch.where(later_BPN, (tokens_BPN + 3) % 16, tokens_BPN))
        same_BN = (after_BNK - before_BNK).abs().amax(dim=-1) < 1e-9
        assert torch.equal(same_BN, (mask.groups <= number)[:, 0])


def test_what_does_not_fit_is_refused() -> None:
    for field, value in (("steps", 0), ("schedules", ()), ("schedules", (8, 0)), ("random_share", 1.5)):
        with pytest.raises(UsageError, match=f"^{field}: "):
            LocalityLocalDecoder(**{field: value})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the model is grouped"):
        InfiniteRenderer(model(), NEARBY, OMEGA, sampling=Sampling(), local_decoder=MaskedLocalDecoder())
    with pytest.raises(ValueError, match="needs groups"):
        nothing = torch.zeros(1, 1, 16, dtype=torch.long)
        mask = TokenMask(nothing == 0, nothing[..., None])
        model()(nothing, nothing[:, :, 0], neighbors_BPNK=nothing[..., None], groups=[], token_mask=mask)


def test_weights_of_another_decoder_are_taken_over(tmp_path: Path) -> None:
    torch.manual_seed(3)
    pool = NearbyContextPool((1, 1, 1))
    trained, new = build(pool, 2, copy_head=True), build(pool, 2, copy_head=True, grouped=True)
    for parameter in new.parameters():
        torch.nn.init.normal_(parameter)
    own = AutoregressiveLocalDecoder()
    save_generator(tmp_path / "model", Generator(trained, pool, OMEGA, "mirrored", "f" * 64, own))
    (tmp_path / "tokenizer").mkdir()  # it asks for the folder of a run
    begin_with(new, str(tmp_path), option="model.start_from")
    near = torch.randint(0, 16, (5, len(trained.neighbors)))
    # The same neighbors, and others that the trained model never saw.
    plain = [kind._replace(later=False) for kind in new.neighbors]
    wider = torch.randint(0, 16, (5, len(plain)))
    for k, kind in enumerate(trained.neighbors):
        wider[:, plain.index(kind)] = near[:, k]
    assert trained.neighbor_embedding is not None
    assert new.neighbor_embedding is not None
    codes_KE = trained.codebook_KE
    expected, found = trained.neighbor_embedding(near, codes_KE), new.neighbor_embedding(wider, codes_KE)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    x = torch.randn(5, 16)
    torch.testing.assert_close(new.logits(x, wider), trained.logits(x, near), rtol=1e-5, atol=1e-5)
    assert torch.equal(new.layer(1).attention.out.weight, trained.layer(1).attention.out.weight.float().double())
    other = build(NearbyContextPool((0, 1, 1)), 2, grouped=True)
    with pytest.raises(UsageError, match=r"start_from: .*its embedding_extent"):
        begin_with(other, str(tmp_path), option="model.start_from")
