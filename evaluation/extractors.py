"""The networks that turn images into features, each under the name that its numbers bear.

A feature extractor is a plain callable: uint8 RGB ``(B, Y, X, 3)`` to features ``(B, D)`` and class scores ``(B, K)``.
"""

import os

from evaluation import features as lite0
from evaluation import inception
from evaluation.extractor import Extractor, imported


def make_extractor(name: str, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> Extractor:
    """Return the extractor of a name.

    Args:
        name: "lite0", "inception", "inception-clean", or the import path of a class of your own, which is called with
            ``weights`` and ``device``.
        weights: its weights on disk, where no package carries them.
        device: where it computes.

    Raises:
        UsageError: if there is none, or its weights are missing or not the ones that the name stands for.
    """
    if name == "lite0":
        return lite0.Lite0Features(weights=weights, device=device)
    if name == "inception":
        return inception.InceptionFeatures(weights=weights, device=device)
    if name == "inception-clean":
        return inception.CleanInceptionFeatures(weights=weights, device=device)
    made: Extractor = imported(name, weights, device, known="lite0, inception", kind=Extractor)
    return made
