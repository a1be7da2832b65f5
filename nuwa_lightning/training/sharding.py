"""FSDP2: weights, gradients and states of the optimizer in parts, one a process; so are checkpoints.

Not for models that fit a device: the paper's largest takes 13 GB with AdamW, and DDP exchanges less.
"""

import pickle
import shutil
from pathlib import Path
from typing import Any, Final, final

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from nuwa_lightning.atomic import fsync_path
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.pretrained import shape_of
from nuwa_lightning.models.nuwa_infinity import PatchTransformer

_META: Final = "meta.pt"
_PARTS: Final = ".metadata"
_TABLES: Final = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_HARMLESS: Final = (("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"))
"""What PyTorch's table of a checkpoint's parts, a pickle, may name: its own classes, and these."""


@final
class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with every process a part of the data, and checkpoints that are whole or absent.

    A checkpoint is a folder, of each process' part a file (PyTorch DCP); any number of processes goes on from it, and
    from the file of a run that was not sharded. Until a new one is whole the one before it stays, at last as
    ``NAME.old.ckpt``, which ``--ckpt_path last`` finds, too.

    Args:
        process_group_backend: such as ``gloo``; by default the device's.
    """

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(process_group_backend=process_group_backend)

    def setup_environment(self) -> None:
        """See Lightning."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a folder beside its final name, and rename it."""
        path = Path(self.broadcast(filepath))
        partial, old = path.with_name(f".{path.name}.part"), path.with_name(f"{path.stem}.old{path.suffix}")
        if self.global_rank == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
        self.barrier()
        super().save_checkpoint(checkpoint, partial, storage_options)
        self.barrier()
        if self.global_rank == 0:
            fsync_path(partial / _META)
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.rename(old)
            partial.rename(path)
            fsync_path(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = True) -> dict[str, Any]:
        """Read a folder of parts, after a look at what it names, or another strategy's file: nothing in it is run."""
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            read_parts(path)
            return super().load_checkpoint(path, weights_only=True)
        content = self.checkpoint_io.load_checkpoint(path, weights_only=True)
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(self.model, content["state_dict"], options=options)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        # Not Lightning's own way, which takes the model's order of parameters for that of the optimizer's groups.
        for optimizer, saved in zip(self.optimizers, content["optimizer_states"], strict=False):
            order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
            state = {order[number]: value for number, value in saved["state"].items()}
            groups = [{**group, "params": [order[n] for n in group["params"]]} for group in saved["param_groups"]]
            told: dict[str, Any] = {"state": state, "param_groups": groups}
            set_optimizer_state_dict(self.model, optimizer, told, options=options)
        return content


class _Table(pickle.Unpickler):
    """Reads PyTorch's table of parts, and nothing that is not of it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS and ("." in name or module not in ("torch", *_TABLES)):
            raise pickle.UnpicklingError(f"{module}.{name} is no part of it")
        found = super().find_class(module, name)
        own = module in _TABLES and isinstance(found, type) and found.__module__ == module
        if not own and (module, name) not in _HARMLESS and not isinstance(found, torch.dtype):
            raise pickle.UnpicklingError(f"{module}.{name} is no part of it")
        return found


def is_parts(path: str | Path) -> bool:
    """Say whether a checkpoint is a folder of parts."""
    return (Path(path) / _META).is_file()


def read_parts(path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint in parts says beside weights and states of the optimizer, which stay where they are.

    Raises:
        UsageError: if it is none, or damaged.
    """
    try:
        with (Path(path) / _PARTS).open("rb") as file:
            _Table(file).load()
        content = torch.load(Path(path) / _META, map_location="cpu", weights_only=True)
        return {"state_dict": {}, "optimizer_states": [{"state": {}, "param_groups": []}], **content}
    except Exception:  # of parsers that meet what anybody may have written
        hint = "is no checkpoint in parts, or a damaged one: name another"
        raise UsageError("ckpt_path", path, hint) from None


def shard(model: PatchTransformer, mesh: DeviceMesh) -> None:
    """Leave each process its part of every weight; a layer is whole while it computes. All begin as the first does."""
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.data, 0)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
        register_fsdp_forward_method(layer, "step")
    for branch in () if model.text is None else model.text.layers:
        fully_shard(branch, mesh=mesh)
        for name in ("keys_values", "read"):
            register_fsdp_forward_method(branch, name)
    fully_shard(model, mesh=mesh)
    for name in ("forward_step", "text_states"):
        register_fsdp_forward_method(model, name)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_force_sum_reduction_for_comms(mesh.device_type == "cpu")  # gloo knows no mean


def is_sharded(model: nn.Module) -> bool:
    """Say whether a process has a part of the weights only."""
    return isinstance(model, FSDPModule)


def gathered_model(model: PatchTransformer) -> PatchTransformer:
    """Return a whole copy on the CPU, to generate with; all processes have to ask, only the first one gets weights."""
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    plain = {"size": model.size, "patch_size": model.patch_size, "embedding_extent": model.embedding_extent}
    whole = PatchTransformer(**{**shape_of(model), **plain})
    if state:
        whole.load_state_dict(state)
    return whole.eval()


def gathered_tensor(tensor: Tensor) -> Tensor:
    """Return all of a tensor of which each process has a part; all have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process' part of a tensor that all have, cut as another is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
