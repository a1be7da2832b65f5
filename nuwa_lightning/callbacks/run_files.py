"""What a run writes into its folder: its options, how it went, and the checkpoint that it is gone on with from."""

import contextlib
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.signals import Signals, Stopped


class RunCheckpoint(Checkpoint):
    """Writes one file, replaced atomically: now and then, at the end, and when a signal comes.

    It is written at the end of a batch, also the last one: what Lightning writes after that counts an epoch that was
    cut short as a whole one. Every 0 steps: only when a signal comes (where the user keeps checkpoints in another way).
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
        """Write when it is time, and stop if that was asked for."""
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


class RunFiles(Callback):
    """Writes ``config.yaml`` and ``record.json`` after the first step, and into the latter how the run ended.

    What is refused before that writes over nothing that the folder says of an earlier run.
    """

    def __init__(self, folder: Path, config: str, record: Mapping[str, Any]) -> None:
        self._folder, self._config, self._record = folder, config, dict(record)
        self.begun = False  # whether both are written

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write both, once."""
        if self.begun or not trainer.is_global_zero:
            return
        self.begun = True
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._folder / "config.yaml") as partial:
            partial.write_text(self._config, encoding="utf-8")
        self._write()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that it ended by itself."""
        self.end(trainer.global_step, "finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what ended it."""
        with contextlib.suppress(OSError):  # a full disk, most likely: that is told already
            self.end(
                trainer.global_step, exception.name if isinstance(exception, Stopped) else type(exception).__name__
            )

    def end(self, step: int, by: str) -> None:
        """Write what ended the run after which step, if it has begun."""
        if self.begun:
            self._record["ended"] = {"by": by, "step": step}
            self._write()

    def _write(self) -> None:
        write_json(self._folder / "record.json", self._record)
