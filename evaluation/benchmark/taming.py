"""The transformer that VQGAN came with (Esser et al. 2021), as contenders; written from its description.

For images larger than 16 x 16 tokens it slides a window: each token is drawn from a full forward over the 256 tokens
of the window around it, and nothing is kept. For images of one window it has sampling with past: keys and values of
each step are appended to a list, which is concatenated anew in every step.

Shape legend: R rows, L positions, W width, H heads, D head width, S key positions.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation.benchmark.measuring import Contender
from evaluation.benchmark.ours import CODES, TOP_K, Size

WINDOW: Final = 256
CONTEXT: Final = 1024
LONGEST: Final = 256

Past = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer ``[R, H, S, D]``."""


class _Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        W = size.width
        self.heads = size.heads
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(W), nn.LayerNorm(W)
        self.query, self.key, self.value, self.out = (nn.Linear(W, W) for _ in range(4))
        self.feed_forward = nn.Sequential(nn.Linear(W, 4 * W), nn.GELU(), nn.Linear(4 * W, W))

    def forward(self, x_RLW: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h_RLW = self.norm_attention(x_RLW)
        q, k, v = (
            torch.unflatten(linear(h_RLW), -1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        present = (k, v)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        o_RHLD = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        x_RLW = x_RLW + self.out(o_RHLD.transpose(1, 2).flatten(2))
        return x_RLW + self.feed_forward(self.norm_feed_forward(x_RLW)), present


class TamingTransformer(nn.Module):
    """Token and position embedding, blocks with a plain feed-forward of four times the width, a head."""

    def __init__(self, size: Size, *, positions: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(CODES, size.width)
        self.positions = nn.Parameter(torch.randn(positions, size.width) * 0.02)
        self.blocks = nn.ModuleList(_Block(size) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, CODES, bias=False)

    def forward(self, tokens_RL: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """Return scores ``[R, L, K]`` and the keys and values of these positions."""
        start = 0 if past is None else past[0][0].shape[2]
        x_RLW = self.tokens(tokens_RL) + self.positions[start : start + tokens_RL.shape[1]]
        presents = []
        for number, block in enumerate(self.blocks):
            x_RLW, present = block(x_RLW, None if past is None else past[number])
            presents.append(present)
        return self.head(self.norm(x_RLW)), presents


def _draw(logits_RK: Tensor) -> Tensor:
    best_RK, code_RK = logits_RK.topk(TOP_K)
    return code_RK.gather(1, torch.multinomial(best_RK.softmax(dim=-1), 1))


def _model(size: Size, positions: int) -> TamingTransformer:
    torch.manual_seed(0)
    return TamingTransformer(size, positions=positions).eval().requires_grad_(False)


class SlidingWindow(Contender):
    """Each token from a full forward over the window of 16 x 16 tokens around it."""

    def __init__(self, name: str, size: Size) -> None:
        self.name, self.rows = name, 1
        self._model = _model(size, WINDOW)

    def start(self) -> None:
        """Begin with a window that is full."""
        self._window_1L = torch.randint(0, CODES, (1, WINDOW))

    def burst(self, steps: int) -> None:
        """Write tokens in the middle of the window, where they lie except near the border of the image."""
        place = WINDOW // 2 + 8
        for _ in range(steps):
            logits, _ = self._model(self._window_1L)
            self._window_1L[:, place + 1] = _draw(logits[:, place])[:, 0]


class WithPast(Contender):
    """Keys and values kept in a list with an entry for each step."""

    def __init__(self, name: str, size: Size) -> None:
        self.name, self.rows = name, 1
        self._model = _model(size, CONTEXT + LONGEST)
        with torch.inference_mode():
            self._context = self._model(torch.randint(0, CODES, (1, CONTEXT)))[1]

    def start(self) -> None:
        """Go back to the end of the context."""
        self._past: list[Past] = [self._context]
        self._token_R1 = torch.zeros(1, 1, dtype=torch.long)

    def burst(self, steps: int) -> None:
        """Write tokens; what was written before is forgotten."""
        for _ in range(steps):
            joined = [
                (
                    torch.cat([step[n][0] for step in self._past], dim=2),
                    torch.cat([step[n][1] for step in self._past], dim=2),
                )
                for n in range(len(self._context))
            ]
            logits, presents = self._model(self._token_R1, joined)
            self._past.append(presents)
            self._token_R1 = _draw(logits[:, -1])
