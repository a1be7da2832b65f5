"""A progress bar that says which stage it is."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class StageBar(TQDMProgressBar):
    """Lightning's bar, named by the stage: steps or batches done and left, time left, loss.

    Where the trainer was given a number of steps it is one bar over all of them, and a resumed run begins where it
    stands; else there is one bar for each epoch.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=True)

    def on_train_start(self, trainer: Trainer, *args: object) -> None:
        """Begin the bar."""
        super().on_train_start(trainer, *args)
        if _counts_steps(trainer):
            bar = self.train_progress_bar
            bar.set_description(_title(trainer), refresh=False)
            bar.reset(int(trainer.estimated_stepping_batches))
            bar.initial = bar.n = trainer.global_step
            bar.refresh()

    def on_train_epoch_start(self, trainer: Trainer, *args: object) -> None:
        """Begin a bar of this epoch, if there is none over the whole run."""
        if _counts_steps(trainer):
            return
        super().on_train_epoch_start(trainer, *args)
        epoch = f", epoch {trainer.current_epoch}" if trainer.max_epochs not in (-1, 1) else ""
        self.train_progress_bar.set_description(f"{_title(trainer)}{epoch}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar on."""
        if not _counts_steps(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            return
        bar, step = self.train_progress_bar, trainer.global_step
        if self.is_enabled and (step % self.refresh_rate == 0 or step == bar.total):
            bar.n = step
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar of this epoch."""
        if not _counts_steps(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Leave out Lightning's version number: a run has its own folder."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def _counts_steps(trainer: Trainer) -> bool:
    return trainer.max_steps > 0


def _title(trainer: Trainer) -> str:
    module = trainer.lightning_module
    return str(getattr(module, "title", type(module).__name__))
