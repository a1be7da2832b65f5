"""Peak signal-to-noise ratio of reconstructions, in float64 on 8-bit RGB."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.pictures import PictureFolder
from nuwa_lightning.errors import UsageError


@dataclass(frozen=True)
class PsnrResult:
    """PSNR in dB, the mean over pictures, its standard error, and their number."""

    value: float
    stderr: float
    n: int


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the PSNR of two pictures in dB; infinite if they are equal.

    Raises:
        ValueError: if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures of shapes {a.shape} and {b.shape} cannot be compared")
    error = float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean())
    return 10 * math.log10(255.0**2 / error) if error else math.inf


def psnr_of_folders(real: PictureFolder, reconstruction: PictureFolder) -> PsnrResult:
    """Return the mean PSNR of pictures paired by their path below the folders, suffixes aside.

    Raises:
        UsageError: if a reconstruction has no partner, sizes differ, or a pair is equal to the last bit.
    """
    partners = {path.relative_to(real.folder).with_suffix(""): path for path in real.paths}
    originals = PictureFolder(real.folder, option=real.option)
    wanted = [path.relative_to(reconstruction.folder).with_suffix("") for path in reconstruction.paths]
    if lost := [str(name) for name in wanted if name not in partners]:
        cure = f"has no partner of that name in {real.folder}: name each reconstruction as its original"
        raise UsageError(reconstruction.option, lost[0], cure)
    originals.paths = [partners[name] for name in wanted]
    values = []
    for (path, ours), (_, theirs) in zip(reconstruction.whole(), originals.whole(), strict=True):
        if ours.shape != theirs.shape:
            sizes = f"{ours.shape[1]}x{ours.shape[0]}, its original {theirs.shape[1]}x{theirs.shape[0]}"
            raise UsageError(reconstruction.option, str(path), f"is {sizes}: reconstruct at the original size")
        values.append(psnr(ours, theirs))
        if math.isinf(values[-1]):
            raise UsageError(reconstruction.option, str(path), "equals its original: give reconstructions")
    spread = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    return PsnrResult(float(np.mean(values)), spread, len(values))
