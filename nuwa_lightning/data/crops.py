"""Cutting square crops from prepared photos: at random for training, at the centre for validation."""

import functools
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nuwa_lightning.data.preparing import PreparedPhotos, as_pixels
from nuwa_lightning.data.reading import ImageReadError
from nuwa_lightning.data.streams import FixedSamples
from nuwa_lightning.errors import UsageError

# Legend: B crops of a batch, Y, X pixels along the axes, 3 colours.

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut from photos.

    Attributes:
        size: side of a training crop in pixels.
        short_sides: a photo is shrunk to one of these lengths of its shorter side, drawn at random, and the crop cut
            from it at random: small ones show whole scenes, large ones detail. Photos are never enlarged.
        flip: probability of a left-right flip.
        colour_jitter: strength of random changes of brightness, contrast, saturation and colour balance; 0 is off, 0.15
            mild.
        val_size: side of a validation crop in pixels; None takes ``size``.
        val_short_sides: validation shows the centre of each photo at each of these.
    """

    size: int = 128
    short_sides: tuple[int, ...] = (288, 352, 432, 512)
    flip: float = 0.5
    colour_jitter: float = 0.0
    val_size: int | None = None
    val_short_sides: tuple[int, ...] = (288, 512)

    @property
    def validation_size(self) -> int:
        """Side of a validation crop in pixels."""
        return self.size if self.val_size is None else self.val_size

    def check(self) -> None:
        """Refuse what cannot work."""
        pairs = (("", self.size, self.short_sides), ("val_", self.validation_size, self.val_short_sides))
        for name, size, sides in pairs:
            if size < 1:
                raise UsageError(f"data.crops.{name}size", size, "give 1 pixel or more")
            if not sides or max(sides) < size:
                raise UsageError(
                    f"data.crops.{name}short_sides", list(sides), f"give at least one length of {size} px or more"
                )
        if not 0.0 <= self.flip <= 1.0:
            raise UsageError("data.crops.flip", self.flip, "give a probability in [0, 1]")
        if not 0.0 <= self.colour_jitter < 1.0:
            raise UsageError("data.crops.colour_jitter", self.colour_jitter, "give a strength in [0, 1)")


def random_crop(photos: PreparedPhotos, crops: CropSettings, random: np.random.Generator, index: int) -> dict[str, Any]:
    """Return a random crop of a photo and the photo's index, for `RandomBatches`."""
    index, array_YX3 = _readable(photos, index, int(random.integers(1 << 30)))
    y, x = (int(random.integers(side - crops.size + 1)) for side in array_YX3.shape[:2])
    crop_3YX = as_pixels(array_YX3[y : y + crops.size, x : x + crops.size])
    if random.random() < crops.flip:
        crop_3YX = crop_3YX[:, :, ::-1]
    if crops.colour_jitter:
        crop_3YX = jitter_colours(crop_3YX, crops.colour_jitter, random)
    return {"image": torch.from_numpy(np.ascontiguousarray(crop_3YX)), "index": index}


def center_crops(photos: PreparedPhotos, size: int) -> FixedSamples[tuple[int, int]]:
    """Return the center of every photo at every size, photo by photo."""
    places = [(index, scale) for index in range(len(photos)) for scale in range(len(photos.shapes(index)))]
    return FixedSamples(places, functools.partial(_center_crop, photos, size))


def _center_crop(photos: PreparedPhotos, size: int, place: tuple[int, int]) -> dict[str, Any]:
    index, array_YX3 = _readable(photos, *place)
    y, x = ((length - size) // 2 for length in array_YX3.shape[:2])
    return {"image": torch.from_numpy(as_pixels(array_YX3[y : y + size, x : x + size])), "index": index}


def jitter_colours(
    image_3YX: npt.NDArray[np.float32], strength: float, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Change brightness, contrast, saturation and colour balance at random, each by up to ``strength`` (ours).

    Values stay in [-1, 1].
    """
    draws = random.uniform(-strength, strength, size=6).astype(np.float32)
    mean = image_3YX.mean()
    grey_YX = np.tensordot(np.array([0.299, 0.587, 0.114], dtype=np.float32), image_3YX, axes=1)
    out = grey_YX + (image_3YX - grey_YX) * (1 + draws[0])
    out = mean + (out - mean) * (1 + draws[1]) + 0.5 * draws[2]
    out = out + 0.25 * draws[3:, None, None]
    return np.asarray(np.clip(out, -1.0, 1.0), dtype=np.float32)


def _readable(photos: PreparedPhotos, index: int, scale: int) -> tuple[int, npt.NDArray[np.uint8]]:
    """Return the photo, or the next that can be read: kept ones can, others may be damaged, always the same ones."""
    for turn in range(len(photos)):
        at = (index + turn) % len(photos)
        try:
            return at, photos.array(at, scale % len(photos.shapes(at)))
        except ImageReadError as error:
            if turn == len(photos) - 1:
                raise
            _LOG.warning("skipping %s: %s", error.path, error.reason)
    raise AssertionError("no photos")
