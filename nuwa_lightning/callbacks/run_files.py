"""What a run writes of itself into its folder: its options and how it went."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.signals import Stopped


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
