"""The networks that turn pictures into features, each under the name that its numbers bear.

A feature extractor is a plain callable: uint8 RGB ``(B, Y, X, 3)`` to features ``(B, D)`` and class scores ``(B, K)``.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evaluation import features as lite0
from evaluation import inception
from nuwa_lightning.errors import UsageError

KNOWN_SHA256: Final = {"lite0": lite0.WEIGHTS_SHA256, "inception": inception.WEIGHTS_SHA256}
"""The weights that a name stands for."""


@runtime_checkable
class Extractor(Protocol):
    """What a network has to offer to be measured with.

    Attributes:
        prefix: stands before the names of the metrics ("lite0-"); empty only for the network of the published FID.
        width: number of features D.
        protocol: what else moves a number (weights, resizing, scaling), as plain values.
    """

    prefix: str
    width: int
    protocol: dict[str, Any]

    def __call__(self, images_BYX3: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return features ``(B, D)`` and class scores before the softmax ``(B, K)``; K may be 0."""


def make_extractor(name: str, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> Extractor:
    """Return the extractor of a name.

    Args:
        name: "lite0", "inception", or the import path of a class of your own, which is called with ``weights`` and
            ``device``.
        weights: its weights on disk, where no package carries them.
        device: where it computes.

    Raises:
        UsageError: if there is none, or its weights are missing or not the ones that the name stands for.
    """
    if name == "lite0":
        return lite0.Lite0Features(weights=weights, device=device)
    if name == "inception":
        return inception.InceptionFeatures(weights=weights, device=device)
    module, _, cls = name.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), cls)(weights=weights, device=device)
    except UsageError:
        raise
    except (ImportError, AttributeError, ValueError) as error:
        hint = f"{error}: give lite0, inception, or the import path of your own class, such as my_features.Mine"
        raise UsageError("--features", name, hint) from None
    if not isinstance(made, Extractor):
        raise UsageError("--features", name, "has no prefix, width or protocol: see evaluation.extractors.Extractor")
    if not made.prefix.strip():
        hint = f"only {inception.CACHED_AS} may go without a prefix: name yours by it, such as prefix = 'mine-'"
        raise UsageError("--features", name, hint)
    return made
