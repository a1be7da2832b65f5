"""Peak signal-to-noise ratio of reconstructions, in float64 on 8-bit RGB."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the PSNR of two images in dB; infinite if they are equal."""
    if a.shape != b.shape:
        raise ValueError(f"images of shapes {a.shape} and {b.shape} cannot be compared")
    error = float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean())
    return 10 * math.log10(255.0**2 / error) if error else math.inf
