"""What a network has to offer to be measured with.

A feature extractor is a plain callable: uint8 RGB ``(B, Y, X, 3)`` to features ``(B, D)`` and class scores ``(B, K)``.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


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
