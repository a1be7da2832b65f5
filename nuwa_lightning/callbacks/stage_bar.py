"""A progress bar that says which stage it is."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class StageBar(TQDMProgressBar):
    """Lightning's bar, named by the stage: batches done and left, time left, loss.

    Args:
        refresh_rate: batches between two updates.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=True)

    def on_train_epoch_start(self, trainer: Trainer, *args: object) -> None:
        """Name the bar."""
        super().on_train_epoch_start(trainer, *args)
        assert trainer.model is not None
        title = getattr(trainer.lightning_module, "title", type(trainer.lightning_module).__name__)
        epoch = f", epoch {trainer.current_epoch}" if trainer.max_epochs != -1 and trainer.max_epochs != 1 else ""
        self.train_progress_bar.set_description(f"{title}{epoch}")

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Leave out Lightning's version number: a run has its own folder."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
