"""Moving averages of the weights of one sub-module."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

_LOG = logging.getLogger(__name__)


class SubmoduleAveraging(Callback):
    """Keeps a moving average of one sub-module's trained weights; validation, checkpoints and the end use it.

    Lightning's ``EMAWeightAveraging`` copies the whole LightningModule (discriminator and code statistics included) and
    averages integer buffers. Here only parameters that are trained are averaged; buffers stay as they are. The layout
    of checkpoints is Lightning's: ``state_dict`` holds the averages, ``current_model_state`` what is trained.
    """

    def __init__(self, submodule: str, decay: float = 0.99) -> None:
        self.submodule = submodule
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._current: dict[str, Tensor] | None = None  # what is trained, while the module holds the averages
        self._step = 0

    def _trained(self, pl_module: LightningModule) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in pl_module.get_submodule(self.submodule).named_parameters():
            if parameter.requires_grad:
                yield f"{self.submodule}.{name}", parameter

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin with the weights as they are; a checkpoint, which is loaded after this, replaces them."""
        if stage == "fit":
            self._average, self._current = self._copy(pl_module), None
            self._step = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Take in the new weights, once per optimizer step."""
        if trainer.global_step <= self._step:
            return
        self._step = trainer.global_step
        keep = min(self.decay, (1 + self._step) / (10 + self._step))
        with torch.no_grad():
            for name, parameter in self._trained(pl_module):
                # Where the trainer moves or converts the module it does so after setup.
                self._average[name] = self._average[name].to(parameter).lerp_(parameter, 1 - keep)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the averages."""
        self._show_averages(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with what is trained."""
        if self._current is not None and trainer.state.fn == "fit":
            self._load(pl_module, self._current)
            self._current = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averages in the module; checkpoints written from now on still hold both."""
        self._show_averages(pl_module)

    def averaged(self, pl_module: LightningModule) -> dict[str, Tensor]:
        """Return the averages by name; what is trained itself before the first step."""
        return self._average or {name: p.detach() for name, p in self._trained(pl_module)}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps taken in."""
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from a checkpoint."""
        self._step = int(state_dict["step"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the averages where any reader of the checkpoint looks, what is trained beside them."""
        if self._average:
            state = checkpoint["state_dict"]
            current = state if self._current is None else self._current
            checkpoint["current_model_state"] = {name: current[name].clone() for name in self._average}
            checkpoint["state_dict"] = {**state, **{name: value.clone() for name, value in self._average.items()}}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take both sets of weights back."""
        if "current_model_state" not in checkpoint or trainer.state.fn != "fit":
            if self.state_key in checkpoint.get("callbacks", ()) and trainer.state.fn == "fit":
                _LOG.warning("the checkpoint holds no weights beside their averages: going on from the averages")
            return
        current = checkpoint["current_model_state"]
        self._average = {name: checkpoint["state_dict"][name].clone() for name in current}
        self._load(pl_module, current)

    def _load(self, pl_module: LightningModule, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._trained(pl_module):
                parameter.copy_(values[name])

    def _copy(self, pl_module: LightningModule) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._trained(pl_module)}

    def _show_averages(self, pl_module: LightningModule) -> None:
        if self._average and self._current is None:
            self._current = self._copy(pl_module)
            self._load(pl_module, self._average)
