"""The checkpoint that a run is gone on with from, also after a signal."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from nuwa_lightning.signals import Signals, Stopped


class RunCheckpoint(Checkpoint):
    """Writes one file, replaced atomically: now and then, at the end, and when a signal comes.

    It is written at the end of a batch, also the last one: what Lightning writes after that counts an epoch that was
    cut short as a whole one.

    Args:
        path: the file.
        signals: what stops the run after the batch at hand.
        every_n_steps: how often; 0 only when a signal comes (where the user keeps checkpoints in a way of their own).
    """

    def __init__(self, path: Path, signals: Signals, *, every_n_steps: int = 100) -> None:
        self._path, self._signals, self._every = path, signals, every_n_steps
        self._saved = -1
        self._ended = False
        self._loops: dict[str, Any] | None = None  # as they were at the end of the last batch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let signals wait for the end of a batch from now on."""
        self._saved = -1
        self._signals.install()
        self._signals.waiting = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write when it is time, and stop if that was asked for.

        Raises:
            Stopped: after a signal, in every process.
        """
        self._loops = {"fit_loop": copy.deepcopy(trainer.fit_loop.state_dict()), "epoch": trainer.current_epoch}
        if getattr(pl_module, "mid_step", False):
            return  # gradients of some batches wait for more, and no checkpoint keeps them
        number = self._asked(trainer)
        step = trainer.global_step
        last = trainer.should_stop or step == trainer.max_steps
        if number or (self._every and step != self._saved and (last or step % self._every == 0)):
            self._save(trainer)
        if number:
            raise Stopped(number, step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the end of a training that was not known to be the end before, such as that of the last epoch."""
        number = self._asked(trainer)
        if (self._every or number) and trainer.global_step not in (0, self._saved):
            self._ended = True
            self._save(trainer)
            self._ended = False
        self._signals.waiting = False
        if number:
            raise Stopped(number, trainer.global_step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let a checkpoint of the end stand at the last batch: loops that have ended would count an epoch twice."""
        if self._ended and self._loops is not None:
            checkpoint["loops"]["fit_loop"], checkpoint["epoch"] = self._loops["fit_loop"], self._loops["epoch"]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let signals no longer wait."""
        self._signals.waiting = False

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._path)
        self._saved = trainer.global_step

    def _asked(self, trainer: Trainer) -> int:
        if trainer.world_size == 1:
            return self._signals.number
        # Not every process gets the signal, and writing a checkpoint takes all of them.
        number = torch.tensor(self._signals.number, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(number, reduce_op="max"))
