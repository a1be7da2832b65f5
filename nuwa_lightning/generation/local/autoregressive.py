"""One token after another."""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local.base import LocalDecoder
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.sampling import Sampling


@final
@dataclass(frozen=True)
class AutoregressiveLocalDecoder(LocalDecoder):
    """The paper's AR decoder: N steps a patch, each with one new position and the keys and values of all before it.

    Args:
        noise: where chance comes from: a number for each token, by which the distribution is inverted (uniform), or one
            for each token and code, of which the best sum with a score is taken (gumbel). The distribution is the same,
            the tokens are not; with gumbel they are those of :class:`JacobiLocalDecoder`.

    Raises:
        UsageError: for another kind of noise.
    """

    noise: Literal["uniform", "gumbel"] = "uniform"

    def __post_init__(self) -> None:
        if self.noise not in ("uniform", "gumbel"):
            raise UsageError("noise", self.noise, "choose uniform or gumbel")

    def draws(self, tokens: int) -> int:
        """Return one random number a token; noise needs none."""
        return tokens if self.noise == "uniform" else 0

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write the tokens in order."""
        for place in range(patches.tokens_RN.shape[1]):
            logits_RK = patches.logits([place])[:, 0]
            if self.noise == "uniform":
                drawn_R = sampling.draw(logits_RK, uniform_RU[:, place])
            else:
                drawn_R = sampling.draw_frozen(logits_RK, patches.keys_RN[:, place])
            patches.set_tokens([place], drawn_R[:, None])
