"""Pixels as a view of tokens: tile by tile, equal to decoding the whole canvas at once; of videos frame by frame.

Shape legend: B batch, Y/X rows and columns.
"""

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder, decode_next_tiled
from nuwa_lightning.signals import return_freed_memory
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle, cut_out

Pixels = NDArray[np.uint8]
_IN_MEMORY: Final = 4 << 20
"""The most bytes of a row of tiles that are kept in memory; larger ones lie in a temporary file."""
_UNDER_WAY: Final = 4
"""How many bands may be in memory at once, with the one that is made of them: a writer may read ahead."""


def to_uint8(image_3YX: Tensor) -> Pixels:
    """Return pixels ``[Y, X, 3]`` in 0..255 of an image in [-1, 1]."""
    pixels = ((image_3YX.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    array: Pixels = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
    return array


class Finish(Protocol):
    """What is done to decoded pixels before they are given away, such as laying a given image over them."""

    @property
    def margin(self) -> int:
        """How many tokens around a tile it has to see."""

    def finish(self, pixels_YX3: Pixels, *, y: int, x: int) -> Pixels:
        """Return finished pixels ``[Y, X, 3]``, given those that begin at pixel ``(y, x)`` of the grid."""


class TokenReader(Protocol):
    """Gives the tokens of an area that lies inside a canvas."""

    def __call__(self, area: Rectangle, /) -> Tensor:
        """Return its tokens, int64 ``[Y, X]``."""


class FrameDecoder(Protocol):
    """Turns the tokens of one frame after the other into pixels."""

    @property
    def guided(self) -> bool:
        """Whether it looks at the frame before."""

    def decode(self, tokens_YX: Tensor, previous_YX3: Pixels | None) -> Pixels:
        """Return the pixels of a frame, given the one before as it was decoded or given; None for the first one."""


@final
@dataclass(frozen=True)
class TileDecoder:
    """Decodes tiles of a canvas, each with as much around it as decoding the whole would look at.

    On a closed axis (``wrap``) tiles at the seam see the tokens on its other side. Sizes are in tokens.
    """

    tokenizer: Tokenizer
    size: tuple[int, int]
    read: TokenReader
    tile: int = 64
    finish: Finish | None = None
    wrap: str = ""

    def piece(self, row: int, column: int) -> Rectangle:
        """Return where a tile lies, in tokens."""
        top, left = row * self.tile, column * self.tile
        return Rectangle(top, left, min(top + self.tile, self.size[0]), min(left + self.tile, self.size[1]))

    @torch.inference_mode()
    def decode(self, piece: Rectangle) -> Pixels:
        """Return the finished pixels ``[Y, X, 3]`` of a tile."""
        f = self.tokenizer.downsample_factor
        shown = piece.grown(self.finish.margin if self.finish else 0, *self.size, self.wrap)
        outer = shown.grown(self.tokenizer.decode_halo, *self.size, self.wrap).from_step(self.tokenizer.step)
        image_B3YX = self.tokenizer.decode(self._tokens(outer)[None])
        pixels = to_uint8(cut_out(image_B3YX, shown, outer=outer, factor=f)[0])
        if self.finish is None:
            return pixels
        finished = self.finish.finish(pixels, y=shown.top * f, x=shown.left * f)
        top, left = (piece.top - shown.top) * f, (piece.left - shown.left) * f
        height, width = (piece.bottom - piece.top) * f, (piece.right - piece.left) * f
        return finished[top : top + height, left : left + width]

    def _tokens(self, area: Rectangle) -> Tensor:
        tokens_YX = torch.empty(area.bottom - area.top, area.right - area.left, dtype=torch.long)
        runs = (_runs(area.top, area.bottom, self.size[0]), _runs(area.left, area.right, self.size[1]))
        for (y, top, height), (x, left, width) in itertools.product(*runs):
            found_YX = self.read(Rectangle(top, left, top + height, left + width))
            tokens_YX[y : y + height, x : x + width] = found_YX
        return tokens_YX


def _runs(start: int, stop: int, period: int) -> list[tuple[int, int, int]]:
    """Return the stretches of an axis that may go beyond a seam: where each goes, whence it comes, its length."""
    runs, at = [], start
    while at < stop:
        length = min(stop - at, period - at % period)
        runs.append((at - start, at % period, length))
        at += length
    return runs


@dataclass(frozen=True)
class Crop:
    """Where an image lies on its grid of patches, in pixels.

    Attributes:
        size: height and width.
        origin: row and column of the grid at which it begins.
    """

    size: tuple[int, int]
    origin: tuple[int, int] = (0, 0)

    def of(self, pixels_YX3: Pixels) -> Pixels:
        """Return what of the pixels of a whole grid lies on the image."""
        (height, width), (top, left) = self.size, self.origin
        return np.ascontiguousarray(pixels_YX3[top : top + height, left : left + width])


@final
class DecodedImage:
    """The pixels of a canvas, decoded when they are asked for: an ``ImageSource``.

    Rows are to be asked for from top to bottom; each tile is decoded once then. Memory: a tile with what lies around
    it, and the rows that are asked for. A row of tiles too wide for that lies in a temporary file in ``folder``.
    """

    def __init__(self, tiles: TileDecoder, crop: Crop, *, folder: Path | None = None) -> None:
        self.height, self.width = crop.size
        self._tiles, self._top, self._left, self._folder = tiles, *crop.origin, folder
        self._side = tiles.tile * tiles.tokenizer.downsample_factor
        self.band = max(1, min(self._side, _IN_MEMORY // (_UNDER_WAY * 3 * self.width)))
        self._row = -1
        self._strip: _Strip | None = None

    def rows(self, start: int, stop: int) -> Pixels:
        """Return the rows from ``start`` up to ``stop``, uint8 ``(stop - start, width, 3)``."""
        parts, at = [], start + self._top
        while at < stop + self._top:
            row, inside = divmod(at, self._side)
            count = min(self._side - inside, stop + self._top - at)
            if row != self._row:
                self._decode(row)
            assert self._strip is not None
            parts.append(self._strip.rows(inside, count))
            at += count
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Give the temporary file back."""
        if self._strip is not None:
            self._strip.close()
        self._row, self._strip = -1, None

    def _decode(self, row: int) -> None:
        piece, f = self._tiles.piece(row, 0), self._tiles.tokenizer.downsample_factor
        self.close()
        self._row, self._strip = row, _Strip((piece.bottom - piece.top) * f, self.width, self._folder)
        for column in range(self._left // self._side, -(-(self._left + self.width) // self._side)):
            pixels_YX3 = self._tiles.decode(self._tiles.piece(row, column))
            x = column * self._side - self._left
            pixels_YX3 = pixels_YX3[:, max(0, -x) : self.width - x]
            self._strip.put(pixels_YX3, max(0, x))
        if self._strip.on_disk:  # a wide row: a writer will need much memory of its own
            return_freed_memory()


class _Strip:
    """Rows of pixels, in memory or, where they are too many, in a nameless file."""

    def __init__(self, height: int, width: int, folder: Path | None) -> None:
        self._width = width
        self._file: BinaryIO | None = None
        if 3 * height * width <= _IN_MEMORY:
            self._pixels_YX3 = np.empty((height, width, 3), np.uint8)
        else:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    @property
    def on_disk(self) -> bool:
        """Whether they lie in a file."""
        return self._file is not None

    def put(self, pixels_YX3: Pixels, x: int) -> None:
        """Store columns from one on."""
        if self._file is None:
            self._pixels_YX3[:, x : x + pixels_YX3.shape[1]] = pixels_YX3
            return
        for y, row_X3 in enumerate(pixels_YX3):
            self._file.seek(3 * (y * self._width + x))
            self._file.write(np.ascontiguousarray(row_X3).data.cast("B"))

    def rows(self, y: int, count: int) -> Pixels:
        """Return some rows."""
        if self._file is None:
            return self._pixels_YX3[y : y + count]
        self._file.seek(3 * y * self._width)
        return np.frombuffer(self._file.read(3 * count * self._width), np.uint8).reshape(count, self._width, 3)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()


def decoded_frames(
    frames_YX: Iterator[Tensor], decoder: FrameDecoder, crop: Crop, *, finish: Finish | None = None
) -> Iterator[Pixels]:
    """Yield the frames of a video, uint8 ``[Y, X, 3]``; ``finish`` lays the given image over the first one."""
    previous_YX3: Pixels | None = None
    for number, tokens_YX in enumerate(frames_YX):
        pixels_YX3 = decoder.decode(tokens_YX, previous_YX3)
        if number == 0 and finish is not None:
            pixels_YX3 = finish.finish(pixels_YX3, y=0, x=0)
        previous_YX3 = pixels_YX3 if decoder.guided else None
        yield crop.of(pixels_YX3)


@final
@dataclass(frozen=True)
class SingleFrames:
    """Each frame by itself, as the tokenizer decodes images."""

    tokenizer: Tokenizer
    tile: int = 64
    wrap: str = ""

    @property
    def guided(self) -> bool:
        """Whether it looks at the frame before: no."""
        return False

    def decode(self, tokens_YX: Tensor, previous_YX3: Pixels | None) -> Pixels:
        """Return the pixels of a frame."""
        height, width = tokens_YX.shape
        factor = self.tokenizer.downsample_factor

        def read(area: Rectangle) -> Tensor:
            return tokens_YX[area.top : area.bottom, area.left : area.right]

        tiles = TileDecoder(self.tokenizer, (height, width), read, tile=self.tile, wrap=self.wrap)
        image = DecodedImage(tiles, Crop((height * factor, width * factor)))
        return image.rows(0, image.height)


@final
@dataclass(frozen=True)
class GuidedFrames:
    """The first frame by itself, each later one guided by the pixels of the frame before.

    These are the pixels that were given away, 8 bits each: whoever goes on with a video finds them the same.
    """

    first: SingleFrames
    decoder: PixelGuidedDecoder
    tile: int = 64

    @property
    def guided(self) -> bool:
        """Whether it looks at the frame before: yes."""
        return True

    def decode(self, tokens_YX: Tensor, previous_YX3: Pixels | None) -> Pixels:
        """Return the pixels of a frame."""
        if previous_YX3 is None:
            return self.first.decode(tokens_YX, None)
        previous_3YX = torch.from_numpy(np.ascontiguousarray(previous_YX3.transpose(2, 0, 1))) / 127.5 - 1
        image_13YX = decode_next_tiled(self.decoder, tokens_YX[None], previous_3YX[None], tile=self.tile)
        return to_uint8(image_13YX[0])
