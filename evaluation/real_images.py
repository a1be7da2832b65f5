"""Real images by name: the photographs that the program itself trains on, in the split that a protocol names."""

import os
from typing import Final

from evaluation.crop_spec import CropSpec
from evaluation.images import ImageSet
from nuwa_lightning.data.reading import MAX_PIXELS
from nuwa_lightning.errors import UsageError

LANDSCAPE: Final = "landscape"
"""Stands for the default photographs; they are fetched when they are not there."""


def real_images(
    where: str | os.PathLike[str],
    spec: CropSpec,
    *,
    option: str = "real",
    skip_corrupt: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> ImageSet:
    """Return the real crops of a folder, or of the photographs called "landscape"."""
    if str(where) != LANDSCAPE:
        return ImageSet(where, spec, option=option, skip_corrupt=skip_corrupt, max_pixels=max_pixels)
    if spec.split == "any":
        raise UsageError("protocol.real.split", spec.split, "for these photographs, name the split: train or val")
    from nuwa_lightning.data.landscape_photos import LandscapePhotos

    photos = LandscapePhotos()
    photos.prepare()
    files = [photo.path for photo in photos.photos(spec.split)]
    label = f"{LANDSCAPE} {spec.split}"
    return ImageSet(files, spec, option=option, skip_corrupt=skip_corrupt, label=label, max_pixels=max_pixels)
