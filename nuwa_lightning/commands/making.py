"""Files in the making: a canvas is generated and exported, through kills, signals and full disks."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuwa_lightning.atomic import short_name
from nuwa_lightning.canvas.canvas import Canvas
from nuwa_lightning.canvas.facts import CanvasState, Stage, differences, told
from nuwa_lightning.canvas.history import keep_coarse
from nuwa_lightning.canvas.job import Generation, Order, Progress, Recorder, cut_order, export, facts_of, lead
from nuwa_lightning.canvas.preview import CanvasPreview
from nuwa_lightning.errors import LawError, UsageError
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.signals import ONE_STOP, STOPPING
from nuwa_lightning.writers import check_output, read_metadata, sweep

if TYPE_CHECKING:
    from nuwa_lightning.generation.renderer import InfiniteRenderer
    from nuwa_lightning.tokenizers.base import Tokenizer
    from nuwa_lightning.writers.preview import GrowingPreview

ExportBar = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]
"""Begins to show how many rows or frames (the second argument) of so many are written; gives what is told of each."""
_LONGEST_NAME = 240
"""Bytes of an output's name that its canvas repeats: file systems hold 255."""


@dataclass(frozen=True)
class Job:
    """What is to be made, and where.

    Attributes:
        order: what.
        outputs: the file of each canvas.
        metadata: how each is made, as it is stored in the file.
        identity: what must not change between a run and its resumption.
        versions: of libraries; when they change a run may go on, though perhaps not to the same bits.
        overwrite: replace files that are there, finished or not.
        resume: ``last`` or ``earlier`` to go on with what an earlier run left.
        record_every: seconds between states on the disk at least; 0 makes one after each wave, whatever it costs.
        waves: where an endless canvas stops by itself.
        preview: a small image of the first canvas that grows with it.
        note: told to the user.
        canvas: a folder that keeps the canvas; by default it lies beside the first output until that is finished.
        kept: what else a canvas that is kept says of how it is made.
        request: of a canvas that is kept, whose given pixels are kept, too.
    """

    order: Order
    outputs: tuple[Path, ...]
    metadata: tuple[Mapping[str, Any], ...]
    identity: Mapping[str, Any]
    versions: Mapping[str, str]
    overwrite: bool = False
    resume: str | None = None
    record_every: float = 10.0
    waves: int | None = None
    preview: GrowingPreview | None = None
    note: Callable[[str], None] = field(default=lambda _: None)
    canvas: Path | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    request: GenerationRequest | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    status: int
    size: tuple[int | None, int | None]
    patches: int


def make(
    job: Job,
    renderer: InfiniteRenderer,
    tokenizer: Tokenizer,
    *,
    watch: Callable[[Progress], None],
    begun: Callable[[int], None] = lambda _: None,
    export_bar: ExportBar = lambda _, __: nullcontext(lambda _: None),
) -> Outcome:
    """Make the files, from the beginning or from where the canvas of an earlier run stands.

    ``watch`` is told after each wave, ``begun`` once how many patches were there already; ``export_bar`` shows how far
    each file is, once all patches are there.
    """
    canvas, state = _opened(job)
    if canvas is None:
        lead(renderer, begun=False)
        job.note(f"{job.outputs[0]}: finished already")
        return Outcome(0, job.order.size[::-1], 0)
    try:
        return _Runner(job, canvas, state, export_bar).run(renderer, tokenizer, watch=watch, begun=begun)
    finally:
        canvas.close()


def canvas_folder(output: Path) -> Path:
    """Return where the canvas of an output lies that is not kept."""
    return output.with_name(f"{short_name(output.name, longest=_LONGEST_NAME)}.canvas")


def _opened(job: Job) -> tuple[Canvas | None, CanvasState | None]:
    """Return the canvas, and the state to go on from; no canvas where everything is finished already."""
    first = job.outputs[0]
    folder = job.canvas or canvas_folder(first)
    there = folder.exists()
    canvas = Canvas(folder, option="canvas" if job.canvas else "output")
    try:
        if canvas.begun and not job.overwrite and _is_kept(canvas):
            if not job.resume or canvas.facts.how.get("edits") or not all(map(Path.exists, job.outputs)):
                hint = "holds a canvas already: `canvas export` makes files of it; --overwrite makes a new one"
                raise UsageError("canvas", canvas.folder, hint)
            canvas.close()
            return None, None
        return _checked(job, canvas)
    except UsageError:
        if there or canvas.begun:
            canvas.close()
        else:
            canvas.remove()
        raise


