"""One token after another, by steps of fixed shapes, for a GPU."""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local.base import LocalDecoder
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.generation.static_steps import static_steps


@final
@dataclass(frozen=True)
class StaticLocalDecoder(LocalDecoder):
    """What :class:`AutoregressiveLocalDecoder` writes, by one graph a step: see :class:`StaticSteps`.

    On a GPU a step is one CUDA graph. On a CPU it attends to all slots, filled or not, and gains nothing: it is there
    to be tested.

    Args:
        noise: see :class:`AutoregressiveLocalDecoder`.
        backend: of ``torch.compile``, by which a step is compiled before it is captured (half a minute for each number
            of patches side by side); None to capture it as it is.

    Raises:
        UsageError: for another kind of noise.
    """

    noise: Literal["uniform", "gumbel"] = "uniform"
    backend: str | None = None

    def __post_init__(self) -> None:
        if self.noise not in ("uniform", "gumbel"):
            raise UsageError("noise", self.noise, "choose uniform or gumbel")

    def draws(self, tokens: int) -> int:
        """Return one random number a token; noise needs none."""
        return tokens if self.noise == "uniform" else 0

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write the tokens in order."""
        frozen = self.noise == "gumbel"
        if patches.batch.reads_text:
            raise UsageError("local_decoder", self, "texts have no fixed shape: use AutoregressiveLocalDecoder")
        steps = static_steps(patches, sampling, frozen=frozen, backend=self.backend)
        steps.write(patches, patches.keys_RN if frozen else uniform_RU)

    def check(self, precision: Precision) -> None:
        """Refuse int8 matrices: their products are called from C, so no graph holds them."""
        if precision.weights == "int8":
            raise UsageError("weights", "int8", "StaticLocalDecoder has no such products: float32 or bfloat16")
