"""One token of each patch by one graph of fixed shapes: a step that a GPU replays without being told what to do.

At one row a GPU spends more time on being told than on work. So nothing here depends on numbers that only the device
knows: the place is a tensor, keys and values lie in slots that are there from the start and are masked until they are
filled, and no number goes back to the CPU between two tokens. On a GPU the step is captured once as a CUDA graph and
replayed (docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs"); ``torch.compile`` may fuse what is captured. On
a CPU the same step runs as it is, or compiled.

Shape legend as in ``patch_decoder.py``: P patches, R rows in the model (twice as many under guidance), N tokens per
patch, L = 1 + N positions, J tokens that a position reads, C context patches, S slots (C * N + L, filled up), G
key/value heads, D head width, K codes.
"""

from collections.abc import Callable
from typing import Any, Final, final

import torch
import torch.nn.functional as F
from torch import Tensor

from nuwa_lightning.generation.fast_transformer import DecodingTransformer
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import ABSENT

Draw = Callable[[Tensor, Tensor], Tensor]
"""From scores ``[P, K]`` and what chance gives each row ``[P]``: tokens ``[P]``."""

_ALIGNED: Final = 16
"""Attention with a mask wants rows of a multiple of this many slots."""


@final
class StaticSteps:
    """The buffers and the graph for so many patches; made once, loaded with one batch of patches after another.

    Args:
        patches: the first batch; the others have the same shapes.
        draw: how a token is drawn.
        chance: the kind of numbers that it takes.
        backend: of ``torch.compile``; None to leave it out.
    """

    def __init__(self, patches: PatchDecoder, draw: Draw, chance: torch.dtype, backend: str | None) -> None:
        rows, model = patches.batch, patches.batch.model
        # What is called from C, as on a CPU, cannot be traced.
        plain = patches.tokens_RN.device.type != "cpu"
        self._model = model if plain else DecodingTransformer(model.model, model.precision, loops=False)
        self._draw, self._guidance, self._context = draw, patches.guidance, rows.context
        P, N = patches.tokens_RN.shape
        J, device = patches.inputs_RLJ.shape[2], patches.tokens_RN.device
        self._inputs_PX = torch.full((P, (N + 1) * J + 1), ABSENT, device=device)  # the last one is read by nobody
        self._columns_J = torch.arange(J, device=device)
        most = max(map(len, patches.readers))
        self._readers_NX = torch.stack([F.pad(r, (0, most - len(r)), value=(N + 1) * J) for r in patches.readers]).to(
            device
        )
        self._given_PN, self._tokens_PN = (torch.full((P, N), ABSENT, device=device) for _ in range(2))
        self._chance_PN = torch.zeros((P, N), dtype=chance, device=device)
        self._entry_R = torch.zeros_like(rows.entry_R)
        slots = rows.context + N + 1
        filled_up = -slots % _ALIGNED
        # Zeros, since what is masked must still be a number.
        self._keys = [torch.zeros_like(F.pad(k_RGSD, (0, 0, 0, filled_up))) for k_RGSD in rows.keys]
        self._values = [torch.zeros_like(k_RGSD) for k_RGSD in self._keys]
        self._biases = [
            k.new_zeros(len(k), 1 if b is None else b.shape[1], 1, slots + filled_up)
            for k, b in zip(self._keys, rows.biases, strict=True)
        ]
        self._slot_S = torch.arange(slots + filled_up, device=device)
        self._place_1 = torch.zeros(1, dtype=torch.long, device=device)
        # Typed as Any: torch.compile returns what it was given, as it says.
        step: Any = (
            self._step if backend is None else torch.compile(self._step, backend=backend, fullgraph=True, dynamic=False)
        )
        self.run: Callable[[], Any] = step if device.type != "cuda" else self._captured(step)
        """Write one token of each patch."""

    def write(self, patches: PatchDecoder, chance_PN: Tensor) -> None:
        """Write all tokens of the patches, with the keys and values of all but the last.

        Args:
            patches: with nothing written yet.
            chance_PN: what chance gives each token.
        """
        self.load(patches, chance_PN)
        N = patches.tokens_RN.shape[1]
        for _ in range(N):
            self.run()
        rows, C = patches.batch, self._context
        for slots, kept in ((self._keys, rows.keys), (self._values, rows.values)):
            for slots_RGSD, kept_RGSD in zip(slots, kept, strict=True):
                kept_RGSD[:, :, C : C + N] = slots_RGSD[:, :, C : C + N]
        rows.place = N
        patches.set_tokens(range(N), self._tokens_PN)

    def load(self, patches: PatchDecoder, chance_PN: Tensor) -> None:
        """Begin with these patches, see :meth:`write`."""
        rows, C = patches.batch, self._context
        self._place_1.zero_()
        self._inputs_PX[:, :-1] = patches.inputs_RLJ.flatten(1)
        self._given_PN.copy_(patches.given_RN)
        self._tokens_PN.copy_(patches.tokens_RN)
        self._chance_PN.copy_(chance_PN)
        self._entry_R.copy_(rows.entry_R)
        for slots, kept in ((self._keys, rows.keys), (self._values, rows.values)):
            for slots_RGSD, kept_RGSD in zip(slots, kept, strict=True):
                slots_RGSD[:, :, :C] = kept_RGSD[:, :, :C]
        for slots_RH1S, bias_RH1S in zip(self._biases, rows.biases, strict=True):
            slots_RH1S.zero_()
            if bias_RH1S is not None:
                slots_RH1S[..., : bias_RH1S.shape[-1]] = bias_RH1S

    def _step(self) -> None:
        """Read one position and write the token behind it."""
        place_1, model = self._place_1, self._model
        x_P1J = self._inputs_PX.index_select(1, place_1 * len(self._columns_J) + self._columns_J)[:, None]
        x_R1J = self._guidance.both(x_P1J, first=1)
        R = len(x_R1J)
        slot_1 = place_1 + self._context
        later_S = torch.zeros_like(self._slot_S, dtype=model.dtype)
        later_S = later_S.masked_fill(self._slot_S > slot_1, float("-inf"))
        x_MW = model.embed(x_R1J, self._entry_R, place_1.expand(R, 1)).flatten(0, 1)
        for number, layer in enumerate(model.layers):
            k_RGSD, v_RGSD = self._keys[number], self._values[number]
            q_R1HD, k_RG1D, v_RG1D = layer.projected(x_MW, R)
            k_RGSD.index_copy_(2, slot_1, k_RG1D.to(k_RGSD.dtype))
            v_RGSD.index_copy_(2, slot_1, v_RG1D.to(v_RGSD.dtype))
            x_MW = layer.mixed(x_MW, q_R1HD, k_RGSD, v_RGSD, bias=self._biases[number] + later_S)
            x_MW = layer.feed_forward(x_MW)
        logits_R1K = model.logits(x_MW, x_R1J[:, 0, 1:])[:, None]
        logits_PK = self._guidance.one(logits_R1K)[:, 0]
        drawn_P = self._draw(logits_PK, self._chance_PN.index_select(1, place_1)[:, 0])
        given_P = self._given_PN.index_select(1, place_1)[:, 0]
        token_P1 = torch.where(given_P == ABSENT, drawn_P, given_P)[:, None]
        self._tokens_PN.index_copy_(1, place_1, token_P1)
        readers_X = self._readers_NX.index_select(0, place_1)[0]
        self._inputs_PX.index_copy_(1, readers_X, token_P1.expand(-1, len(readers_X)))
        place_1.add_(1)

    def _captured(self, step: Callable[[], Any]) -> Callable[[], None]:
        """Return what replays the step as one CUDA graph; the buffers stay where they are."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiles, and finds the libraries' workspaces before anything is captured
                self._place_1.zero_()
                step()
        torch.cuda.current_stream().wait_stream(stream)
        self._place_1.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay


def static_steps(patches: PatchDecoder, sampling: Sampling, *, frozen: bool, backend: str | None) -> StaticSteps:
    """Return the steps for patches like these; made once for each shape and model."""
    key = f"{backend} {frozen} {sampling} {patches.batch.context}", patches.rows
    if key not in patches.found:
        draw, chance = (sampling.draw_frozen, torch.long) if frozen else (sampling.draw, torch.float64)
        patches.found[key] = StaticSteps(patches, draw, chance, backend)
    steps: StaticSteps = patches.found[key]
    return steps
