"""Pairs of originals and reconstructions: PSNR, SSIM and perceptual distance, the mean over images."""

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Estimate, of_mean
from evaluation.images import Pixels, image_files
from evaluation.perceptual import PerceptualDistance
from evaluation.protocol import Reconstruction
from nuwa_lightning.data.reading import MAX_PIXELS, ImageReadError, NotesLog, read_image
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

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


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the PSNR of two images in dB; infinite if they are equal."""
    if a.shape != b.shape:
        raise ValueError(f"images of shapes {a.shape} and {b.shape} cannot be compared")
    error = float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean())
    return 10 * math.log10(255.0**2 / error) if error else math.inf


class Pairs:
    """Reconstructions with their originals, paired by their path below the folders, suffixes aside.

    Args:
        originals: folder of the originals.
        reconstructions: folder of the reconstructions; not every original needs one.
        option: how to call the second in an error.
        skip_corrupt: leave out pairs of which a file cannot be read, and count them in ``skipped``.
        max_pixels: refuse an image of more, before it is decoded.

    Raises:
        UsageError: if a folder is missing or empty, a reconstruction has no partner, or two files of a folder
            differ in their suffix alone.
    """

    def __init__(
        self,
        originals: str | os.PathLike[str],
        reconstructions: str | os.PathLike[str],
        *,
        option: str = "reconstruction",
        skip_corrupt: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.option, self.skip_corrupt, self._max_pixels = option, skip_corrupt, max_pixels
        self.skipped: dict[Path, ImageReadError] = {}
        self.equal = 0
        self._tell = NotesLog()
        theirs, ours = Path(originals), Path(reconstructions)
        partners = _by_name(theirs, "original")
        self.files = []
        for name, path in _by_name(ours, option).items():
            if name not in partners:
                hint = f"has no partner of that name in {theirs}: name each reconstruction as its original"
                raise UsageError(option, str(name), hint)
            self.files.append((partners[name], path))

    def originals_sha256(self) -> str:
        """Return the hash of the contents of the originals of all pairs that are not skipped, in no order."""
        digests = sorted(file_sha256(original) for original, path in self.files if path not in self.skipped)
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def __iter__(self) -> Iterator[tuple[Pixels, Pixels]]:
        """Yield original and reconstruction, whole."""
        for original, path in self.files:
            if path in self.skipped:
                continue
            try:
                images = [(file, read_image(file, max_pixels=self._max_pixels)) for file in (original, path)]
                a, b = (np.asarray(self._tell(file, image), np.uint8) for file, image in images)
            except ImageReadError as error:
                if not self.skip_corrupt:
                    way = "give a larger `max_pixels` if you trust it" if error.over_limit else "replace or remove it"
                    raise UsageError(self.option, str(error.path), f"{error.reason}: {way}") from error
                self.skipped[path] = error
                continue
            if a.shape != b.shape:
                sizes = f"{b.shape[1]}x{b.shape[0]}, its original {a.shape[1]}x{a.shape[0]}"
                raise UsageError(self.option, str(path), f"is {sizes}: reconstruct at the original size")
            yield a, b


def _by_name(folder: Path, option: str) -> dict[Path, Path]:
    """Return the images below a folder by their path in it without suffix, which must tell them apart."""
    found: dict[Path, Path] = {}
    for path in image_files(folder, option=option):
        name = path.relative_to(folder).with_suffix("")
        if name in found:
            hint = f"{path.name} has the same name but for its suffix, so pairs are ambiguous: remove or rename either"
            raise UsageError(option, str(found[name]), hint)
        found[name] = path
    return found


def score_pairs(pairs: Pairs, wanted: Reconstruction, distance: PerceptualDistance | None) -> dict[str, Estimate]:
    """Return the mean of each metric over the pairs, by the metric's name."""
    found: dict[str, Estimate] = {}
    how = "mean over images; interval: Student's t"
    looks = distance if wanted.lpips else None
    values = [
        (psnr(a, b), ssim(a, b) if wanted.ssim else math.nan, float(looks(a[None], b[None])[0]) if looks else math.nan)
        for a, b in pairs
    ]
    differ = [value for value, _, _ in values if math.isfinite(value)]
    pairs.equal = len(values) - len(differ)
    if not differ:
        raise UsageError(pairs.option, "all pairs", "equal their originals to the last bit: give reconstructions")
    if wanted.psnr:
        left = f"; {pairs.equal} equal pairs, of infinite PSNR, left out" if pairs.equal else ""
        found["PSNR"] = of_mean(np.array(differ), how=how + left)
    if wanted.ssim:
        found["SSIM"] = of_mean(np.array([value for _, value, _ in values]), how=f"{DEFINITION}; {how}")
    if looks is not None:
        found[looks.name] = of_mean(np.array([value for _, _, value in values]), how=how)
    return found
