"""The patch discriminator and the adversarial losses of stage 1 (paper section 2: hinge, adaptive weight).

Shapes: B batch, C channels, Y/X rows and columns.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuwa_lightning.models.vqgan import ChannelNorm, local_conv


class PatchDiscriminator(nn.Module):
    """Says of every small square of an image how real it looks (Isola et al. 2017); no statistics over the canvas.

    Pixels are folded into channels first, as in our encoder, which is what makes it cheap on a CPU.
    """

    def __init__(self, channels: int = 64, layers: int = 3, *, cell: int = 4) -> None:
        super().__init__()
        self.cell = cell
        widths = [3 * cell**2] + [channels] * layers
        self.convs = nn.ModuleList(local_conv(before, after, 3) for before, after in pairwise(widths))
        self.norms = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.head = local_conv(channels, 1, 3)

    def forward(self, image_B3YX: Tensor) -> Tensor:
        """Return one unbounded score per cell, higher for real (B, 1, Y/cell, X/cell)."""
        x = functional.pixel_unshuffle(image_B3YX, self.cell)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.leaky_relu(norm(conv(x)), 0.2)
        score: Tensor = self.head(x)
        return score


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's hinge loss: real scores should be above 1, fake ones below -1."""
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def adaptive_weight(
    reconstruction: Tensor,
    adversarial: Tensor,
    *,
    last_weight: Tensor,
    limit: float = 1e4,
    over_ranks: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Tensor:
    """Return how much the adversarial loss must be multiplied by to pull as hard as the reconstruction loss.

    Ratio of the two gradients' lengths at the decoder's last layer (Esser et al. 2021), between 0 and ``limit``,
    without gradient. ``over_ranks`` takes the mean over processes that train together, each on a part of the batch.
    """
    toward = over_ranks(torch.autograd.grad(reconstruction, last_weight, retain_graph=True)[0]).norm()
    against = over_ranks(torch.autograd.grad(adversarial, last_weight, retain_graph=True)[0]).norm()
    weight: Tensor = (toward / (against + 1e-4)).clamp(0, limit).detach()
    return weight
