"""The laws of a local decoder."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.testing.laws import asked, hold

if TYPE_CHECKING:
    from torch import Tensor

    from nuwa_lightning.generation.local.base import LocalDecoder

_MASKS = 50
"""So many are drawn of each shape: one may hide something by luck."""


def check_local_decoder(decoder: LocalDecoder, *, seed: int = 0) -> None:
    """Hold ``decoder`` to the laws of :class:`LocalDecoder` on small canvases of a model with random weights.

    Args:
        decoder: an object of the class to be tested.
        seed: of the model and of what is drawn.

    Raises:
        AssertionError: naming the class and the law.
    """
    import torch

    from nuwa_lightning.canvas.sample import sample_tokens
    from nuwa_lightning.generation.renderer import InfiniteRenderer
    from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TransformerConfig
    from nuwa_lightning.planning.context import NearbyContextPool
    from nuwa_lightning.planning.direction import RasterDirectionController

    holds = functools.partial(hold, decoder)
    pool, grid, (rows, columns), K = NearbyContextPool((0, 1, 1)), PatchGrid(1, 2, 3), (2, 2), 16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PatchTransformer(
            K,
            4,
            patch_size=(rows, columns),
            embedding_extent=pool.embedding_extent,
            size=TransformerConfig(16, 1, num_heads=2, num_kv_heads=2, layer_scale=1.0),
            bidirectional=decoder.bidirectional,
            grouped=decoder.grouped,
        )
        model.set_codes(torch.randn(K, 4))
        torch.nn.init.normal_(model.head.weight, std=0.5)
    model = model.double().eval()  # rows side by side are the same in it but for the last bits

    def sampled(seeds: Sequence[int], known: Mapping[PatchIndex, Tensor] | None = None, max_rows: int = 64) -> Tensor:
        renderer = InfiniteRenderer(
            model, pool, RasterDirectionController(), "mirrored", max_rows=max_rows, local_decoder=decoder
        )
        with asked(decoder, "decode"):
            return sample_tokens(renderer, grid, seeds=seeds, known=known)

    seeds = [seed, seed + 1, seed + 2]
    tokens_BYX = sampled(seeds)
    holds("tokens are from 0 to K - 1", bool(((tokens_BYX >= 0) & (tokens_BYX < K)).all()))
    holds("decode is deterministic", torch.equal(sampled(seeds), tokens_BYX))
    apart_BYX = torch.cat([sampled([one], max_rows=1) for one in seeds])
    holds("a patch does not depend on patches beside it", torch.equal(apart_BYX, tokens_BYX))
    given_BYX = tokens_BYX[:, :rows, columns : 2 * columns].flip(0).clone()
    given_BYX[:, 0, 1] = ABSENT
    made_BYX = sampled(seeds, {PatchIndex(0, 0, 1): given_BYX})[:, :rows, columns : 2 * columns]
    holds("tokens that are given stay", bool(((made_BYX == given_BYX) | (given_BYX == ABSENT)).all()))
    for shape in ((1, 1, 1), (2, 3, 4), (3, 1, 64)):
        for number in range(seed, seed + _MASKS):
            _check_mask(decoder, shape, number)


def _check_mask(decoder: LocalDecoder, shape: tuple[int, int, int], seed: int) -> None:
    import torch

    holds = functools.partial(hold, decoder)
    with asked(decoder, "training_mask"):
        mask_BPN, again_BPN = (decoder.training_mask(shape, torch.Generator().manual_seed(seed)) for _ in range(2))
    if mask_BPN is None or again_BPN is None:
        holds("a bidirectional decoder hides tokens in training", not decoder.bidirectional)
        return
    holds("a causal decoder hides nothing (training_mask returns None)", decoder.bidirectional)
    boolean = isinstance(mask_BPN, torch.Tensor) and mask_BPN.dtype == torch.bool
    holds("training_mask is boolean [B, P, N]", boolean and mask_BPN.shape == shape)
    holds("training_mask hides something of each patch", bool(mask_BPN.any(dim=-1).all()))
    holds("training_mask draws by the generator alone", torch.equal(mask_BPN, again_BPN))
