"""Waiting for the other processes of a training: it is said, and a signal ends it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from nuwa_lightning.environment import is_first
from nuwa_lightning.errors import UsageError
from nuwa_lightning.signals import Stopped, beside_python

_LOG = logging.getLogger(__name__)


def watch_joining(trainer: Trainer, leave: Callable[[Stopped], None]) -> None:
    """Let a trainer say which processes it waits for, and a signal end it meanwhile.

    PyTorch waits half an hour, and no signal reaches Python before that.

    Args:
        trainer: whose strategy joins the others when it sets up its environment.
        leave: what is left to do when a signal ends the process; it is called from another thread.
    """
    strategy = trainer.strategy
    environment, join = getattr(strategy, "cluster_environment", None), strategy.setup_environment
    count = trainer.num_nodes * trainer.num_devices
    if environment is None or count == 1:
        return

    def stop(number: int) -> None:
        stopped = Stopped(number)
        try:
            if isinstance(strategy.launcher, _SubprocessScriptLauncher):
                strategy.launcher.kill(number)
            leave(stopped)
            if is_first():
                sys.stderr.write(f"{stopped} with --ckpt_path last\n")
                sys.stderr.flush()
        finally:
            os._exit(128 + number)

    def joined() -> None:
        address = f"{environment.main_address}:{environment.main_port}"
        if environment.local_rank() == 0:
            _LOG.info("waiting for %d processes at %s", count, address)
        try:
            with beside_python(stop):
                join()
        except dist.DistError as error:
            why = str(error).partition("\n")[0]
            hint = (
                f"{count} processes do not come together at {address} ({why:.200}): start all of them, with one address"
            )
            raise UsageError("--trainer.num_nodes", trainer.num_nodes, hint) from error

    strategy.setup_environment = joined  # type: ignore[method-assign]
