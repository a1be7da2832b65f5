"""Our decoder as a contender: a wave of patches, each with four context patches of its own.

Shape legend: R rows, G key/value heads, N tokens per patch, D head width.
"""

import time
from typing import Final, NamedTuple

import torch

from evaluation.benchmark.measuring import Contender
from nuwa_lightning.generation.fast_transformer import DecodingTransformer, Precision
from nuwa_lightning.generation.kv_cache import SlotCache
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, LocalDecoder
from nuwa_lightning.generation.patch_batch import PatchStates, RowBatch
from nuwa_lightning.generation.patch_decoder import GuidanceBatch, PatchDecoder
from nuwa_lightning.generation.sampling import Sampling, patch_uniforms
from nuwa_lightning.models.nuwa_infinity import ABSENT, NEIGHBORS, PatchTransformer, TransformerConfig
from nuwa_lightning.planning.geometry import PatchIndex

CODES: Final = 1024
CONTEXT: Final = 4
PATCH: Final = (16, 16)
TOP_K: Final = 50


class Size(NamedTuple):
    """A size that ours and the others share: block parameters are 12 * width^2 a layer."""

    name: str
    depth: int
    width: int
    heads: int

    @property
    def inner(self) -> int:
        """Inner width of a gated feed-forward."""
        return int(8 / 3 * self.width)


SIZES: Final = {size.name: size for size in (Size("19M", 8, 448, 7), Size("85M", 12, 768, 12))}


def random_model(
    size: Size,
    *,
    num_kv_heads: int,
    patch_size: tuple[int, int] = PATCH,
    codebook_size: int = CODES,
    codebook_dim: int = 16,
    bidirectional: bool = False,
    grouped: bool = False,
) -> PatchTransformer:
    """Return a model with random weights."""
    torch.manual_seed(0)
    model = PatchTransformer(
        codebook_size,
        codebook_dim,
        patch_size=patch_size,
        embedding_extent=(0, 1, 1),
        size=TransformerConfig(
            size.width, size.depth, num_heads=size.heads, num_kv_heads=num_kv_heads, mlp_ratio=8 / 3, layer_scale=1.0
        ),
        bidirectional=bidirectional,
        grouped=grouped,
    )
    model.set_codes(torch.randn(codebook_size, codebook_dim))
    # A new head scores all codes alike, which no trained one does.
    torch.nn.init.normal_(model.head.weight, std=0.02)
    return model.eval().requires_grad_(False)


class Ours(Contender):
    """Patches side by side.

    Args:
        name: under which it is reported.
        model: the transformer.
        rows: patches.
        precision: how numbers are kept.
        decoder: how patches are written, for :meth:`patch`; bursts are autoregressive.
        seed: of the random numbers of the first row; the others follow.
        device: where it runs.
    """

    def __init__(
        self,
        name: str,
        model: PatchTransformer,
        *,
        rows: int = 1,
        precision: Precision = Precision(),  # noqa: B008 - frozen
        decoder: LocalDecoder | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.name, self.rows, self._device = name, rows, device
        self._decoder, self._seed = decoder or AutoregressiveLocalDecoder(), seed
        with torch.inference_mode():
            self._model = DecodingTransformer(model.to(device), precision)
            attention = model.layer(0).attention
            shape = (1, attention.num_kv_heads, model.patch_tokens, attention.head_dim)
            self._cache = SlotCache(
                model.num_layers, shape, like=model.bos, number=precision.cache, slots=CONTEXT * rows + 1
            )
            for row in range(rows):
                for c in range(CONTEXT):
                    generator = torch.Generator().manual_seed(1000 * (seed + row) + c)
                    drawn = [torch.randn(shape, generator=generator).to(device) for _ in range(2 * model.num_layers)]
                    states = PatchStates(tuple(drawn[: model.num_layers]), tuple(drawn[model.num_layers :]))
                    self._cache.put(CONTEXT * row + c, states)
        self._once = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes that a step reads, half of them in bfloat16: matrices of layers and head, keys and values."""
        model = self._model.model
        weights = sum(p.numel() for layer in model.layers for p in layer.parameters()) + model.head.weight.numel()
        attention = model.layer(0).attention
        kept = 2 * model.num_layers * attention.num_kv_heads * attention.head_dim
        each = 2 if self._model.precision.weights == "bfloat16" else 4
        return each * (weights + self.rows * kept * (CONTEXT * model.patch_tokens + 32))

    def start(self) -> None:
        """Take the context; what is done once a patch is timed here."""
        began = time.perf_counter()
        self._writer = self._writing()
        self._once = time.perf_counter() - began
        tokens, count = self._model.model.patch_tokens, self._decoder.draws(self._model.model.patch_tokens)
        rows = range(self._seed, self._seed + self.rows)
        uniform_RU = torch.stack([patch_uniforms(row, PatchIndex(0, 0, 0), count) for row in rows])
        self._uniform_RU = uniform_RU.to(self._device)
        self._place, self._tokens = 0, tokens

    def _writing(self) -> PatchDecoder:
        R, N = self.rows, self._model.model.patch_tokens
        offset_RC = torch.tensor([0, 1, 2, 3], device=self._device).expand(R, -1)
        rows = RowBatch(
            self._model,
            torch.zeros(R, dtype=torch.long, device=self._device),
            context=self._cache.gather([range(CONTEXT * row, CONTEXT * (row + 1)) for row in range(R)]),
            offset_RC=offset_RC,
            relative_symmetry_RC=torch.zeros_like(offset_RC),
        )
        return PatchDecoder(
            rows,
            neighbors=torch.full((R, N, len(NEIGHBORS)), ABSENT),
            given=torch.full((R, N), ABSENT),
            guidance=GuidanceBatch(None, R),
            token_order="mirrored",
        )

    def burst(self, steps: int) -> None:
        """Write tokens one by one."""
        sampling = Sampling(top_k=TOP_K)
        for place in range(self._place, self._place + steps):
            drawn_R = sampling.draw(self._writer.logits([place])[:, 0], self._uniform_RU[:, place])
            self._writer.set_tokens([place], drawn_R[:, None])
        self._place += steps

    @property
    def writer(self) -> PatchDecoder:
        """The patches of this burst."""
        return self._writer

    def added(self) -> float:
        """Return the share of a token in what is done once a patch."""
        return self._once / self._tokens

    @torch.inference_mode()
    def patch(self) -> float:
        """Write whole patches side by side, from taking the context to leaving states; return the seconds it took."""
        self.start()
        began = time.perf_counter()
        writer = self._writing()
        self._decoder.decode(writer, Sampling(top_k=TOP_K), self._uniform_RU)
        writer.states()
        return time.perf_counter() - began

    @torch.inference_mode()
    def reading(self, count: int) -> float:
        """Return the seconds of a step of so many positions in the middle of a patch."""
        writer, middle = self._writing(), self._model.model.patch_tokens // 2
        writer.set_tokens(range(2 * middle), torch.randint(0, CODES, (self.rows, 2 * middle)))
        for place in (0, middle):  # the first one brings the matrices into the caches
            writer.logits(range(place, place + count if place else middle))
        began = time.perf_counter()
        writer.logits(range(middle, middle + count))
        return time.perf_counter() - began

    @torch.inference_mode()
    def tokens(self, steps: int) -> torch.Tensor:
        """Return the first tokens ``[R, steps]`` of each patch."""
        self.start()
        self.burst(steps)
        return self._writer.tokens_RN[:, :steps].clone()
