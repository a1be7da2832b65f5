"""Tiles of a canvas as PNG, decoded from tokens when they are asked for, and kept within a bound.

A tile of level L shows ``256 * 2**L`` pixels of the lattice a side. As long as a pixel of it is less than a token, its
pixels are means of exactly those that an export writes; above, of the mean colors of the tokens, so that the coarse
levels of a canvas of any size come at once.

Shape legend: K codes, Y/X rows and columns, C colors and opacity.
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final, Generic, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nuwa_lightning.canvas.decoding import Crop, Pixels, TileDecoder, decoded_frames, to_uint8
from nuwa_lightning.canvas.facts import UNWRITTEN
from nuwa_lightning.errors import UsageError
from nuwa_lightning.serve.view import Area, CanvasView, Look
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle

SIDE: Final = 256
LEVELS: Final = 24
"""More than any canvas needs."""
_V = TypeVar("_V")


@final
class BoundedCache(Generic[_V]):
    """Forgets what was not asked for the longest, beyond a number of bytes."""

    def __init__(self, most: int) -> None:
        self._most, self._kept = most, OrderedDict[Hashable, tuple[_V, int]]()
        self.held = 0
        """How many it holds."""

    def get(self, key: Hashable) -> _V | None:
        """Return what is there."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: _V, size: int) -> None:
        """Keep a value of so many bytes."""
        self.drop(lambda other: other == key)
        self._kept[key] = value, size
        self.held += size
        while self.held > self._most and len(self._kept) > 1:
            self.held -= self._kept.popitem(last=False)[1][1]

    def drop(self, chosen: Callable[[Any], bool]) -> None:
        """Forget some."""
        for key in [key for key in self._kept if chosen(key)]:
            self.held -= self._kept.pop(key)[1]


