"""The interface of a local decoder.

Shape legend: B samples, P steps of a plan, R patches side by side, N tokens per patch, U random numbers, K neighbors.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import Neighbor


class LocalDecoder(ABC):
    """How the tokens of one patch are written, and what is learned for it (paper: AR, P-NAR and NAR decoders).

    Patches are walked autoregressively in any case; this is about the inside of one. A decoder asks a
    :class:`PatchDecoder` for scores of any set of places and writes any set of places, so schemes that write several
    chosen tokens at once are a class of their own and nothing else.

    Laws (``nuwa_lightning.testing.check_local_decoder`` tests them):

    1. All tokens are written, and what is written to a patch depends on its scores and its random numbers alone, never
       on patches beside it.
    2. If not ``bidirectional``, places are asked for side by side, when all tokens before the last of them are written,
       and nothing is hidden in training; else something of each patch is.
    """

    @property
    def bidirectional(self) -> bool:
        """Whether a token sees all tokens of its patch (some of them hidden), or earlier ones only."""
        return False

    @property
    def grouped(self) -> bool:
        """Whether tokens are predicted group by group at queries of their own, see :meth:`training_groups`."""
        return False

    @abstractmethod
    def draws(self, tokens: int) -> int:
        """Return how many random numbers a patch of so many tokens takes."""

    @abstractmethod
    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write all tokens.

        Args:
            patches: what to write; tokens may be given in part.
            sampling: how a token is drawn from its scores.
            uniform_RU: random numbers in [0, 1), as many as :meth:`draws` says.
        """

    def check(self, precision: Precision) -> None:  # noqa: B027 - most refuse none
        """Refuse numbers that are kept in a way in which this decoder does not do what it says.

        Raises:
            UsageError: naming the option.
        """

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        """Draw what is hidden in training: boolean ``[B, P, N]`` on the CPU; None where each token sees earlier ones.

        The loss is about hidden tokens, and about all where this is None.
        """
        return None

    def training_groups(
        self, context_BPNK: Tensor, own_NK: Tensor, kinds: tuple[Neighbor, ...], generator: torch.Generator
    ) -> Tensor | None:
        """Draw with which group each token is written in training: ``[B, P, N]``, from 0; None if not ``grouped``.

        Args:
            context_BPNK: neighbors of each token in the context of its patch, else ``ABSENT``; on the CPU.
            own_NK: where the neighbors of each token lie in the patch itself, else ``ABSENT``.
            kinds: what neighbors these are.
            generator: where chance comes from.
        """
        return None
