"""Cutting square crops from prepared photos: at random for training, at the centre for validation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from nuwa_lightning.data.preparing import PreparedPhotos, as_image
from nuwa_lightning.data.reading import ImageReadError
from nuwa_lightning.data.streams import Batch, generator, photo_of_sample
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
        """Refuse what cannot work.

        Raises:
            UsageError: naming the option.
        """
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


@final
@dataclass(frozen=True)
class RandomCrops:
    """Random crops; batch ``step`` is a pure function of the fields and ``step``."""

    photos: PreparedPhotos
    crops: CropSettings
    batch_size: int
    seed: int
    rank: int
    world: int

    def batch(self, step: int) -> Batch:
        """See `BatchMaker.batch`."""
        first = (step * self.world + self.rank) * self.batch_size
        made = [self._view(first + place) for place in range(self.batch_size)]
        return {
            "image": torch.from_numpy(np.stack([crop_3YX for crop_3YX, _ in made])),
            "index": torch.tensor([index for _, index in made]),
        }

    def _view(self, sample: int) -> tuple[npt.NDArray[np.float32], int]:
        random = generator(self.seed, 2, sample)
        index = photo_of_sample(self.seed, sample, len(self.photos))
        index, array_YX3 = _readable(self.photos, index, int(random.integers(1 << 30)))
        size = self.crops.size
        y = int(random.integers(array_YX3.shape[0] - size + 1))
        x = int(random.integers(array_YX3.shape[1] - size + 1))
        crop_3YX = as_image(array_YX3[y : y + size, x : x + size])
        if random.random() < self.crops.flip:
            crop_3YX = crop_3YX[:, :, ::-1]
        if self.crops.colour_jitter:
            crop_3YX = jitter_colours(crop_3YX, self.crops.colour_jitter, random)
        return np.ascontiguousarray(crop_3YX), index


@final
class CenterCrops(Dataset[Batch]):
    """The centre of every photo at every size, photo by photo."""

    def __init__(self, photos: PreparedPhotos, size: int) -> None:
        self._photos = photos
        self._size = size
        self._places = [(index, scale) for index in range(len(photos)) for scale in range(len(photos.shapes(index)))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> dict[str, Any]:
        index, scale = self._places[place]
        index, array_YX3 = _readable(self._photos, index, scale)
        y, x = ((length - self._size) // 2 for length in array_YX3.shape[:2])
        crop_3YX = as_image(array_YX3[y : y + self._size, x : x + self._size])
        return {"image": torch.from_numpy(crop_3YX), "index": index}


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
    """Return the photo, or the next that can be read: kept ones can, others may be damaged, always the same ones.

    Raises:
        ImageReadError: if none can.
    """
    for turn in range(len(photos)):
        at = (index + turn) % len(photos)
        try:
            return at, photos.array(at, scale % len(photos.shapes(at)))
        except ImageReadError as error:
            if turn == len(photos) - 1:
                raise
            _LOG.warning("skipping %s: %s", error.path, error.reason)
    raise AssertionError("no photos")
