"""How a canvas came to be, stage by stage: what each stage knew, and in which order it made the rest (ours).

An edit goes through the same plans again: what it does not make again is read, so that all that is made sees what it
would have seen.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor

from nuwa_lightning.canvas.canvas import Canvas
from nuwa_lightning.canvas.coarse import CoarseOrder, as_patches
from nuwa_lightning.canvas.facts import CanvasFacts, Stage
from nuwa_lightning.canvas.image_condition import ImageCondition, JointBlend
from nuwa_lightning.canvas.job import Generation, Order, facts_of
from nuwa_lightning.canvas.keeping import hashes
from nuwa_lightning.canvas.memory import TokenView
from nuwa_lightning.canvas.order_builder import OrderBuilder, batched
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.models.nuwa_infinity import ABSENT
from nuwa_lightning.planning.dependents import Remake, remake
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import PlannedStep
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.request_fields import Expansion
from nuwa_lightning.tokenizers.tiling import Rectangle


class CanvasMaker(Protocol):
    """What makes canvases: :class:`~nuwa_lightning.pipeline.NuwaInfinityPipeline`."""

    @property
    def builder(self) -> OrderBuilder:
        """What requests mean for its model."""

    def renderer(self, request: GenerationRequest) -> InfiniteRenderer:
        """Return the sampler that a request asks for."""

    def how(self, request: GenerationRequest, order: Order) -> dict[str, Any]:
        """Return how an image of a request is made, for its canvas and the metadata of its files."""


@final
@dataclass(frozen=True, eq=False)
class History:
    """The stages of a canvas."""

    store: TokenView
    maker: CanvasMaker
    request: GenerationRequest

    def remake(
        self, number: int, chosen: Callable[[PatchIndex], bool], changed: Callable[[PatchIndex], bool] = lambda _: False
    ) -> Remake:
        """Return what of a stage has to be made again; see :func:`nuwa_lightning.planning.dependents.remake`."""
        reach = self.maker.builder.generator.model.num_layers + 1
        return remake(partial(self._walk, number), chosen, changed=changed, reach=reach)

    def remakes(self, touched: Callable[[PatchIndex], bool]) -> Iterator[tuple[int, Remake, frozenset[PatchIndex]]]:
        """Yield the stages of which something has to be made again, what, and at which positions of the lattice."""
        found: set[PatchIndex] = set()
        for number, stage in enumerate(self.store.facts.stages):

            def chosen(patch: PatchIndex, stage: Stage = stage) -> bool:
                return touched(stage.position(patch))

            def changed(patch: PatchIndex, stage: Stage = stage) -> bool:
                return stage.position(patch) in found

            part = self.remake(number, chosen, changed)
            positions = frozenset(map(stage.position, part.patches))
            found.update(positions)
            if part.patches:
                yield number, part, positions

    def _walk(self, number: int) -> Iterator[PlannedStep]:
        """Yield the steps of a stage; of an endless one, until all that was kept is made."""
        facts = self.store.facts
        stage = facts.stages[number]
        walked = self.maker.renderer(self.request).walk(stage.grid, self._wholes(number))
        if not stage.grid.endless:
            yield from walked
            return
        kept = facts.stages[number + 1].grid
        missing = kept.size
        for planned in walked:
            yield planned
            missing -= planned.patch in kept
            if not missing:
                return

    def _wholes(self, number: int) -> frozenset[PatchIndex]:
        """Return the patches of a stage that are known as a whole."""
        stages = self.store.facts.stages
        stage, masks = stages[number], self._masks(number)
        if not number:
            return frozenset(stage.patch(position) for position, mask_YX in masks.items() if bool(mask_YX.all()))
        before, masks_before = stages[number - 1], self._masks(number - 1)
        if before.grid.endless:
            before = stage
        reopened = {
            at for at, mask_YX in masks_before.items() if at not in masks or not torch.equal(masks[at], mask_YX)
        }
        return frozenset(stage.patch(at) for at in map(before.position, before.grid) if at not in reopened)

    def _masks(self, number: int) -> Mapping[PatchIndex, Tensor]:
        """Return which tokens are given, by position on the lattice, in a stage."""
        stage = self.store.facts.stages[number]
        condition = self._condition(stage)
        return {} if condition is None else {stage.position(patch): mask for patch, mask in condition.masks.items()}

    def _condition(self, stage: Stage) -> ImageCondition | None:
        """Return the given image on the canvas as it was in a stage."""
        image = self.request.image
        if image is None:
            return None
        facts, expand = self.store.facts, self.request.expand or Expansion()
        first, sides, spare = facts.stages[0], facts.patch_pixels, []
        starts = (first.origin[0] + expand.up, first.origin[1] + expand.left)
        for axis, start in enumerate(starts):
            corner = stage.corner[1 + axis] * sides[axis] + stage.origin[axis]
            size = stage.size[axis]
            assert size is not None
            spare.append((start - corner, corner + size - start - image.pixels_YX3.shape[axis]))
        if min(map(min, spare)) < 0:
            hint = "does not say how it was made (the given image lies outside): put back a copy of the folder"
            raise UsageError("canvas", self.store.folder or "in memory", hint)
        return ImageCondition(
            image.pixels_YX3,
            holes_YX=image.holes_YX,
            expansion=Expansion(left=spare[1][0], right=spare[1][1], up=spare[0][0], down=spare[0][1]),
            tokenizer=self.maker.builder.tokenizer,
            patch_size=facts.patch_size,
            blend=0 if self.request.video else self.request.blend,
            phase=(starts[0] % sides[0], starts[1] % sides[1]),
        )

    def order(self, number: int = -1, *, part: Remake | None = None, texts: bool = False) -> Order:
        """Return the order of a stage: how it is finished and, if wished, what is known and which texts are read."""
        facts, request, builder = self.store.facts, self.request, self.maker.builder
        stage, factor = facts.stages[number], self.maker.builder.tokenizer.downsample_factor
        order = Order(
            stage.grid,
            facts.seeds,
            stage.size,
            stage.origin,
            finish=self._condition(stage),
            tile=request.tile,
            video=builder.video(request) if request.video else None,
        )
        if request.wrap and request.blend and not request.video:
            order = replace(order, finish=JointBlend(stage.size, request.wrap, request.blend, factor))
        if part is not None:
            order = replace(order, known=_Known(self.store, stage, self._masks(number), part))
        if texts:  # by the canvas as it was begun: what was added since reads what its nearest place does
            first = facts.stages[0]
            begun = Order(first.grid, (request.seed,), first.size, first.origin)
            begun = replace(begun, prompts=builder.prompts(request, begun))
            prompts = batched(begun, facts.seeds, first=facts.seeds[0] - request.seed).prompts
            if prompts is not None:
                choose = prompts.choose
                prompts = replace(prompts, choose=lambda patch: choose(stage.position(patch)))
            order = replace(order, prompts=prompts, coarse=self.coarse(number))
        return order

    def coarse(self, number: int) -> CoarseOrder | None:
        """Return the coarse plan of a stage as it was: of what had been there, that of the stage before."""
        facts, builder, request = self.store.facts, self.maker.builder, self.request
        number %= len(facts.stages)
        stage = facts.stages[number]
        order = Order(stage.grid, facts.seeds, stage.size, stage.origin)
        if not number:
            order = replace(order, finish=self._condition(stage))
            made = builder.coarse_order(request, order)
        else:
            made = builder.coarse_order(replace(request, plan=None), order)
        if made is None:
            return None
        order = batched(replace(order, coarse=made), facts.seeds, first=facts.seeds[0] - request.seed)
        assert order.coarse is not None
        made = replace(order.coarse, seeds=facts.seeds)
        if made.renderer is not None and isinstance(self.store, Canvas):
            kept = made.given(self.store.coarse(number, of=_told_of_coarse(facts, number, request, made)))
            if kept is not None:
                return kept
        before = self.coarse(number - 1) if number else None
        if before is None:
            return made
        (rows, columns), earlier = facts.patch_size, facts.stages[number - 1]
        grid = stage.grid if earlier.grid.endless else earlier.grid
        scale, canvas = made.plan.scale, before.begin(earlier.grid, facts.patch_size, facts.seeds)
        area = Rectangle(0, 0, (grid.y or 0) * rows // scale, (grid.x or 0) * columns // scale)
        moved = [a - b for a, b in zip(earlier.corner, stage.corner, strict=True)]
        shift = moved[1] * rows // scale, moved[2] * columns // scale
        known = {
            patch._replace(t=t): tokens
            for t in range(grid.t or 1)
            for patch, tokens in as_patches(canvas.read(area, t=t), shift, made.patch_size).items()
        }
        down, across = (
            corner * side // (scale * cells)
            for corner, side, cells in zip(stage.corner[1:], facts.patch_size, made.patch_size, strict=True)
        )
        return replace(made, known=known, corner=(stage.corner[0], down, across))


@dataclass(frozen=True, eq=False)
class _Known(Mapping[PatchIndex, Tensor]):
    """The tokens of a stage's known patches, read when they are asked for; ``ABSENT`` what of them is made again."""

    store: TokenView
    stage: Stage
    masks: Mapping[PatchIndex, Tensor]
    part: Remake

    def __getitem__(self, patch: PatchIndex) -> Tensor:
        """Return the tokens ``[B, rows, columns]`` of a patch."""
        position = self.stage.position(patch)
        tokens_BYX = self.store.patch(self.store.facts.stage.patch(position))
        if patch not in self.part.patches:
            if tokens_BYX is None:
                raise KeyError(patch)
            return tokens_BYX
        mask_YX = self.masks.get(position)
        if mask_YX is None or tokens_BYX is None:
            raise KeyError(patch)
        return torch.where(mask_YX, tokens_BYX, ABSENT)

    def __iter__(self) -> Iterator[PatchIndex]:
        return (planned.patch for planned in self.part.steps() if planned.patch in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def keep_coarse(canvas: Canvas, generation: Generation, request: GenerationRequest) -> None:
    """Keep the tokens of the coarse plan of the last stage, once all are drawn: an edit need not draw them again."""
    made, order = generation.plan and generation.plan.made(), generation.order.coarse
    if made is not None and order is not None:
        number = len(canvas.facts.stages) - 1
        canvas.keep_coarse(number, made, of=_told_of_coarse(canvas.facts, number, request, order))


def _told_of_coarse(facts: CanvasFacts, number: int, request: GenerationRequest, order: CoarseOrder) -> str:
    """Return a hash of what decides about the coarse plan of a stage, beside the models, which a canvas never swaps."""
    edits = [edit for edit in facts.how.get("edits", ()) if "grow" in edit][:number]
    texts = order.prompts and [request.prompt, request.prompt_each, request.guidance]
    said = [[asdict(stage) for stage in facts.stages[: number + 1]], facts.seeds, edits, texts]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def grown(facts: CanvasFacts, wish: Mapping[str, int]) -> Stage:
    """Return the stage after a growth."""
    stage, (rows, columns) = facts.stage, facts.patch_pixels
    corner, size, origin, patches = [stage.corner[0]], [], [], [(stage.grid.t or 1) + wish["frames"]]
    names = (("up", "down", rows), ("left", "right", columns))
    for axis, (before, after, side) in enumerate(names):
        length = (stage.size[axis] or 0) + wish[before] + wish[after]
        moved, start = divmod(stage.origin[axis] - wish[before], side)
        corner.append(stage.corner[1 + axis] + moved)
        size.append(length)
        origin.append(start)
        patches.append(-(-(start + length) // side))
    grid = PatchGrid(*patches, wrap=stage.grid.wrap)
    return Stage(grid, (corner[0], corner[1], corner[2]), (size[0], size[1]), (origin[0], origin[1]))


def begun(folder: str | os.PathLike[str], maker: CanvasMaker, request: GenerationRequest) -> Canvas:
    """Return the canvas of a request with nothing on it yet."""
    renderer = maker.renderer(request)
    order = maker.builder.order(request, direction=renderer.direction)
    if order.grid.endless or request.count != 1:
        raise UsageError("size", request.canvas_size, "give one image with two sides: it can be grown later")
    path = Path(folder)
    if path.exists():
        raise UsageError("canvas", path, "is there already: name a new one")
    store = Canvas(path)
    try:
        how = {**maker.how(request, order), **hashes(maker.builder)}
        store.begin(facts_of(order, renderer, maker.builder.tokenizer, how), request)
    except BaseException:
        store.remove()
        raise
    return store


def copied(folder: str | os.PathLike[str], maker: CanvasMaker, request: GenerationRequest, *, of: TokenView) -> Canvas:
    """Return a copy of a finished canvas; what was undone or made again is left out."""
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError("folder", folder, "is there already: name a new one")
    store = Canvas(path, option="folder")
    try:
        how = {name: value for name, value in of.facts.how.items() if name != "undo"} | hashes(maker.builder)
        store.begin(replace(of.facts, finished=False, log=0, how=how), request)
        store.put((patch, tokens_BYX) for patch in of.written() if (tokens_BYX := of.patch(patch)) is not None)
        store.amend(replace(store.facts, finished=True, log=store.length))
    except BaseException:
        store.remove()
        raise
    return store
