"""The coarse plan of a canvas: what of it is given, the rest generated ahead of the canvas, read tile by tile (ours).

The coarse canvas is a function of its order and seeds alone. It is made as far as it is read, so it streams ahead of an
endless canvas; a canvas that goes on after a kill makes it once more, which is a sixteenth of the tokens. A finished
canvas in a folder keeps them.

Shape legend: B canvases side by side, Y/X rows and columns of the canvas, y/x of the coarse one.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nuwa_lightning.canvas.decoding import TileDecoder
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.coarse_plan import CoarsePlan
from nuwa_lightning.generation.processes import Processes
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer, Rendering
from nuwa_lightning.models.nuwa_infinity import ABSENT
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle, cut_out, encode_tiled

_TILE: Final = 8
"""Side of what is enlarged at once, in coarse tokens."""
_KEPT: Final = 256
_ENDLESS: Final = 1 << 40
_TAPS: Final = 2
"""How many pixels of the coarse image a bicubic filter looks beyond its place."""


@dataclass(frozen=True, eq=False)
class CoarseOrder:
    """What is to be made of the coarse canvas.

    Attributes:
        plan: how it is read.
        tokenizer: makes tokens and images of one another.
        grid: its shape in patches.
        patch_size: coarse tokens of a patch, rows and columns.
        renderer: what writes it; None where everything is given.
        known: given patches ``[1, rows, columns]``, ``ABSENT`` where one is given in part.
        prompts: the texts, for a coarse model that reads text.
        guidance: how strongly the canvas is pulled towards it.
        seeds: one for each canvas; None for those of the canvases themselves.
        corner: position of its first patch by which random numbers go.
    """

    plan: CoarsePlan
    tokenizer: Tokenizer
    grid: PatchGrid
    patch_size: tuple[int, int]
    renderer: InfiniteRenderer | None = None
    known: Mapping[PatchIndex, Tensor] = field(default_factory=dict)
    prompts: Prompts | None = None
    guidance: float = 1.0
    seeds: tuple[int, ...] | None = None
    corner: tuple[int, int, int] = (0, 0, 0)

    def begin(
        self, grid: PatchGrid, patch_size: tuple[int, int], seeds: Sequence[int], *, processes: Processes | None = None
    ) -> CoarseCanvas:
        """Return the coarse canvas of a canvas that is to be read, by the ``processes`` that write that together."""
        return CoarseCanvas(self, grid, patch_size, seeds, processes)

    def given(self, tokens_TByx: Tensor | None) -> CoarseOrder | None:
        """Return the same canvas with nothing left to draw; None if these are not its tokens."""
        shape = (self.grid.t or 1, len(self.seeds or ()), *_tokens(self.grid, self.patch_size))
        if tokens_TByx is None or tokens_TByx.shape != shape or tokens_TByx.dtype != torch.int64:
            return None
        if not 0 <= int(tokens_TByx.min()) <= int(tokens_TByx.max()) < self.tokenizer.codebook_size:
            return None
        frames = (as_patches(tokens_Byx, (0, 0), self.patch_size) for tokens_Byx in tokens_TByx)
        known = {patch._replace(t=t): tokens for t, frame in enumerate(frames) for patch, tokens in frame.items()}
        return replace(self, known=known, renderer=None)


@final
class CoarseCanvas:
    """A coarse canvas in the making, as ``generation.coarse_plan.CoarseTokens``."""

    def __init__(
        self,
        order: CoarseOrder,
        grid: PatchGrid,
        patch_size: tuple[int, int],
        seeds: Sequence[int],
        processes: Processes | None = None,
    ) -> None:
        self._order, self._patch_size, self._wrap, self._images = order, patch_size, grid.wrap, len(seeds)
        self._size = _tokens(grid, patch_size)
        self._coarse_size = _tokens(order.grid, order.patch_size)
        known = {patch: tokens.expand(len(seeds), -1, -1) for patch, tokens in order.known.items()}
        self._tokens: dict[PatchIndex, Tensor] = {} if order.renderer else known
        self._rendering = None
        if order.renderer is not None:
            # Of other seeds, or coarse and fine patches at one index would draw the same random numbers.
            drawn = [~seed for seed in order.seeds or seeds]
            self._rendering = Rendering(
                replace(order.renderer, processes=processes),
                order.grid,
                seeds=drawn,
                known=known,
                prompts=order.prompts,
                corner=order.corner,
            )
        self._tiles: OrderedDict[tuple[int, int, int], Tensor] = OrderedDict()

    def around(self, patch: PatchIndex) -> Tensor:
        """Return what is read around a patch ``[B, rows + 2, columns + 2]``; the coarse canvas is made so far."""
        spans = [
            _span(p * side - 1, side + 2, length, name in self._wrap)
            for p, side, length, name in zip(patch[1:], self._patch_size, self._size, "yx", strict=True)
        ]
        out_BYX = torch.full((self._images, *(len(span) for span in spans)), ABSENT)
        side = _TILE * self._order.plan.scale
        for y, x in itertools.product(*({int(v) // side for v in span if v >= 0} for span in spans)):
            tile_BYX = self._tile(patch.t, y, x)
            (here_Y, there_Y), (here_X, there_X) = (_inside(s, n, side) for s, n in zip(spans, (y, x), strict=True))
            out_BYX[:, here_Y[:, None], here_X] = tile_BYX[:, there_Y[:, None], there_X]
        return out_BYX

    def made(self) -> Tensor | None:
        """Return all tokens ``[T, B, y, x]`` if they were drawn, to the last; None of a canvas that is endless."""
        grid = self._order.grid
        if self._rendering is None or grid.endless or not all(patch in self._tokens for patch in grid):
            return None
        return torch.stack([self.read(Rectangle(0, 0, *self._coarse_size), t=t) for t in range(grid.t or 1)])

    def image(self, number: int = 0, *, t: int = 0) -> NDArray[np.uint8]:
        """Return the pixels of a finite coarse canvas ``[y, x, 3]``."""
        return self._decoder(t, number).decode(Rectangle(0, 0, *self._coarse_size))

    def _tile(self, t: int, y: int, x: int) -> Tensor:
        key = (t, y, x)
        if key in self._tiles:
            self._tiles.move_to_end(key)
            return self._tiles[key]
        # One image after another: the last bits of several at once may depend on how many there are.
        made = torch.cat([self._enlarged(t, y, x, number) for number in range(self._images)])
        if len(self._tiles) >= _KEPT:
            self._tiles.popitem(last=False)
        self._tiles[key] = made
        return made

    def _enlarged(self, t: int, y: int, x: int, number: int) -> Tensor:
        """Return the tokens of a tile, equal to those of the whole coarse canvas enlarged and encoded at once."""
        plan, tokenizer = self._order.plan, self._order.tokenizer
        factor, scale = tokenizer.downsample_factor, plan.scale
        height, width = (length * scale for length in self._coarse_size)
        side = _TILE * scale
        tile = Rectangle(y * side, x * side, min(height, (y + 1) * side), min(width, (x + 1) * side))
        outer = tile.grown(tokenizer.encode_halo, height, width, self._wrap).from_step(tokenizer.step)
        # In coarse pixels, then in coarse tokens.
        seen = Rectangle(*(v * factor // scale for v in outer))
        seen = Rectangle(
            (seen.top - _TAPS) // factor,
            (seen.left - _TAPS) // factor,
            -(-(seen.bottom + _TAPS) // factor),
            -(-(seen.right + _TAPS) // factor),
        )
        seen = seen.grown(0, *self._coarse_size, self._wrap)
        pixels_yx3 = torch.from_numpy(self._decoder(t, number).decode(seen))
        small_13yx = pixels_yx3.permute(2, 0, 1)[None] / 127.5 - 1
        large_13YX = plan.enlarged(small_13yx.to(tokenizer.codebook_KD.device))
        whole = Rectangle(*(v * scale for v in seen))
        tokens_1YX = tokenizer.encode(cut_out(large_13YX, outer, outer=whole, factor=factor)).cpu()
        top, left = tile.top - outer.top, tile.left - outer.left
        return tokens_1YX[:, top : top + tile.bottom - tile.top, left : left + tile.right - tile.left]

    def _decoder(self, t: int, number: int) -> TileDecoder:
        def read(area: Rectangle) -> Tensor:
            return self.read(area, t=t)[number]

        return TileDecoder(self._order.tokenizer, self._coarse_size, read, wrap=self._wrap)

    def read(self, area: Rectangle, *, t: int = 0) -> Tensor:
        """Return coarse tokens ``[B, y, x]`` of an area that lies inside."""
        rows, columns = self._order.patch_size
        down, across = (
            range(area.top // rows, -(-area.bottom // rows)),
            range(area.left // columns, -(-area.right // columns)),
        )
        lines = [torch.cat([self._patch(PatchIndex(t, y, x)) for x in across], dim=2) for y in down]
        top, left = area.top - down.start * rows, area.left - across.start * columns
        found_Byx = torch.cat(lines, dim=1)
        return found_Byx[:, top : top + area.bottom - area.top, left : left + area.right - area.left]

    def _patch(self, patch: PatchIndex) -> Tensor:
        while patch not in self._tokens:
            assert self._rendering is not None
            self._tokens.update((done.patch, done.tokens_BYX) for done in next(self._rendering))
        return self._tokens[patch]


def _tokens(grid: PatchGrid, patch_size: tuple[int, int]) -> tuple[int, int]:
    down, across = (_ENDLESS if n is None else n * side for n, side in zip(grid.shape[1:], patch_size, strict=True))
    return down, across


def _span(start: int, count: int, length: int, closed: bool) -> Tensor:
    """Return places on an axis; -1 beyond its ends."""
    places = torch.arange(start, start + count)
    return places % length if closed else torch.where((places >= 0) & (places < length), places, -1)


def _inside(span: Tensor, tile: int, side: int) -> tuple[Tensor, Tensor]:
    """Return which of the places lie on a tile, and where there."""
    here = torch.nonzero((span >= 0) & (span // side == tile))[:, 0]
    return here, span[here] % side


# -- what of it is given -----------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """Pixels of the canvas that are given, on its grid.

    Attributes:
        pixels_YX3: a window of whole patches of the canvas, filled in where it is not given.
        given_YX: where it is.
        corner: token row and column at which it begins.
    """

    pixels_YX3: NDArray[np.float32]
    given_YX: NDArray[np.bool_]
    corner: tuple[int, int]


def coarse_grid(grid: PatchGrid, patch_size: tuple[int, int], plan: CoarsePlan, coarse: tuple[int, int]) -> PatchGrid:
    """Return the patches, of ``coarse`` coarse tokens each, of the coarse canvas that cover a canvas."""
    lengths: list[int | None] = []
    for name, n, side, cells in zip("yx", grid.shape[1:], patch_size, coarse, strict=True):
        tokens, whole = None if n is None else n * side, cells * plan.scale
        if tokens is not None and name in grid.wrap and tokens % whole:
            hint = f"the coarse plan of a closed side is whole patches, {whole} tokens each: choose such a length"
            raise UsageError("wrap", grid.wrap, hint)
        lengths.append(None if tokens is None else -(-tokens // whole))
    return PatchGrid(grid.t, *lengths, wrap=grid.wrap)


def known_of_image(
    given: Given, plan: CoarsePlan, tokenizer: Tokenizer, patch_size: tuple[int, int]
) -> dict[PatchIndex, Tensor]:
    """Return the coarse patches ``[1, rows, columns]`` of given pixels, ``ABSENT`` where a token is not given whole.

    Sides and corner of what is given are whole coarse tokens; ``patch_size`` is in coarse tokens.
    """
    image_13YX = torch.from_numpy(np.ascontiguousarray(given.pixels_YX3.transpose(2, 0, 1)))[None] / 127.5 - 1
    with torch.inference_mode():
        tokens_yx = plan.coarse_tokens(tokenizer, image_13YX)[0]
    side = plan.scale * tokenizer.downsample_factor
    height, width = tokens_yx.shape
    whole_yx = given.given_YX.reshape(height, side, width, side).all(axis=(1, 3))
    top, left = (place // plan.scale for place in given.corner)
    return as_patches(torch.where(torch.from_numpy(whole_yx), tokens_yx, ABSENT)[None], (top, left), patch_size)


def known_of_sketch(
    sketch_YX3: NDArray[np.uint8], order: CoarseOrder, *, size: tuple[int, int], origin: tuple[int, int]
) -> dict[PatchIndex, Tensor]:
    """Return all coarse patches of a canvas of ``size`` pixels that is laid out as an image, stretched to it, shows.

    The canvas begins at pixel row and column ``origin`` of its grid.
    """
    scale, factor = order.plan.scale, order.tokenizer.downsample_factor
    (height, width), (top, left) = (-(-n // scale) for n in size), (n // scale for n in origin)
    small = Image.fromarray(sketch_YX3).resize((width, height), Image.Resampling.LANCZOS)
    image_13yx = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 127.5 - 1
    down, across = (n * factor for n in _tokens(order.grid, order.patch_size))
    # Beyond the canvas its last pixels are repeated.
    image_13yx = F.pad(image_13yx, (left, across - left - width, top, down - top - height), mode="replicate")
    with torch.inference_mode():
        tokens_1yx = encode_tiled(order.tokenizer, image_13yx)
    known = as_patches(tokens_1yx, (0, 0), order.patch_size)
    return {patch._replace(t=t): tokens for patch, tokens in known.items() for t in range(order.grid.t or 1)}


def as_patches(tokens_Byx: Tensor, corner: tuple[int, int], patch_size: tuple[int, int]) -> dict[PatchIndex, Tensor]:
    """Return tokens that begin at a corner as patches ``[B, rows, columns]``, ``ABSENT`` where they do not reach."""
    (rows, columns), (top, left), (height, width) = patch_size, corner, tokens_Byx.shape[1:]
    before = top % rows, left % columns
    after = -(height + before[0]) % rows, -(width + before[1]) % columns
    padded = F.pad(tokens_Byx, (before[1], after[1], before[0], after[0]), value=ABSENT)
    found = {}
    for y, x in itertools.product(range(padded.shape[1] // rows), range(padded.shape[2] // columns)):
        patch_Byx = padded[:, y * rows : (y + 1) * rows, x * columns : (x + 1) * columns]
        if bool((patch_Byx != ABSENT).any()):
            found[PatchIndex(0, top // rows + y, left // columns + x)] = patch_Byx.clone()
    return found
