"""How a large model is made to fit and to run: nothing here changes what is learned.

Shape legend: B samples, P steps of a plan, N tokens per patch, M tokens, K codes, J neighbors, W model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nuwa_lightning.errors import UsageError, check_range
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TokenMask
from nuwa_lightning.training.losses import LossTerm

_NO_TARGET: Final = -100


@dataclass(frozen=True)
class ScalingConfig:
    """What memory and time a step may take. With all of it the losses are the same but for rounding.

    Args:
        accumulate_grad_batches: batches for each optimizer step (of ``optimize: joint`` or ``accumulated``).
        logits_chunk: how many tokens may have their logits in memory at once; those of the backward pass are made
            again. 0: all, which takes three times ``4 * codebook_size`` bytes a token.
        recompute_layers: keep the input of each layer only, and make the rest again in the backward pass.
        compile: backend of ``torch.compile`` for the feed-forward branches, such as ``inductor`` (which draws
            dropout by random numbers of its own); None: none.
        flex_attention: attend by PyTorch's FlexAttention, which gathers no context (of ``optimize: joint`` or
            ``accumulated``; to train, on a GPU only).

    Raises:
        UsageError: if a number makes no sense, or there is no such backend.
    """

    accumulate_grad_batches: int = 1
    logits_chunk: int = 0
    recompute_layers: bool = False
    compile: str | None = None
    flex_attention: bool = False

    def __post_init__(self) -> None:
        check_range("model.scaling.accumulate_grad_batches", self.accumulate_grad_batches, 1)
        check_range("model.scaling.logits_chunk", self.logits_chunk, 0)
        if self.compile is not None:
            known = [*torch._dynamo.list_backends(), "eager", "aot_eager"]
            if self.compile not in known:
                raise UsageError(
                    "model.scaling.compile", self.compile, f"choose one of {', '.join(sorted(set(known)))}"
                )

    def check(self, optimize: str, *, grouped: bool) -> None:
        """Refuse what does not go with a way to optimize, or with a decoder that writes groups of tokens."""
        if self.flex_attention and (optimize == "per_patch" or grouped):
            hint = "knows neither optimize: per_patch nor groups of tokens: give false"
            raise UsageError("model.scaling.flex_attention", True, hint)
        if optimize == "per_patch" and self.accumulate_grad_batches > 1:
            hint = "optimize: per_patch takes a step after each patch: give 1, or optimize: joint"
            raise UsageError("model.scaling.accumulate_grad_batches", self.accumulate_grad_batches, hint)

    def compile_layers(self, model: PatchTransformer) -> None:
        """Compile what has the same shape in every group of a batch."""
        if self.compile is not None:
            for number in range(model.num_layers):
                model.layer(number).feed_forward.compile(backend=self.compile)


@final
@dataclass(frozen=True)
class TokenLosses:
    """The ``score`` of :meth:`PatchTransformer.forward` that gives the loss of each token."""

    model: PatchTransformer
    target_BPN: Tensor
    terms: Sequence[LossTerm] = ()
    label_smoothing: float = 0.0
    chunk: int = 0

    def __call__(self, x_BPNW: Tensor, neighbors_BPNJ: Tensor) -> Tensor:
        """Return ``[B, P, N]``."""
        x_MW, neighbors_MJ, target_M = x_BPNW.flatten(0, 2), neighbors_BPNJ.flatten(0, 2), self.target_BPN.flatten()
        weight_KW = self.model.head_weight()
        if not 0 < self.chunk < len(x_MW):
            loss_M = self._of(x_MW, neighbors_MJ, target_M, weight_KW)
        else:
            chunks = zip(*(torch.split(t, self.chunk) for t in (x_MW, neighbors_MJ, target_M)), strict=True)
            loss_M = torch.cat([checkpoint(self._of, *some, weight_KW, use_reentrant=False) for some in chunks])
        return loss_M.view(self.target_BPN.shape)

    def _of(self, x_MW: Tensor, neighbors_MJ: Tensor, target_M: Tensor, weight_KW: Tensor) -> Tensor:
        logits_MK = self.model.logits(x_MW, neighbors_MJ, weight_KW)
        loss_M = F.cross_entropy(logits_MK, target_M, reduction="none", label_smoothing=self.label_smoothing)
        for term in self.terms:
            loss_M = loss_M + term(logits_MK, target_M)
        return loss_M


def patch_loss(
    logits_BNK: Tensor,
    target_BN: Tensor,
    token_mask: TokenMask | None,
    terms: Sequence[LossTerm],
    label_smoothing: float,
) -> Tensor:
    """Return the mean loss of one patch of each sample, of its masked tokens only if any are."""
    if token_mask is not None:
        target_BN = torch.where(token_mask.tokens, target_BN, _NO_TARGET)
    logits_MK, target_M = logits_BNK.flatten(0, 1), target_BN.flatten()
    loss = F.cross_entropy(logits_MK, target_M, ignore_index=_NO_TARGET, label_smoothing=label_smoothing)
    is_target_M = target_M != _NO_TARGET
    for term in terms:
        loss = loss + term(logits_MK[is_target_M], target_M[is_target_M]).mean()
    return loss
