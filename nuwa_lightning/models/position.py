"""Position embeddings: axial inside a patch, relative between patches (paper, section on the ADC).

Shape legend: N tokens per patch, W width, G key/value heads, D head width, C context patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nuwa_lightning.planning.geometry import SYMMETRIES, Extent


class AxialPosition(nn.Module):
    """Learned place inside a patch: one vector for the row plus one for the column, in the canonical frame."""

    def __init__(self, rows: int, columns: int, *, dim: int, std: float) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(rows, dim) * std)
        self.columns = nn.Parameter(torch.randn(columns, dim) * std)

    def forward(self) -> Tensor:
        """Return ``[N, W]``: canonical order, down the columns, columns from left to right."""
        return (self.rows[None, :] + self.columns[:, None]).flatten(0, 1)


class RelativePatchEmbedding(nn.Module):
    """One vector per offset between a context patch and the current patch, plus one per relative symmetry (ours).

    Fed to the keys it is the paper's Emb: a vector per key/value head, the same for all tokens of the patch.
    Fed to the logits it is the paper's post-fed variant: a number per query head.

    Args:
        extent: largest offsets ``(t, y, x)`` that have a vector of their own.
        shape: shape of one entry, ``(G, D)`` for keys or ``(H,)`` for logits.
        std: standard deviation of the initial entries.
    """

    def __init__(self, extent: Extent, shape: tuple[int, ...], *, std: float) -> None:
        super().__init__()
        self.extent = extent
        # Time runs one way, so only past frames have entries.
        self.sizes = (extent[0] + 1, 2 * extent[1] + 1, 2 * extent[2] + 1)
        count = self.sizes[0] * self.sizes[1] * self.sizes[2]
        self.offsets = nn.Parameter(torch.randn(count, *shape) * std)
        # The same symmetry needs no entry to differ from, but keeping it lets one table serve every case.
        self.symmetries = nn.Parameter(torch.zeros(len(SYMMETRIES), *shape))

    def index(self, offset: tuple[int, int, int]) -> int:
        """Return the entry of ``offset`` = context patch minus current patch, clamped to the extent."""
        t, y, x = (max(-e, min(e, v)) for v, e in zip(offset, self.extent, strict=True))
        return ((t + self.extent[0]) * self.sizes[1] + y + self.extent[1]) * self.sizes[2] + x + self.extent[2]

    @property
    def centre(self) -> int:
        """The entry of the current patch itself."""
        return self.index((0, 0, 0))

    def forward(self, offset_index: Tensor, symmetry_index: Tensor) -> Tensor:
        """Look up ``[..., *shape]`` for entries of any equal shape."""
        return self.offsets[offset_index] + self.symmetries[symmetry_index]

    def own(self) -> Tensor:
        """Return the entry ``[*shape]`` of the current patch."""
        return self.offsets[self.centre]
