"""How the tokens of one patch are written: one file a strategy."""

from nuwa_lightning.generation.local.autoregressive import AutoregressiveLocalDecoder
from nuwa_lightning.generation.local.base import LocalDecoder
from nuwa_lightning.generation.local.jacobi import JacobiLocalDecoder
from nuwa_lightning.generation.local.locality import LocalityLocalDecoder
from nuwa_lightning.generation.local.masked import MaskedLocalDecoder
from nuwa_lightning.generation.local.parallel import ParallelLocalDecoder
from nuwa_lightning.generation.local.static import StaticLocalDecoder

__all__ = [
    "AutoregressiveLocalDecoder",
    "JacobiLocalDecoder",
    "LocalDecoder",
    "LocalityLocalDecoder",
    "MaskedLocalDecoder",
    "ParallelLocalDecoder",
    "StaticLocalDecoder",
]
