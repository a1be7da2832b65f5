"""How the tokens of a patch are written: one truth, waves, schedules, what is given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local import (
    AutoregressiveLocalDecoder,
    LocalDecoder,
    LocalityLocalDecoder,
    MaskedLocalDecoder,
    ParallelLocalDecoder,
)
from nuwa_lightning.generation.patch_decoder import PatchDecoder, own_neighbors
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.layout import lay_out
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TokenMask, TransformerConfig
from nuwa_lightning.planning.context import ContextPool, EmptyContextPool, FullContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController, SpiralDirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex

GRID, PATCH = PatchGrid(1, 3, 3), (2, 2)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(
    pool: ContextPool, *, bidirectional: bool = True, feed: str = "key", grouped: bool = False
) -> PatchTransformer:
    torch.manual_seed(0)
    size = TransformerConfig(16, 2, num_heads=4, num_kv_heads=2, position_feed=feed, layer_scale=1.0)  # type: ignore[arg-type]
    model = PatchTransformer(
        16, 4, patch_size=PATCH, embedding_extent=pool.embedding_extent, size=size, bidirectional=bidirectional,
        grouped=grouped,
    )  # fmt: skip
    model.set_codes(torch.randn(16, 4))
    return model.eval()


@dataclass
class TwoSets(LocalDecoder):
    """Writes an even set of places, then the odd ones, and keeps what it was told; a strategy of a user's own."""

    told: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def bidirectional(self) -> bool:
        return True

    def draws(self, tokens: int) -> int:
        return tokens

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        for places in ([0, 2], [1, 3]):
            masked_RN = patches.tokens_RN == ABSENT
            self.told.append((masked_RN, patches.logits(range(4))))
            drawn_M = sampling.draw(patches.logits(places).flatten(0, 1), uniform_RU[:, places].flatten())
            patches.set_tokens(places, drawn_M.view(-1, 2))

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        raise NotImplementedError


