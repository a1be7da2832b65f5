"""What decoded pixels meet: a given image on a larger canvas, and the other end of a closed one (ours).

The paper's image condition pre-caching: the known patches are read first, the others are written around them.

Shape legend: Y/X rows and columns in pixels.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.blending import RIM, filled, meeting
from nuwa_lightning.canvas.coarse import Given
from nuwa_lightning.canvas.decoding import Pixels
from nuwa_lightning.models.nuwa_infinity import ABSENT
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.request_fields import Expansion
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import encode_tiled


@dataclass(frozen=True)
class _Axis:
    """One axis of the canvas, in pixels.

    Attributes:
        start: where the canvas begins on the grid of patches.
        image: where the image begins on that grid.
        patches: patches of the grid.
        window: first and last patch (excluded) that hold any of the image.
    """

    start: int
    image: int
    patches: int
    window: tuple[int, int]


def _lay_axis(length: int, before: int, after: int, patch: int, phase: int | None) -> _Axis:
    # The grid starts where a border of the image that is built upon is a border of patches. With both built upon,
    # the first one; the patches on the other are then known in part.
    if phase is None:
        phase = 0 if before else -length % patch if after else 0
    start = (phase - before) % patch
    image = start + before
    patches = -(-(image + length + after) // patch)
    return _Axis(start, image, patches, (image // patch, -(-(image + length) // patch)))


class ImageCondition:
    """An image, in whole or with holes, and the canvas around it.

    Known pixels are never changed (a lossy file, such as JPEG, keeps them only nearly). What is written beside them is
    decoded from tokens, which are coarser than pixels, and may begin with a step: ``blend`` draws it towards the
    image's own pixels at the border, fading out.

    Args:
        image_YX3: its pixels.
        holes_YX: which of them are to be written anew; None for none.
        expansion: how much larger the canvas is.
        tokenizer: turns pixels into tokens and back.
        patch_size: tokens of a patch, rows and columns.
        blend: over how many pixels beyond the border that fades; 0 leaves what is decoded as it is.
        phase: row and column of a patch, in pixels, at which the image begins; by default its borders are patches' own.

    Raises:
        ValueError: if the holes have another size, or nothing is known.
    """

    def __init__(
        self,
        image_YX3: Pixels,
        *,
        holes_YX: NDArray[np.bool_] | None = None,
        expansion: Expansion = Expansion(),  # noqa: B008 - frozen
        tokenizer: Tokenizer,
        patch_size: tuple[int, int],
        blend: int = 16,
        phase: tuple[int, int] | tuple[None, None] = (None, None),
    ) -> None:
        height, width = image_YX3.shape[:2]
        if holes_YX is None:
            holes_YX = np.zeros((height, width), bool)
        if holes_YX.shape != (height, width):
            raise ValueError(f"holes of {holes_YX.shape} in an image of {(height, width)}")
        if holes_YX.all():
            raise ValueError("no pixel is known")
        self._image_YX3, self._given_YX = image_YX3, ~holes_YX
        self._tokenizer, self._factor, self._patch_size = tokenizer, tokenizer.downsample_factor, patch_size
        sides = tuple(cells * tokenizer.downsample_factor for cells in patch_size)
        self._y = _lay_axis(height, expansion.up, expansion.down, sides[0], phase[0])
        self._x = _lay_axis(width, expansion.left, expansion.right, sides[1], phase[1])
        self.size = (height + expansion.up + expansion.down, width + expansion.left + expansion.right)
        """Height and width of the canvas in pixels."""
        self.grid = PatchGrid(1, self._y.patches, self._x.patches)
        """The patches that cover it."""
        self.origin = (self._y.start, self._x.start)
        """Where the canvas begins on the grid, in pixels."""
        self._window_YX3, self._window_given_YX = self._window(expansion, sides)
        self._blend = blend
        self.margin = -(-(blend + RIM) // tokenizer.downsample_factor) if blend else 0
        """How many tokens around what is to be finished :meth:`finish` has to see."""

    @cached_property
    def masks(self) -> dict[PatchIndex, Tensor]:
        """Which tokens of a patch are known, bool ``[rows, columns]``; patches of which none is are left out."""
        f, (rows, columns), given_YX = self._factor, self._patch_size, self._window_given_YX
        whole_YX = torch.from_numpy(
            given_YX.reshape(given_YX.shape[0] // f, f, given_YX.shape[1] // f, f).all(axis=(1, 3))
        )
        found = {}
        for y, row in enumerate(range(*self._y.window)):
            for x, column in enumerate(range(*self._x.window)):
                mask_YX = whole_YX[y * rows : (y + 1) * rows, x * columns : (x + 1) * columns]
                if bool(mask_YX.any()):
                    found[PatchIndex(0, row, column)] = mask_YX
        return found

    @cached_property
    def known(self) -> dict[PatchIndex, Tensor]:
        """Known tokens by patch ``[1, rows, columns]``; ``ABSENT`` where a patch is known in part."""
        rows, columns = self._patch_size
        tokens_YX = _encode(self._tokenizer, filled(self._window_YX3.astype(np.float32), self._window_given_YX))
        found = {}
        for patch, mask_YX in self.masks.items():
            top, left = (patch.y - self._y.window[0]) * rows, (patch.x - self._x.window[0]) * columns
            patch_YX = tokens_YX[top : top + rows, left : left + columns]
            found[patch] = torch.where(mask_YX, patch_YX, ABSENT)[None]
        return found

    @property
    def complete(self) -> bool:
        """Whether there is nothing to be written."""
        height, width = self._given_YX.shape
        return self.size == (height, width) and bool(self._given_YX.all())

    @property
    def given(self) -> Given:
        """The pixels of the patches that hold the image."""
        window_YX3, given_YX = self._window_YX3, self._window_given_YX
        rows, columns = self._patch_size
        corner = self._y.window[0] * rows, self._x.window[0] * columns
        return Given(filled(window_YX3.astype(np.float32), given_YX), given_YX, corner)

    def finish(self, pixels_YX3: Pixels, *, y: int, x: int) -> Pixels:
        """Return decoded pixels with the image's own over them; with a margin, of which only the inside counts."""
        top, left = self._y.image - y, self._x.image - x
        here, there = _overlap(pixels_YX3.shape[:2], self._given_YX.shape, top, left)
        out_YX3, known_YX = pixels_YX3.copy(), np.zeros(pixels_YX3.shape[:2], bool)
        known_YX[here] = self._given_YX[there]
        out_YX3[here] = np.where(known_YX[here][..., None], self._image_YX3[there], out_YX3[here])
        if self._blend and known_YX.any() and not known_YX.all():
            written_YX3 = pixels_YX3.astype(np.float32)
            more_YX3 = meeting(written_YX3, out_YX3.astype(np.float32), known_YX, self._blend)
            blended_YX3 = np.rint(written_YX3 + more_YX3).clip(0, 255).astype(np.uint8)
            out_YX3 = np.where(known_YX[..., None], out_YX3, blended_YX3)
        return out_YX3

    def _window(self, expansion: Expansion, sides: tuple[int, ...]) -> tuple[Pixels, NDArray[np.bool_]]:
        """Return the patches that hold the image, as pixels, and which of these are known.

        Beyond an edge of the image that is one of the canvas, where patches stick out, its last pixels are repeated
        and count as known: they are what an image that ends there looks like to the tokenizer.
        """
        padding, cut = [], []
        height, width = self._image_YX3.shape[:2]
        for axis, side, length in ((self._y, sides[0], height), (self._x, sides[1], width)):
            before = axis.image - axis.window[0] * side
            padding.append((before, axis.window[1] * side - axis.image - length))
        window_YX3 = np.pad(self._image_YX3, (*padding, (0, 0)), mode="edge")
        given_YX = np.pad(self._given_YX, padding, mode="edge")
        built_upon = ((expansion.up, expansion.down), (expansion.left, expansion.right))
        for axis_number, (pads, grows) in enumerate(zip(padding, built_upon, strict=True)):
            cut = [slice(None), slice(None)]
            if grows[0]:
                cut[axis_number] = slice(0, pads[0])
                given_YX[tuple(cut)] = False
            if grows[1]:
                cut[axis_number] = slice(given_YX.shape[axis_number] - pads[1], None)
                given_YX[tuple(cut)] = False
        return window_YX3, given_YX


