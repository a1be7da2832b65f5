"""Our own classes by option, to suggest one of their options for a typo."""

import inspect
from typing import Any

from lightning.pytorch import LightningDataModule

from nuwa_lightning import data, text
from nuwa_lightning.callbacks.reconstruction_sheet import ReconstructionSheet
from nuwa_lightning.callbacks.sample_sheet import SampleSheet
from nuwa_lightning.commands.tokenizer import CoarseSource, TokenizerSource
from nuwa_lightning.data.photos import PhotoSource
from nuwa_lightning.data.videos import VideoSource
from nuwa_lightning.text.base import TextEncoder
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
from nuwa_lightning.training.pixel_guided_module import PixelGuidedModule
from nuwa_lightning.training.vqgan_module import VQGANModule

# Imported here, not when they are asked for: a recipe names a class by its last name, if it has been imported.
_EXPORTED = [getattr(module, name) for module in (data, text) for name in module.__all__]


def known_classes() -> dict[str, list[type[Any]]]:
    """Return our own classes by option."""
    classes = [found for found in _EXPORTED if isinstance(found, type) and not inspect.isabstract(found)]
    bases: dict[str, type[Any]] = {"data": LightningDataModule, "data.photos": PhotoSource, "data.videos": VideoSource}
    bases["model.conditions.text_encoder"] = TextEncoder
    return {
        "model": [NuwaInfinityModule, VQGANModule, PixelGuidedModule],
        **{option: [cls for cls in classes if issubclass(cls, base)] for option, base in bases.items()},
        "tokenizer": [TokenizerSource],
        "coarse": [CoarseSource],
        "trainer.callbacks": [SampleSheet, ReconstructionSheet],
    }
