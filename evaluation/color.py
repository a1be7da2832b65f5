"""Colors of images against those of real ones (ours): what features that were trained to ignore them do not see.

Six numbers an image: mean and spread of the luminance (Rec. 601), mean distance from gray, the mean on two axes of
opponent colors, and upper minus lower half. Inverting an image turns the signs of the last three; a weaker contrast
and flat images lower the second.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

NAMES: Final = ("brightness", "contrast", "saturation", "red minus blue", "green minus magenta", "top minus bottom")


def color_of(image_YX3: NDArray[np.uint8]) -> list[float]:
    """Return the statistics of a uint8 RGB image (Y, X, 3), in the order of `NAMES`, 0..255."""
    image = image_YX3.astype(np.float64)
    light_YX = image @ np.array([0.299, 0.587, 0.114])
    red, green, blue = image.mean((0, 1))
    half = max(1, len(image) // 2)
    return [
        float(light_YX.mean()),
        float(light_YX.std()),
        float((image.max(2) - image.min(2)).mean()),
        float(red - blue),
        float(green - (red + blue) / 2),
        float(light_YX[:half].mean() - light_YX[-half:].mean()),
    ]