def _checked(job: Job, canvas: Canvas) -> tuple[Canvas | None, CanvasState | None]:
    first = job.outputs[0]
    if not canvas.begun:
        finished = all(
            out.exists() and _finished(out, said) for out, said in zip(job.outputs, job.metadata, strict=True)
        )
        if job.resume and finished:  # killed, perhaps, while the canvas was being removed
            canvas.remove()
            return None, None
        for output in job.outputs:  # under the lock: another process may have finished it since
            check_output(output, overwrite=job.overwrite, video=job.order.video is not None)
        if job.resume:
            job.note(f"{first}: nothing to go on from, this is the beginning")
        return canvas, None
    if not job.resume:
        if not job.overwrite:
            there = f"an unfinished run of it is there{_how_far(canvas)}"
            hint = f"{there}: give --resume to go on, --overwrite to start again"
            raise UsageError("output", first, hint)
        return canvas, None
    canvas.load()
    before = canvas.facts.how
    found = differences(before.get("identity", {}), job.identity)
    if found:
        hint = f"{'; '.join(found)}: give what it was, or --overwrite to start again"
        raise UsageError("resume", canvas.folder, hint)
    for difference in differences(before["versions"], job.versions):
        job.note(f"note: {difference}: what is generated from here on may differ from an uninterrupted run")
    return canvas, canvas.latest(earlier=job.resume == "earlier")


def _is_kept(canvas: Canvas) -> bool:
    """Say whether a canvas is finished, or is being grown."""
    try:
        canvas.load()
    except UsageError:
        return False
    return canvas.facts.finished or len(canvas.facts.stages) > 1


def _how_far(canvas: Canvas) -> str:
    try:
        canvas.load()
        state = canvas.latest()
    except UsageError:
        return ""
    return f" ({told(state.facts)})" if state else ""


def _finished(output: Path, metadata: Mapping[str, Any]) -> bool:
    """Say whether a file is the image that is to be made; an endless one may have been stopped anywhere."""
    try:
        found = read_metadata(output)
    except UsageError:
        return False
    return bool(found) and _named(found) == _named(metadata)


def _named(metadata: Mapping[str, Any]) -> object:
    options = {name: value for name, value in metadata.get("options", {}).items() if name != "waves"}
    return json.loads(json.dumps({**metadata, "options": options, "size": None}))


class _Stopped(Exception):
    """A signal came while a file was written."""


