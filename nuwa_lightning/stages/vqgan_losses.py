"""The terms of the tokenizer's loss and their weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Literal

import torch

from nuwa_lightning.modules.perceptual import PerceptualLoss, build_perceptual

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PerceptualTerm:
    """The perceptual part of the loss.

    Attributes:
        weight: its weight; 0 leaves it out.
        kind: ``auto`` takes LPIPS where both files are given, else ST-LPIPS where its package is installed, else none.
        images: pictures of each batch it looks at; it costs more than the tokenizer itself.
        crop: side in pixels of the random square of each that it looks at.
        start: share of the training before it begins: it costs more than all else, and codes are better without it.
        vgg16: file with torchvision's ``vgg16`` weights, for LPIPS.
        lpips_heads: the package ``lpips``' ``vgg.pth``, for LPIPS.
    """

    weight: float = 0.1
    kind: Literal["auto", "lpips", "st-lpips", "none"] = "auto"
    images: int = 1
    crop: int = 64
    start: float = 0.0
    vgg16: str | None = None
    lpips_heads: str | None = None

    def build(self) -> PerceptualLoss | None:
        """Return the network, frozen, or nothing.

        Raises:
            UsageError: if what was asked for by name is not there.
        """
        if self.weight <= 0:
            return None
        loss = build_perceptual(self.kind, vgg16=self.vgg16, lpips_heads=self.lpips_heads)
        if loss is None and self.kind == "auto":
            _LOG.warning("no perceptual network: pip install --no-deps stlpips-pytorch gives sharper pictures")
        return None if loss is None else loss.eval().to(memory_format=torch.channels_last)


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
