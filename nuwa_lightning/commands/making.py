"""Files in the making: writers, journal and production held together, through kills, signals and full disks."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuwa_lightning.atomic import PartialFile
from nuwa_lightning.canvas.assembler import FrameSink, Pixels, Sink
from nuwa_lightning.canvas.job import GenerationJob, Order, Progress
from nuwa_lightning.canvas.journal import Journal, Record, differences, journal_folder, told
from nuwa_lightning.errors import LawError, UsageError
from nuwa_lightning.writers import (
    CanvasWriter,
    VideoWriter,
    check_output,
    open_video_writer,
    open_writer,
    read_metadata,
)

if TYPE_CHECKING:
    from nuwa_lightning.generation.renderer import InfiniteRenderer
    from nuwa_lightning.tokenizers.base import Tokenizer
    from nuwa_lightning.writers.preview import GrowingPreview

_SHARE = 50
"""A record is made when this many times the time that the last one took has gone by: 2 % of the time at most."""


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
        record_every: seconds between records at least; 0 makes one after each wave, whatever it costs.
        waves: where an endless canvas stops by itself.
        preview: a small image of the first canvas that grows with it.
        note: told to the user.
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


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        status: exit status: 0, or 128 and the number of the signal that stopped it.
        size: width and height in pixels.
        patches: how many are finished, of each canvas.
    """

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
) -> Outcome:
    """Make the files, from the beginning or from the last record of a journal.

    Args:
        job: what is to be made.
        renderer: who writes tokens.
        tokenizer: what turns them into pixels.
        watch: told after each wave.
        begun: told once how many patches were there already.

    Raises:
        UsageError: if the files cannot be made, or the journal is of another job or damaged.
    """
    journal, record = _journal(job)
    if journal is None:
        job.note(f"{job.outputs[0]}: finished already")
        return Outcome(0, job.order.size[::-1], 0)
    try:
        return _Making(job, journal, record).run(renderer, tokenizer, watch=watch, begun=begun)
    finally:
        journal.close()


def _journal(job: Job) -> tuple[Journal | None, Record | None]:
    """Return the journal, and the record to go on from; no journal where everything is finished already."""
    first = job.outputs[0]
    there = journal_folder(first).exists()
    journal = Journal(first)
    try:
        if not journal.begun:
            finished = [_finished(output, metadata) for output, metadata in zip(job.outputs, job.metadata, strict=True)]
            if job.resume and all(finished):  # killed, perhaps, while the journal was being removed
                journal.remove()
                return None, None
            for output in job.outputs:
                check_output(output, overwrite=job.overwrite, video=job.order.video is not None)
            if job.resume:
                job.note(f"{first}: nothing to go on from, this is the beginning")
            return journal, None
        if not job.resume:
            far = _how_far(journal)
            if not job.overwrite:
                hint = f"an unfinished run of it is there{far}: give --resume to go on, --overwrite to start again"
                raise UsageError("--output", first, hint)
            return journal, None
        before = journal.job()
        found = differences(before["identity"], job.identity)
        if found:
            raise UsageError(
                "--resume", journal.folder, f"{'; '.join(found)}: give what it was, or --overwrite to start again"
            )
        for difference in differences(before["versions"], job.versions):
            job.note(f"note: {difference}: what is written from here on may differ from an uninterrupted run")
        return journal, journal.latest(earlier=job.resume == "earlier")
    except UsageError:
        if there:
            journal.close()
        else:
            journal.remove()
        raise


def _how_far(journal: Journal) -> str:
    try:
        record = journal.latest()
    except UsageError:
        return ""
    return f" ({told(record.facts)})" if record else ""


def _finished(output: Path, metadata: Mapping[str, Any]) -> bool:
    """Say whether a file is the image that is to be made; an endless one may have been stopped anywhere."""
    try:
        found = read_metadata(output) if output.exists() else {}
    except UsageError:
        return False
    return bool(found) and _named(found) == _named(metadata)


def _named(metadata: Mapping[str, Any]) -> object:
    options = {name: value for name, value in metadata.get("options", {}).items() if name != "waves"}
    return json.loads(json.dumps({**metadata, "options": options, "size": None}))


