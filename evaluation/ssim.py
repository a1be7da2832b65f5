"""Structural similarity (Wang et al. 2004) by torchmetrics, on 8-bit RGB: 11x11 Gaussian window of sigma 1.5."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the SSIM of two images, the mean over colors and places.

    Raises:
        ValueError: if the shapes differ, or the images are smaller than the window.
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    if a.shape != b.shape:
        raise ValueError(f"images of shapes {a.shape} and {b.shape} cannot be compared")
    if min(a.shape[:2]) < 11:
        raise ValueError(f"an image of {a.shape[1]}x{a.shape[0]} is smaller than the window of 11 pixels")
    both = [torch.from_numpy(np.array(z)).permute(2, 0, 1)[None].double() for z in (a, b)]
    found = structural_similarity_index_measure(both[0], both[1], data_range=255.0)
    assert isinstance(found, torch.Tensor)
    return float(found)
