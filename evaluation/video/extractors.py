"""Networks that turn clips into features.

The published FVD takes I3D, which no package carries (:mod:`evaluation.video.published`, its weights on disk).
Offline, ``lite0t`` stands in under its own name: EfficientNet-Lite0's features of the frames, and how they change.
"""

import os
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evaluation.extractor import imported
from evaluation.features import PROTOCOL, Lite0Features
from evaluation.video.clips import Clip


@runtime_checkable
class ClipExtractor(Protocol):
    """What a network has to offer.

    Attributes:
        prefix: stands before the names of the metrics; empty only for the network of the published FVD.
        width: number of features D.
        protocol: what else moves a number, as plain values.
    """

    prefix: str
    width: int
    protocol: dict[str, Any]

    def __call__(self, clip_TYX3: Clip) -> NDArray[np.float64]:
        """Return the features ``(D)`` of one clip."""


class Lite0Clips:
    """Mean of the frames' features beside the mean of their absolute change from frame to frame (ours).

    The first half knows what is shown, the second how much of it moves; neither knows the direction of time.

    Args:
        weights: see :class:`Lite0Features`.
        device: where it computes.
    """

    prefix = "lite0t-"
    width = 2 * Lite0Features.width

    def __init__(self, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> None:
        self._frames = Lite0Features(weights=weights, device=device)
        self.protocol: dict[str, Any] = {
            **PROTOCOL,
            "over_time": "mean over frames, and mean absolute difference of neighboring frames",
        }

    def __call__(self, clip_TYX3: Clip) -> NDArray[np.float64]:
        """Return the features ``(2560)``."""
        features_TD = self._frames(clip_TYX3)[0]
        return np.concatenate([features_TD.mean(0), np.abs(np.diff(features_TD, axis=0)).mean(0)])


def make_clip_extractor(
    name: str, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu"
) -> ClipExtractor:
    """Return the extractor of a name: "lite0t", or the import path of a class of your own."""
    if name == "lite0t":
        return Lite0Clips(weights=weights, device=device)
    made: ClipExtractor = imported(name, weights, device, known="lite0t", kind=ClipExtractor)
    return made
