"""Options of the trainer that Lightning takes and then waits, does nothing or does something else."""

import os
from typing import Any, Final

from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.mpi import MPIEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator

from nuwa_lightning.environment import started_together
from nuwa_lightning.errors import UsageError

_TELL: Final = (SLURMEnvironment, LSFEnvironment, MPIEnvironment)


def check_processes(trainer: Any) -> None:
    """Refuse more processes than there can be, by the options of the trainer: the others would be waited for.

    Raises:
        UsageError: naming the way out.
    """
    devices, cores = trainer.devices, os.cpu_count() or 1
    if trainer.accelerator == "cpu" and str(devices).isdecimal() and int(devices) > cores:
        hint = f"the machine has {cores} cores, and each process needs one: give at most as many"
        raise UsageError("--trainer.devices", devices, hint)
    if trainer.num_nodes < 1:
        raise UsageError("--trainer.num_nodes", trainer.num_nodes, "give the number of machines, 1 or more")
    told = "MASTER_ADDR" in os.environ or trainer.plugins  # of torchrun or by hand; a plugin may be an environment
    if trainer.num_nodes > 1 and not (told or any(each.detect() for each in _TELL)):
        hint = "nothing says where the other machines are: start it on each by torchrun or SLURM (docs/scaling.md)"
        raise UsageError("--trainer.num_nodes", trainer.num_nodes, hint)


def check_together(trainer: Trainer, devices: Any) -> None:
    """Refuse processes that torchrun started together and that would each train alone, into one folder.

    Raises:
        UsageError: naming the way out.
    """
    world = os.environ.get("WORLD_SIZE")
    if started_together() and str(trainer.world_size) != world:
        hint = f"{world} processes were started, this is for {trainer.world_size}: give how many each machine has"
        raise UsageError("--trainer.devices", devices, f"{hint}, and --trainer.num_nodes")


def no_room(trainer: Trainer) -> str | None:
    """Return why nothing else can be trained beside; None if there is one process, and on a CPU."""
    if trainer.world_size > 1:  # also of processes that Lightning is to start later
        return f"that is {trainer.world_size} processes, which need the cores"
    return None if isinstance(trainer.accelerator, CPUAccelerator) else "that needs the device"


def check_steps(trainer: Any) -> None:
    """Refuse options of the trainer with which ``fit`` would train nothing, and export that; or log at odd times.

    Raises:
        UsageError: naming the way out.
    """
    every = trainer.log_every_n_steps
    if every is not None and every < 0:
        raise UsageError("--trainer.log_every_n_steps", every, "give a number of steps, 1 or more, or 0 for no logs")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        value = trainer.get(name)
        if value == 0 and not trainer.fast_dev_run:
            raise UsageError(f"--trainer.{name}", value, "nothing would be trained: give 1 or more")
