"""The terms of the tokenizer's loss and their weights, and what a term of stage 2 is.

Shapes: B batch, Y/X rows and columns, M tokens, K codes.
"""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa_lightning.batch_part import WHOLE, BatchPart
from nuwa_lightning.errors import check_range
from nuwa_lightning.models.perceptual import PerceptualLoss, build_perceptual

_LOG = logging.getLogger(__name__)


class LossTerm(ABC):
    """Something that stage 2 adds to the cross-entropy of the tokens it learns, its weight included (ours)."""

    @abstractmethod
    def __call__(self, logits_MK: Tensor, target_M: Tensor) -> Tensor:
        """Return what is added for each token ``[M]``, with gradients.

        Args:
            logits_MK: of tokens in any order.
            target_M: the codes that they should be.
        """


@dataclass(frozen=True)
class PerceptualTerm:
    """The perceptual part of the loss.

    Attributes:
        weight: its weight; 0 leaves it out.
        kind: ``auto`` takes LPIPS where both files are given or found, else ST-LPIPS where its package is installed,
            else none. The log and the run's record name it.
        images: images of each batch, of all processes together, it looks at; it costs more than the tokenizer itself.
        crop: side in pixels of the random square of each that it looks at.
        start: share of the training before it begins: it costs more than all else, and codes are better without it.
        vgg16: file with torchvision's ``vgg16`` weights, for LPIPS; by default looked for in torch hub's cache.
        lpips_heads: the package ``lpips``' ``vgg.pth``, for LPIPS; by default that of the installed package.
    """

    weight: float = 0.1
    kind: Literal["auto", "lpips", "st-lpips", "none"] = "auto"
    images: int = 1
    crop: int = 64
    start: float = 0.0
    vgg16: str | None = None
    lpips_heads: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("weight", 0), ("images", 1), ("crop", 1), ("start", 0)):
            check_range(f"model.loss.perceptual.{name}", getattr(self, name), least)

    def build(self) -> PerceptualLoss | None:
        """Return the network, frozen, or nothing."""
        if self.weight <= 0:
            return None
        loss = build_perceptual(self.kind, vgg16=self.vgg16, lpips_heads=self.lpips_heads)
        if loss is None and self.kind == "auto":
            _LOG.warning("no perceptual network: pip install --no-deps stlpips-pytorch gives sharper images")
        if loss is None:
            return None
        _LOG.info("perceptual loss: %s", loss.name)
        return loss.eval().to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class AdversarialTerm:
    """The adversarial part of the loss: hinge loss with adaptive weight, ramped in. It pays only in long trainings.

    Attributes:
        weight: factor on the adaptive weight; 0 leaves it out.
        start: share of the training before it begins.
        ramp: share of the training over which it grows to its full weight.
        lr: learning rate of the discriminator.
        channels: channels of the discriminator.
        layers: hidden layers of the discriminator.
    """

    weight: float = 0.0
    start: float = 0.6
    ramp: float = 0.1
    lr: float = 5e-4
    channels: int = 64
    layers: int = 3

    def __post_init__(self) -> None:
        for name, least in (("weight", 0), ("start", 0), ("ramp", 0), ("lr", 0), ("channels", 1), ("layers", 1)):
            check_range(f"model.loss.adversarial.{name}", getattr(self, name), least)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss.

    Attributes:
        pixel: mean absolute difference.
        squared: mean squared difference, what PSNR measures; pixels are in [-1, 1].
        colour: mean absolute difference of squares of 8 and 16 pixels: keeps smooth skies from breaking into patches.
        commitment: squared distance of the vectors to their codes.
        perceptual: see :class:`PerceptualTerm`.
        adversarial: see :class:`AdversarialTerm`.
    """

    pixel: float = 1.0
    squared: float = 0.0
    colour: float = 0.5
    commitment: float = 10.0
    perceptual: PerceptualTerm = field(default_factory=PerceptualTerm)
    adversarial: AdversarialTerm = field(default_factory=AdversarialTerm)

    def __post_init__(self) -> None:
        for name in ("pixel", "squared", "colour", "commitment"):
            check_range(f"model.loss.{name}", getattr(self, name), 0)


def difference_terms(rebuilt_B3YX: Tensor, image_B3YX: Tensor, *, factor: int) -> dict[str, Tensor]:
    """Return the terms that compare pixels: ``pixel``, ``squared`` and ``colour``.

    Mean colours are compared over squares of ``factor`` pixels, and over those of twice the side.
    """
    difference = rebuilt_B3YX - image_B3YX
    coarse = functional.avg_pool2d(difference, factor)
    coarser = functional.avg_pool2d(coarse, 2) if min(coarse.shape[2:]) > 1 else coarse
    return {
        "pixel": difference.abs().mean(),
        "squared": difference.square().mean(),
        "colour": coarse.abs().mean() + coarser.abs().mean(),
    }


def weighted_sum(terms: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """Return the sum of those terms that are there, by their weights; the adversarial one is not among them."""
    factors = {
        "pixel": weights.pixel,
        "commitment": weights.commitment,
        "colour": weights.colour,
        "squared": weights.squared,
        "perceptual": weights.perceptual.weight,
    }
    parts = [factor * terms[name] for name, factor in factors.items() if name in terms]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def random_crops(
    a_B3YX: Tensor,
    b_B3YX: Tensor,
    term: PerceptualTerm,
    generator: torch.Generator,
    *,
    part: BatchPart = WHOLE,
    batch: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the same random squares of some images of both: as many as there are, of all processes, in this one.

    Random places also keep the network's stride from leaving a pattern of its own.

    Args:
        a_B3YX: some images.
        b_B3YX: as many others.
        term: how many squares, and how large.
        generator: draws.
        part: which part of the images these are.
        batch: samples of a batch in this process, where the images are those of one batch after another.
    """
    whole = torch.randperm(part.world * len(a_B3YX), generator=generator)[: term.images]
    chosen = part.rows(whole, len(a_B3YX) if batch is None else batch)
    sides = [min(term.crop, side) for side in a_B3YX.shape[2:]]
    top, left = (
        int(torch.randint(full - side + 1, (1,), generator=generator))
        for full, side in zip(a_B3YX.shape[2:], sides, strict=True)
    )
    window = (slice(None), slice(top, top + sides[0]), slice(left, left + sides[1]))
    return a_B3YX[chosen][(slice(None), *window)], b_B3YX[chosen][(slice(None), *window)]
