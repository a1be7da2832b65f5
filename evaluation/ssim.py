"""Structural similarity (Wang et al. 2004, IEEE TIP 13(4), ``ssim_index.m``) of 8-bit RGB.

Gaussian window of 11x11 pixels and sigma 1.5, population variances, K1 0.01, K2 0.03, and only places where the whole
window lies inside the image; the mean over places and colors. As scikit-image with ``gaussian_weights=True, sigma=1.5,
use_sample_covariance=False``. torchmetrics computes the map, but by itself averages a mirrored border in, too.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

DEFINITION: Final = "Wang et al. 2004: Gaussian window 11x11, sigma 1.5, inside the image, mean over colors"
_BORDER: Final = 5


def ssim(a_YX3: NDArray[np.uint8], b_YX3: NDArray[np.uint8]) -> float:
    """Return the SSIM of two images, the mean over colors and places."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    if a_YX3.shape != b_YX3.shape:
        raise ValueError(f"images of shapes {a_YX3.shape} and {b_YX3.shape} cannot be compared")
    if min(a_YX3.shape[:2]) < 11:
        raise ValueError(f"an image of {a_YX3.shape[1]}x{a_YX3.shape[0]} is smaller than the window of 11 pixels")
    a_13YX, b_13YX = (torch.from_numpy(np.array(z)).permute(2, 0, 1)[None].double() for z in (a_YX3, b_YX3))
    _, map_13YX = structural_similarity_index_measure(a_13YX, b_13YX, data_range=255.0, return_full_image=True)
    return float(map_13YX[..., _BORDER:-_BORDER, _BORDER:-_BORDER].mean())
