"""What manual optimisation with two optimizers needs to behave like any other training in Lightning.

``global_step`` counts the steps of every optimizer (Lightning issue 17958): with two, eight batches count as sixteen,
``max_steps`` stops at half and averaging every second step never averages. The way around it uses private names of
Lightning 2.6, all of them here and guarded by a test.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from nuwa_lightning.errors import UsageError, check_range
from nuwa_lightning.training.sharding import gathered_tensor


@dataclass(frozen=True)
class OptimizerConfig:
    """How the optimiser descends, beside its learning rate.

    Args:
        weight_decay: decoupled weight decay.
        warmup_steps: batches of linear warm-up, before the descent to zero at the trainer's last step.
        schedule: that descent, a "cosine" or "linear" (paper).
        label_smoothing: of the cross-entropy in training (paper's lineage: 0.1).
        gradient_clip_val: clip the gradient norm; 0 = off. (The trainer's flag needs automatic optimisation.)
    """

    weight_decay: float = 0.05
    warmup_steps: int = 40
    gradient_clip_val: float = 1.0
    schedule: Literal["cosine", "linear"] = "cosine"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("weight_decay", "warmup_steps", "gradient_clip_val"):
            check_range(f"model.descent.{name}", getattr(self, name), 0)
        check_range("model.descent.label_smoothing", self.label_smoothing, 0, 1)

    @property
    def curve(self) -> dict[str, Any]:
        """What of it :func:`cosine_schedule` takes."""
        return {"warmup": self.warmup_steps, "linear": self.schedule == "linear"}


def step_uncounted(optimizer: Any) -> None:
    """Take a step that ``global_step`` does not count; call it inside ``training_step`` only."""
    # The loop sets these again before every training_step, hence the silencing lasts for one batch.
    optimizer._on_before_step = _nothing
    optimizer._on_after_step = _nothing
    optimizer.step()


def _nothing() -> None:
    return


def group_options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return what the user chose for each group of parameters (learning rate, decay, ...), to be given back later."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


_LIKE_WEIGHTS: Final = ("mean", "square", "momentum", "exp_avg", "exp_avg_sq", "momentum_buffer")


def prefer_options(
    optimizer: torch.optim.Optimizer,
    options: Sequence[Mapping[str, Any]],
    scheduler: torch.optim.lr_scheduler.LambdaLR | None = None,
) -> None:
    """Let the options of this run win over those that a checkpoint brought along with an optimizer's state.

    They are its :func:`group_options` from before that, with the scheduler made already, which goes on where it was.
    Where nothing was changed, nothing changes, to the bit.

    Raises:
        UsageError: if the state is that of other parameters.
    """
    for parameter, state in optimizer.state.items():
        if not isinstance(parameter, Tensor) or not isinstance(state, dict):
            hint = f"its optimizer says {state!r:.40} of a weight: name an earlier one"
            raise UsageError("ckpt_path", "this checkpoint", hint)
        for name, value in state.items():
            if name in _LIKE_WEIGHTS and getattr(value, "shape", None) != parameter.shape:
                hint = f"{name} of its optimizer does not have the shape of its weights: name an earlier one"
                raise UsageError("ckpt_path", "this checkpoint", hint)
    for group, chosen in zip(optimizer.param_groups, options, strict=True):
        group.update(chosen)
    if scheduler is None:
        return
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    rates = [base * f(scheduler.last_epoch) for base, f in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def adamw(module: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW of what is trained of a module; vectors (biases, gains) do not decay."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))


def cosine_schedule(
    optimizer: torch.optim.Optimizer, *, warmup: int, total: float, peak_early: bool = False, linear: bool = False
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule of :func:`cosine_factor`."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: cosine_factor(step, warmup=warmup, total=total, peak_early=peak_early, linear=linear)
    )


def cosine_factor(step: int, *, warmup: int, total: float, peak_early: bool = False, linear: bool = False) -> float:
    """Return the learning rate at ``step`` (from 0) over its peak: linear warm-up, then a cosine to zero at ``total``.

    With ``peak_early`` the last of the ``warmup`` steps is at the peak already, else it is the next; an infinite
    ``total`` stays at the peak; ``linear`` is a straight line instead of the cosine.
    """
    if step < warmup:
        return (step + 1) / (warmup if peak_early else warmup + 1)
    if not math.isfinite(total):
        return 1.0
    done = min(1.0, (step - warmup) / max(1.0, total - warmup))
    return 1 - done if linear else 0.5 * (1 + math.cos(math.pi * done))


def check_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Refuse a learning rate that an optimizer was given of its own, since all groups follow ``model.lr``."""
    parameter = inspect.signature(type(optimizer)).parameters.get("lr")
    own = optimizer.defaults.get("lr", lr)
    if own != lr and (parameter is None or own != parameter.default):
        raise UsageError("model.optimizer.lr", own, f"the learning rate is model.lr ({lr}): give it there")


def ramp(progress: float, *, start: float, length: float) -> float:
    """Return 0 before ``start``, 1 from ``start + length`` on, and a straight line between."""
    if progress < start:
        return 0.0
    return 1.0 if length <= 0 else min(1.0, (progress - start) / length)


def mean_over_ranks(value: Tensor) -> Tensor:
    """Replace ``value``, in place, by its mean over the processes that train together; returns it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value


def unsynced(trainer: Trainer) -> AbstractContextManager[None]:
    """Keep a backward pass from DDP, which takes the mean over processes once for each that it sees."""
    strategy = trainer.strategy
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


def check_finite(tensors: dict[str, Tensor], *, step: int, lr: float) -> None:
    """Stop a training that has gone wrong before it spoils the weights; ``lr`` is blamed, since it nearly always is."""
    tensors = {name: gathered_tensor(value) for name, value in tensors.items()}
    if all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        return
    bad = next(name for name, value in tensors.items() if not torch.isfinite(value).all())
    raise UsageError("model.lr", lr, f"{bad} is not finite at step {step}: use a smaller one, or look at the data")


def clip_gradients(parameters: Iterable[tuple[str, Tensor]], limit: float, *, step: int, lr: float) -> Tensor:
    """Scale gradients down to a total length of ``limit`` (0: leave them) and return the length they had."""
    named = {name: p for name, p in parameters if p.grad is not None}
    norm = gathered_tensor(torch.nn.utils.get_total_norm([p.grad for p in named.values() if p.grad is not None]))
    if not torch.isfinite(norm):
        check_finite({f"the gradient of {n}": p.grad for n, p in named.items() if p.grad is not None}, step=step, lr=lr)
        check_finite({"the length of the gradient": norm}, step=step, lr=lr)
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(named.values(), limit, norm)
    return norm
