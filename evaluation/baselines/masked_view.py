"""MaskGIT over the whole view (Chang et al. 2022), the paper's second baseline.

A bidirectional transformer writes a whole training view in a dozen steps, the surest tokens first. A larger canvas is
written window by window, each moved on by half a view: what it shares with earlier ones is given, the rest is written
around it, as MaskGIT extends images.

It needs no model of its own: a patch transformer whose patch is the view, without context, with the masked local
decoder, is that transformer (``recipes/baselines/masked_view.yaml``), trained by the same program.

Shape legend: B canvases, Y/X rows and columns of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from nuwa_lightning.generation.pretrained import Generator
    from nuwa_lightning.generation.sampling import Sampling

_APART: Final = 1_000_003
"""Between the seeds of two windows of a canvas, so that they do not repeat each other's random numbers."""


@final
class MaskedViewSampler:
    """Writes canvases of at least the view's size.

    Args:
        generator: a bidirectional model without context.
        sampling: how a token is drawn.

    Raises:
        UsageError: if the model sees other patches, or is causal.
    """

    def __init__(self, generator: Generator, sampling: Sampling) -> None:
        from nuwa_lightning.planning.context import EmptyContextPool

        if not isinstance(generator.pool, EmptyContextPool) or not generator.local_decoder.bidirectional:
            hint = "needs a model of one view, EmptyContextPool and MaskedLocalDecoder: train it by recipes/baselines"
            raise UsageError("sampler", "masked_view", hint)
        self._renderer = generator.renderer(sampling)

    def tokens(self, rows: int, columns: int, seeds: Sequence[int]) -> Tensor:
        """Return ``[B, Y, X]``, one canvas a seed.

        Raises:
            UsageError: if the canvas is smaller than the view.
        """
        import torch

        from nuwa_lightning.canvas.sample import sample_tokens
        from nuwa_lightning.models.nuwa_infinity import ABSENT
        from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex

        height, width = self._renderer.model.patch_size
        if rows < height or columns < width:
            hint = f"is smaller than the view of {height}x{width} tokens: make larger images"
            raise UsageError("size", f"{rows}x{columns} tokens", hint)
        canvas_BYX = torch.full((len(seeds), rows, columns), ABSENT, dtype=torch.long)
        number = 0
        for top in origins(rows, height):
            for left in origins(columns, width):
                window = canvas_BYX[:, top : top + height, left : left + width]
                known = {} if bool((window == ABSENT).all()) else {PatchIndex(0, 0, 0): window.clone()}
                own = [seed + number * _APART for seed in seeds]
                window[:] = sample_tokens(self._renderer, PatchGrid(1, 1, 1), seeds=own, known=known)
                number += 1
        return canvas_BYX

    @staticmethod
    def tokens_read(rows: int, columns: int, patch: tuple[int, int]) -> int:
        """Return the tokens of all windows: each is read whole."""
        height, width = patch
        return len(origins(max(rows, height), height)) * len(origins(max(columns, width), width)) * height * width


def origins(length: int, window: int) -> list[int]:
    """Return where windows begin that cover a canvas, each half a window on; the last one ends with the canvas.

    >>> origins(16, 8), origins(9, 8), origins(8, 8)
    ([0, 4, 8], [0, 1], [0])
    """
    found = list(range(0, length - window + 1, max(1, window // 2)))
    return found if found[-1] == length - window else [*found, length - window]
