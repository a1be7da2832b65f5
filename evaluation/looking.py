"""One pass over a set: all that a report takes from its pixels, each file decoded once (ours)."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.blocks import BlockSet, blocks_of, count_of_blocks
from evaluation.collapse import spreads_of
from evaluation.color import color_of
from evaluation.feature_cache import FeatureCache, FeatureSet
from evaluation.images import ImageSet, Pixels, pixel_sha256
from evaluation.protocol import Blocks, Seams
from evaluation.seams import Steps, check_sides, steps_of
from nuwa_lightning.errors import UsageError


@dataclass(frozen=True)
class Wanted:
    """What to look for.

    Attributes:
        seams: sides of patches and tokens.
        color: color statistics.
        window: side of the windows whose spread is measured.
        hashes: of pixels.
        blocks: which blocks have features of their own.
        crops: numbers of crops to hold.
        shown: is given each file and its whole image, of files without crops, too.
    """

    seams: Seams | None = None
    color: bool = False
    window: int | None = None
    hashes: bool = False
    blocks: Blocks | None = None
    crops: frozenset[int] = frozenset()
    shown: Callable[[Path, Pixels], None] | None = None


@dataclass
class Look:
    """What was found in a set.

    Attributes:
        images: the set.
        features: of its crops.
        blocks: of its canvases.
        steps: of each canvas, for seams.
        colors: statistics of each canvas.
        spreads: of the windows of each canvas.
        hashes: of each file that is used: of its pixels and its crops', as they are and mirrored.
        repeated: files with the pixels, or mirrored pixels, of another one of the set; None if not looked for.
        held: crops by their number.
    """

    images: ImageSet
    features: FeatureSet
    blocks: BlockSet | None = None
    steps: list[Steps] = field(default_factory=list)
    colors: list[list[float]] = field(default_factory=list)
    spreads: list[NDArray[np.float64]] = field(default_factory=list)
    hashes: list[set[str]] = field(default_factory=list)
    repeated: int | None = None
    held: dict[int, Pixels] = field(default_factory=dict)

    def some(self, numbers: NDArray[np.intp]) -> list[Pixels]:
        """Return crops by their numbers; those that were not held are read again."""
        missing = np.array([i for i in numbers.tolist() if i not in self.held], np.intp)
        self.held |= dict(zip(missing.tolist(), self.images.some(missing), strict=True)) if len(missing) else {}
        return [self.held[int(i)] for i in numbers]


def look(images: ImageSet, cache: FeatureCache, wanted: Wanted, *, progress: bool = False) -> Look:
    """Go through a set once.

    Raises:
        UsageError: if a file cannot be read, or no image has a seam or block that is looked for.
    """
    from tqdm import tqdm

    check(images, wanted)
    found = Look(images, FeatureSet(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32), np.zeros(0, np.intp)))
    places: list[tuple[int, int]] = []
    owners: list[int] = []
    canvas = crop = 0
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(images), desc=f"looking at {images.label}", unit="image", disable=not progress, leave=False)
        )
        rows = stack.enter_context(cache.rows(len(images), progress=bar))
        blocks: Any = None
        if wanted.blocks:
            blocks = stack.enter_context(cache.rows(count_of_blocks(images, wanted.blocks)))
        seen: set[str] = set()
        for path, whole, crops, canvases in images.looks(every=wanted.shown is not None):
            if wanted.shown:
                wanted.shown(path, whole)
            if wanted.hashes and crops:
                digests = [pixel_sha256(a) for each in (whole, *crops) for a in (each, each[:, ::-1])]
                found.hashes.append(set(digests))
                found.repeated = (found.repeated or 0) + bool(seen & {*digests[:2]})
                seen |= {*digests[:2]}
            for pixels in canvases:
                _measure(found, pixels, wanted)
                if wanted.blocks:
                    for place, block in blocks_of(pixels, wanted.blocks.side, shifted=wanted.blocks.shifted):
                        places.append(place)
                        owners.append(canvas)
                        blocks.add(block)
                canvas += 1
            for pixels in crops:
                if crop in wanted.crops:
                    found.held[crop] = pixels.copy()
                rows.add(pixels)
                crop += 1
    of_crops = rows.found()
    # Only now it is known which files could be read.
    found.features = FeatureSet(of_crops.features_ND, of_crops.scores_NK, images.clusters())
    if blocks is not None:
        of_blocks, owners_N = blocks.found(), np.array(owners, np.intp)
        own = FeatureSet(of_blocks.features_ND, of_blocks.scores_NK, images.canvas_files()[owners_N])
        found.blocks = BlockSet(own, places, owners_N)
    return found


def check(images: ImageSet, wanted: Wanted) -> None:
    """Refuse what a look would end without, before any image is decoded; errors as :func:`look`."""
    if wanted.seams:
        patch = wanted.seams.patch
        try:
            check_sides(patch, wanted.seams.token)
            if max(max(size) for size in images.canvas_sizes()) <= patch:
                raise ValueError(f"no image is larger than a patch of {patch} pixels")
        except ValueError as error:
            raise UsageError("protocol.metrics.seams", patch, str(error)) from error
    if wanted.blocks and not count_of_blocks(images, wanted.blocks):
        hint = f"no canvas has a block of {wanted.blocks.side} pixels inside: make larger ones, or set blocks.side"
        raise UsageError(images.option, images.where, hint)


def _measure(found: Look, canvas_YX3: Pixels, wanted: Wanted) -> None:
    if wanted.seams:
        found.steps.append(steps_of(canvas_YX3, wanted.seams.patch, wanted.seams.token))
    if wanted.color:
        found.colors.append(color_of(canvas_YX3))
    if wanted.window:
        found.spreads.append(spreads_of(canvas_YX3, wanted.window))
