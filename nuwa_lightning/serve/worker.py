"""The one thread that owns the model: jobs one after another, each of which may be stopped (ours).

What a job makes is on the disk wave by wave, and whoever looks reads it there; so a server that is killed costs nothing
but the last seconds. The canvas that was edited last stays locked, so that another process is told.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from nuwa_lightning.canvas.editing import FinishedCanvas
from nuwa_lightning.canvas.edits import Candidate
from nuwa_lightning.canvas.job import Progress
from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import Symmetry
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.serve.library import Library
from nuwa_lightning.serve.view import Area

_MOST: Final = 64
_REMEMBERED: Final = 200
_RECORD_EVERY: Final = 2.0
_MOST_ALIVE: Final = 4096


class _Stopped(Exception):
    """Somebody stopped the job."""


@dataclass(eq=False)
class Job:
    """Something to be done with a canvas.

    Attributes:
        id: its number.
        canvas: the id of the canvas.
        kind: what, a key of :data:`KINDS`.
        options: how; already checked.
        state: queued, running, done, stopped or failed.
        patches: how many are finished, and of how many (0: not known).
        error: the line that tells why it failed.
        result: what came of it.
    """

    id: int
    canvas: str
    kind: str
    options: Mapping[str, Any]
    state: str = "queued"
    patches: tuple[int, int] = (0, 0)
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)

    def told(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        said = {"id": self.id, "canvas": self.canvas, "kind": self.kind, "state": self.state}
        return {**said, "patches": list(self.patches), "error": self.error, "result": self.result}


def travel(symmetry: Symmetry) -> list[int]:
    """Return along which axis, x and y, an order goes on first, and whether backwards."""
    if symmetry.transpose:
        return [-1 if symmetry.flip_x else 1, 0]
    return [0, -1 if symmetry.flip_y else 1]


@final
class Worker:
    """Does jobs.

    Args:
        library: the canvases, and the model.
        tell: told of events (their name and plain JSON), from the worker's thread.
    """

    def __init__(self, library: Library, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._library, self._tell = library, tell
        self._waiting, self._known = deque[Job](), deque[Job](maxlen=_REMEMBERED)
        self._news, self._closed, self._count = threading.Condition(), False, 0
        self._held: tuple[str, FinishedCanvas] | None = None
        self._candidates: tuple[str, list[tuple[Candidate, bytes]]] | None = None
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def submit(self, canvas: str, kind: str, options: Mapping[str, Any]) -> Job:
        """Put a job into the queue.

        Raises:
            UsageError: if the queue is full.
        """
        with self._news:
            if len(self._waiting) >= _MOST:
                raise UsageError("queue", len(self._waiting), "so many jobs are waiting already: stop some, or wait")
            self._count += 1
            job = Job(self._count, canvas, kind, options)
            self._waiting.append(job)
            self._known.append(job)
            self._news.notify_all()
        self._tell("job", job.told())
        return job

    def stop(self, number: int) -> Job:
        """Stop a job: one that waits is not begun, one that runs leaves a whole canvas.

        Raises:
            UsageError: if there is none.
        """
        job = self.job(number)
        with self._news:
            job.stopped.set()
            if job in self._waiting:
                self._waiting.remove(job)
                job.state = "stopped"
        self._tell("job", job.told())
        return job

    def job(self, number: int) -> Job:
        """Return a job.

        Raises:
            UsageError: if there is none, or it is forgotten.
        """
        found = next((job for job in self._known if job.id == number), None)
        if found is None:
            raise UsageError("job", number, "there is none of that number")
        return found

    def told(self) -> list[dict[str, Any]]:
        """Return the jobs as plain JSON."""
        return [job.told() for job in list(self._known)]

    def candidate(self, canvas: str, number: int) -> bytes:
        """Return the pixels of a candidate as PNG.

        Raises:
            UsageError: if it is not there any more.
        """
        return self._candidate(canvas, number)[1]

    def close(self) -> None:
        """Stop what runs, and let others have the canvases."""
        with self._news:
            self._closed = True
            for job in self._known:
                job.stopped.set()
            self._news.notify_all()
        self._thread.join()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    break
                job = self._waiting.popleft()
                job.state = "running"
            self._tell("job", job.told())
            try:
                KINDS[job.kind](self, job)
                job.state = "stopped" if job.stopped.is_set() and not job.result.get("whole") else "done"
            except _Stopped:
                job.state = "stopped"
            except UsageError as error:
                job.state, job.error = "failed", str(error)
            except OSError as error:
                job.state, job.error = "failed", f"{job.kind}: {error.strerror or error}: see to it and try again"
            except Exception:
                traceback.print_exc(file=sys.stderr)
                job.state, job.error = "failed", f"{job.kind}: a fault of this program: the terminal tells more"
            self._live(job.canvas, on=False)
            self._tell("job", job.told())
        self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            self._held[1].close()
            self._held = None

    def _opened(self, job: Job) -> FinishedCanvas:
        """Return the canvas of a job, locked."""
        if self._held is None or self._held[0] != job.canvas:
            self._let_go()
            path, library = self._library.path(job.canvas), self._library
            self._held = job.canvas, FinishedCanvas.open(path, library.pipe, max_pixels=library.max_pixels)
        self._live(job.canvas, on=True)
        return self._held[1]

    def _live(self, canvas: str, *, on: bool) -> None:
        """Let records be seen that do not count yet, or not."""
        try:
            opened = self._library.open(canvas)
            opened.view.live = on
            self._library.open(canvas)
        except (UsageError, OSError):  # it was never begun
            return

    def _watch(self, job: Job, *, breaks: bool) -> Callable[[Progress], None]:
        """Return what is told after each wave; ``breaks``: what cannot be gone on with ends by an exception."""
        facts = self._library.open(job.canvas).view.facts
        stage = facts.stage

        def watch(progress: Progress) -> None:
            if breaks and job.stopped.is_set():
                raise _Stopped
            new = [done for done in progress.finished if not done.known]  # the others are read anew
            job.patches = job.patches[0] + len(new), job.patches[1]
            finished = []
            for done in new[:_MOST_ALIVE]:
                sees = [stage.position(patch)[:0:-1] for patch in done.context]
                at = stage.position(done.patch)[:0:-1]
                finished.append({"at": at, "sees": sees, "direction": travel(done.symmetry)})
            alive = [stage.position(patch)[:0:-1] for patch in list(progress.alive)[:_MOST_ALIVE]]
            self._tell("wave", {"job": job.told(), "finished": finished, "alive": alive})

        return watch

    # -- kinds of jobs ------------------------------------------------------------------------------------------------

    def _new(self, job: Job) -> None:
        request: GenerationRequest = job.options["request"]
        path: Path = job.options["folder"]
        self._let_go()
        canvas = FinishedCanvas.begin(path, self._library.pipe, request)
        self._held = job.canvas, canvas
        self._live(job.canvas, on=True)
        self._tell("canvases", {})
        self._resume(job)

    def _resume(self, job: Job) -> None:
        canvas = self._opened(job)
        view = self._library.open(job.canvas).view
        job.patches = 0, view.facts.grid.size - view.patches
        canvas.resume(callback=self._watch(job, breaks=False), record_every=_RECORD_EVERY, stop=job.stopped.is_set)
        job.result["whole"] = canvas.finished

    def _grow(self, job: Job) -> None:
        canvas = self._opened(job)
        watch: list[Callable[[Progress], None]] = []

        def begin(progress: Progress) -> None:  # the stage is there with the first wave
            if not watch:
                view = self._library.open(job.canvas).view
                job.patches = 0, view.facts.grid.size - view.facts.stages[-2].grid.size
                watch.append(self._watch(job, breaks=False))
            watch[0](progress)

        canvas.grow(**job.options, callback=begin, record_every=_RECORD_EVERY, stop=job.stopped.is_set)
        job.result["whole"] = canvas.finished

    def _redo(self, job: Job) -> None:
        canvas, box = self._opened(job), self._box(job)
        job.patches = 0, len(canvas.dependents(box))
        options = {name: value for name, value in job.options.items() if name not in ("box", "count")}
        count = job.options.get("count", 1)
        if count == 1:
            canvas.redo(box, **options, callback=self._watch(job, breaks=True))
            job.result["whole"] = True
            return
        made: list[tuple[Candidate, bytes]] = []
        self._candidates = job.canvas, made
        tiles, bounds = self._library.open(job.canvas).tiles, self._library.open(job.canvas).view.look().bounds
        left, top, right, bottom = box
        area = Area(left + bounds.left, top + bounds.top, right + bounds.left, bottom + bounds.top)
        shown = area.grown(max(32, max(right - left, bottom - top) // 4)).overlap(bounds)
        assert shown is not None
        pictures: list[bytes] = []

        def look() -> None:
            self._library.open(job.canvas)
            pictures.append(tiles.crop(shown) or b"")

        for number in range(count):
            each = {**options, "seed": options["seed"] + number}
            watch = self._watch(job, breaks=True)
            made.append((canvas.candidate(box, **each, callback=watch, look=look), pictures[-1]))
            self._library.open(job.canvas)
            job.result["candidates"] = [candidate.edit["seed"] for candidate, _ in made]
            self._tell("job", job.told())
        job.result["whole"] = True

    @staticmethod
    def _box(job: Job) -> tuple[int, int, int, int]:
        left, top, right, bottom = job.options["box"]
        return left, top, right, bottom

    def _keep(self, job: Job) -> None:
        self._opened(job).keep(self._candidate(job.canvas, job.options["number"])[0])
        self._candidates = None
        job.result["whole"] = True

    def _candidate(self, canvas: str, number: int) -> tuple[Candidate, bytes]:
        held = self._candidates
        if held is None or held[0] != canvas or not 0 <= number < len(held[1]):
            raise UsageError("candidate", number, "is not there any more: make it again")
        return held[1][number]

    def _undo(self, job: Job) -> None:
        self._opened(job).undo()
        job.result["whole"] = True

    def _export(self, job: Job) -> None:
        canvas, suffix = self._opened(job), job.options["suffix"]
        folder = self._library.folder / "exports"
        folder.mkdir(exist_ok=True)
        stem = self._library.path(job.canvas).stem
        path = next(path for n in range(1, 1_000_000) if not (path := folder / f"{stem}-{n}{suffix}").exists())
        job.patches = 0, canvas.frames if canvas.request.video else canvas.size[1]

        def watch(count: int) -> None:
            if job.stopped.is_set():
                raise _Stopped
            job.patches = job.patches[0] + count, job.patches[1]

        canvas.export(path, progress=watch)
        job.result |= {"whole": True, "name": path.name, "file": path.is_file() and suffix != ".dzi"}


KINDS: Final[Mapping[str, Callable[[Worker, Job], None]]] = {
    "new": Worker._new,
    "resume": Worker._resume,
    "grow": Worker._grow,
    "redo": Worker._redo,
    "keep": Worker._keep,
    "undo": Worker._undo,
    "export": Worker._export,
}