class _Making:
    """One run of a job.

    Args:
        job: what is to be made.
        journal: held by this process.
        record: where to go on from.
    """

    def __init__(self, job: Job, journal: Journal, record: Record | None) -> None:
        self._job, self._journal, self._record = job, journal, record
        self._writers: list[CanvasWriter | VideoWriter | _Complete] = []
        facts: Mapping[str, Any] = record.facts if record else {}
        self._overwrite = bool(facts.get("overwrite", job.overwrite))
        self._safe = facts

    def run(
        self,
        renderer: InfiniteRenderer,
        tokenizer: Tokenizer,
        *,
        watch: Callable[[Progress], None],
        begun: Callable[[int], None],
    ) -> Outcome:
        """Make the files; see :func:`make`."""
        try:
            production = self._start(renderer, tokenizer)
        except BaseException:
            self._leave(keep=self._record is not None)
            raise
        begun(production.patches)
        try:
            return self._produce(production, watch)
        except LawError:  # a fault of the strategy: going on would meet it again
            self._leave(keep=False)
            raise
        except UsageError as error:
            self._leave(keep=True)
            hint = f"{error.hint}; {told(self._safe)} are safe, go on with --resume"
            raise UsageError(error.option, error.value, hint) from error
        except BaseException:
            self._leave(keep=True)
            raise

    def _start(self, renderer: InfiniteRenderer, tokenizer: Tokenizer) -> GenerationJob:
        job, record = self._job, self._record
        if record is None:
            self._journal.begin({"identity": dict(job.identity), "versions": dict(job.versions)})
            for output in job.outputs:  # of runs that were killed before their first record, or are given up now
                PartialFile.sweep(output)
        states = record.facts["sinks"] if record else [None] * len(job.outputs)
        for output, metadata, state in zip(job.outputs, job.metadata, states, strict=True):
            finished = state is not None and _finished(output, metadata)
            overwrite = self._overwrite or finished
            try:
                writer: CanvasWriter | VideoWriter | _Complete = self._open(
                    output, metadata, overwrite=overwrite, state=state
                )
            except UsageError:
                if not finished:
                    raise
                writer = _Complete(state)  # killed after this file got its name
            self._writers.append(writer)
        sinks: list[Sink | FrameSink] = list(self._writers)
        if job.preview and isinstance(sinks[0], Sink):
            sinks[0] = _Shown(sinks[0], job.preview)
        try:
            production = GenerationJob(job.order, renderer, tokenizer, sinks=sinks, record=record)
        except ValueError as error:
            if record is None or isinstance(error, UsageError):
                raise
            hint = f"{error}: what decides about the order has changed; --overwrite starts again"
            raise UsageError("--resume", self._journal.folder, hint) from error
        if record is None:
            self._commit(production)
        return production

    def _open(
        self, output: Path, metadata: Mapping[str, Any], *, overwrite: bool, state: Mapping[str, Any] | None
    ) -> CanvasWriter | VideoWriter:
        order = self._job.order
        height, width = order.size
        if order.video is None:
            return open_writer(output, width, height, metadata=metadata, overwrite=overwrite, keep=True, state=state)
        assert height is not None
        assert width is not None
        return open_video_writer(
            output,
            width,
            height,
            fps=order.video.fps,
            metadata=metadata,
            overwrite=overwrite,
            keep=True,
            state=state,
        )

    def _produce(self, production: GenerationJob, watch: Callable[[Progress], None]) -> Outcome:
        job = self._job
        endless = None in job.order.size
        last, every = time.monotonic(), job.record_every
        with _signals() as caught:
            for progress in production:
                watch(progress)
                if caught or production.waves == job.waves:
                    break
                if time.monotonic() - last >= every:
                    before = time.monotonic()
                    self._commit(production)
                    last = time.monotonic()
                    every = max(job.record_every, _SHARE * (last - before)) if job.record_every else 0
            if caught and not endless:
                self._commit(production)
                self._leave(keep=True)
                job.note(f"{job.outputs[0]}: stopped after {told(self._safe)}; go on with --resume")
                return Outcome(128 + caught[0], job.order.size[::-1], production.patches)
            return self._complete(production)

    def _complete(self, production: GenerationJob) -> Outcome:
        job, size = self._job, self._job.order.size[::-1]
        if None in size:
            ended = self._end(production)
            if ended is None:
                self._leave(keep=False)
                job.note(f"{job.outputs[0]}: stopped before there was anything to keep")
                return Outcome(130, size, production.patches)
            size = ended
        elif self._safe["patches"]:  # what took longer than a record should not be lost when the last step fails
            self._commit(production)
        if job.preview:
            job.preview.save()
        for writer in self._writers:
            writer.close()
        self._journal.remove()
        return Outcome(0, size, production.patches)

    def _end(self, production: GenerationJob) -> tuple[int, int] | None:
        """End an endless canvas; returns its width and height, None if nothing is complete."""
        length = production.length
        if length < 1:
            return None
        production.end()
        width, height = (length if side is None else side for side in self._job.order.size[::-1])
        for writer, metadata in zip(self._writers, self._job.metadata, strict=True):
            options = {**metadata.get("options", {}), "waves": production.waves}
            assert not isinstance(writer, VideoWriter)
            writer.cut(width, height, metadata={**metadata, "size": [width, height], "options": options})
        return width, height

    def _commit(self, production: GenerationJob) -> None:
        record = production.record()
        size = None if None in self._job.order.size else self._job.order.grid.size
        facts = {**record.facts, "overwrite": self._overwrite, "patches_of": size}
        self._journal.commit(Record(record.number, facts, record.tensors))
        self._safe = facts
        if self._job.preview:
            self._job.preview.save()

    def _leave(self, *, keep: bool) -> None:
        for writer in self._writers:
            if keep:
                writer.suspend()
            else:
                writer.abort()
        if not keep:
            self._journal.remove()


class _Complete:
    """Stands for a file that an earlier run completed."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def write(self, pixels_YX3: Pixels, *, y: int, x: int) -> None:
        """Do nothing: the pixels are there."""

    def append(self, frame_YX3: Pixels) -> None:
        """Do nothing: the frames are there."""

    def state(self) -> dict[str, Any]:
        """Return the state it was made with."""
        return self._state

    def cut(self, width: int, height: int, *, metadata: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    abort = suspend = close


class _Shown:
    """Gives pixels to a sink and to the preview."""

    def __init__(self, sink: Sink, preview: GrowingPreview) -> None:
        self._sink, self._preview = sink, preview

    def write(self, pixels_YX3: Pixels, *, y: int, x: int) -> None:
        """Take a rectangle."""
        self._sink.write(pixels_YX3, y=y, x=x)
        self._preview.write(pixels_YX3, y=y, x=x)

    def state(self) -> dict[str, Any]:
        """Return the sink's state; the preview is not worth one."""
        return self._sink.state()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yield a list that gets the first signal to stop; the second one stops at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def catch(number: int, _: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
