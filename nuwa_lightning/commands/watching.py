"""Callbacks that watch a metric: one that is not there when they look is refused before anything is trained."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from nuwa_lightning.data.data_module import StreamingDataModule
from nuwa_lightning.data.sources import Source
from nuwa_lightning.errors import UsageError
from nuwa_lightning.training.ema import SubmoduleAveraging
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
from nuwa_lightning.training.pixel_guided_module import PixelGuidedModule
from nuwa_lightning.training.reconstruction import ReconstructionModule
from nuwa_lightning.training.sharding import ShardedStrategy, is_parts
from nuwa_lightning.training.vqgan_module import VQGANModule

METRICS: Final[Mapping[type[LightningModule], Sequence[str]]] = {
    cls: cls.metrics for cls in (NuwaInfinityModule, VQGANModule, PixelGuidedModule)
}
"""What each module may log; :meth:`ReconstructionModule.late_metrics` says what of it a run logs late, or never."""
_OPTION: Final = "--trainer.callbacks.monitor"


@dataclass(frozen=True)
class Times:
    """When things happen in a run, in batches; infinity: never.

    Attributes:
        total: the last batch.
        epoch: the end of the first epoch.
        validation: the first validation.
    """

    total: float
    epoch: float
    validation: float


def check_strategy(
    strategy: object, model: LightningModule, checkpoint: str | None, callbacks: Iterable[Callback] = ()
) -> None:
    """Refuse a strategy that this model, its checkpoint, or a callback does not go with.

    Raises:
        UsageError: naming one that does.
    """
    option, name = "--trainer.strategy", type(strategy).__name__
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        if not isinstance(strategy, ShardedStrategy):
            path = f"{ShardedStrategy.__module__}.{ShardedStrategy.__name__}"
            hint = f"Muon and the export would take parts for the whole: give class_path {path}, or ddp"
            raise UsageError(option, name, hint)
        if not isinstance(model, NuwaInfinityModule):
            raise UsageError(option, name, f"{type(model).__name__} is never sharded, it fits any device: give ddp")
        for callback in callbacks:
            if isinstance(callback, SubmoduleAveraging | WeightAveraging):
                raise UsageError(option, name, f"{type(callback).__name__} averages whole weights: give ddp")
    elif checkpoint is not None and is_parts(checkpoint):
        raise UsageError("--ckpt_path", checkpoint, "is in parts: go on from it with ShardedStrategy (docs/scaling.md)")


def check_watched(trainer: Trainer, model: LightningModule, datamodule: object) -> None:
    """Refuse callbacks that watch what a run does not log, or not before they look.

    What modules and callbacks of the user's own log is not known here.

    Raises:
        UsageError: naming the metric, and what there is.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    watchers = {c: watched for c in callbacks if isinstance(watched := getattr(c, "monitor", None), str)}
    known = METRICS.get(type(model))
    if known is None or not watchers:
        return
    more = any(_logs(callback) for callback in callbacks if callback not in watchers)
    times = _times(trainer, model, datamodule)
    for watcher, watched in watchers.items():
        if isinstance(watcher, ModelCheckpoint) and watched in ("epoch", "step"):
            continue
        if watched not in known:
            if more:
                continue
            hint = f"{type(watcher).__name__} watches what is not there: give one of {', '.join(known)}"
            raise UsageError(_OPTION, watched, hint)
        if times is not None:
            _check_times(watcher, watched, _begin(watched, model, times), times, trainer)


def _logs(callback: Callback) -> bool:
    """Say whether a callback may log what we do not know of."""
    own = type(callback).__module__.startswith(("nuwa_lightning.", "lightning."))
    return not own or isinstance(callback, LearningRateMonitor)


def _begin(watched: str, model: LightningModule, times: Times) -> float:
    """Return after how many batches a metric is there."""
    late = model.late_metrics(times.total) if isinstance(model, ReconstructionModule) else {}
    begin = late.get(watched, 1.0)
    if watched.startswith("val/"):
        return max(begin, times.validation)
    return max(begin, min(times.validation, times.epoch)) if watched.startswith("codebook/") else begin


def _check_times(watcher: Callback, watched: str, begin: float, times: Times, trainer: Trainer) -> None:
    name, way = type(watcher).__name__, "give another metric"
    if begin > times.total:
        why = "nothing is validated" if watched.startswith("val/") and times.validation == math.inf else "it is off"
        raise UsageError(_OPTION, watched, f"{name} watches what this run does not log, since {why}: {way}")
    if not isinstance(watcher, EarlyStopping):
        return
    at_end = watcher._check_on_train_epoch_end
    if at_end is None:  # as its setup decides
        at_end = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1
    looks = times.epoch if at_end else times.validation
    if looks == math.inf:
        raise UsageError(
            _OPTION, watched, f"{name} looks after each validation, and nothing is validated: leave it out"
        )
    if watcher.strict and begin > looks:
        hint = f"is there from batch {begin:g} on, but {name} looks after batch {looks:g}: {way}, or strict=false"
        raise UsageError(_OPTION, watched, hint)


def _times(trainer: Trainer, model: LightningModule, datamodule: object) -> Times | None:
    """Return when things happen; None where that cannot be known."""
    if not isinstance(datamodule, StreamingDataModule) or vars(trainer).get("_val_check_time_interval") is not None:
        return None
    batches = _part(datamodule.steps_per_epoch, trainer.limit_train_batches)
    total = math.inf if trainer.max_steps < 0 else trainer.max_steps * _batches_a_step(trainer, model)
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        total = min(total, trainer.max_epochs * batches)
    every = trainer.check_val_every_n_epoch
    first = _part(batches, trainer.val_check_interval) + ((every or 1) - 1) * batches
    none = trainer.limit_val_batches == 0 or first > total or not _held_out(datamodule)
    return Times(total, min(batches, total), math.inf if none else first)


def _part(batches: int, limit: Any) -> int:
    """Return a limit as Lightning means it: a number of batches, or a share of them."""
    return max(1, int(batches * limit)) if isinstance(limit, float) else int(limit or batches)


def _batches_a_step(trainer: Trainer, model: LightningModule) -> int:
    if isinstance(model, NuwaInfinityModule):
        return model.scaling.accumulate_grad_batches
    return model.accumulate_grad_batches if isinstance(model, VQGANModule) else trainer.accumulate_grad_batches


def _held_out(datamodule: StreamingDataModule) -> bool:
    source = getattr(datamodule, "source", None)
    if not isinstance(source, Source):
        return True  # not known
    source.prepare()
    return bool(source.listed("val"))
