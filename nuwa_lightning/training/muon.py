"""Muon for layer matrices with AdamW for the rest, in one optimizer.

``torch.optim.Muon`` orthogonalises in bfloat16, which on a CPU without bfloat16 units takes over three times as long as
float32; and one optimizer instead of two keeps Lightning's ``global_step`` and schedulers what they say they are.

Of matrices in parts (FSDP2) each process gathers the whole update, since singular values are those of the whole matrix,
and keeps its part.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from nuwa_lightning.training.sharding import gathered_tensor, part_like

# Quintic Newton-Schulz coefficients of Muon (Jordan et al. 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices_BMN: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix ``[B, M, N]`` to roughly 0.7 .. 1.2 by Newton-Schulz iteration."""
    a, b, c = _COEFFICIENTS
    x = matrices_BMN
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-2, -1)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(-2, -1)
        x = a * x + (b * gram + c * gram @ gram) @ x
    done: Tensor = x.transpose(-2, -1) if tall else x
    return done


class MuonAdamW(torch.optim.Optimizer):
    """Muon (matrices of hidden layers) and AdamW (embeddings, positions, norms, head, biases).

    Args:
        params: parameters or groups; a group's ``muon`` says which rule it follows (default False: AdamW).
        lr: step size of both; Muon's update is scaled to AdamW's RMS (0.2 * sqrt(max(M, N))), so one value serves.
        weight_decay: decoupled.
        momentum: of Muon (Nesterov).
        betas: of AdamW.
        eps: of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        *,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            "muon": False,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self._muon(group, params)
            else:
                self._adamw(group, params)
        return loss

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for p in params:
            shapes.setdefault(p.shape, []).append(p)
        for shape, same in shapes.items():
            updates = []
            for p in same:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                assert p.grad is not None
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                updates.append(p.grad.lerp(state["momentum"], group["momentum"]))
            scale = 0.2 * max(shape[0], shape[1]) ** 0.5
            whole = torch.stack([gathered_tensor(update) for update in updates])
            for p, update in zip(same, orthogonalise(whole), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(part_like(update, p), alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for p in params:
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["mean"] = torch.zeros_like(p)
                state["square"] = torch.zeros_like(p)
            assert p.grad is not None
            state["step"] += 1
            t = state["step"].item()
            state["mean"].lerp_(p.grad, 1 - beta1)
            state["square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            p.mul_(1 - group["lr"] * group["weight_decay"])
            denominator = (state["square"] / (1 - beta2**t)).sqrt_().add_(group["eps"])
            p.addcdiv_(state["mean"], denominator, value=-group["lr"] / (1 - beta1**t))


def muon_groups(model: nn.Module, *hidden: nn.Module) -> list[dict[str, Any]]:
    """Split parameters: matrices inside ``hidden`` go to Muon, all else to AdamW, and only matrices decay."""
    named = (pair for stack in hidden for pair in stack.named_parameters())
    inside = {id(p) for name, p in named if p.ndim == 2 and name.endswith("weight")}
    params = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in params if id(p) in inside], "muon": True},
        {"params": [p for p in params if id(p) not in inside and p.ndim >= 2], "muon": False},
        {"params": [p for p in params if id(p) not in inside and p.ndim < 2], "muon": False, "weight_decay": 0.0},
    ]
