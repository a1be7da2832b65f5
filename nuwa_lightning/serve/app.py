"""The page's server: what is looked at by GET, what is changed by POST, what happens by server-sent events."""

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from nuwa_lightning.errors import UsageError
from nuwa_lightning.pipeline import NuwaInfinityPipeline
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.request_fields import InputImage
from nuwa_lightning.serve import wishes
from nuwa_lightning.serve.guard import Guard
from nuwa_lightning.serve.library import UPLOAD_BYTES, Library, Uploads, id_of
from nuwa_lightning.serve.packing import zipped
from nuwa_lightning.serve.recipes import recipe
from nuwa_lightning.serve.tiles import LEVELS, SIDE
from nuwa_lightning.serve.view import Change
from nuwa_lightning.serve.worker import Worker

STATIC: Final = Path(__file__).parent / "static"
_POLL: Final = 0.25
_WAITING: Final = 256
_MOST_AREAS: Final = 512
_QUIET: Final = 15.0


@final
class Events:
    """Hands events to every page that listens; one that is too slow is told to look at everything anew."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[str | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        """Use the loop that runs now."""
        self._loop = asyncio.get_running_loop()

    def tell(self, name: str, data: Mapping[str, Any]) -> None:
        """Tell an event, from any thread."""
        message = f"event: {name}\ndata: {json.dumps(data)}\n\n"
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: str | None) -> None:
        for queue in self._queues:
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait("event: all\ndata: {}\n\n")
            queue.put_nowait(message)

    def end(self) -> None:
        """Let all pages go."""
        self._put(None)

    async def stream(self) -> AsyncIterator[str]:
        """Yield events as they are sent; the first one says to look at everything."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(_WAITING)
        self._queues.add(queue)
        try:
            yield "retry: 1000\nevent: all\ndata: {}\n\n"
            while True:
                try:
                    message = await asyncio.wait_for(queue.get(), _QUIET)
                except TimeoutError:
                    message = ": still here\n\n"
                if message is None:
                    return
                yield message
        finally:
            self._queues.discard(queue)


