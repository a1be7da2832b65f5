"""Several tokens a step are those that one after another would be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, JacobiLocalDecoder, LocalDecoder
from nuwa_lightning.generation.patch_decoder import own_neighbors
from nuwa_lightning.generation.pretrained import named_local_decoder
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer, Rendering
from nuwa_lightning.generation.sampling import Sampling, best_codes, gumbel, patch_key, place_keys, signed
from nuwa_lightning.models.nuwa_infinity import ABSENT, NEIGHBORS, PatchTransformer, TransformerConfig
from nuwa_lightning.planning.context import ContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController, DirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from tests.generation.small import small_model
from tests.strategies import CONTROLLERS, POOLS

ONE_BY_ONE = AutoregressiveLocalDecoder(noise="gumbel")
NEARBY = NearbyContextPool((0, 1, 1))


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def with_text(pool: ContextPool, *, num_kv_heads: int, patch_size: tuple[int, int]) -> tuple[PatchTransformer, Tensor]:
    torch.manual_seed(0)
    size = TransformerConfig(16, 2, num_heads=4, num_kv_heads=num_kv_heads, layer_scale=1.0, copy_head=True)
    model = PatchTransformer(
        16, 4, patch_size=patch_size, embedding_extent=pool.embedding_extent, size=size, text_dim=6
    )
    model.set_codes(torch.randn(16, 4))
    torch.nn.init.normal_(model.head.weight, std=0.3)
    assert model.copy_head is not None
    torch.nn.init.normal_(model.copy_head.linear.weight, std=0.2)
    return model.eval(), torch.randn(3, 4, 6)


@settings(max_examples=25, deadline=None)
@given(
    pool=st.sampled_from(POOLS),
    direction=st.sampled_from(CONTROLLERS),
    num_kv_heads=st.sampled_from([1, 2, 4]),
    guidance=st.sampled_from([0.0, 1.0, 2.5]),
    sampling=st.builds(
        Sampling, st.sampled_from([0.0, 0.8, 1.0]), st.sampled_from([0, 5]), st.sampled_from([0.7, 1.0])
    ),
    window=st.sampled_from([1, 3, 7, 16]),
    max_rows=st.sampled_from([1, 4, 64]),
    grid=st.builds(PatchGrid, st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), wrap=st.sampled_from(["", "x"])),
    part=st.booleans(),
    token_order=st.sampled_from(["mirrored", "raster"]),
)
def test_tokens_are_those_of_one_after_another(
    pool: ContextPool,
    direction: DirectionController,
    num_kv_heads: int,
    guidance: float,
    sampling: Sampling,
    window: int,
    max_rows: int,
    grid: PatchGrid,
    part: bool,
    token_order: str,
) -> None:
    model, text = with_text(pool, num_kv_heads=num_kv_heads, patch_size=(3, 3))
    assert model.text is not None
    with torch.no_grad():
        texts = model.text.states(text, torch.tensor([[False] * 4, [True] * 4, [True, True, False, False]]))
    known = {}
    if part:
        known[PatchIndex(0, 0, 0)] = torch.randint(0, 16, (2, 3, 3))
        known[PatchIndex(0, 0, 0)][:, 1, 1:] = ABSENT

    def tokens(decoder: LocalDecoder) -> list[Tensor]:
        renderer = InfiniteRenderer(
            model,
            pool,
            direction,
            token_order,  # type: ignore[arg-type]
            sampling,
            max_rows,
            local_decoder=decoder,
        )
        prompts = Prompts(texts, lambda patch: (1, 2), guidance)
        return [d.tokens_BYX for d in renderer.render(grid, seeds=[3, 4], known=known, prompts=prompts)]

    expected, found = tokens(ONE_BY_ONE), tokens(JacobiLocalDecoder(window))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("grid", [PatchGrid(1, 4, 5), PatchGrid(1, 3, 4, wrap="xy")], ids=["open", "closed"])
def test_fronts_and_count_change_no_token(grid: PatchGrid) -> None:
    def tokens(max_rows: int, seeds: list[int]) -> Tensor:
        model = small_model(NEARBY, patch_size=(4, 4))
        renderer = InfiniteRenderer(
            model,
            NEARBY,
            ArbitraryDirectionController(),
            max_rows=max_rows,
            local_decoder=JacobiLocalDecoder(6),
        )
        return sample_tokens(renderer, grid, seeds=seeds)

    alone = torch.cat([tokens(1, [seed]) for seed in (7, 8)])
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(tokens(3, [7, 8]), alone)
    assert torch.equal(tokens(64, [7, 8]), alone)


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_state_goes_on_to_the_bit(stop: int) -> None:
    torch.set_default_dtype(torch.float32)  # bits, not roundings
    model = small_model(NEARBY, patch_size=(4, 4))
    renderer = InfiniteRenderer(model, NEARBY, ArbitraryDirectionController(), local_decoder=JacobiLocalDecoder())
    grid = PatchGrid(1, 3, 4)
    whole = [done.tokens_BYX for wave in Rendering(renderer, grid, seeds=[1]) for done in wave]
    first = Rendering(renderer, grid, seeds=[1])
    parts = [done.tokens_BYX for wave in itertools.islice(first, stop) for done in wave]
    rest = Rendering(renderer, grid, seeds=[1], decoding_state=first.decoding_state())
    parts += [done.tokens_BYX for wave in rest for done in wave]
    assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))


class Page:
    """Stands in for patches: a token depends on the one before it ``reach`` times out of ten, and on its place."""

    own_NK = own_neighbors((8, 8), "mirrored")

    def __init__(self, rows: int, *, chained: float) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens_RN = torch.full((rows, 64), ABSENT)
        self.keys_RN = place_keys(torch.arange(rows), 64)
        self.chained_N = torch.rand(64, generator=generator) < chained
        self.calls: list[range] = []

    def neighbors(self, places: range) -> Tensor:
        return torch.full((len(self.tokens_RN), len(places), len(NEIGHBORS)), ABSENT)

    def logits(self, places: range) -> Tensor:
        self.calls.append(places)
        right = torch.tensor([place * 7 % 11 for place in places]).expand(len(self.tokens_RN), -1)
        if places[0]:
            before = self.tokens_RN[:, places[0] - 1 : places[-1]]
        else:
            before = torch.cat([torch.zeros_like(right[:, :1]), self.tokens_RN[:, : places[-1]]], dim=1)
        right = torch.where(self.chained_N[list(places)], (before * 5 + right) % 11, right)
        return torch.nn.functional.one_hot(right, 11) * 50.0

    def set_tokens(self, places: range, tokens_Rn: Tensor) -> None:
        self.tokens_RN[:, list(places)] = tokens_Rn


@pytest.mark.parametrize("rows", [1, 3])
def test_steps_are_saved_where_tokens_do_not_hang_on_each_other(rows: int) -> None:
    calls = {}
    for chained in (0.0, 0.3, 1.0):
        pages = [Page(rows, chained=chained) for _ in range(2)]
        for page, decoder in zip(pages, (ONE_BY_ONE, JacobiLocalDecoder(16)), strict=True):
            decoder.decode(page, Sampling(), torch.empty(rows, 0))  # type: ignore[arg-type]
        assert torch.equal(pages[0].tokens_RN, pages[1].tokens_RN)
        assert len(pages[0].calls) == 64
        calls[chained] = len(pages[1].calls)
    # Nothing hangs on anything: a window is right at its second reading, so each place is read twice at most.
    assert calls[0.0] <= 2 * math.ceil(64 / 16) + 1
    assert calls[0.0] < calls[0.3] < calls[1.0] <= 64


def test_noise_is_splitmix64() -> None:
    def mixed(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    assert mixed(0) == 0xE220A8397B1DCDAF  # Vigna's reference
    for seed, patch in ((0, PatchIndex(0, 0, 0)), (2**64 - 1, PatchIndex(1, 2, 3)), (5, PatchIndex(0, 10**9, 7))):
        key = patch_key(seed, patch)
        found = gumbel(place_keys(torch.tensor([signed(key)]), 4)[0, :, None], torch.tensor([0, 1, 4095]))
        for place in range(4):
            for column, code in enumerate((0, 1, 4095)):
                bits = mixed(mixed(key ^ place + 1) ^ code) >> 11
                expected = -math.log(-math.log((bits + 0.5) / 2**53))
                assert math.isclose(float(found[place, column]), expected, rel_tol=1e-12)


@pytest.mark.parametrize("sampling", [Sampling(0.7, 5), Sampling(1.0, 0, 0.8), Sampling(1.3, 6, 0.9)], ids=str)
def test_frequencies_are_those_of_the_filtered_distribution(sampling: Sampling) -> None:
    count = 40000
    torch.manual_seed(0)
    logits = torch.randn(8) * 2
    drawn = sampling.draw_frozen(logits.expand(count, 8), place_keys(torch.tensor([17]), count)[0])
    # The other way to draw, of which the frequencies are known.
    other = sampling.draw(logits.expand(count, 8), (torch.arange(count) + 0.5) / count)
    expected = torch.bincount(other, minlength=8) / count
    frequencies = torch.bincount(drawn, minlength=8) / count
    assert bool((frequencies[expected == 0] == 0).all())
    deviation = (expected * (1 - expected) / count).sqrt()
    assert bool(((frequencies - expected).abs() <= 4 * deviation + 1e-9).all())
    assert torch.equal(Sampling(0.0).draw_frozen(logits[None], torch.tensor([1])), logits.argmax()[None])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5), codes=st.sampled_from([16, 64, 1001, 2048, 4096]), k=st.sampled_from([1, 7, 50, 64]),
    levels=st.sampled_from([3, 40, 1 << 30]), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_best_codes_are_found_in_two_passes(rows: int, codes: int, k: int, levels: int, seed: int) -> None:
    generator, k = torch.Generator().manual_seed(seed), min(k, codes)
    logits_RK = torch.randint(levels, (rows, codes), generator=generator).double()  # few levels: many are alike
    best_Rk, code_Rk = best_codes(logits_RK, k)
    assert torch.equal(best_Rk, logits_RK.sort(dim=-1, descending=True).values[:, :k])
    assert torch.equal(logits_RK.gather(1, code_Rk), best_Rk)
    assert all(len(set(row)) == k for row in code_Rk.tolist())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^window: 0"):
        JacobiLocalDecoder(0)
    with pytest.raises(UsageError, match=r"^noise: cumulative"):
        AutoregressiveLocalDecoder("cumulative")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^local_decoder: Jacoby: choose .*JacobiLocalDecoder"):
        named_local_decoder("Jacoby")
    assert named_local_decoder("JacobiLocalDecoder") == JacobiLocalDecoder()
    model = small_model(NEARBY)
    with pytest.raises(UsageError, match=r"^weights: int8"):
        InfiniteRenderer(
            model,
            NEARBY,
            ArbitraryDirectionController(),
            precision=Precision("int8"),
            local_decoder=JacobiLocalDecoder(),
        )
