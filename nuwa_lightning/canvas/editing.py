"""A finished canvas: exported again and again, grown to any side, made again in part (ours).

Shape legend: B images of one canvas (one a seed), T frames, Y/X rows and columns.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor

from nuwa_lightning.canvas.canvas import Canvas
from nuwa_lightning.canvas.decoding import Pixels
from nuwa_lightning.canvas.facts import CanvasFacts, Stage
from nuwa_lightning.canvas.image_condition import ImageCondition
from nuwa_lightning.canvas.job import Generation, Order, Progress, Recorder, decoded, decoded_video, export
from nuwa_lightning.canvas.joint import JointBlend
from nuwa_lightning.canvas.memory import TokenStore
from nuwa_lightning.canvas.order_builder import OrderBuilder, batched
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.renderer import InfiniteRenderer, Rendering
from nuwa_lightning.models.nuwa_infinity import ABSENT
from nuwa_lightning.planning.dependents import Remake, remake
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import PlannedStep
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.request_fields import Expansion, InputImage
from nuwa_lightning.tokenizers.tiling import Rectangle

Box = tuple[int, int, int, int]
"""``(left, top, right, bottom)`` in pixels of the image, as Pillow's ``crop`` takes it."""


class CanvasMaker(Protocol):
    """What makes canvases: :class:`~nuwa_lightning.pipeline.NuwaInfinityPipeline`."""

    @property
    def builder(self) -> OrderBuilder:
        """What requests mean for its model."""
        ...

    def renderer(self, request: GenerationRequest) -> InfiniteRenderer:
        """Return the sampler that a request asks for."""
        ...


def hashes(builder: OrderBuilder) -> dict[str, str]:
    """Return what tells a model, the tokenizer of its tokens, and what decodes them from others."""
    model = hashlib.sha256()
    for name, tensor in sorted(builder.generator.model.state_dict().items()):
        model.update(name.encode())
        model.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    tokenizer, guided = builder.tokenizer, builder.pixel_guided
    whole: Callable[[], str] = getattr(tokenizer, "full_fingerprint", tokenizer.fingerprint)
    decoder = "".join([whole(), "" if guided is None else guided.fingerprint()])
    parts = {"model": model.hexdigest(), "tokenizer": tokenizer.fingerprint(), "decoder": decoder}
    return {name: value[:32] for name, value in parts.items()} | {
        "decoder": hashlib.sha256(decoder.encode()).hexdigest()[:32]
    }