@final
class Page:
    """What the page's requests mean."""

    def __init__(
        self,
        load: Callable[[], NuwaInfinityPipeline],
        folder: Path,
        *,
        max_pixels: int | None = None,
        first: GenerationRequest | None = None,
    ) -> None:
        pipe = load()
        self.events, self._pipe, self._load, self._first = Events(), pipe, load, first
        self.library = Library(folder, pipe, self._changed, max_pixels=max_pixels)
        for part in filter(None, (pipe.generator, pipe.coarse)):
            part.model.to("meta")  # weights are the worker's; here are shapes, the plan, and what decodes tiles
        self._reads_text = pipe.generator.text_encoder is not None
        self._turn, self._decoding = asyncio.Lock(), ThreadPoolExecutor(1, "pixels")
        self._temporary = tempfile.TemporaryDirectory()
        self._uploads = Uploads(Path(self._temporary.name))
        self.worker: Worker

    @asynccontextmanager
    async def running(self, _: Starlette) -> AsyncIterator[None]:
        """Do jobs, and look for what other processes write, inside the block."""
        self.events.begin()
        self.worker = Worker(self._load, self.library, self.events.tell)
        if self._first is not None:
            self._begin(self._first, "canvas")

        async def poll() -> None:
            while True:
                await asyncio.sleep(_POLL)
                await run_in_threadpool(self.library.poll)

        polling = asyncio.create_task(poll())
        try:
            yield
        finally:
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await polling
            self.events.end()
            await run_in_threadpool(self.worker.close)
            self._decoding.shutdown()
            self._temporary.cleanup()

    def _changed(self, canvas: str, change: Change) -> None:
        areas = change.areas
        listed = None if areas is None or len(areas) > _MOST_AREAS else [list(area) for _, area in areas]
        self.events.tell("changed", {"canvas": canvas, "areas": listed, "shape": change.shape})

    # -- looked at ----------------------------------------------------------------------------------------------------

    def state(self, _: Request) -> Response:
        """Return everything that the page shows, but pixels."""
        generator, tokenizer = self._pipe.generator, self._pipe.tokenizer
        rows, columns = generator.model.patch_size
        f = tokenizer.downsample_factor
        model = {"name": self._pipe.name, "text": self._reads_text, "frames": generator.frames}
        model |= {"plan": generator.plan is not None, "sampling": asdict(generator.sampling)}
        model |= {"patch": [columns * f, rows * f], "factor": f, "side": SIDE, "levels": LEVELS}
        model |= {"pool": repr(generator.pool), "direction": repr(generator.direction)}
        process = self.worker.process and self.worker.process.pid
        listed = {"canvases": self.library.told(), "jobs": self.worker.told()}
        return JSONResponse({"model": model, "process": process, **listed})

    def canvas(self, request: Request) -> Response:
        """Return one canvas."""
        opened = self.library.open(request.path_params["canvas"])
        return JSONResponse({"id": opened.id, "name": opened.name, **opened.view.told()})

    def recipe(self, request: Request) -> Response:
        """Return the lines that make a canvas again."""
        opened = self.library.open(request.path_params["canvas"])
        how = opened.view.facts.how
        lines = recipe(how["request"], list(how.get("edits", ())), checkpoint=self._pipe.name, name=opened.name)
        return JSONResponse(lines)

    async def tile(self, request: Request) -> Response:
        """Return a tile; all are decoded by one thread, and what nobody waits for any more is left out."""
        given = request.path_params
        numbers = {name: _number(request.query_params.get(name, "0"), name) for name in ("t", "number")}
        level, x, y = (_number(given[name], name) for name in ("level", "x", "y"))

        def decoded() -> bytes | None:
            return self.library.open(given["canvas"]).tiles.png(level, x, y, **numbers)

        async with self._turn:
            if await request.is_disconnected():
                return Response(status_code=204)
            data = await asyncio.get_running_loop().run_in_executor(self._decoding, decoded)
        return Response(status_code=204) if data is None else Response(data, media_type="image/png")

    def candidate(self, request: Request) -> Response:
        """Return what a candidate looks like."""
        data = self.worker.candidate(request.path_params["canvas"], _number(request.path_params["number"], "number"))
        return Response(data, media_type="image/png")

    def exported(self, request: Request) -> Response:
        """Return what an export made; of folders, and of an image of many files, a ZIP."""
        job = self.worker.job(_number(request.path_params["job"], "job"))
        if job["kind"] != "export" or "name" not in job["result"]:
            raise UsageError("job", job["id"], "is no export that has ended: look at the list")
        name, folder = str(job["result"]["name"]), self.library.folder / "exports"
        if not (folder / name).exists():
            raise UsageError("job", job["id"], f"{name} is not there any more: export it once more")
        if (folder / name).is_file() and not name.endswith(".dzi"):
            return FileResponse(folder / name, filename=name)
        names = [name, name.removesuffix(".dzi") + "_files"] if name.endswith(".dzi") else [name]
        said = quote(f"{name}.zip", errors="surrogateescape")
        return StreamingResponse(
            zipped(folder, names),
            media_type="application/zip",
            headers={"Content-Disposition": f"attachment; filename*=UTF-8''{said}"},
        )

    async def listen(self, _: Request) -> Response:
        """Return the stream of events."""
        return StreamingResponse(self.events.stream(), media_type="text/event-stream")

    # -- changed ------------------------------------------------------------------------------------------------------

    async def new(self, request: Request) -> Response:
        """Begin a canvas."""
        return await self._posted(request, self._new)

    async def edit(self, request: Request) -> Response:
        """Do something with a canvas."""
        canvas, kind = request.path_params["canvas"], request.path_params["kind"]
        return await self._posted(request, lambda body: self._edit(canvas, kind, body))

    async def stop(self, request: Request) -> Response:
        """Stop a job."""
        number = _number(request.path_params["job"], "job")
        return await self._posted(request, lambda _: self.worker.stop(number))

    async def upload(self, request: Request) -> Response:
        """Take an image in."""
        if not request.headers.get("content-type", "").startswith("image/"):
            raise HTTPException(415, "image: send it as what it is, image/png or the like")
        data = await _body(request, UPLOAD_BYTES)
        name = request.query_params.get("name", "image")
        key, image = await run_in_threadpool(self._uploads.add, data, name)
        height, width = image.pixels_YX3.shape[:2]
        return JSONResponse({"id": key, "name": image.source, "size": [width, height]})

    async def _posted(self, request: Request, act: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Response:
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            raise HTTPException(415, "content-type: send application/json")
        body = wishes.parsed(await _body(request, wishes.LONGEST_BODY))
        return JSONResponse(await run_in_threadpool(act, body))

    def _new(self, body: dict[str, Any]) -> Mapping[str, Any]:
        image, mask, plan = (
            None if body.get(name) is None else self._uploads.get(wishes.text(body, name))
            for name in ("image", "mask", "plan")
        )
        if image is not None and mask is not None:
            holed = InputImage.open(image.pixels_YX3, mask.pixels_YX3)
            image = replace(holed, source=image.source, mask_source=mask.source)
        made = wishes.request(body, image, plan, reads_text=self._reads_text)
        return self._begin(made, wishes.text(body, "name", "canvas", longest=80) or "canvas")

    def _begin(self, request: GenerationRequest, name: str) -> Mapping[str, Any]:
        folder = self.library.new_folder(name)
        return self.worker.submit(id_of(folder.name), "new", {"request": request, "folder": folder})

    def _edit(self, canvas: str, kind: str, body: dict[str, Any]) -> Mapping[str, Any]:
        view, options = self.library.open(canvas).view, dict[str, Any]()
        if kind == "grow":
            options = wishes.growth(body, reads_text=self._reads_text)
        elif kind in ("redo", "dependents"):
            options = wishes.part({"seed": 0, **body} if kind == "dependents" else body, reads_text=self._reads_text)
            if kind == "dependents":  # nothing is changed: how many patches would be made again
                patches = view.dependents(options["box"], options.get("frames"))
                return {"patches": patches, "of": view.facts.grid.size}
        elif kind == "keep":
            options = {"number": wishes.whole(body, "number", 0, 100)}
        elif kind == "export":
            options = {"suffix": wishes.suffix(body, video=view.request.video)}
        elif kind not in ("undo", "resume"):
            raise UsageError("action", kind, "choose grow, redo, keep, undo, resume or export")
        return self.worker.submit(canvas, kind, options)


def application(page: Page, *, host: str, token: str | None) -> Guard:
    """Return the server of a page."""

    async def index(_: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    canvas = "/api/canvases/{canvas}"
    routes = [
        Route("/", index),
        Route("/api/state", page.state),
        Route("/api/events", page.listen),
        Route("/api/canvases", page.new, methods=["POST"]),
        Route("/api/images", page.upload, methods=["POST"]),
        Route("/api/jobs/{job}/stop", page.stop, methods=["POST"]),
        Route("/api/jobs/{job}/file", page.exported),
        Route(canvas, page.canvas),
        Route(f"{canvas}/recipe", page.recipe),
        Route(f"{canvas}/tiles/{{level}}/{{x}}/{{y}}", page.tile),
        Route(f"{canvas}/candidates/{{number}}", page.candidate),
        Route(f"{canvas}/{{kind}}", page.edit, methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        UsageError: _wrong,
        OSError: _fault,
        HTTPException: _http,
        Exception: _fault,
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=page.running), host=host, token=token)


@final
class Server(uvicorn.Server):
    """Answers until it is told to end; pages that listen do not keep it."""

    def __init__(self, page: Page, *, host: str, token: str | None) -> None:
        self._page = page
        app = application(page, host=host, token=token)
        options: dict[str, Any] = {"lifespan": "on", "ws": "none", "server_header": False}
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, **options))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._page.events.end()
        await super().shutdown(sockets)


async def _wrong(_: Request, error: Exception) -> Response:
    missing = isinstance(error, UsageError) and error.option in ("canvas", "job")
    return JSONResponse({"error": " ".join(str(error).split())}, status_code=404 if missing else 400)


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


async def _fault(_: Request, error: Exception) -> Response:
    traceback.print_exception(error, file=sys.stderr)
    return JSONResponse({"error": "a fault of this program: the terminal tells more"}, status_code=500)


async def _body(request: Request, longest: int) -> bytes:
    """Return the body of a request."""
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > longest:
                raise HTTPException(413, f"body: is longer than {longest} bytes: make it smaller")
    except ClientDisconnect:
        raise HTTPException(400, "body: was broken off") from None
    return bytes(data)


def _number(value: str, name: str) -> int:
    """Return a whole number of an address."""
    if not (value.removeprefix("-").isdecimal() and value.isascii() and len(value) <= 10):
        raise UsageError(name, value, "give a whole number")
    return int(value)
