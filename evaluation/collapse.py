"""Has a canvas run into flat color? Luminance spread of its windows against that of real photographs (ours).

The spread of a window is the standard deviation of its luminance (Rec. 601, 0..255). A window is flat when its spread
lies below the 5th percentile of that of real windows, so 5 % of real windows are flat by definition; a canvas has
collapsed when one of its windows is flat.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.images import windows

WINDOW = 256
PERCENTILE = 5.0


@dataclass(frozen=True)
class CollapseResult:
    """How many canvases have collapsed.

    Attributes:
        canvases: number of canvases with at least one window.
        collapsed: how many of them have a flat window.
        windows: number of windows.
        flat: how many of them are flat.
        threshold: luminance spread below which a window is flat.
        real_canvases: number of real images with at least one window.
        real_collapsed: how many of them would count as collapsed.
        flat_N: whether a window is flat.
        canvas_N: which canvas a window is of.
        real_flat_N: whether a real window is flat.
    """

    canvases: int
    collapsed: int
    windows: int
    flat: int
    threshold: float
    real_canvases: int
    real_collapsed: int
    flat_N: NDArray[np.bool_]
    canvas_N: NDArray[np.intp]
    real_flat_N: NDArray[np.bool_]


def luminance_spread(image_YX3: NDArray[np.uint8]) -> float:
    """Return the standard deviation of the Rec. 601 luminance, on 0..255."""
    return float((image_YX3.astype(np.float64) @ np.array([0.299, 0.587, 0.114])).std())


def spreads_of(image_YX3: NDArray[np.uint8], window: int = WINDOW) -> NDArray[np.float64]:
    """Return the spread of every window of an image, of none if it is smaller than a window."""
    return np.array([luminance_spread(part) for part in windows(image_YX3, window)])


def collapse(
    real: Iterable[NDArray[np.uint8]],
    generated: Iterable[NDArray[np.uint8]],
    *,
    window: int = WINDOW,
    percentile: float = PERCENTILE,
) -> CollapseResult:
    """Count the canvases of ``generated`` that have a window flatter than 95 % of the windows of ``real``.

    Args:
        real: uint8 RGB images (Y, X, 3), of any sizes, at the scale of the canvases.
        generated: the canvases.
        window: side of the windows in pixels; they lie beside each other from the upper left corner.
        percentile: of real windows; flatter ones are flat.

    Raises:
        ValueError: if no image of either side is as large as a window.
    """
    real_spreads, ours = ([spreads_of(image, window) for image in images] for images in (real, generated))
    return collapse_of(real_spreads, ours, window=window, percentile=percentile)


def collapse_of(
    real: Sequence[NDArray[np.float64]], generated: Sequence[NDArray[np.float64]], *, window: int, percentile: float
) -> CollapseResult:
    """Return :func:`collapse` of images by the spreads of their windows."""
    real_spreads, ours = ([values for values in found if len(values)] for found in (real, generated))
    for name, found in (("real", real_spreads), ("generated", ours)):
        if not found:
            raise ValueError(f"no {name} image is {window} pixels wide and high")
    threshold = float(np.percentile(np.concatenate(real_spreads), percentile))
    return CollapseResult(
        canvases=len(ours),
        collapsed=sum(bool((values < threshold).any()) for values in ours),
        windows=sum(len(values) for values in ours),
        flat=sum(int((values < threshold).sum()) for values in ours),
        threshold=threshold,
        real_canvases=len(real_spreads),
        real_collapsed=sum(bool((values < threshold).any()) for values in real_spreads),
        flat_N=np.concatenate(ours) < threshold,
        canvas_N=np.repeat(np.arange(len(ours)), [len(values) for values in ours]),
        real_flat_N=np.concatenate(real_spreads) < threshold,
    )
