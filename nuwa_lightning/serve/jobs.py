"""What the worker process does: jobs one after another, each of which may be stopped (ours).

What a job makes is on the disk wave by wave, and whoever looks reads it there; so a process that is killed costs
nothing but the last seconds. The canvas that was edited last stays locked, so that another process is told.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, final

from nuwa_lightning.atomic import atomic_write
from nuwa_lightning.canvas.editing import FinishedCanvas
from nuwa_lightning.canvas.edits import Candidate, listed
from nuwa_lightning.canvas.job import Progress
from nuwa_lightning.errors import UsageError
from nuwa_lightning.pipeline import NuwaInfinityPipeline
from nuwa_lightning.planning.geometry import Symmetry
from nuwa_lightning.serve.library import Library
from nuwa_lightning.serve.packing import zipped
from nuwa_lightning.serve.view import Area
from nuwa_lightning.serve.wishes import SHARED

Told = dict[str, Any]
"""A job as plain JSON: id, canvas, kind, state, patches (finished, and of how many), error and result."""

_RECORD_EVERY: Final = 2.0
_MOST_ALIVE: Final = 4096


class _Stopped(Exception):
    """Somebody stopped the job."""


def work(pipe: Connection, load: Callable[[], NuwaInfinityPipeline], folder: Path, max_pixels: int | None) -> None:
    """Do the jobs that come over a pipe until None comes; end at once when the other end is gone.

    Sent are ``(event, data)``: ready, canvases, job, wave, candidate.

    Args:
        pipe: sends ``(told, options)`` of a job, the number of one to be stopped, or None.
        load: returns the model.
        folder: of the canvases.
        max_pixels: refuse a given image of more.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both: the server tells when to end
    asked, stopped = SimpleQueue[tuple[Told, Mapping[str, Any]] | None](), set[int]()

    def listen() -> None:
        try:
            while True:
                message = pipe.recv()
                if isinstance(message, int):
                    stopped.add(message)
                else:
                    asked.put(message)
        except (EOFError, OSError):
            os._exit(1)  # the server was killed; canvases are whole at any moment

    threading.Thread(target=listen, daemon=True).start()
    jobs = Jobs(Library(folder, load(), lambda *_: None, max_pixels=max_pixels), pipe.send, stopped)
    pipe.send(("ready", None))
    while (job := asked.get()) is not None:
        jobs.do(*job)
    jobs.close()


