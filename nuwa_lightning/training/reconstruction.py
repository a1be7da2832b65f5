"""What the trainings of decoders (the tokenizer, the decoder of videos) share.

Shapes: B images, Y/X rows and columns.
"""

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

from nuwa_lightning.batch_part import WHOLE, BatchPart
from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.perceptual import PerceptualLoss
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.training.ema import SubmoduleAveraging
from nuwa_lightning.training.losses import LossWeights, random_crops


class ReconstructionModule(LightningModule, ABC):
    """A perceptual loss, averaged weights, AdamW; the attribute ``trained`` holds what is trained and averaged."""

    def __init__(self, trained: str, loss: LossWeights, average_decay: float) -> None:
        super().__init__()
        self._trained, self.loss_weights = trained, loss
        self._perceptual: tuple[PerceptualLoss, ...] = ()
        if not 0 <= average_decay < 1:
            raise UsageError("model.average_decay", average_decay, "give a share in [0, 1)")
        self._averaging = SubmoduleAveraging(trained, average_decay) if average_decay > 0 else None

    def _build_perceptual(self) -> None:
        """Take the network of the perceptual loss; it draws numbers, hence when is up to the module."""
        perceptual = self.loss_weights.perceptual.build()
        # In a tuple it is no sub-module: neither saved, nor averaged, nor trained.
        self._perceptual = () if perceptual is None else (perceptual,)

    @property
    def perceptual(self) -> PerceptualLoss | None:
        """The frozen network of the perceptual loss, on the module's device, if there is one."""
        return self._perceptual[0].to(self.device) if self._perceptual else None

    @property
    def progress(self) -> float:
        """Which share of the training is done, by steps."""
        total = float(self.trainer.estimated_stepping_batches)
        return self.global_step / total if 0 < total < float("inf") else 0.0

    def late_metrics(self, total: float) -> dict[str, float]:
        """Return after how many of ``total`` batches metrics are there that are not from the first; infinity: never."""
        term = self.loss_weights.perceptual
        return {"train/perceptual": math.inf if self.perceptual is None else first_batch(term.start, total)}

    def configure_callbacks(self) -> list[Callback]:
        """Bring the averaging of the weights along."""
        return [] if self._averaging is None else [self._averaging]

    def _draws(self, batch_idx: int) -> torch.Generator:
        """Return what draws for a batch, the same in a run that was resumed."""
        seed = torch.initial_seed() + 7919 * self.global_step + batch_idx
        return torch.Generator().manual_seed(seed % (1 << 62))

    @property
    def part(self) -> BatchPart:
        """Which part of a batch is this process's."""
        return WHOLE if self._trainer is None else BatchPart(self.global_rank, self.trainer.world_size)

    def _perceptual_term(
        self, made_B3YX: Tensor, real_B3YX: Tensor, generator: torch.Generator, *, batch: int | None = None
    ) -> dict[str, Tensor]:
        """Return the ``perceptual`` term of the loss, once the training has come to its start; see `random_crops`."""
        term = self.loss_weights.perceptual
        if self.perceptual is None or self.progress < term.start:
            return {}
        mine, target = random_crops(made_B3YX, real_B3YX, term, generator, part=self.part, batch=batch)
        if not len(mine):
            return {"perceptual": made_B3YX.sum() * 0}
        # The mean over processes is that over all images that were chosen.
        share = self.part.world * len(mine) / min(term.images, self.part.world * len(made_B3YX))
        return {"perceptual": self.perceptual(mine, target).mean() * share}

    @abstractmethod
    def finished(self) -> nn.Module | Tokenizer:
        """Return a copy of what is trained, with averaged weights, frozen, for export."""

    def _finished(self, module: nn.Module) -> Any:
        """Return a copy of the trained module with averaged weights, frozen."""
        made = copy.deepcopy(module)
        if self._averaging is not None:
            averages = self._averaging.averaged(self)
            made.load_state_dict({k.removeprefix(f"{self._trained}."): v for k, v in averages.items()}, strict=False)
        return made.eval().requires_grad_(False)


def first_batch(start: float, total: float, *, later: bool = False) -> float:
    """Return how many batches have been when the first is done that began at this share of all (or ``later``)."""
    if not 0 < total < math.inf:  # no share of these is ever done
        return 1.0 if start <= 0 and not later else math.inf
    return (math.floor(start * total) + 1 if later else math.ceil(start * total)) + 1.0


def psnr(made_B3YX: Tensor, real_B3YX: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, mean over images of pixels in [-1, 1]."""
    error_B = ((made_B3YX - real_B3YX) / 2).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return -10 * error_B.log10().mean()