class _Runner:
    """One run of a job."""

    def __init__(self, job: Job, canvas: Canvas, state: CanvasState | None, export_bar: ExportBar) -> None:
        self._job, self._canvas, self._state, self._export_bar = job, canvas, state, export_bar
        self._safe: Mapping[str, Any] = state.facts if state else {}
        self._overwrite = bool(self._safe.get("overwrite", job.overwrite))
        self._preview: CanvasPreview | None = None

    def run(
        self,
        renderer: InfiniteRenderer,
        tokenizer: Tokenizer,
        *,
        watch: Callable[[Progress], None],
        begun: Callable[[int], None],
    ) -> Outcome:
        """Make the files; see :func:`make`."""
        ended = "ended" in self._safe
        generation = None if ended else self._start(renderer, tokenizer)
        for output in self._job.outputs:  # of runs that were killed, or are given up now
            sweep(output)
        lead(renderer, self._state, begun=not ended)
        begun(generation.patches if generation else self._canvas.patches)
        with signals() as caught:
            try:
                if generation is not None:
                    outcome = self._generate(generation, watch, caught)
                    if outcome is not None:
                        return outcome
                    generation = None  # the live states and the model's copy go before pixels come
                return self._export(tokenizer, caught)
            except _Stopped:
                return self._stopped(caught[0])
            except LawError:  # a fault of the strategy: going on would meet it again
                self._canvas.remove()
                raise
            except UsageError as error:
                hint = f"{error.hint}; {told(self._safe)} are safe, go on with --resume"
                raise UsageError(error.option, error.value, hint) from error

    def _start(self, renderer: InfiniteRenderer, tokenizer: Tokenizer) -> Generation:
        job, state, canvas = self._job, self._state, self._canvas
        try:
            if state is None:
                how = {"identity": dict(job.identity), "versions": dict(job.versions), "metadata": [*job.metadata]}
                canvas.begin(facts_of(job.order, renderer, tokenizer, {**how, **job.kept}), job.request)
            generation = Generation(job.order, renderer, canvas, state=state)
        except BaseException as error:
            if state is None:
                canvas.remove()
                raise
            if not isinstance(error, ValueError) or isinstance(error, UsageError):
                raise
            hint = f"{error}: what decides about the order has changed; --overwrite starts again"
            raise UsageError("resume", canvas.folder, hint) from error
        if job.preview is not None:
            self._preview = CanvasPreview(job.preview, canvas, tokenizer, job.order)
        if state is None:
            self._commit(generation)
        return generation

    def _generate(self, generation: Generation, watch: Callable[[Progress], None], caught: list[int]) -> Outcome | None:
        """Fill the canvas; returns an outcome if that is the end of it."""
        job, endless = self._job, self._job.order.grid.endless
        recorder = Recorder(job.record_every, lambda: self._commit(generation))
        for progress in generation:
            watch(progress)
            if caught or generation.waves == job.waves:
                generation.stop()
                break
            recorder()
        if caught and not endless:
            self._commit(generation)
            return self._stopped(caught[0])
        ended = {"waves": generation.waves, "length": generation.length if endless else 0, "exported": 0}
        if self._cut(ended) is None:
            self._canvas.remove()
            job.note(f"{job.outputs[0]}: stopped before there was anything to keep")
            return Outcome(130, job.order.size[::-1], generation.patches)
        if job.canvas is not None and job.request is not None:
            keep_coarse(self._canvas, generation, job.request)
        self._commit_end(ended)
        return None

    def _stopped(self, number: int) -> Outcome:
        job = self._job
        job.note(f"{job.outputs[0]}: stopped after {told(self._safe)}; go on with --resume")
        return Outcome(128 + number, job.order.size[::-1], self._canvas.patches)

    def _export(self, tokenizer: Tokenizer, caught: list[int]) -> Outcome:
        """Write the files of a finished canvas, those that are not there yet."""
        job, ended = self._job, dict(self._safe["ended"])
        order, before = self._cut(ended), len(caught)
        assert order is not None
        size, canvas = order.size, self._canvas

        assert size[0] is not None
        parts = (size[0], "row") if order.video is None else (order.grid.t or 0, "frame")
        written = []
        for number, output in enumerate(job.outputs):
            metadata = dict(job.metadata[number])
            if job.order.grid.endless:
                metadata["size"] = [size[1], size[0]]
                metadata["options"] = {**metadata.get("options", {}), "waves": ended["waves"]}
            written.append(metadata)
            if number < ended["exported"]:
                continue
            overwrite = self._overwrite or (self._state is not None and _finished(output, metadata))
            with self._export_bar(*parts) as show:

                def progress(count: int, show: Callable[[int], None] = show) -> None:
                    if len(caught) > before:
                        raise _Stopped
                    show(count)

                options: dict[str, Any] = {"metadata": metadata, "overwrite": overwrite, "progress": progress}
                export(canvas, tokenizer, order, output, number=number, **options)
            if len(job.outputs) > 1:
                ended["exported"] = number + 1
                self._commit_end(ended)
        patches = canvas.patches
        if job.canvas is None:
            canvas.remove()
        else:
            stages = canvas.facts.stages
            if job.order.grid.endless:  # what is kept is what came to be complete
                stages = (*stages, Stage(order.grid, size=size, origin=order.origin))
            how = {**canvas.facts.how, "metadata": written}
            canvas.amend(replace(canvas.facts, stages=stages, how=how, finished=True, log=canvas.length))
        return Outcome(0, size[::-1], patches)

    def _cut(self, ended: Mapping[str, Any]) -> Order | None:
        """Return the order as it came to be; None for an endless canvas of which nothing is complete."""
        if not self._job.order.grid.endless:
            return self._job.order
        return cut_order(self._job.order, ended["length"], self._canvas.facts.patch_pixels)

    def _commit(self, generation: Generation) -> None:
        self._canvas.commit(state := generation.state(self._facts(generation.patches)))
        self._shown(state.facts)

    def _commit_end(self, ended: Mapping[str, Any]) -> None:
        facts = {**self._facts(self._canvas.patches), "ended": dict(ended)}
        self._canvas.commit(CanvasState(ended["waves"], facts, {}))
        self._shown(facts, self._cut(ended))

    def _facts(self, patches: int) -> dict[str, Any]:
        grid = self._job.order.grid
        return {"patches": patches, "overwrite": self._overwrite, "patches_of": None if grid.endless else grid.size}

    def _shown(self, facts: Mapping[str, Any], cut: Order | None = None) -> None:
        self._safe = facts
        if self._preview is not None:
            self._preview.save(cut)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Yield a list that gets the first signal to stop; the second one stops at once."""
    caught: list[int] = []
    since = time.monotonic()
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def catch(number: int, _: object) -> None:
        nonlocal since
        if not caught:
            caught.append(number)
            since = time.monotonic()
        elif time.monotonic() - since > ONE_STOP:
            raise KeyboardInterrupt

    obeyed = (number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN)
    before = {number: signal.signal(number, catch) for number in obeyed}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