@final
class Jobs:
    """Does jobs.

    Args:
        library: the canvases, and the model.
        tell: told of events.
        stopped: the numbers of the jobs that are to be stopped.
    """

    def __init__(self, library: Library, tell: Callable[[tuple[str, Any]], None], stopped: set[int]) -> None:
        self._library, self._tell, self._stops = library, tell, stopped
        self._held: tuple[str, FinishedCanvas] | None = None
        self._candidates: tuple[str, list[Candidate]] | None = None

    def do(self, told: Told, options: Mapping[str, Any]) -> None:
        """Do a job; what comes of it is told."""
        self._told, self._options, self._canvas = told, options, str(told["canvas"])
        result: dict[str, Any] = told["result"]
        try:
            KINDS[told["kind"]](self)
            told["state"] = "stopped" if self._stopped() and not result.get("whole") else "done"
        except _Stopped:
            told["state"] = "stopped"
        except UsageError as error:
            told |= {"state": "failed", "error": str(error)}
        except OSError as error:
            told |= {"state": "failed", "error": f"{told['kind']}: {error.strerror or error}: see to it and try again"}
        except Exception:
            traceback.print_exc(file=sys.stderr)
            told |= {"state": "failed", "error": f"{told['kind']}: a fault of this program: the terminal tells more"}
        self._library.live = None
        self._tell(("job", told))

    def close(self) -> None:
        """Let others have the canvas."""
        if self._held is not None:
            self._held[1].close()
            self._held = None

    def _stopped(self) -> bool:
        return self._told["id"] in self._stops

    def _open(self) -> FinishedCanvas:
        """Return the canvas of the job, locked."""
        if self._held is None or self._held[0] != self._canvas:
            self.close()
            path, library = self._library.path(self._canvas), self._library
            self._held = self._canvas, FinishedCanvas.open(path, library.pipe, max_pixels=library.max_pixels)
        self._library.live = self._canvas
        return self._held[1]

    def _watch(self, *, breaks: bool) -> Callable[[Progress], None]:
        """Return what is told after each wave; ``breaks``: what cannot be gone on with ends by an exception."""
        stage = self._library.open(self._canvas).view.facts.stage

        def watch(progress: Progress) -> None:
            if breaks and self._stopped():
                raise _Stopped
            new = [done for done in progress.finished if not done.known]  # the others are read anew
            self._told["patches"][0] += len(new)
            finished = []
            for done in new[:_MOST_ALIVE]:
                sees = [stage.position(patch)[:0:-1] for patch in done.context]
                at = stage.position(done.patch)[:0:-1]
                finished.append({"at": at, "sees": sees, "direction": travel(done.symmetry)})
            alive = [stage.position(patch)[:0:-1] for patch in list(progress.alive)[:_MOST_ALIVE]]
            self._tell(("wave", {"job": self._told, "finished": finished, "alive": alive}))

        return watch

    # -- kinds of jobs ------------------------------------------------------------------------------------------------

    def _new(self) -> None:
        self.close()
        canvas = FinishedCanvas.begin(self._options["folder"], self._library.pipe, self._options["request"])
        self._held = self._canvas, canvas
        self._tell(("canvases", {}))
        self._resume()

    def _resume(self) -> None:
        canvas, view = self._open(), self._library.open(self._canvas).view
        self._told["patches"] = [0, view.facts.grid.size - view.patches]
        canvas.resume(callback=self._watch(breaks=False), record_every=_RECORD_EVERY, stop=self._stopped)
        self._told["result"]["whole"] = canvas.finished

    def _grow(self) -> None:
        canvas = self._open()
        watch: list[Callable[[Progress], None]] = []

        def begin(progress: Progress) -> None:  # the stage is there with the first wave
            if not watch:
                facts = self._library.open(self._canvas).view.facts
                self._told["patches"] = [0, facts.grid.size - facts.stages[-2].grid.size]
                watch.append(self._watch(breaks=False))
            watch[0](progress)

        canvas.grow(**self._options, callback=begin, record_every=_RECORD_EVERY, stop=self._stopped)
        self._told["result"]["whole"] = canvas.finished

    def _redo(self) -> None:
        canvas, options = self._open(), dict(self._options)
        box, count = options.pop("box"), options.pop("count", 1)
        self._told["patches"] = [0, count * len(canvas.dependents(box, frames=options.get("frames")))]
        watch = self._watch(breaks=True)
        if count == 1:
            canvas.redo(box, **options, callback=watch)
        else:
            self._candidates = self._canvas, []
            for number in range(count):
                self._candidate(canvas, box, number, {**options, "seed": options["seed"] + number, "callback": watch})
        self._told["result"]["whole"] = True

    def _candidate(self, canvas: FinishedCanvas, boxes: Any, number: int, options: dict[str, Any]) -> None:
        assert self._candidates is not None
        opened = self._library.open(self._canvas)
        bounds, corners = opened.view.look().bounds, list(zip(*listed(boxes), strict=True))
        left, top, right, bottom = *map(min, corners[:2]), *map(max, corners[2:])
        area = Area(left + bounds.left, top + bounds.top, right + bounds.left, bottom + bounds.top)
        shown = area.grown(max(32, max(right - left, bottom - top) // 4)).overlap(bounds)
        assert shown is not None

        def look() -> None:
            self._library.open(self._canvas)
            self._tell(("candidate", (self._canvas, number, opened.tiles.crop(shown) or b"")))

        self._candidates[1].append(canvas.candidate(boxes, **options, look=look))
        self._library.open(self._canvas)
        self._told["result"]["candidates"] = [candidate.edit["seed"] for candidate in self._candidates[1]]
        self._tell(("job", self._told))

    def _keep(self) -> None:
        number, held = self._options["number"], self._candidates
        if held is None or held[0] != self._canvas or not 0 <= number < len(held[1]):
            raise UsageError("candidate", number, "is not there any more: make it again")
        self._open().keep(held[1][number])
        self._candidates = None
        self._told["result"]["whole"] = True

    def _undo(self) -> None:
        self._open().undo()
        self._told["result"]["whole"] = True

    def _export(self) -> None:
        canvas, suffix = self._open(), self._options["suffix"]
        folder = self._library.folder / "exports"
        folder.mkdir(exist_ok=True)
        stem = self._library.path(self._canvas).stem
        path = next(path for n in range(1, 1_000_000) if not (path := folder / f"{stem}-{n}{suffix}").exists())
        self._told["patches"] = [0, canvas.frames if canvas.request.video else canvas.size[1]]

        def watch(count: int) -> None:
            if self._stopped():
                raise _Stopped
            self._told["patches"][0] += count

        if suffix == SHARED:
            kept = self._library.path(self._canvas)
            with atomic_write(path) as partial, partial.open("wb") as file:
                for block in zipped(kept.parent, [kept.name]):
                    file.write(block)
                    watch(0)
        else:
            canvas.export(path, progress=watch)
        self._told["result"] |= {"whole": True, "name": path.name}


def travel(symmetry: Symmetry) -> list[int]:
    """Return along which axis, x and y, an order goes on first, and whether backwards."""
    if symmetry.transpose:
        return [-1 if symmetry.flip_x else 1, 0]
    return [0, -1 if symmetry.flip_y else 1]


KINDS: Final[Mapping[str, Callable[[Jobs], None]]] = {
    "new": Jobs._new,
    "resume": Jobs._resume,
    "grow": Jobs._grow,
    "redo": Jobs._redo,
    "keep": Jobs._keep,
    "undo": Jobs._undo,
    "export": Jobs._export,
}