@pytest.mark.parametrize("order", ["mirrored", "raster"])
@pytest.mark.parametrize("pool", [NearbyContextPool((0, 1, 1)), FullContextPool(), EmptyContextPool()], ids=str)
def test_joint_equals_cached_whatever_is_hidden(pool: ContextPool, order: str) -> None:
    for direction, feed in ((ArbitraryDirectionController("zeta*"), "key"), (SpiralDirectionController(), "logit")):
        model, decoder = build(pool, feed=feed), TwoSets()
        renderer = InfiniteRenderer(model, pool, direction, order, Sampling(top_k=0), local_decoder=decoder)  # type: ignore[arg-type]
        tokens, waves = torch.zeros(2, 6, 6, dtype=torch.long), []
        for done in renderer.render(GRID, seeds=[5, 6]):
            _, y, x = done.patch
            tokens[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = done.tokens_BYX
            waves.append((done.patch, done.wave))
        plan = list(direction.plan(GRID, frozenset()))
        layout = lay_out(
            plan,
            pool,
            grid=GRID,
            patch_size=PATCH,
            embedding=model.layer(0).embedding,
            token_order=order,  # type: ignore[arg-type]
        )
        tokens_BPN = tokens.flatten(1)[:, layout.index_PN]
        neighbors = torch.cat([tokens.flatten(1), torch.full((2, 1), -1)], dim=1)[:, layout.neighbors_PNK]
        number = {step.patch: n for n, step in enumerate(plan)}
        own = own_neighbors(PATCH, order)  # type: ignore[arg-type]
        for half in range(2):
            # What was hidden when each patch was asked for, and the scores it got, in the order of the plan.
            masked_BPN, scores_BPNK = torch.zeros(2, 9, 4, dtype=torch.bool), torch.zeros(2, 9, 4, 16)
            at, wave = 0, 0
            while at < len(waves):
                masked_RN, scores_RNK = decoder.told[2 * wave + half]
                for s, (patch, _) in enumerate(waves[at : at + waves[at][1]]):
                    masked_BPN[:, number[patch]] = masked_RN[2 * s : 2 * s + 2]
                    scores_BPNK[:, number[patch]] = scores_RNK[2 * s : 2 * s + 2]
                at, wave = at + waves[at][1], wave + 1
            gone = masked_BPN[:, :, own.clamp_min(0)] & (own != ABSENT)
            token_mask = TokenMask(masked_BPN, torch.where(gone, ABSENT, neighbors))
            joint = model(
                tokens_BPN,
                layout.symmetry_P.expand(2, -1),
                neighbors_BPNK=neighbors,
                groups=layout.groups,
                token_mask=token_mask,
            )
            assert (joint - scores_BPNK).abs().max() < 1e-9


DECODERS = [MaskedLocalDecoder(3), MaskedLocalDecoder(12, (0.0, 0.0)), ParallelLocalDecoder(), LocalityLocalDecoder(3)]


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_waves_change_nothing(decoder: LocalDecoder, temperature: float) -> None:
    pool, direction, grid = NearbyContextPool((0, 1, 1)), ArbitraryDirectionController("zeta"), PatchGrid(1, 4, 5)
    model, sampling = build(pool, grouped=decoder.grouped), Sampling(temperature, top_k=0)
    canvases = [
        sample_tokens(
            InfiniteRenderer(model, pool, direction, "mirrored", sampling, rows, local_decoder=decoder),
            grid,
            seeds=[1, 2],
        )
        for rows in (2, 4, 64)
    ]
    assert torch.equal(canvases[0], canvases[1])
    assert torch.equal(canvases[0], canvases[2])
    assert (canvases[0][0] != canvases[0][1]).any() or temperature == 0


@pytest.mark.parametrize("decoder", [AutoregressiveLocalDecoder(), *DECODERS], ids=str)
def test_a_patch_given_in_part_is_written_around_that(decoder: LocalDecoder) -> None:
    pool, direction = NearbyContextPool((0, 1, 1)), ArbitraryDirectionController()
    model = build(pool, bidirectional=decoder.bidirectional, grouped=decoder.grouped)
    part = torch.tensor([[[3, ABSENT], [ABSENT, 5]]])
    renderer = InfiniteRenderer(model, pool, direction, local_decoder=decoder)
    tokens = sample_tokens(renderer, PatchGrid(1, 2, 2), seeds=[0], known={PatchIndex(0, 0, 1): part})
    assert tokens[0, 0, 2] == 3
    assert tokens[0, 1, 3] == 5
    assert tokens.min() >= 0


class Page:
    """Stands in for a writer: 64 tokens, scores that are the same everywhere, and a record of how many are written."""

    def __init__(self, given: int) -> None:
        self.tokens_RN = torch.full((2, 64), ABSENT)
        self.tokens_RN[1, :given] = 1
        self.written: list[list[int]] = []

    def logits(self, places: range) -> Tensor:
        return torch.zeros(2, len(places), 8)

    def set_tokens(self, places: range, tokens_RN: Tensor) -> None:
        kept = self.tokens_RN != ABSENT
        assert torch.equal(tokens_RN[kept], self.tokens_RN[kept])
        self.tokens_RN = tokens_RN
        self.written.append((tokens_RN != ABSENT).sum(dim=1).tolist())


def test_masked_decoding_follows_the_cosine() -> None:
    decoder, page = MaskedLocalDecoder(12), Page(given=60)
    decoder.decode(page, Sampling(), torch.rand(2, decoder.draws(64)))  # type: ignore[arg-type]
    assert [row[0] for row in page.written] == [
        64 - int(64 * math.cos(math.pi / 2 * s / 12) + 1e-9) for s in range(1, 13)
    ]
    assert [row[1] for row in page.written][:4] == [61, 62, 63, 64]  # one a step at least


def test_training_hides_as_much_as_generation_does() -> None:
    generator = torch.Generator().manual_seed(0)
    token_mask = MaskedLocalDecoder().training_mask((50, 40, 64), generator)
    assert token_mask is not None
    share = token_mask.double().mean(dim=-1)
    assert abs(float(share.mean()) - 2 / math.pi - 0.5 / 64) < 0.02
    assert float(share.min()) >= 1 / 64
    assert abs(float(token_mask.double().mean(dim=(0, 1)).std())) < 0.02  # every place alike
    everything = ParallelLocalDecoder().training_mask((2, 3, 4), generator)
    assert everything is not None
    assert everything.all()
    assert AutoregressiveLocalDecoder().training_mask((2, 3, 4), generator) is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        MaskedLocalDecoder(0)
    with pytest.raises(UsageError, match="from 0 up"):
        MaskedLocalDecoder(temperature=(1.0, -1.0))
    pool = EmptyContextPool()
    with pytest.raises(UsageError, match="the model is causal"):
        InfiniteRenderer(
            build(pool, bidirectional=False), pool, ArbitraryDirectionController(), local_decoder=ParallelLocalDecoder()
        )
    with pytest.raises(ValueError, match="what is masked"):
        build(pool)(
            torch.zeros(1, 1, 4, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long), neighbors_BPNK=None, groups=[]
        )
