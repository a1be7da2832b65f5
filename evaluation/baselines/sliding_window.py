"""Taming transformers' sliding window (Esser et al. 2021), the paper's first baseline.

A transformer over a fixed window of tokens in raster order writes a larger canvas token by token, in raster order: the
window is moved so that the token to be written lies in its middle, or nearer to a border where the canvas ends. When it
has moved, every place in it has moved along, and everything before the token is read anew: a pass over half a window.
Where it stands still, near a border of the canvas, keys and values are kept, which changes no score; taming reads all
of it again there, too.

It needs no model of its own: a patch transformer whose patch is the window and which sees no other patch is that
transformer (``recipes/baselines/sliding_window.yaml``), trained by the same program with the same optimizer.

Shape legend: B canvases, Y/X rows and columns of tokens, N tokens of the window, l places read at once, J tokens that
one place reads, K codes or neighbors, G key/value heads, D head width, W model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, final

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from nuwa_lightning.generation.fast_transformer import DecodingTransformer
    from nuwa_lightning.generation.pretrained import Generator
    from nuwa_lightning.generation.sampling import Sampling

_MOST_KEPT: Final = 2 << 30
"""Bytes of keys and values above which windows are not kept for the next row."""


@final
class SlidingWindowSampler:
    """Writes canvases of at least the window's size.

    Args:
        generator: a model without context, in raster order.
        sampling: how a token is drawn.
        most_kept: bytes of keys and values above which they are read again instead; moves no token.

    Raises:
        UsageError: if the model sees other patches, or its tokens are not in raster order.
    """

    def __init__(self, generator: Generator, sampling: Sampling, *, most_kept: int = _MOST_KEPT) -> None:
        from nuwa_lightning.generation.fast_transformer import DecodingTransformer
        from nuwa_lightning.planning.context import EmptyContextPool

        raster = generator.token_order == "raster" and not generator.local_decoder.bidirectional
        if not isinstance(generator.pool, EmptyContextPool) or not raster:
            hint = "needs a model of one window, EmptyContextPool and token_order raster: train it by recipes/baselines"
            raise UsageError("sampler", "sliding_window", hint)
        self._model, self._sampling, self._most_kept = DecodingTransformer(generator.model), sampling, most_kept

    def tokens(self, rows: int, columns: int, seeds: Sequence[int]) -> Tensor:
        """Return ``[B, Y, X]``, one canvas a seed.

        Raises:
            UsageError: if the canvas is smaller than the window.
        """
        import torch

        height, width = self._model.model.patch_size
        if rows < height or columns < width:
            hint = f"is smaller than the window of {height}x{width} tokens: make larger images"
            raise UsageError("size", f"{rows}x{columns} tokens", hint)
        with torch.inference_mode():
            return self._write(rows, columns, seeds)

    @staticmethod
    def tokens_read(rows: int, columns: int, patch: tuple[int, int]) -> int:
        """Return how many tokens of windows are read."""
        return places_read(max(rows, patch[0]), max(columns, patch[1]), patch)

    def _write(self, rows: int, columns: int, seeds: Sequence[int]) -> Tensor:
        import torch

        from nuwa_lightning.generation.sampling import patch_uniforms
        from nuwa_lightning.planning.geometry import PatchIndex

        height, width = self._model.model.patch_size
        # Windows of the row of places that stands still while rows are written: one for each column they begin at.
        keeps = bytes_of(self._model, len(seeds)) * (columns - width + 1) <= self._most_kept
        tokens_BYX = torch.zeros(len(seeds), rows, columns, dtype=torch.long)
        windows: dict[tuple[int, int], Kept] = {}
        uniform_BX = tokens_BYX.double()[:, 0]
        for y, x, top, left, leaves in moves(rows, columns, (height, width), keeps=keeps):
            if x == 0:
                # One stream of random numbers for each seed and row.
                uniform_BX = torch.stack([patch_uniforms(seed, PatchIndex(0, y, 0), columns) for seed in seeds])
            kept = windows.setdefault((top, left), Kept())
            window_BN = tokens_BYX[:, top : top + height, left : left + width].flatten(1)
            logits_BK = next_logits(self._model, window_BN, (y - top) * width + x - left, kept)
            tokens_BYX[:, y, x] = self._sampling.draw(logits_BK, uniform_BX[:, x])
            if leaves:
                del windows[top, left]
        return tokens_BYX


@dataclass
class Kept:
    """What was read of the windows at one place of the canvases.

    Attributes:
        length: how many places of them.
        pairs: keys and values of each layer, ``[B, G, N, D]``; those from ``length`` on are not there yet.
    """

    length: int = 0
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def place(at: int, length: int, window: int) -> int:
    """Return where the window begins that writes ``at``: in its middle, as far as the canvas reaches.

    >>> [place(at, 6, 4) for at in range(6)]
    [0, 0, 0, 1, 2, 2]
    """
    return min(max(at - window // 2, 0), length - window)


def moves(
    rows: int, columns: int, window: tuple[int, int], *, keeps: bool = True
) -> Iterator[tuple[int, int, int, int, bool]]:
    """Yield, for every token in raster order, its row and column, and where the window that writes it begins.

    The last value says whether the window leaves that place and does not come back in the next row, or is not kept so
    long (``keeps`` is False).
    """
    height, width = window
    for y in range(rows):
        top = place(y, rows, height)
        comes_back = keeps and y + 1 < rows and place(y + 1, rows, height) == top
        for x in range(columns):
            left = place(x, columns, width)
            moves_on = x + 1 == columns or place(x + 1, columns, width) != left
            yield y, x, top, left, moves_on and not comes_back


def places_read(rows: int, columns: int, window: tuple[int, int]) -> int:
    """Return how many places of windows are read to write one canvas: what it costs.

    >>> places_read(4, 4, (4, 4)), places_read(4, 5, (4, 4))
    (16, 31)
    """
    lengths: dict[tuple[int, int], int] = {}
    total = 0
    for y, x, top, left, leaves in moves(rows, columns, window):
        end = (y - top) * window[1] + x - left + 1
        total += end - lengths.get((top, left), 0)
        lengths[top, left] = end
        if leaves:
            del lengths[top, left]
    return total


def bytes_of(model: DecodingTransformer, canvases: int) -> int:
    """Return the size of the keys and values of one window of each canvas."""
    layer = model.layers[0]
    each = layer.num_kv_heads * layer.head_dim * model.model.patch_tokens * model.dtype.itemsize
    return 2 * len(model.layers) * canvases * each


def next_logits(model: DecodingTransformer, window_BN: Tensor, place: int, kept: Kept) -> Tensor:
    """Return the scores ``[B, K]`` of the token at ``place`` of windows of which those before it are written.

    Reads what ``kept`` has not read yet, and adds it there.
    """
    import torch
    from torch.nn import functional

    from nuwa_lightning.models.layout import neighbor_positions
    from nuwa_lightning.models.nuwa_infinity import ABSENT, causal_mask
    from nuwa_lightning.planning.geometry import ZETA

    B, start, end = len(window_BN), kept.length, place + 1
    if not kept.pairs:
        shape = (B, model.layers[0].num_kv_heads, model.model.patch_tokens, model.layers[0].head_dim)
        kept.pairs = [
            (torch.empty(shape, dtype=model.dtype), torch.empty(shape, dtype=model.dtype)) for _ in model.layers
        ]
    near_lK = neighbor_positions(ZETA, (), model.model.patch_size, "raster")[0][start:end]
    near_BlK = torch.where(near_lK == ABSENT, ABSENT, window_BN[:, near_lK.clamp_min(0)])
    own_Bl = functional.pad(window_BN, (1, 0), value=ABSENT)[:, start:end]
    x_BlW = model.embed(torch.cat([own_Bl[:, :, None], near_BlK], 2), torch.zeros(B, dtype=torch.long), start)
    x_MW = x_BlW.flatten(0, 1)
    bias = causal_mask(end - start, 0, start=start)
    for number, (layer, (k_BGND, v_BGND)) in enumerate(zip(model.layers, kept.pairs, strict=True)):
        x_MW = layer.attend(x_MW, k_BGND, v_BGND, start=start, end=end, bias=bias)
        if number + 1 == len(model.layers):
            x_MW = x_MW.view(B, end - start, -1)[:, -1]  # nobody looks at the others
        x_MW = layer.feed_forward(x_MW)
    kept.length = end
    return model.logits(x_MW, near_BlK[:, -1])
