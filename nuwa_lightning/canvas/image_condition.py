"""A given image on a larger canvas: which tokens are known, and its own pixels over what is decoded (ours).

The paper's image condition pre-caching: the known patches are read first, the others are written around them.

Shape legend: Y/X rows and columns in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.blending import RIM, filled, meeting
from nuwa_lightning.canvas.coarse import Given
from nuwa_lightning.models.nuwa_infinity import ABSENT
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.request_fields import Expansion
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import encode_tiled

Pixels = NDArray[np.uint8]


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
