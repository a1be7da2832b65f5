"""NUWA-Infinity in PyTorch Lightning: autoregressive over autoregressive generation of images of any size.

Names are imported on first use, so that ``import nuwa_lightning`` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nuwa_lightning.data import ImageFolderDataModule as ImageFolderDataModule
    from nuwa_lightning.data import TokenClipsDataModule as TokenClipsDataModule
    from nuwa_lightning.data import TokenDataModule as TokenDataModule
    from nuwa_lightning.data import VideoFolderDataModule as VideoFolderDataModule
    from nuwa_lightning.errors import UsageError as UsageError
    from nuwa_lightning.generation.local import AutoregressiveLocalDecoder as AutoregressiveLocalDecoder
    from nuwa_lightning.generation.local import JacobiLocalDecoder as JacobiLocalDecoder
    from nuwa_lightning.generation.local import LocalDecoder as LocalDecoder
    from nuwa_lightning.generation.local import LocalityLocalDecoder as LocalityLocalDecoder
    from nuwa_lightning.generation.local import MaskedLocalDecoder as MaskedLocalDecoder
    from nuwa_lightning.generation.local import ParallelLocalDecoder as ParallelLocalDecoder
    from nuwa_lightning.generation.local import StaticLocalDecoder as StaticLocalDecoder
    from nuwa_lightning.generation.pretrained import Generator as Generator
    from nuwa_lightning.generation.processes import Processes as Processes
    from nuwa_lightning.models.nuwa_infinity import PatchTransformer as PatchTransformer
    from nuwa_lightning.models.vqgan import VQGAN as VQGAN
    from nuwa_lightning.pipeline import NuwaInfinityPipeline as NuwaInfinityPipeline
    from nuwa_lightning.planning.context import ContextPool as ContextPool
    from nuwa_lightning.planning.context import EmptyContextPool as EmptyContextPool
    from nuwa_lightning.planning.context import FullContextPool as FullContextPool
    from nuwa_lightning.planning.context import NearbyContextPool as NearbyContextPool
    from nuwa_lightning.planning.context import RecencyContextPool as RecencyContextPool
    from nuwa_lightning.planning.direction import ArbitraryDirectionController as ArbitraryDirectionController
    from nuwa_lightning.planning.direction import DirectionController as DirectionController
    from nuwa_lightning.planning.direction import OutwardDirectionController as OutwardDirectionController
    from nuwa_lightning.planning.direction import RasterDirectionController as RasterDirectionController
    from nuwa_lightning.planning.direction import SpiralDirectionController as SpiralDirectionController
    from nuwa_lightning.request import GenerationRequest as GenerationRequest
    from nuwa_lightning.request_fields import Region as Region
    from nuwa_lightning.text import TextEncoder as TextEncoder
    from nuwa_lightning.tokenizers.base import Tokenizer as Tokenizer
    from nuwa_lightning.training.nuwa_module import NuwaInfinityModule as NuwaInfinityModule
    from nuwa_lightning.training.pixel_guided_module import PixelGuidedModule as PixelGuidedModule
    from nuwa_lightning.training.vqgan_module import VQGANModule as VQGANModule

__version__ = "0.1.0"

_HOMES: Final = {
    "data": ("ImageFolderDataModule", "TokenClipsDataModule", "TokenDataModule", "VideoFolderDataModule"),
    "errors": ("UsageError",),
    "generation.local": (
        "AutoregressiveLocalDecoder",
        "JacobiLocalDecoder",
        "LocalDecoder",
        "LocalityLocalDecoder",
        "MaskedLocalDecoder",
        "ParallelLocalDecoder",
        "StaticLocalDecoder",
    ),
    "generation.pretrained": ("Generator",),
    "generation.processes": ("Processes",),
    "models.nuwa_infinity": ("PatchTransformer",),
    "models.vqgan": ("VQGAN",),
    "pipeline": ("NuwaInfinityPipeline",),
    "planning.context": (
        "ContextPool",
        "EmptyContextPool",
        "FullContextPool",
        "NearbyContextPool",
        "RecencyContextPool",
    ),
    "planning.direction": (
        "ArbitraryDirectionController",
        "DirectionController",
        "OutwardDirectionController",
        "RasterDirectionController",
        "SpiralDirectionController",
    ),
    "request": ("GenerationRequest",),
    "request_fields": ("Region",),
    "text": ("TextEncoder",),
    "tokenizers.base": ("Tokenizer",),
    "training.nuwa_module": ("NuwaInfinityModule",),
    "training.pixel_guided_module": ("PixelGuidedModule",),
    "training.vqgan_module": ("VQGANModule",),
}
_HOME: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Import a name on its first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Return the names there are."""
    return sorted(__all__)
