"""Features of a folder or an array of images, from Python."""

import os

import numpy as np
from numpy.typing import NDArray

from evaluation.crop_spec import CropSpec
from evaluation.extractor import Extractor
from evaluation.feature_cache import FeatureCache
from evaluation.features import Lite0Features
from evaluation.images import ImageSet


def features_of(
    images: NDArray[np.uint8] | str | os.PathLike[str],
    *,
    window: int | None = None,
    progress: bool = False,
    extractor: Extractor | None = None,
) -> NDArray[np.float64]:
    """Return the features of images, float64 (N, D); nothing is kept.

    A folder's rows are in the order of the files' paths.

    Args:
        images: uint8 RGB (N, Y, X, 3), or a folder.
        window: for a folder, cut its images into crops of this side.
        progress: show a bar on standard error, for a folder.
        extractor: a loaded network, to save loading it again; by default EfficientNet-Lite0.

    Raises:
        UsageError: for a folder, as :class:`ImageSet`; for images that are not square.
    """
    cache = FeatureCache(extractor or Lite0Features(), enabled=False)
    if isinstance(images, np.ndarray):
        found = cache.of_crops(iter(images), count=len(images))
    else:
        spec = CropSpec() if window is None else CropSpec(crop="windows", side=window)
        chosen = ImageSet(images, spec)
        found = cache.of_set(chosen, progress=progress)
        # Sets are in the order of contents; a caller knows the files by their names.
        rank = np.argsort(np.argsort([str(path) for path, _ in chosen.plan if path not in chosen.skipped]))
        order = np.argsort(rank[found.clusters_N], kind="stable")
        return found.features_ND[order].astype(np.float64)
    return found.features_ND.astype(np.float64)
