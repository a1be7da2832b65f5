"""From a request to the order of one canvas: its grid, its known patches, its texts and its decoder.

Shape legend: B canvases side by side, Y/X rows and columns, 3 colors.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from nuwa_lightning.canvas.coarse import CoarseOrder, coarse_grid, known_of_image, known_of_sketch
from nuwa_lightning.canvas.decoding import GuidedFrames, SingleFrames
from nuwa_lightning.canvas.image_condition import ImageCondition, JointBlend
from nuwa_lightning.canvas.job import Order, Video
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.pretrained import Generator
from nuwa_lightning.generation.prompts import Prompts, read_texts
from nuwa_lightning.generation.regions import Axis, RegionMap
from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder
from nuwa_lightning.planning.direction import DirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.request_fields import Expansion, InputImage
from nuwa_lightning.tokenizers.base import Tokenizer

ABLE: Final = {
    "text": "take landscape_text, which comes with the package, or train one by recipes/landscape_text.yaml",
    "video": "take landscape_video, which comes with the package, or train one by recipes/landscape_video.yaml",
    "plan": "take landscape, which comes with the package, or train one by recipes/plan/coarse.yaml",
    "text video": "train one that does by recipes/landscape_text_video.yaml",
}
"""Where a model that can do it comes from."""


@final
@dataclass(frozen=True, eq=False)
class OrderBuilder:
    """What a request means for one trained model.

    Attributes:
        generator: the model and how it was trained.
        tokenizer: the one whose tokens it learned.
        pixel_guided: decodes the frames of videos; None decodes each by itself.
        name: what messages call it.
        coarse: what writes coarse plans; None where there are those of given images only.
        scale: how many times smaller than the canvas it is what is made.
    """

    generator: Generator
    tokenizer: Tokenizer
    pixel_guided: PixelGuidedDecoder | None
    name: str
    coarse: Generator | None = None
    scale: int = 1

    def order(
        self,
        request: GenerationRequest,
        *,
        direction: DirectionController | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Order:
        """Return what is to be made, as if there were one canvas; :func:`batched` lays several side by side.

        ``note`` is told what is not as it was asked for; what does not fit the model is refused.
        """
        rows, columns = self._patch
        if request.image is not None:
            order = self._image_order(request, request.image)
        else:
            size = request.canvas_size
            lengths = (("x", size.width, columns), ("y", size.height, rows))
            for name, length, side in lengths:
                if length is not None:
                    self._check_side(request, name, length, side, note)
            across, down = (None if length is None else -(-length // side) for _, length, side in lengths)
            grid = PatchGrid(request.frames or 1, down, across, wrap=request.wrap)
            used = direction or self.generator.direction
            if grid.endless and not used.supports_endless(grid):
                hint = f"{used!r} cannot fill it: give that side a length, or choose another `order`"
                raise UsageError("size", request.size, hint)
            factor = self.tokenizer.downsample_factor
            seam = JointBlend((size.height, size.width), request.wrap, request.blend, factor)
            finish = seam if request.wrap and request.blend and not request.video else None
            order = Order(grid, (request.seed,), (size.height, size.width), tile=request.tile, finish=finish)
        video = self.video(request) if request.video else None
        order = dataclasses.replace(order, video=video, prompts=self.prompts(request, order))
        return dataclasses.replace(order, coarse=self.coarse_order(request, order, note=note))

    def coarse_order(
        self, request: GenerationRequest, order: Order, *, note: Callable[[str], None] = lambda _: None
    ) -> CoarseOrder | None:
        """Return what is to be made of the coarse plan of an order; None for a model that reads none."""
        plan, sketch, patch_size = self.generator.plan, request.plan, self.generator.model.patch_size
        if plan is None:
            if sketch is not None:
                hint = f"the model of {self.name} reads no plan: {ABLE['plan']}"
                raise UsageError("plan", sketch.source or "this one", hint)
            return None
        if any(side % plan.scale for side in patch_size):
            hint = f"a patch of {patch_size} tokens is no multiple of the plan's scale {plan.scale}"
            raise UsageError("checkpoint", self.name, hint)
        if sketch is not None:
            if order.grid.endless:
                raise UsageError(
                    "plan", sketch.source or "this one", "an endless canvas has no such plan: give a `size`"
                )
            cells = (patch_size[0] // plan.scale, patch_size[1] // plan.scale)
            coarse = CoarseOrder(plan, self.tokenizer, coarse_grid(order.grid, patch_size, plan, cells), cells)
            height, width = order.size
            assert height is not None
            assert width is not None
            known = known_of_sketch(sketch.pixels_YX3, coarse, size=(height, width), origin=order.origin)
            return dataclasses.replace(coarse, known=known, guidance=request.plan_guidance)
        if self.coarse is None:
            note(f"note: there is no model of coarse plans in {self.name}: what is generated has none")
            return None
        cells = self.coarse.model.patch_size
        grid = coarse_grid(order.grid, patch_size, plan, cells)
        if grid.endless and not self.coarse.direction.supports_endless(grid):
            hint = f"{self.coarse.direction!r} of the coarse model cannot fill it: give that side a length"
            raise UsageError("size", request.size, hint)
        precision = Precision(request.weights, request.cache)  # type: ignore[arg-type]
        renderer = self.coarse.renderer(plan.sampling, max_rows=request.max_rows, precision=precision)
        known = {}
        if isinstance(order.finish, ImageCondition):
            known = known_of_image(order.finish.given, plan, self.tokenizer, cells)
        writer = dataclasses.replace(self, generator=self.coarse, scale=plan.scale)
        prompts = writer.prompts(request, order) if self.coarse.text_encoder else None
        return CoarseOrder(plan, self.tokenizer, grid, cells, renderer, known, prompts, request.plan_guidance)

    @property
    def _patch(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        height, width = self.generator.model.patch_size
        token = self.tokenizer.downsample_factor * self.scale
        return height * token, width * token

    def _check_side(
        self, request: GenerationRequest, name: str, length: int, side: int, note: Callable[[str], None]
    ) -> None:
        if name in request.wrap:
            whole = math.lcm(side, self.tokenizer.step * self.tokenizer.downsample_factor)
            if length % whole:
                near = f"{length // whole * whole} or {-(-length // whole) * whole}" if length > whole else f"{whole}"
                hint = f"a closed side is a multiple of {whole} pixels (whole patches): give {near}"
                raise UsageError("size", request.size, hint)
        elif length % side:
            made = -(-length // side) * side
            note(f"note: {length} pixels along {name} are no multiple of {side}: {made} are made, and cropped")

    def _image_order(self, request: GenerationRequest, image: InputImage) -> Order:
        (height, width), (rows, columns) = image.pixels_YX3.shape[:2], self._patch
        if height < rows or width < columns:
            hint = f"is {width}x{height}, smaller than one patch of {columns}x{rows} pixels: enlarge it"
            raise UsageError("image", image.source or "this one", hint)
        given = ImageCondition(
            image.pixels_YX3,
            holes_YX=image.holes_YX,
            expansion=request.expand or Expansion(),
            tokenizer=self.tokenizer,
            patch_size=self.generator.model.patch_size,
            blend=0 if request.video else request.blend,
        )
        grid = PatchGrid(request.frames or 1, given.grid.y, given.grid.x)
        known, origin, tile = given.known, given.origin, request.tile
        return Order(grid, (request.seed,), given.size, origin=origin, known=known, finish=given, tile=tile)

    def video(self, request: GenerationRequest) -> Video:
        """Return what decodes the frames of a request's video."""
        assert request.fps is not None
        single = SingleFrames(self.tokenizer, request.tile, request.wrap)
        if self.pixel_guided is None:
            return Video(request.fps, single)
        if request.wrap:
            hint = f"the pixel-guided decoder in {self.name} does not look across a seam: leave it out"
            raise UsageError("wrap", request.wrap, hint)
        return Video(request.fps, GuidedFrames(single, self.pixel_guided, request.tile))

    def prompts(self, request: GenerationRequest, order: Order) -> Prompts | None:
        """Return what the patches of each of the request's canvases read; None for a model without text."""
        encoder, model, count = self.generator.text_encoder, self.generator.model, request.count
        asked = [*request.prompt, *filter(None, request.prompt_each)]
        if encoder is None:
            if asked:
                hint = f"the model of {self.name} reads no text: {ABLE['text video' if request.video else 'text']}"
                raise UsageError("prompt", asked[0], hint)
            return None
        if request.prompt_each:
            texts = Prompts.for_canvases(model, encoder.states, request.prompt_each, guidance=request.guidance_scale)
            return texts if asked else dataclasses.replace(texts, guidance=1.0)
        if not asked and not request.unprompted:
            hint = f"the model of {self.name} reads a text: say what is to be seen, or give `unprompted`"
            raise UsageError("prompt", "nothing", hint)
        (height, width), (rows, columns) = order.size, self._patch
        regions = RegionMap(
            request.regions,
            request.text is not None,
            Axis(sys.maxsize if height is None else height, rows, order.origin[0]),
            Axis(sys.maxsize if width is None else width, columns, order.origin[1]),
        )
        every = [region.text for region in request.regions] + ([] if request.text is None else [request.text])

        def choose(patch: PatchIndex) -> tuple[int, ...]:
            return (regions.number(patch),) * count

        return Prompts(read_texts(model, encoder.states, every), choose, request.guidance_scale if every else 1.0)


def batched(order: Order, seeds: tuple[int, ...], *, first: int = 0) -> Order:
    """Return an order of canvases side by side, one a seed, which are images ``first`` and following of the request."""
    known = {patch: tokens.expand(len(seeds), -1, -1) for patch, tokens in order.known.items()}
    some = slice(first, first + len(seeds))
    prompts = order.prompts and order.prompts.of(some)
    coarse = order.coarse and dataclasses.replace(
        order.coarse, prompts=order.coarse.prompts and order.coarse.prompts.of(some)
    )
    return dataclasses.replace(order, seeds=seeds, known=known, prompts=prompts, coarse=coarse)
