"""Originals above reconstructions while stage 1 trains.

Shapes: B batch, Y/X rows and columns.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from PIL import Image
from torch import Tensor

from nuwa_lightning.atomic import atomic_write
from nuwa_lightning.errors import UsageError


class ReconstructionSheet(Callback):
    """Puts held-out images above their reconstructions: ``reconstructions.png`` in the run folder, and the logger.

    The sheet is renewed by every validation, from what the validation step returns.

    Args:
        count: images on the sheet, the first ones of the validation set.
        columns: images in a row.
    """

    def __init__(self, count: int = 8, *, columns: int = 4) -> None:
        if min(count, columns) < 1:
            raise UsageError("ReconstructionSheet", (count, columns), "count and columns must be at least 1")
        self.count = count
        self.columns = columns
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new sheet."""
        self._pairs = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep images until the sheet is full."""
        if isinstance(outputs, dict) and "reconstruction" in outputs:
            room = self.count - len(self._pairs)
            found = zip(outputs["image"][:room].cpu(), outputs["reconstruction"][:room].cpu(), strict=True)
            self._pairs.extend(found)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the sheet."""
        if not self._pairs or not may_draw(trainer) or trainer.sanity_checking:
            return
        path = Path(trainer.default_root_dir) / "reconstructions.png"
        show_sheet(trainer, "reconstructions", lay_out_pairs(self._pairs, columns=self.columns), path)


def may_draw(trainer: Trainer) -> bool:
    """Say whether this process draws: the first one, outside of a trial (whose trainer has no folder of its own)."""
    return trainer.is_global_zero and not vars(trainer).get("fast_dev_run")


def show_sheet(trainer: Trainer, name: str, sheet_YX3: Tensor, *paths: Path) -> None:
    """Write a sheet (uint8) to files, show it where loggers show images, and say where the last file is."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            Image.fromarray(sheet_YX3.numpy()).save(partial)
    loggers: Sequence[Any] = trainer.loggers
    for logger in loggers:
        if hasattr(logger, "log_image"):  # as that of Weights & Biases
            logger.log_image(name, [sheet_YX3.numpy()], trainer.global_step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, sheet_YX3.numpy(), key=name, step=trainer.global_step)
        elif hasattr(getattr(logger, "experiment", None), "add_image"):  # as TensorBoard
            logger.experiment.add_image(name, sheet_YX3, trainer.global_step, dataformats="HWC")
    if trainer.progress_bar_callback is not None:
        trainer.progress_bar_callback.print(f"step {trainer.global_step}: {name} in {paths[-1]}", file=sys.stderr)


def lay_out_pairs(pairs: list[tuple[Tensor, Tensor]], *, columns: int) -> Tensor:
    """Return one image (uint8, YX3): rows of originals in [-1, 1], each above the row of its reconstructions."""
    rows = []
    for first in range(0, len(pairs), columns):
        some = pairs[first : first + columns]
        blank = [torch.ones_like(some[0][0])] * (columns - len(some))
        for which in (0, 1):
            rows.append(torch.cat([pair[which] for pair in some] + blank, dim=2))
    sheet_3YX = torch.cat(rows, dim=1)
    return sheet_3YX.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