def _encode(tokenizer: Tokenizer, pixels_YX3: NDArray[np.float32]) -> Tensor:
    image_3YX = torch.from_numpy(np.ascontiguousarray(pixels_YX3.transpose(2, 0, 1))) / 127.5 - 1
    with torch.inference_mode():
        return encode_tiled(tokenizer, image_3YX[None])[0]


def _overlap(
    size: tuple[int, ...], other: tuple[int, ...], top: int, left: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where a rectangle of size ``other`` that begins at (``top``, ``left``) covers one of ``size``, in both."""
    here, there = [], []
    for length, its_length, start in zip(size, other, (top, left), strict=True):
        first, last = max(0, start), max(0, start, min(length, start + its_length))
        here.append(slice(first, last))
        there.append(slice(first - start, last - start))
    return (here[0], here[1]), (there[0], there[1])


@final
@dataclass(frozen=True)
class JointBlend:
    """Lets both ends of a closed axis run into each other; a ``Finish``.

    The last patches see the first ones, but two ends that were written far apart need not fit: one would see a line.

    Next to the seam a pixel is the mean of itself and of its mirror image on the other side, so that there is no step;
    with the distance the mirror image fades out.
    """

    size: tuple[int | None, int | None]
    wrap: str
    reach: int
    downsample_factor: int

    @property
    def margin(self) -> int:
        """How many tokens around what is to be finished :meth:`finish` has to see."""
        # A mirror image lies up to twice as far away.
        return -(-2 * self.reach // self.downsample_factor)

    def finish(self, pixels_YX3: Pixels, *, y: int, x: int) -> Pixels:
        """Return pixels that begin at ``(y, x)``, beyond a seam if need be, without a step across the seams."""
        out_YX3 = pixels_YX3.astype(np.float32)
        for axis, name, start in ((1, "x", x), (0, "y", y)):
            period = self.size[axis]
            if name in self.wrap and period is not None:
                out_YX3 = self._along(out_YX3, axis, start, period)
        return np.rint(out_YX3).clip(0, 255).astype(np.uint8)

    def _along(self, pixels_YX3: NDArray[np.float32], axis: int, start: int, period: int) -> NDArray[np.float32]:
        pixels_NL3 = np.moveaxis(pixels_YX3, axis, 0).copy()
        reach, length = min(self.reach, period // 4), len(pixels_NL3)
        for seam in range(-(-start // period) * period - start, length + 1, period):
            for distance in range(min(reach, seam, length - seam)):
                weight = np.float32(0.25 * (1 + math.cos(math.pi * distance / reach)))
                before, after = pixels_NL3[seam - 1 - distance].copy(), pixels_NL3[seam + distance].copy()
                pixels_NL3[seam - 1 - distance] += weight * (after - before)
                pixels_NL3[seam + distance] += weight * (before - after)
        return np.moveaxis(pixels_NL3, 0, axis)
