"""Networks that turn clips into features.

The published FVD takes I3D, which no package carries: pass in a class of your own that wraps it, by its import path.
Offline, ``lite0t`` stands in under its own name: EfficientNet-Lite0's features of the frames, and how they change.
"""

import os
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evaluation.extractor import imported
from evaluation.features import PROTOCOL, Lite0Features
from evaluation.video.clips import Clip
from evaluation.weights import RESERVED_PREFIXES
from nuwa_lightning.errors import UsageError


@runtime_checkable
class ClipExtractor(Protocol):
    """What a network has to offer.

    Attributes:
        prefix: stands before the names of the metrics; empty only for the network of the published FVD, whose
            ``protocol`` then has to give the hash of its weights as ``weights_sha256``.
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
    if made.prefix.strip() and (made.prefix.lower() in RESERVED_PREFIXES or not made.prefix.isprintable()):
        raise UsageError("features", name, f"prefix {made.prefix!r} is that of other weights: take another")
    if not made.prefix.strip() and "weights_sha256" not in made.protocol:
        hint = "a network without a prefix calls its distance FVD: give the hash of its weights as weights_sha256"
        raise UsageError("features", name, f"{hint} in its protocol, or a prefix")
    return made
