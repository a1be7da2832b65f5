"""Taming transformers' sliding window (Esser et al. 2021), the paper's first rival.

A transformer over a fixed window of tokens in raster order writes a larger canvas token by token, in raster order: the
window is moved so that the token to be written lies in its middle, or nearer to a border where the canvas ends, and
everything in the window before it is read anew. Nothing can be kept between two tokens, since every place in the window
moves along; so a token costs a pass over half a window.

It needs no model of its own: a patch transformer whose patch is the window and which sees no other patch is that
transformer (``recipes/rivals/sliding_window.yaml``), trained by the same program with the same optimiser.

Shape legend: B canvases, Y/X rows and columns of tokens, N tokens of the window, K neighbours, W model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from nuwa_lightning.generation.export import Generator
    from nuwa_lightning.generation.sampling import Sampling
    from nuwa_lightning.modules.patch_transformer import PatchTransformer


@final
class SlidingWindowSampler:
    """Writes canvases of at least the window's size.

    Args:
        generator: a model without context, in raster order.
        sampling: how a token is drawn.

    Raises:
        UsageError: if the model sees other patches, or its tokens are not in raster order.
    """

    def __init__(self, generator: Generator, sampling: Sampling) -> None:
        from nuwa_lightning.context import EmptyContextPool

        raster = generator.token_order == "raster" and not generator.local_decoder.bidirectional
        if not isinstance(generator.pool, EmptyContextPool) or not raster:
            cure = "needs a model of one window, EmptyContextPool and token_order raster: train it by recipes/rivals"
            raise UsageError("--sampler", "sliding_window", cure)
        self._model, self._sampling = generator.model, sampling

    def tokens(self, rows: int, columns: int, seeds: Sequence[int]) -> Tensor:
        """Return ``[B, Y, X]``, one canvas a seed.

        Raises:
            UsageError: if the canvas is smaller than the window.
        """
        import torch

        from nuwa_lightning.generation.sampling import patch_uniforms
        from nuwa_lightning.geometry import PatchIndex

        height, width = self._model.patch_size
        if rows < height or columns < width:
            cure = f"is smaller than the window of {height}x{width} tokens: make larger pictures"
            raise UsageError("--size", f"{rows}x{columns} tokens", cure)
        tokens_BYX = torch.zeros(len(seeds), rows, columns, dtype=torch.long)
        for y in range(rows):
            # One stream of random numbers for each seed and row.
            uniform_BX = torch.stack([patch_uniforms(seed, PatchIndex(0, y, 0), columns) for seed in seeds])
            for x in range(columns):
                top, left = place(y, rows, height), place(x, columns, width)
                window_BN = tokens_BYX[:, top : top + height, left : left + width].flatten(1)
                logits_BK = next_logits(self._model, window_BN, (y - top) * width + x - left)
                tokens_BYX[:, y, x] = self._sampling.draw(logits_BK, uniform_BX[:, x])
        return tokens_BYX


def place(at: int, length: int, window: int) -> int:
    """Return where the window begins that writes ``at``: in its middle, as far as the canvas reaches.

    >>> [place(at, 6, 4) for at in range(6)]
    [0, 0, 0, 1, 2, 2]
    """
    return min(max(at - window // 2, 0), length - window)


def next_logits(model: PatchTransformer, window_BN: Tensor, place: int) -> Tensor:
    """Return the scores ``[B, K]`` of the token at ``place`` of windows of which those before it are written."""
    import torch

    from nuwa_lightning.generation.layout import near_places
    from nuwa_lightning.geometry import ZETA
    from nuwa_lightning.modules.neighbours import ABSENT

    B = len(window_BN)
    view_B = torch.zeros(B, dtype=torch.long)
    own_NK, _ = near_places(ZETA, (), model.patch_size, "raster")
    near_BNK = torch.where(own_NK == ABSENT, ABSENT, window_BN[:, own_NK.clamp_min(0)])
    none = torch.zeros(B, 0, dtype=torch.long)
    x_BLW = model.embed_rows(window_BN, view_B, near_RNK=near_BNK)[:, : place + 1]
    for number in range(model.depth):
        layer = model.layer(number)
        h_BLW = layer.norm_attention(x_BLW)
        k_BLGD, v_BLGD = layer.attention.keys_values(h_BLW)
        nothing = k_BLGD.new_zeros(B, 0, model.patch_tokens, *k_BLGD.shape[2:])
        mixed = layer.attend(
            layer.attention.queries(h_BLW),
            layer.place_own(k_BLGD),
            v_BLGD,
            context=(nothing, nothing),
            offset_RC=none,
            view_RC=none,
        )
        x_BLW = layer.finish(x_BLW, mixed)
    return model.logits(x_BLW[:, -1])
