"""A finished canvas: exported again and again, grown to any side, made again in part (ours).

Shape legend: B images of one canvas (one a seed), T frames, Y/X rows and columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from nuwa_lightning.canvas.canvas import Canvas
from nuwa_lightning.canvas.decoding import Pixels
from nuwa_lightning.canvas.edits import Boxes, Candidate, check_growth, edited, steered, taken_back, touched, where
from nuwa_lightning.canvas.facts import CanvasFacts
from nuwa_lightning.canvas.history import CanvasMaker, History, begun, copied, grown, keep_coarse
from nuwa_lightning.canvas.job import Progress, Recorder, decoded, decoded_video, export
from nuwa_lightning.canvas.keeping import check_hashes, hashes, kept_request
from nuwa_lightning.canvas.memory import TokenStore
from nuwa_lightning.canvas.remaking import last_stage, remade
from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.tokenizers.tiling import Rectangle
from nuwa_lightning.writers import Writer


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
        self._history = History(store, maker, request)

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
            UsageError: if there is none, it is damaged, of another model or other tokens, or another process has it
                open.
        """
        store = Canvas.open(Path(folder), option=option)
        try:
            how = store.facts.how
            check_hashes(store.folder, how, hashes(maker.builder), of=maker.builder.name, option=option)
            return cls(store, maker, kept_request(store.folder, how, max_pixels=max_pixels, option=option))
        except BaseException:
            store.close()
            raise

    @classmethod
    def begin(cls, folder: str | os.PathLike[str], maker: CanvasMaker, request: GenerationRequest) -> FinishedCanvas:
        """Return the canvas of a request in a new folder, with nothing on it yet: :meth:`resume` generates it.

        Raises:
            UsageError: if the model cannot, the canvas is endless, or the folder is there and cannot be taken.
        """
        return cls(begun(folder, maker, request), maker, request)

    def save(self, folder: str | os.PathLike[str]) -> FinishedCanvas:
        """Write it into a new folder, and return the canvas there.

        Raises:
            UsageError: if the folder holds anything, or cannot be written.
        """
        self._facts  # noqa: B018  # refuses one that is not finished
        return FinishedCanvas(copied(folder, self._maker, self.request, of=self._store), self._maker, self.request)

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
            first = "identity" in facts.how and len(facts.stages) == 1
            go_on = "generate with `resume`" if first else "`resume`, or `undo`"
            raise UsageError("canvas", where(self._store.folder), f"is not finished: go on by {go_on}")
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
        order = self._history.order()
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
        writer: Writer | str | None = None,
    ) -> None:
        """Write an image (a video) to a file; memory does not grow with its height (its frames).

        Args:
            path: the suffix picks the format: ``.png``, ``.jpg``, ``.webp``, ``.tif``, ``.dzi``, ``.zarr``; of videos
                ``.mp4``, ``.gif``, ``.webp``, ``.frames``.
            number: which of the images.
            overwrite: replace an output of this program that is there.
            progress: told how many rows (frames) were taken.
            writer: one of your own, or its class path; by default the suffix decides.

        Raises:
            UsageError: if the format cannot hold it or the file cannot be written.
        """
        facts = self._facts
        if not 0 <= number < len(facts.how["metadata"]):
            raise UsageError("number", number, f"the canvas holds {len(facts.seeds)} images, counted from 0")
        metadata = {**facts.how["metadata"][number], "size": list(self.size)}
        if self.edits:
            metadata["edits"] = self.edits
        tokenizer, order = self._maker.builder.tokenizer, self._history.order()
        options: dict[str, Any] = {"number": number, "overwrite": overwrite, "progress": progress, "writer": writer}
        export(self._store, tokenizer, order, Path(path), metadata=metadata, **options)

    # -- edits --------------------------------------------------------------------------------------------------------

    def dependents(self, box: Boxes, *, frames: tuple[int, int] | None = None) -> frozenset[PatchIndex]:
        """Return the patches that :meth:`redo` makes again: those that a box touches, and all that depend on them."""
        remakes = self._history.remakes(touched(self._facts, box, frames))
        return frozenset(self._facts.stage.patch(position) for *_, positions in remakes for position in positions)

    def redo(
        self,
        box: Boxes,
        *,
        seed: int,
        frames: tuple[int, int] | None = None,
        options: Mapping[str, Any] | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> FinishedCanvas:
        """Make the patches that a box touches again with another seed, together with exactly what depends on them.

        What was made after a patch and saw it, directly or through others, depends on it: with the usual orders what
        lies beyond it in the direction of travel. Everything else stays. Given pixels are never made again. Killed at
        any moment, the canvas is what it was.

        Args:
            box: ``(left, top, right, bottom)`` in pixels, or several of them.
            seed: of the first image; the next has the next one.
            frames: first and last (excluded) of a video; None for all.
            options: what of ``prompt``, ``temperature``, ``top_k``, ``top_p`` and ``guidance`` is to be otherwise than
                when the canvas was begun, for all that is made again.
            callback: told of the progress; what it raises leaves the canvas as it was.

        Raises:
            UsageError: if there is nothing in the box that could be made again.
        """
        facts, store = self._facts, self._store
        made = self._remade(box, seed, frames, options, callback)
        try:
            store.amend(edited(replace(facts, log=store.length), made.edit, before=self._counted))
        except BaseException:
            store.load()
            raise
        return self

    def candidate(
        self,
        box: Boxes,
        *,
        seed: int,
        frames: tuple[int, int] | None = None,
        options: Mapping[str, Any] | None = None,
        callback: Callable[[Progress], None] | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> Candidate:
        """Return what :meth:`redo` would make, for :meth:`keep`; the canvas is then what it was.

        Arguments and errors as of :meth:`redo`; ``look`` is called while the canvas holds what was made.
        """
        made = self._remade(box, seed, frames, options, callback)
        try:
            look()
        finally:
            self._store.load()
        return made

    def keep(self, candidate: Candidate) -> FinishedCanvas:
        """Take a candidate; nothing may have been edited since it was made.

        Raises:
            UsageError: if something was.
        """
        facts, store = self._facts, self._store
        if candidate.of != tuple(self.edits):
            raise UsageError("candidate", candidate.edit["seed"], "is of another canvas by now: make it again")
        try:
            store.put(candidate.tokens.items())
            store.amend(edited(replace(facts, log=store.length), candidate.edit, before=self._counted))
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
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        callback: Callable[[Progress], None] | None = None,
        record_every: float = 10.0,
        stop: Callable[[], bool] = lambda: False,
    ) -> FinishedCanvas:
        """Make it larger; the patches that are there are known.

        New patches are drawn with the canvas' seed, by their position: growing in two steps or on another day changes
        no random number. To the right in the order omega, and down in zeta, by a model without a coarse plan, the
        result is what the larger size would have been at once, as long as what was there ends with a whole patch;
        otherwise it is another image. Where a given image ends inside a patch on a side that grows, that patch is
        completed.

        In a folder a kill or Ctrl-C leaves a canvas that is not finished: :meth:`resume` goes on to the same bits,
        :meth:`undo` goes back. In memory the canvas is then what it was.

        Args:
            left: so many pixels more on this side, and so on.
            right: see ``left``.
            up: see ``left``.
            down: see ``left``.
            frames: so many more of a video.
            seed: of what is new, of the first image; None for that of the canvas.
            options: what is to be otherwise than when the canvas was begun; see :meth:`redo`.
            callback: told of the progress.
            record_every: seconds between states on the disk at least.
            stop: asked after each wave whether to stop for now.

        Raises:
            UsageError: if it cannot grow there.
        """
        facts = self._facts
        self._check_plan()
        if self.request.plan is not None and self._maker.builder.coarse is None:
            hint = "beyond its image the plan would have to be generated, and there is no model of coarse plans"
            raise UsageError("canvas", where(self._store.folder), hint)
        wish = {"left": left, "right": right, "up": up, "down": down, "frames": frames}
        check_growth(facts, wish, video=self.request.video)
        steered(self.request, options or {})
        stage = grown(facts, wish)
        edit: dict[str, Any] = {"grow": {name: n for name, n in wish.items() if n}}
        edit |= {"options": dict(options)} if options else {}
        edit |= {} if seed is None else {"seed": seed}
        started = replace(facts, stages=(*facts.stages, stage), finished=False, log=self._store.length)
        self._store.amend(edited(started, edit, before=self._counted))
        try:
            return self.resume(callback=callback, record_every=record_every, stop=stop)
        except BaseException:
            if not isinstance(self._store, Canvas) or self._store.length == started.log:  # nothing was made
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
        """Go on where it stopped; arguments as for :meth:`grow`, ``earlier``: pass over a damaged state.

        Raises:
            UsageError: if nothing is under way, or a state is damaged.
        """
        store, facts = self._store, self._store.facts
        if facts.finished or ("identity" in facts.how and len(facts.stages) == 1):
            hint = "is finished" if facts.finished else "is being generated: go on by `generate` with `resume`"
            raise UsageError("canvas", where(store.folder), f"{hint}, there is no growth to go on with")
        folder = store if isinstance(store, Canvas) else None
        state = folder.latest(earlier=earlier) if folder else None
        try:
            generation, count = last_stage(self._store, self._history, state)
        except (ValueError, LookupError, TypeError) as error:
            if isinstance(error, UsageError) or state is None:
                raise
            hint = f"the state on the disk does not fit it ({error!r:.100}): go back by `undo`"
            raise UsageError("canvas", where(store.folder), hint) from error

        def commit() -> None:
            if folder is not None:
                folder.commit(generation.state({"patches": generation.patches, "patches_of": count}))

        recorder = Recorder(record_every, commit)
        for progress in generation:
            if callback is not None:
                callback(progress)
            if stop():
                commit()
                return self
            recorder()
        if folder is not None and "options" not in (self.edits or [{}])[-1]:
            keep_coarse(folder, generation, self.request)
        store.amend(replace(facts, finished=True, log=store.length))
        return self

    def undo(self) -> FinishedCanvas:
        """Go back to the canvas before the last edit; in memory, before a growth that is not finished.

        Raises:
            UsageError: if there is none.
        """
        before = taken_back(self._store.facts)
        if before is None:
            hint = "is not being grown: there is nothing to undo"
            if isinstance(self._store, Canvas):
                hint = "was not edited since it was generated: there is nothing to undo"
            raise UsageError("canvas", where(self._store.folder), hint)
        self._store.load()
        self._store.amend(before)
        self._store.load()
        return self

    # -- how ----------------------------------------------------------------------------------------------------------

    @property
    def _counted(self) -> int | None:
        """How many records count now; None in memory."""
        return self._store.facts.log if isinstance(self._store, Canvas) else None

    def _remade(self, box: Boxes, seed: int, *more: Any) -> Candidate:
        self._check_plan()
        return remade(self._store, self._history, box, seed, *more)

    def _check_plan(self) -> None:
        if "plan" in self._facts.how["request"] and self.request.plan is None:
            folder = where(self._store.folder)
            raise UsageError("canvas", folder, "the image that was its plan is not kept here: generate it anew")
