"""Where finished patches wait until no later patch needs them: numbered slots, allocated once and reused.

Shape legend: B canvases side by side, S steps of a wave, C context patches, N tokens per patch, G key/value heads,
D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nuwa_lightning.modules.patch_states import PatchStates


class SlotCache:
    """Per-layer keys and values of live steps. It grows when more steps are alive than ever before, and never shrinks.

    Args:
        depth: layers.
        shape: one slot's shape ``(B, N, G, D)``.
        like: a tensor whose dtype and device are taken.
        slots: slots to begin with.
    """

    def __init__(self, depth: int, shape: tuple[int, int, int, int], *, like: Tensor, slots: int = 16) -> None:
        self._keys = [like.new_zeros(slots, *shape) for _ in range(depth)]
        self._values = [like.new_zeros(slots, *shape) for _ in range(depth)]
        self._free = list(range(slots - 1, -1, -1))
        self._slot: dict[int, int] = {}

    @property
    def live(self) -> int:
        """How many steps are held."""
        return len(self._slot)

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(t.nbytes for t in (*self._keys, *self._values))

    def put(self, number: int, states: PatchStates) -> None:
        """Keep the states (rows = canvases) of a finished step."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._slot[number] = slot
        for kept, new in zip((*self._keys, *self._values), (*states.keys, *states.values), strict=True):
            kept[slot] = new

    def get(self, number: int) -> PatchStates:
        """Return the states of a step as they are kept: no copy, so only until the step is dropped."""
        slot = self._slot[number]
        return PatchStates(tuple(t[slot] for t in self._keys), tuple(t[slot] for t in self._values))

    def drop(self, number: int) -> None:
        """Give the slot of a step back."""
        self._free.append(self._slot.pop(number))

    def gather(self, context: Sequence[Sequence[int]]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Collect the context of a wave.

        Args:
            context: for each of S steps the numbers of its context steps.

        Returns:
            Keys and values per layer ``[S * B, C, N, G, D]`` and which places are filled ``[S * B, C]``;
            C is the largest number of context steps.
        """
        S, C = len(context), max(map(len, context))
        slots_SC = torch.zeros(S, C, dtype=torch.long)
        valid_SC = torch.zeros(S, C, dtype=torch.bool)
        for s, numbers in enumerate(context):
            for c, number in enumerate(numbers):
                slots_SC[s, c] = self._slot[number]
                valid_SC[s, c] = True
        flat = slots_SC.flatten().to(self._keys[0].device)
        B, N, G, D = self._keys[0].shape[1:]

        def pick(kept: Tensor) -> Tensor:
            return kept[flat].view(S, C, B, N, G, D).transpose(1, 2).reshape(S * B, C, N, G, D)

        valid_RC = valid_SC[:, None].expand(S, B, C).reshape(S * B, C)
        return [pick(k) for k in self._keys], [pick(v) for v in self._values], valid_RC.to(flat.device)

    def _grow(self) -> None:
        slots = len(self._keys[0])
        self._keys = [torch.cat([t, torch.zeros_like(t)]) for t in self._keys]
        self._values = [torch.cat([t, torch.zeros_like(t)]) for t in self._values]
        self._free.extend(range(2 * slots - 1, slots - 1, -1))
