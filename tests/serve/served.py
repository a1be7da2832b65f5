"""A server on a free port of this machine, in a thread, and what asks it."""

from __future__ import annotations

import functools
import http.client
import io
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.serve.app import Page, Server


class Served:
    """Whoever asks a server."""

    def __init__(self, port: int, page: Page | None = None) -> None:
        self.port, self.page = port, page

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, body, _ = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, wish: Any = None) -> tuple[int, Any]:
        status, body, _ = self.ask("POST", path, json.dumps(wish or {}).encode(), content_type="application/json")
        return status, json.loads(body)

    def do(self, path: str, wish: Any = None, *, ends: str = "done") -> dict[str, Any]:
        """Post a job, and return it once it has ended so."""
        status, job = self.post(path, wish)
        assert status == 200, job
        return self.wait(job["id"], ends=ends)

    def wait(self, number: int, *, ends: str = "done", seconds: float = 300) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found: dict[str, Any] = next(job for job in self.get("/api/state")["jobs"] if job["id"] == number)
            if found["state"] not in ("queued", "running"):
                assert found["state"] == ends, found
                return found
            time.sleep(0.05)
        raise AssertionError("the job does not end")

    def new(self, **wish: Any) -> str:
        """Return the id of a new canvas."""
        return str(self.do("/api/canvases", {"width": 40, "height": 24, "seed": 3, **wish})["canvas"])

    def canvas(self, canvas: str) -> Any:
        return self.get(f"/api/canvases/{canvas}")

    def pixels(self, canvas: str, *, level: int = 0, t: int = 0) -> NDArray[np.uint8]:
        """Return the image, ``[Y, X, 4]``, out of its tiles."""
        left, top, right, bottom = self.canvas(canvas)["bounds"]
        side = 256 << level
        out = np.zeros((-(-(bottom - top) >> level), -(-(right - left) >> level), 4), np.uint8)
        assert not (left | top | right | bottom) % (1 << level), "the test asks for what it can compare"
        for y in range(top // side, (bottom - 1) // side + 1):
            for x in range(left // side, (right - 1) // side + 1):
                status, data, _ = self.ask("GET", f"/api/canvases/{canvas}/tiles/{level}/{x}/{y}?t={t}")
                if status == 204:
                    continue
                assert status == 200, data
                tile = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
                row, column = (y * side - top) >> level, (x * side - left) >> level
                part = tile[max(0, -row) :, max(0, -column) :]
                part = part[: out.shape[0] - max(0, row), : out.shape[1] - max(0, column)]
                out[max(0, row) : max(0, row) + part.shape[0], max(0, column) : max(0, column) + part.shape[1]] = part
        return out


@contextmanager
def serving(
    pipe: NuwaInfinityPipeline,
    folder: Path,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    port: int = 0,
    own: tuple[type[Any], ...] = (),
    **more: Any,
) -> Iterator[Served]:
    """Yield a server of the canvases of a folder."""
    run = tempfile.TemporaryDirectory()
    pipe.save_pretrained(run.name)
    load = functools.partial(NuwaInfinityPipeline.from_folder, Path(run.name), own=own, name=pipe.name)
    page = Page(load, folder, **more)
    with run, socket.create_server(("127.0.0.1", port)) as listening:
        server = Server(page, host=host, token=token)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until = time.monotonic() + 300
            while not server.started:
                assert time.monotonic() < until
                time.sleep(0.01)
            yield Served(listening.getsockname()[1], page)
        finally:
            server.should_exit = True
            thread.join()
