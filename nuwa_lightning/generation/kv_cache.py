"""Where finished patches wait until no later patch needs them: numbered slots, allocated once and reused.

Shape legend: B canvases side by side, S steps of a wave, R = S * B rows, C context patches, N tokens per patch,
G key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from nuwa_lightning.generation.fast_transformer import Number
from nuwa_lightning.generation.patch_batch import PatchStates

_SMALL: Final = 1e-12


class SlotCache:
    """Per-layer keys and values of live steps. It grows when more steps are alive than ever before, and never shrinks.

    Args:
        num_layers: layers.
        shape: one slot's shape ``(B, G, N, D)``.
        like: a tensor whose dtype and device are taken.
        number: how numbers are kept: as they come (float32), in half the bits, or in a quarter with a scale for each
            token and head.
        slots: slots to begin with.
    """

    def __init__(
        self,
        num_layers: int,
        shape: tuple[int, int, int, int],
        *,
        like: Tensor,
        number: Number = "float32",
        slots: int = 16,
    ) -> None:
        self._keys = [_Kept.empty(slots, shape, like, number) for _ in range(num_layers)]
        self._values = [_Kept.empty(slots, shape, like, number) for _ in range(num_layers)]
        self._canvases = shape[0]
        self._free = list(range(slots - 1, -1, -1))
        self._slot: dict[int, int] = {}

    @property
    def live(self) -> int:
        """How many steps are held."""
        return len(self._slot)

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(kept.nbytes for kept in (*self._keys, *self._values))

    def put(self, number: int, states: PatchStates) -> None:
        """Keep the states (rows = canvases) of a finished step."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._slot[number] = slot
        for kept, new in zip((*self._keys, *self._values), (*states.keys, *states.values), strict=True):
            kept.put(slot, new)

    def get(self, number: int) -> PatchStates:
        """Return the states of a step; those kept as they came are no copy, so valid only until the step is dropped.

        What is put back later is kept with the same bits.
        """
        slot = self._slot[number]
        return PatchStates(tuple(k.get(slot) for k in self._keys), tuple(v.get(slot) for v in self._values))

    def drop(self, number: int) -> None:
        """Give the slot of a step back."""
        self._free.append(self._slot.pop(number))

    def gather(self, context: Sequence[Sequence[int]], canvases: Tensor | None = None) -> GatheredContext:
        """Collect the context of a wave.

        Args:
            context: for each of S steps the numbers of its context steps; C is the largest number of them.
            canvases: of which of the B canvases; None for all.
        """
        each_B = torch.arange(self._canvases) if canvases is None else canvases
        S, C, B = len(context), max(map(len, context)), len(each_B)
        slots_SC = torch.zeros(S, C, dtype=torch.long)
        valid_SC = torch.zeros(S, C, dtype=torch.bool)
        for s, numbers in enumerate(context):
            slots_SC[s, : len(numbers)] = torch.tensor([self._slot[n] for n in numbers], dtype=torch.long)
            valid_SC[s, : len(numbers)] = True
        places_SBC = slots_SC[:, None] * self._canvases + each_B[:, None]
        device = self._keys[0].numbers.device
        valid_RC = valid_SC[:, None].expand(S, B, C).reshape(S * B, C)
        return GatheredContext(valid_RC.to(device), places_SBC.flatten(0, 1).to(device), self._keys, self._values)

    def _grow(self) -> None:
        slots = len(self._keys[0].numbers)
        self._keys = [kept.doubled() for kept in self._keys]
        self._values = [kept.doubled() for kept in self._values]
        self._free.extend(range(2 * slots - 1, slots - 1, -1))


@dataclass(frozen=True)
class GatheredContext:
    """The context of a wave, collected layer by layer.

    Attributes:
        valid_RC: which context places are filled.
        places_RC: slot times canvases plus canvas.
    """

    valid_RC: Tensor
    places_RC: Tensor
    _keys: list[_Kept]
    _values: list[_Kept]

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values ``[R, C, G, N, D]`` of one layer."""
        return self._keys[layer].pick(self.places_RC), self._values[layer].pick(self.places_RC)


@dataclass(frozen=True)
class _Kept:
    """Slots ``[slots, B, G, N, D]`` and, for int8, their scales ``[slots, B, G, N, 1]``."""

    numbers: Tensor
    scales: Tensor | None
    dtype: torch.dtype

    @staticmethod
    def empty(slots: int, shape: tuple[int, int, int, int], like: Tensor, number: Number) -> _Kept:
        dtype = {"float32": like.dtype, "bfloat16": torch.bfloat16, "int8": torch.int8}[number]
        scales = torch.zeros(slots, *shape[:-1], 1, dtype=torch.bfloat16, device=like.device)
        numbers = torch.zeros(slots, *shape, dtype=dtype, device=like.device)
        return _Kept(numbers, scales if number == "int8" else None, like.dtype)

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def doubled(self) -> _Kept:
        def twice(kept: Tensor) -> Tensor:
            return torch.cat([kept, torch.zeros_like(kept)])

        return _Kept(twice(self.numbers), None if self.scales is None else twice(self.scales), self.dtype)

    def put(self, slot: int, new_BGND: Tensor) -> None:
        if self.scales is None:
            self.numbers[slot] = new_BGND
            return
        # Scales in bfloat16: times 127 they need no rounding, so what is read and put again has the same bits.
        scale_BGN1 = (new_BGND.abs().amax(dim=-1, keepdim=True).clamp_min(_SMALL) / 127).to(torch.bfloat16)
        self.numbers[slot] = (new_BGND / scale_BGN1).round().to(torch.int8)
        self.scales[slot] = scale_BGN1

    def get(self, slot: int) -> Tensor:
        kept = self.numbers[slot]
        return kept if self.scales is None else kept * self.scales[slot].to(self.dtype)

    def pick(self, places_RC: Tensor) -> Tensor:
        flat, shape = places_RC.flatten(), (*places_RC.shape, *self.numbers.shape[2:])
        kept = self.numbers.flatten(0, 1).index_select(0, flat).view(shape)
        if self.scales is None:
            return kept
        return kept * self.scales.flatten(0, 1).index_select(0, flat).view(*shape[:-1], 1).to(self.dtype)