@final
class TokenColors:
    """The mean color of each token: of the middle of a small field of it, decoded when it is first needed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known_K = np.zeros(tokenizer.codebook_size, bool)
        self._colors_K3 = np.zeros((tokenizer.codebook_size, 3), np.uint8)

    @torch.inference_mode()
    def of(self, tokens_YX: NDArray[np.int64]) -> Pixels:
        """Return the colors ``[Y, X, 3]`` of tokens."""
        f, n = self._tokenizer.downsample_factor, 3
        used = np.unique(tokens_YX)
        missing = torch.from_numpy(used[~self._known_K[used]])
        for some in torch.split(missing, 256) if len(missing) else ():
            image_B3YX = self._tokenizer.decode(some[:, None, None].expand(-1, n, n).contiguous())
            middle_B3 = image_B3YX[:, :, f : 2 * f, f : 2 * f].mean((2, 3))
            self._colors_K3[some.numpy()] = to_uint8(middle_B3.T[:, None])[0]
            self._known_K[some.numpy()] = True
        return np.asarray(self._colors_K3[tokens_YX])


@final
class Tiles:
    """The tiles of a canvas."""

    def __init__(self, view: CanvasView, tokenizer: Tokenizer, colors: TokenColors, *, most: int = 24 << 20) -> None:
        self._view, self._tokenizer, self._colors = view, tokenizer, colors
        self._pieces, self._made = BoundedCache[Pixels](most), BoundedCache[bytes](most)
        self._guard = threading.Lock()
        self._changes = 0
        self._frames: tuple[int, list[Any]] | None = None

    @property
    def held(self) -> int:
        """How many bytes are kept."""
        return self._pieces.held + self._made.held

    def forget(self, areas: tuple[tuple[int, Area], ...] | None) -> None:
        """Forget what new patches change, at all levels; None for everything."""
        self._changes += 1
        f, finish = self._tokenizer.downsample_factor, self._view.look().order.finish
        margin = f * (self._tokenizer.decode_halo + self._tokenizer.step + (finish.margin if finish else 0))
        with self._guard:
            self._frames = None
            if areas is None or self._view.request.video:
                self._made.drop(lambda _: True)
                self._pieces.drop(lambda _: True)
                return
            changed = [area.grown(margin) for _, area in areas]

            def touched(area: Area) -> bool:
                return any(area.overlap(other) for other in changed)

            self._made.drop(lambda key: touched(tile_area(*key[:3])))
            self._pieces.drop(lambda key: touched(key[0]))

    def png(self, level: int, x: int, y: int, *, t: int = 0, number: int = 0) -> bytes | None:
        """Return a tile as PNG, transparent where nothing is; None where nothing at all is.

        Args:
            level: 0 for pixel by pixel, each one more for half of that.
            x: which tile of the level, from the lattice's origin; may be below 0.
            y: likewise.
            t: the frame.
            number: which of the images.

        Raises:
            UsageError: if there is no such level, frame or image.
        """
        facts = self._view.facts
        if not (0 <= level < LEVELS and 0 <= t < (facts.grid.t or 1) and 0 <= number < len(facts.seeds)):
            raise UsageError("tile", f"{level}/{x}/{y}", f"there are {LEVELS} levels, and frames and images from 0 up")
        key, changes = (level, x, y, t, number), self._changes
        with self._guard:
            kept = self._made.get(key)
            if kept is not None:
                return kept or None
            pixels_YXC = self._pixels(level, tile_area(level, x, y), t, number)
            data = b"" if pixels_YXC is None else _png(pixels_YXC)
            if changes == self._changes:
                self._made.put(key, data, len(data) + 64)
            return data or None

    def crop(self, area: Area, *, t: int = 0, number: int = 0, most: int = 384) -> bytes | None:
        """Return an area of the image as a PNG of at most so many pixels a side."""
        level = 0
        while max(area.right - area.left, area.bottom - area.top) >> level > most:
            level += 1
        with self._guard:
            pixels_YXC = self._pixels(level, area, t, number)
        return None if pixels_YXC is None else _png(pixels_YXC)

    def _pixels(self, level: int, area: Area, t: int, number: int) -> Pixels | None:
        """Return the pixels ``[Y, X, 4]`` of an area, smaller by ``2**level``."""
        look = self._view.look()
        inside = area.overlap(look.bounds)
        if inside is None:
            return None
        scale, f = 1 << level, self._tokenizer.downsample_factor
        tokens = self._tokens(look, inside)
        tokens_YX = look.read(tokens, t=t, number=number).numpy()
        written_YX = tokens_YX != UNWRITTEN
        if not written_YX.any():
            return None
        if scale >= f:
            side = scale // f
            colors_YX4 = np.zeros((*tokens_YX.shape, 4), np.uint8)
            colors_YX4[..., :3] = self._colors.of(np.where(written_YX, tokens_YX, 0))
            colors_YX4[..., 3] = 255 * written_YX
            colors_YX4[..., :3] *= written_YX[..., None]
            (y, x), (top, left) = look.offset, (area.top, area.left)
            at = ((tokens.top * f + y - top) // f, (tokens.left * f + x - left) // f)
            down, across = (-(-n // f) for n in (area.bottom - area.top, area.right - area.left))
            return _reduced(_placed(colors_YX4, at, (down, across)), side)
        if look.order.video is not None:
            pixels_YX3 = self._frame(look, inside, t, number)
        elif written_YX.all():
            pixels_YX3 = self._exact(look, inside, number)
        else:
            pixels_YX3 = self._provisional(look, inside, tokens, number)
        pixels_YX4 = np.empty((*pixels_YX3.shape[:2], 4), np.uint8)
        y0, x0 = (n - m * f - o for n, m, o in zip(inside[1::-1], tokens[:2], look.offset, strict=True))
        mask_YX = written_YX.repeat(f, 0).repeat(f, 1)[y0 : y0 + pixels_YX3.shape[0], x0 : x0 + pixels_YX3.shape[1]]
        pixels_YX4[..., :3], pixels_YX4[..., 3] = pixels_YX3 * mask_YX[..., None], 255 * mask_YX
        at = inside.top - area.top, inside.left - area.left
        return _reduced(_placed(pixels_YX4, at, (area.bottom - area.top, area.right - area.left)), scale)

    def _tokens(self, look: Look, area: Area) -> Rectangle:
        """Return which tokens of the grid an area touches."""
        f, (y, x) = self._tokenizer.downsample_factor, look.offset
        return Rectangle(
            (area.top - y) // f, (area.left - x) // f, -(-(area.bottom - y) // f), -(-(area.right - x) // f)
        )

    def _exact(self, look: Look, area: Area, number: int) -> Pixels:
        """Return the pixels of an area, out of the very pieces that an export decodes."""

        def read(tokens: Rectangle) -> Tensor:
            return _filled(look.read(tokens, number=number))

        f, (oy, ox), order = self._tokenizer.downsample_factor, look.offset, look.order
        decoder = TileDecoder(self._tokenizer, look.size, read, order.tile, order.finish, order.grid.wrap)
        out_YX3 = np.empty((area.bottom - area.top, area.right - area.left, 3), np.uint8)
        side, tokens = order.tile, self._tokens(look, area)
        for row in range(tokens.top // side, (tokens.bottom - 1) // side + 1):
            for column in range(tokens.left // side, (tokens.right - 1) // side + 1):
                piece = decoder.piece(row, column)
                top, left, bottom, right = (n * f for n in piece)
                where = Area(left + ox, top + oy, right + ox, bottom + oy)
                pixels_YX3 = self._pieces.get((where, number))
                if pixels_YX3 is None:
                    pixels_YX3 = decoder.decode(piece)
                    self._pieces.put((where, number), pixels_YX3, pixels_YX3.nbytes)
                both = where.overlap(area)
                assert both is not None
                out_YX3[_slices(both, area)] = pixels_YX3[_slices(both, where)]
        return out_YX3

    def _provisional(self, look: Look, area: Area, tokens: Rectangle, number: int) -> Pixels:
        """Return the pixels of an area that is not complete: what is missing is taken to be as what lies beside it."""

        def read(other: Rectangle) -> Tensor:
            return _filled(look.read(other, number=number))

        f, (oy, ox), order = self._tokenizer.downsample_factor, look.offset, look.order
        decoder = TileDecoder(self._tokenizer, look.size, read, order.tile, order.finish, order.grid.wrap)
        where = Area(tokens.left * f + ox, tokens.top * f + oy, tokens.right * f + ox, tokens.bottom * f + oy)
        return decoder.decode(tokens)[_slices(area, where)]

    def _frame(self, look: Look, area: Area, t: int, number: int) -> Pixels:
        """Return the pixels of an area of a frame; each frame may look at the one before."""
        bounds = look.bounds
        if self._frames is None or self._frames[0] != number:
            self._frames = number, [self._all_frames(look, number), -1]
        walk = self._frames[1]
        pixels_YX3 = self._pieces.get((bounds, number, t))
        if pixels_YX3 is None and walk[1] >= t:
            walk[:] = [self._all_frames(look, number), -1]
        while pixels_YX3 is None:
            found_YX3, walk[1] = next(walk[0]), walk[1] + 1
            self._pieces.put((bounds, number, walk[1]), found_YX3, found_YX3.nbytes)
            pixels_YX3 = found_YX3 if walk[1] == t else None
        return pixels_YX3[_slices(area, bounds)]

    def _all_frames(self, look: Look, number: int) -> Iterator[Pixels]:
        order = look.order
        assert order.video is not None
        (height, width), area = order.size, Rectangle(0, 0, *look.size)
        tokens = (_filled(look.read(area, t=t, number=number)) for t in range(order.grid.t or 1))
        crop = Crop((height or 0, width or 0), order.origin)
        return decoded_frames(tokens, order.video.decoder, crop, finish=order.finish)


def tile_area(level: int, x: int, y: int) -> Area:
    """Return what a tile shows."""
    side = SIDE << level
    return Area(x * side, y * side, (x + 1) * side, (y + 1) * side)


def _slices(part: Area, whole: Area) -> tuple[slice, slice]:
    """Return where a part of an area lies in its pixels."""
    y, x = part.top - whole.top, part.left - whole.left
    return slice(y, y + part.bottom - part.top), slice(x, x + part.right - part.left)


def _placed(pixels_YX4: Pixels, at: tuple[int, int], size: tuple[int, int]) -> Pixels:
    """Return a transparent tile with pixels on it."""
    (y, x), (height, width) = at, size
    if at == (0, 0) and pixels_YX4.shape[:2] == size:
        return pixels_YX4
    out_YX4 = np.zeros((height, width, 4), np.uint8)
    inside_YX4 = pixels_YX4[max(0, -y) : height - y, max(0, -x) : width - x]
    y, x = max(0, y), max(0, x)
    out_YX4[y : y + inside_YX4.shape[0], x : x + inside_YX4.shape[1]] = inside_YX4
    return out_YX4


def _reduced(pixels_YX4: Pixels, scale: int) -> Pixels:
    """Return means of squares; what is transparent has no say in the color."""
    if scale == 1:
        return pixels_YX4
    small_YX4 = np.asarray(Image.fromarray(pixels_YX4).reduce(scale)).astype(np.float32)
    opacity_YX1 = small_YX4[..., 3:]
    colors_YX3 = small_YX4[..., :3] * np.where(opacity_YX1 > 0, 255 / np.maximum(opacity_YX1, 1), 0)
    return np.concatenate([colors_YX3.round().clip(0, 255), opacity_YX1], axis=2).astype(np.uint8)


def _filled(tokens_YX: Tensor) -> Tensor:
    """Return tokens with those that are not there taken from the nearest to the left, then right, above, below."""
    filled_YX = tokens_YX.numpy().copy()
    for turned in (filled_YX, filled_YX[:, ::-1], filled_YX.T, filled_YX.T[:, ::-1]):
        there = turned != UNWRITTEN
        if there.all():
            break
        last = np.maximum.accumulate(np.where(there, np.arange(turned.shape[1]), 0), axis=1)
        turned[:] = np.take_along_axis(turned, last, axis=1)
    return torch.from_numpy(np.where(filled_YX == UNWRITTEN, 0, filled_YX))


def _png(pixels_YX4: Pixels) -> bytes:
    image = Image.fromarray(pixels_YX4)
    if pixels_YX4[..., 3].min() == 255:
        image = image.convert("RGB")
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