@final
class FinishedCanvas:
    """A finished canvas, in memory or in a folder.

    It holds the pipeline that made it or opened it, so that nothing but a wish is needed here. Editing changes the
    canvas itself; tokens that are not made again stay equal to the bit, and an edit that fails leaves all of them.
    The decoded pixels of kept patches may change beside new ones, as far as the tokenizer's decoder sees.

    Args:
        store: its tokens.
        maker: the pipeline.
        request: how it was begun.
    """

    def __init__(self, store: TokenStore, maker: CanvasMaker, request: GenerationRequest) -> None:
        self._store, self._maker, self.request = store, maker, request

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        maker: CanvasMaker,
        *,
        max_pixels: int | None = None,
        option: str = "canvas",
    ) -> FinishedCanvas:
        """Return the canvas in a folder; no other process can open it before :meth:`close`.

        Args:
            folder: what ``generate --canvas`` or :meth:`save` wrote.
            maker: a pipeline of the model that made it.
            max_pixels: refuse a given image of more; None for 200 million.
            option: the option to name in errors.

        Raises:
            UsageError: if there is none, it is damaged, of another model, or another process has it open.
        """
        store = Canvas.open(Path(folder), option=option)
        try:
            how = store.facts.how
            _check_hashes(Path(folder), how, maker.builder, option)
            return cls(store, maker, _request_of(Path(folder), how, store.given(max_pixels=max_pixels), option))
        except BaseException:
            store.close()
            raise

    def save(self, folder: str | os.PathLike[str]) -> FinishedCanvas:
        """Write it into a new folder, and return the canvas there.

        Raises:
            UsageError: if the folder holds anything, or cannot be written.
        """
        facts = self._facts
        path = Path(folder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError("folder", folder, "is there already: name a new one")
        store = Canvas(path, option="folder")
        try:
            how = {**facts.how, **hashes(self._maker.builder)}
            store.begin(replace(facts, finished=False, log=0, how=how), self.request.image)
            store.put(
                (patch, tokens_BYX)
                for patch in self._store.written()
                if (tokens_BYX := self._store.patch(patch)) is not None
            )
            store.amend(replace(store.facts, finished=True, log=store.length))
        except BaseException:
            store.remove()
            raise
        return FinishedCanvas(store, self._maker, self.request)

    def close(self) -> None:
        """Let another process have the folder."""
        if isinstance(self._store, Canvas):
            self._store.close()

    def __enter__(self) -> FinishedCanvas:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def _facts(self) -> CanvasFacts:
        """What it is, if nothing is under way.

        Raises:
            UsageError: if it is being generated or grown.
        """
        facts = self._store.facts
        if not facts.finished:
            go_on = "generate with `resume`" if len(facts.stages) == 1 else "`resume`, or `undo`"
            raise UsageError("canvas", self._store.folder or "in memory", f"is not finished: go on by {go_on}")
        return facts

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self._facts.stage.size
        assert height is not None
        assert width is not None
        return width, height

    @property
    def frames(self) -> int:
        """How many; 1 for an image."""
        return self._facts.grid.t or 1

    @property
    def finished(self) -> bool:
        """Whether nothing is under way."""
        return self._store.facts.finished

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of its images."""
        return self._store.facts.seeds

    @property
    def seed(self) -> int:
        """That of its first image."""
        return self.seeds[0]

    @property
    def patch_pixels(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self._store.facts.patch_pixels

    @property
    def origin(self) -> tuple[int, int]:
        """Pixel row and column of the grid of patches at which the image begins."""
        return self._facts.stage.origin

    @property
    def tokens_TYX(self) -> Tensor:
        """The tokens of the whole grid of patches, of its first image."""
        facts = self._facts
        height, width = ((n or 0) * side for n, side in zip(facts.grid.shape[1:], facts.patch_size, strict=True))
        area = Rectangle(0, 0, height, width)
        return torch.stack([self._store.read(area, t=t) for t in range(self.frames)])

    def info(self) -> dict[str, Any]:
        """Return what it is and how it was made, as plain JSON; edits in their order."""
        facts = self._facts
        folder = self._store.folder
        said: dict[str, Any] = {"size": list(self.size), "frames": self.frames, "patches": facts.grid.size}
        said |= {"patch": list(facts.patch_pixels[::-1]), "seeds": list(facts.seeds), "wrap": facts.grid.wrap}
        said |= {"task": self.request.task, "request": dict(facts.how["request"]), "edits": self.edits}
        said |= {name: facts.how[name] for name in ("model", "tokenizer", "decoder", "versions") if name in facts.how}
        if folder is not None:
            said["bytes"] = sum(path.stat().st_size for path in folder.iterdir())
        return said

    @property
    def edits(self) -> list[Mapping[str, Any]]:
        """What was done to it since it was generated."""
        return list(self._store.facts.how.get("edits", ()))

    # -- pixels -------------------------------------------------------------------------------------------------------

    def pixels(self, number: int = 0) -> Iterator[Pixels]:
        """Yield the pixels of an image, or of each frame of a video, uint8 ``[Y, X, 3]``; all of it in memory."""
        order = self._order()
        if order.video is not None:
            yield from decoded_video(self._store, order, number=number)
            return
        yield decoded(self._store, self._maker.builder.tokenizer, order, number=number).rows(0, self.size[1])

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        number: int = 0,
        overwrite: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write an image (a video) to a file; memory does not grow with its height (its frames).

        Args:
            path: the suffix picks the format: ``.png``, ``.jpg``, ``.webp``, ``.tif``, ``.dzi``, ``.zarr``; of videos
                ``.mp4``, ``.gif``, ``.webp``, ``.frames``.
            number: which of the images.
            overwrite: replace an output of this program that is there.
            progress: told how many rows (frames) were taken.

        Raises:
            UsageError: if the format cannot hold it or the file cannot be written.
        """
        facts = self._facts
        if not 0 <= number < len(facts.seeds):
            raise UsageError("number", number, f"the canvas holds {len(facts.seeds)} images, counted from 0")
        metadata = {**facts.how["metadata"][number], "size": list(self.size)}
        if self.edits:
            metadata["edits"] = self.edits
        tokenizer, order = self._maker.builder.tokenizer, self._order()
        options: dict[str, Any] = {"number": number, "overwrite": overwrite, "progress": progress}
        export(self._store, tokenizer, order, Path(path), metadata=metadata, **options)

    # -- edits --------------------------------------------------------------------------------------------------------

    def dependents(self, box: Box, *, frames: tuple[int, int] | None = None) -> frozenset[PatchIndex]:
        """Return the patches that :meth:`redo` makes again: those that a box touches, and all that depend on them."""
        found: set[PatchIndex] = set()
        for _ in self._remakes(self._touched(box, frames), found):
            pass
        return frozenset(map(self._facts.stage.patch, found))

    def redo(
        self,
        box: Box,
        *,
        seed: int,
        frames: tuple[int, int] | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> FinishedCanvas:
        """Make the patches that a box touches again with another seed, together with exactly what depends on them.

        What was made after a patch and saw it, directly or through others, depends on it: with the usual orders what
        lies beyond it in the direction of travel. Everything else stays. Given pixels are never made again. Killed at
        any moment, the canvas is what it was.

        Args:
            box: ``(left, top, right, bottom)`` in pixels.
            seed: of the first image; the next has the next one.
            frames: first and last (excluded) of a video; None for all.
            callback: told of the progress.

        Raises:
            UsageError: if there is nothing in the box that could be made again.
        """
        facts, store = self._facts, self._store
        renderer, found = self._maker.renderer(self.request), set[PatchIndex]()
        seeds, patches = range(seed, seed + len(facts.seeds)), 0
        try:
            for number, part in self._remakes(self._touched(box, frames), found):
                stage, order = facts.stages[number], self._order(number, part=part, texts=True)
                rendering = Rendering(
                    renderer,
                    order.grid,
                    seeds=seeds,
                    known=order.known,
                    prompts=order.prompts,
                    walked=part.steps,
                    corner=stage.corner,
                )
                for wave in rendering:
                    store.put(
                        (facts.stage.patch(stage.position(done.patch)), done.tokens_BYX)
                        for done in wave
                        if not done.known
                    )
                    patches += len(wave)
                    if callback is not None:
                        callback(Progress(patches, wave[-1].wave * len(seeds), wave[-1].live))
            if not found:
                raise UsageError("box", box, "holds given pixels alone: choose one that holds others")
            edit = {"redo": list(box), "seed": seed, "patches": len(found)} | (
                {"frames": list(frames)} if frames else {}
            )
            store.amend(_edited(replace(facts, log=store.length), edit))
        except BaseException:
            store.load()
            raise
        return self

    def grow(
        self,
        *,
        left: int = 0,
        right: int = 0,
        up: int = 0,
        down: int = 0,
        frames: int = 0,
        callback: Callable[[Progress], None] | None = None,
        record_every: float = 10.0,
        stop: Callable[[], bool] = lambda: False,
    ) -> FinishedCanvas:
        """Make it larger; the patches that are there are known.

        New patches are drawn with the canvas' seed, by their position: growing in two steps or on another day changes
        no random number. To the right in the order omega, and down in zeta, the result is what the larger size would
        have been at once, as long as what was there ends with a whole patch; on other sides it is another image. Where
        a given image ends inside a patch on a side that grows, that patch is completed.

        In a folder a kill or Ctrl-C leaves a canvas that is not finished: :meth:`resume` goes on to the same bits,
        :meth:`undo` goes back. In memory the canvas is then what it was.

        Args:
            left: so many pixels more on this side, and so on.
            right: see ``left``.
            up: see ``left``.
            down: see ``left``.
            frames: so many more of a video.
            callback: told of the progress.
            record_every: seconds between states on the disk at least.
            stop: asked after each wave whether to stop for now.

        Raises:
            UsageError: if it cannot grow there.
        """
        facts = self._facts
        wish = {"left": left, "right": right, "up": up, "down": down, "frames": frames}
        self._check_growth(wish)
        stage = _grown(facts, wish)
        edit = {"grow": {name: n for name, n in wish.items() if n}}
        stages = (*facts.stages, stage)
        self._store.amend(_edited(replace(facts, stages=stages, finished=False, log=self._store.length), edit))
        try:
            return self.resume(callback=callback, record_every=record_every, stop=stop)
        except BaseException:
            if not isinstance(self._store, Canvas):
                self.undo()
            raise

    def resume(
        self,
        *,
        callback: Callable[[Progress], None] | None = None,
        record_every: float = 10.0,
        stop: Callable[[], bool] = lambda: False,
        earlier: bool = False,
    ) -> FinishedCanvas:
        """Go on with growing where it stopped; arguments as for :meth:`grow`, ``earlier``: pass over a damaged state.

        Raises:
            UsageError: if nothing is under way, or a state is damaged.
        """
        store, facts = self._store, self._store.facts
        if facts.finished or len(facts.stages) == 1:
            hint = "is finished" if facts.finished else "is being generated: go on by `generate` with `resume`"
            raise UsageError("canvas", store.folder or "in memory", f"{hint}, there is no growth to go on with")
        last = len(facts.stages) - 1
        folder = store if isinstance(store, Canvas) else None
        state = folder.latest(earlier=earlier) if folder else None
        part = remake(self._walk(last), lambda _: True, reach=self._reach)
        renderer = self._maker.renderer(self.request)
        order = self._order(last, part=part, texts=True)
        generation = Generation(order, renderer, store, state=state, walked=part.steps)

        def commit() -> None:
            if folder is not None:
                folder.commit(generation.state({"patches": generation.patches, "patches_of": len(part.steps)}))

        recorder = Recorder(record_every, commit)
        for progress in generation:
            if callback is not None:
                callback(progress)
            if stop():
                commit()
                return self
            recorder()
        store.amend(replace(facts, finished=True, log=store.length))
        return self

    def undo(self) -> FinishedCanvas:
        """Go back to the canvas before a growth that is not finished.

        Raises:
            UsageError: if none is under way.
        """
        facts = self._store.facts
        if facts.finished or len(facts.stages) == 1:
            raise UsageError(
                "canvas", self._store.folder or "in memory", "is not being grown: there is nothing to undo"
            )
        how = {**facts.how, "edits": self.edits[:-1]}
        self._store.load()
        self._store.amend(replace(facts, stages=facts.stages[:-1], finished=True, how=how))
        self._store.load()
        return self

    # -- how ----------------------------------------------------------------------------------------------------------

    @property
    def _reach(self) -> int:
        return self._maker.builder.generator.model.num_layers + 1

    def _check_growth(self, wish: Mapping[str, int]) -> None:
        for name, n in wish.items():
            if n < 0:
                raise UsageError(
                    name, n, "give how many more, from 0 up: a canvas does not shrink, an image can be cropped"
                )
        closed = "".join(
            axis for axis, sides in (("x", ("left", "right")), ("y", ("up", "down"))) if any(wish[s] for s in sides)
        )
        for axis in set(closed) & set(self._facts.grid.wrap):
            raise UsageError("grow", f"along {axis}", "the canvas is closed there: grow it along the other axis")
        if wish["frames"] and not self.request.video:
            raise UsageError("frames", wish["frames"], "the canvas is an image: grow it to a side")
        if not any(wish.values()):
            raise UsageError("grow", "nothing", "say how many pixels: `left`, `right`, `up` or `down`")

    def _touched(self, box: Box, frames: tuple[int, int] | None) -> Callable[[PatchIndex], bool]:
        """Return whether the patch at a position of the lattice is one that a box touches."""
        stage, (rows, columns) = self._facts.stage, self._facts.patch_pixels
        (left, top, right, bottom), (width, height) = box, self.size
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            hint = f"give left,top,right,bottom in pixels, inside the {width}x{height} of the canvas"
            raise UsageError("box", ",".join(map(str, box)), hint)
        first, last = frames or (0, self.frames)
        if not 0 <= first < last <= self.frames:
            raise UsageError(
                "frames", f"{first},{last}", f"give the first and the last, inside the {self.frames} there are"
            )
        y0, x0 = stage.origin
        down = range((top + y0) // rows, -(-(bottom + y0) // rows))
        across = range((left + x0) // columns, -(-(right + x0) // columns))
        spans = (range(first, last), down, across)
        return lambda position: all(place in span for place, span in zip(stage.patch(position), spans, strict=True))

    def _remakes(self, touched: Callable[[PatchIndex], bool], found: set[PatchIndex]) -> Iterator[tuple[int, Remake]]:
        """Yield the stages of which something has to be made again, and what; ``found`` gets the positions."""
        for number, stage in enumerate(self._facts.stages):

            def chosen(patch: PatchIndex, stage: Stage = stage) -> bool:
                return touched(stage.position(patch))

            def changed(patch: PatchIndex, stage: Stage = stage) -> bool:
                return stage.position(patch) in found

            part = remake(self._walk(number), chosen, changed=changed, reach=self._reach)
            found.update(map(stage.position, part.patches))
            if part.patches:
                yield number, part

    def _walk(self, number: int) -> Iterator[PlannedStep]:
        """Yield the steps of a stage; of an endless one, until all that was kept is made."""
        facts = self._store.facts
        stage = facts.stages[number]
        walked = self._maker.renderer(self.request).walk(stage.grid, self._wholes(number))
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
        stages = self._store.facts.stages
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
        stage = self._store.facts.stages[number]
        condition = self._condition(stage)
        return {} if condition is None else {stage.position(patch): mask for patch, mask in condition.masks.items()}

    def _condition(self, stage: Stage) -> ImageCondition | None:
        """Return the given image on the canvas as it was in a stage."""
        image = self.request.image
        if image is None:
            return None
        facts, expand = self._store.facts, self.request.expand or Expansion()
        first, sides, spare = facts.stages[0], facts.patch_pixels, []
        starts = (first.origin[0] + expand.up, first.origin[1] + expand.left)
        for axis, start in enumerate(starts):
            corner = stage.corner[1 + axis] * sides[axis] + stage.origin[axis]
            size = stage.size[axis]
            assert size is not None
            spare.append((start - corner, corner + size - start - image.pixels_YX3.shape[axis]))
        return ImageCondition(
            image.pixels_YX3,
            holes_YX=image.holes_YX,
            expansion=Expansion(left=spare[1][0], right=spare[1][1], up=spare[0][0], down=spare[0][1]),
            tokenizer=self._maker.builder.tokenizer,
            patch_size=facts.patch_size,
            blend=0 if self.request.video else self.request.blend,
            phase=(starts[0] % sides[0], starts[1] % sides[1]),
        )

    def _order(self, number: int = -1, *, part: Remake | None = None, texts: bool = False) -> Order:
        """Return the order of a stage: how it is finished and, if wished, what is known and which texts are read."""
        facts, request, builder = self._store.facts, self.request, self._maker.builder
        stage, factor = facts.stages[number], self._maker.builder.tokenizer.downsample_factor
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
            order = replace(order, known=_Known(self._store, stage, self._masks(number), part))
        if texts:  # by the canvas as it was begun: what was added since reads what its nearest place does
            first = facts.stages[0]
            begun = Order(first.grid, (request.seed,), first.size, first.origin)
            begun = replace(begun, prompts=builder.prompts(request, begun))
            prompts = batched(begun, facts.seeds, first=facts.seeds[0] - request.seed).prompts
            if prompts is not None:
                choose = prompts.choose
                prompts = replace(prompts, choose=lambda patch: choose(stage.position(patch)))
            order = replace(order, prompts=prompts)
        return order


@dataclass(frozen=True, eq=False)
class _Known(Mapping[PatchIndex, Tensor]):
    """The tokens of a stage's known patches, read when they are asked for; ``ABSENT`` what of them is made again.

    Attributes:
        store: the canvas as it is.
        stage: whose patches these are.
        masks: the given tokens, by position.
        part: what is made again.
    """

    store: TokenStore
    stage: Stage
    masks: Mapping[PatchIndex, Tensor]
    part: Remake

    def __getitem__(self, patch: PatchIndex) -> Tensor:
        """Return the tokens ``[B, rows, columns]`` of a patch.

        Raises:
            KeyError: if nothing of it is known.
        """
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
        return (planned.patch for planned in self.part.steps if planned.patch in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _edited(facts: CanvasFacts, edit: Mapping[str, Any]) -> CanvasFacts:
    return replace(facts, how={**facts.how, "edits": [*facts.how.get("edits", ()), edit]})


def _grown(facts: CanvasFacts, wish: Mapping[str, int]) -> Stage:
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


def _check_hashes(folder: Path, how: Mapping[str, Any], builder: OrderBuilder, option: str) -> None:
    found = hashes(builder)
    for name in ("model", "tokenizer", "decoder"):
        if how.get(name) != found[name]:
            hint = f"was made with another {name} than that of {builder.name}: open it with the run that made it"
            raise UsageError(option, folder, hint)


def _request_of(folder: Path, how: Mapping[str, Any], image: InputImage | None, option: str) -> GenerationRequest:
    try:
        options = {name: v for name, v in dict(how["request"]).items() if name not in ("image", "mask")}
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
        if image is not None:
            options |= {"image": image.pixels_YX3, "mask": image.holes_YX}
        return GenerationRequest.from_options(options)
    except (UsageError, KeyError, TypeError, ValueError) as error:
        hint = f"does not say how it was made ({error}): name a folder that --canvas made"
        raise UsageError(option, folder, hint) from error
