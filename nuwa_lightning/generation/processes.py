"""Generation by several processes, one a device: each writes a part of every wave, and all hold what is finished.

Shape legend: S steps of a wave, B canvases side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, final

import torch
import torch.distributed as dist
from torch import Tensor

from nuwa_lightning.environment import started_together
from nuwa_lightning.errors import UsageError

Part = tuple[slice, slice]
"""Which steps of a wave, and which canvases, one process writes."""
_PATIENCE: Final = timedelta(days=7)
"""How long a process waits for the others: the first one may be exporting an image all that time."""


@final
@dataclass(frozen=True)
class Processes:
    """The processes of ``torch.distributed``'s default group, which render the same canvases at the same time.

    Tokens and states of a wave go from each process to all, so the live set is whole everywhere: any of them can store
    it, and go on from it in another number of processes.

    Args:
        rank: which of them this is, from 0.
        world_size: how many.
    """

    rank: int
    world_size: int

    @classmethod
    def join(cls) -> Processes:
        """Join those that torchrun started with this one; return them.

        Raises:
            UsageError: if this process was not started by torchrun.
        """
        if not dist.is_initialized():
            if not started_together():
                hint = "start it by torchrun: torchrun --nproc_per_node 2 ..."
                raise UsageError("processes", "none", hint)
            dist.init_process_group("gloo", timeout=_PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the one that keeps and exports the canvas."""
        return self.rank == 0

    def parts(self, steps: int, canvases: int) -> list[Part]:
        """Return what each process writes of a wave: some of the canvases or some of the steps, the more even way."""
        n = self.world_size
        by_canvas = -(-canvases // n) * steps <= -(-steps // n) * canvases
        count = canvases if by_canvas else steps
        some = [slice(count * rank // n, count * (rank + 1) // n) for rank in range(n)]
        return [(slice(0, steps), part) if by_canvas else (part, slice(0, canvases)) for part in some]

    def gather(self, own: Tensor, parts: Sequence[Part]) -> Tensor:
        """Return ``[S, B, ...]`` of a whole wave, where each process has that of its part.

        Args:
            own: of this process, on any device; gloo carries it over the CPU.
            parts: of all of them.
        """
        shapes = [(s.stop - s.start, b.stop - b.start, *own.shape[2:]) for s, b in parts]
        device = torch.device("cpu") if dist.get_backend() == "gloo" else own.device
        sent = torch.zeros(max(map(math.prod, shapes)), dtype=own.dtype, device=device)
        sent[: own.numel()] = own.flatten()
        received = [torch.empty_like(sent) for _ in parts]
        dist.all_gather(received, sent)
        size = (max(s.stop for s, _ in parts), max(b.stop for _, b in parts))
        whole = torch.empty(*size, *own.shape[2:], dtype=own.dtype, device=own.device)
        for (s, b), shape, found in zip(parts, shapes, received, strict=True):
            whole[s, b] = found[: math.prod(shape)].view(shape)
        return whole

    def agree(self, value: Any = None) -> Any:
        """Return what the first process says; all of them wait for it. It may be any object: the processes are one."""
        said = [value if self.first else None]
        dist.broadcast_object_list(said, src=0)
        return said[0]
