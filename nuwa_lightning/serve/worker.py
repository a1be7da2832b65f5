"""The one process that owns the model: its queue, its progress, and another one when it dies (ours)."""

import contextlib
import copy
import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final, final

from nuwa_lightning.errors import UsageError
from nuwa_lightning.pipeline import NuwaInfinityPipeline
from nuwa_lightning.serve.jobs import Told, work
from nuwa_lightning.serve.library import Library

_MOST: Final = 64
_REMEMBERED: Final = 200
_PATIENCE: Final = 5.0
_LONGEST_WAIT: Final = 30.0
_GO_ON: Final = ("new", "resume", "grow")
PRELOADED: Final = ["nuwa_lightning.serve.jobs", "torch.fx.experimental.symbolic_shapes"]
"""What another process need not import anew; the second is imported with the first tensor on the device ``meta``."""


@final
class Worker:
    """Lets a process of its own do jobs, one after another; a job that runs is ``running``, others are ``queued``.

    When the process dies, another one is started, and a canvas that was growing goes on from its last record.
    """

    def __init__(
        self, load: Callable[[], NuwaInfinityPipeline], library: Library, tell: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._load, self._library, self._tell = load, library, tell
        self._waiting, self._known = deque[tuple[Told, Mapping[str, Any]]](), deque[Told](maxlen=_REMEMBERED)
        self._guard, self._closing, self._count = threading.RLock(), threading.Event(), 0
        self._pipe: Connection | None = None
        self._running: Told | None = None
        self._stopped = set[int]()
        self._pictures: tuple[str, list[bytes]] = "", []
        self.process: BaseProcess | None = None
        """The one that has the model now."""
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def submit(self, canvas: str, kind: str, options: Mapping[str, Any]) -> Told:
        """Put a job into the queue."""
        with self._guard:
            if len(self._waiting) >= _MOST:
                raise UsageError("queue", len(self._waiting), "so many jobs are waiting already: stop some, or wait")
            job = self._queued(canvas, kind, options)
            self._next()
        return job

    def stop(self, number: int) -> Told:
        """Stop a job: one that waits is not begun, one that runs leaves a whole canvas."""
        with self._guard:
            job = self.job(number)
            self._stopped.add(number)
            if job["state"] == "queued":
                self._waiting = deque(each for each in self._waiting if each[0] is not job)
                job["state"] = "stopped"
            elif job is self._running:
                self._send(number)
            self._tell("job", job)
        return job

    def job(self, number: int) -> Told:
        """Return a job."""
        with self._guard:
            found = next((job for job in self._known if job["id"] == number), None)
        if found is None:
            raise UsageError("job", number, "there is none of that number")
        return found

    def told(self) -> list[Told]:
        """Return the jobs."""
        with self._guard:
            return copy.deepcopy(list(self._known))

    def candidate(self, canvas: str, number: int) -> bytes:
        """Return the pixels of a candidate as PNG."""
        of, pictures = self._pictures
        if of != canvas or not 0 <= number < len(pictures):
            raise UsageError("candidate", number, "is not there any more: make it again")
        return pictures[number]

    def close(self) -> None:
        """Stop what runs, and let others have the canvases."""
        with self._guard:
            self._closing.set()
            if self._running:
                self._send(self._running["id"])
            self._send(None)
        self._thread.join(_PATIENCE)
        if self.process is not None and self._thread.is_alive():
            self.process.kill()
        self._thread.join()

    def _queued(self, canvas: str, kind: str, options: Mapping[str, Any], *, first: bool = False) -> Told:
        self._count += 1
        job: Told = {"id": self._count, "canvas": canvas, "kind": kind, "state": "queued"}
        job |= {"patches": [0, 0], "error": None, "result": {}}
        (self._waiting.appendleft if first else self._waiting.append)((job, options))
        self._known.append(job)
        self._tell("job", job)
        return job

    def _next(self) -> None:
        """Let the process have a job, if it is there and has none."""
        if self._pipe is None or self._running is not None or not self._waiting:
            return
        job, options = self._waiting.popleft()
        self._running = job
        job["state"] = "running"
        self._show(job["canvas"])
        self._tell("job", job)
        self._send((job, options))

    def _send(self, message: Any) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # it has just died: the thread sees to it
                self._pipe.send(message)

    def _show(self, canvas: str, *, ended: bool = False) -> None:
        """Let records of a canvas be seen that do not count yet, or not any more."""
        self._library.live = None if ended else canvas
        with contextlib.suppress(UsageError, OSError):  # it was never begun
            self._library.open(canvas)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(PRELOADED)
        wait = 0.0
        while not self._closing.wait(wait):
            ours, its = context.Pipe()
            given = (its, self._load, self._library.folder, self._library.max_pixels)
            process = self.process = context.Process(target=work, args=given, name="model", daemon=True)
            process.start()
            its.close()
            wait = min(2 * wait + 1, _LONGEST_WAIT)
            with contextlib.suppress(EOFError, OSError):
                while True:
                    event, data = ours.recv()
                    with self._guard:
                        if event == "ready":
                            wait, self._pipe = 0.0, ours
                            self._send(None) if self._closing.is_set() else self._next()
                        else:
                            self._take(event, data)
            process.join()
            with self._guard:
                self._pipe = None
                ours.close()
                self._died(process.exitcode or 0)

    def _take(self, event: str, data: Any) -> None:
        """Take in what the process tells."""
        job = self._running
        if event == "candidate":
            canvas, number, picture = data
            self._pictures = canvas, [*self._pictures[1][:number], picture] if number else [picture]
        elif event in ("job", "wave") and job is not None:
            job |= data if event == "job" else data["job"]
            if job["state"] != "running":
                self._running = None
                self._show(job["canvas"], ended=True)
            self._tell(event, data)
            self._next()
        else:
            self._tell(event, data)

    def _died(self, status: int) -> None:
        """Tell that the process is gone, and go on with a canvas that was growing."""
        job, self._running, self._pictures = self._running, None, ("", [])
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        line = f"the process of the model {how}, and is started again"
        if job is not None:
            job |= {"state": "stopped" if job["id"] in self._stopped or self._closing.is_set() else "failed"}
            job |= {"error": f"{job['kind']}: {line}: the canvas is as it was last recorded"}
            self._show(job["canvas"], ended=True)
            self._tell("job", job)
            if job["state"] == "failed" and job["kind"] in _GO_ON and job["patches"][0]:  # or it would die for ever
                self._queued(job["canvas"], "resume", {}, first=True)
        if not self._closing.is_set():
            self._tell("worker", {"error": line})
