"""The canvases of a folder, by ids that say nothing of paths; and the images that were uploaded."""

import hashlib
import logging
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

from nuwa_lightning.canvas.keeping import hashes
from nuwa_lightning.errors import UsageError
from nuwa_lightning.pipeline import NuwaInfinityPipeline
from nuwa_lightning.request_fields import InputImage
from nuwa_lightning.serve.tiles import Tiles, TokenColors
from nuwa_lightning.serve.view import CanvasView, Change

_LOG = logging.getLogger(__name__)

_OPEN: Final = 6
_UPLOADS: Final = 8
UPLOAD_BYTES: Final = 32 << 20
UPLOAD_PIXELS: Final = 64_000_000
_FORMATS: Final = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "WebP": b"RIFF"}


@dataclass(frozen=True)
class Opened:
    """A canvas that is looked at."""

    id: str
    name: str
    view: CanvasView
    tiles: Tiles


@final
class Library:
    """The canvases of a folder."""

    def __init__(
        self,
        folder: Path,
        pipe: NuwaInfinityPipeline,
        tell: Callable[[str, Change], None],
        *,
        max_pixels: int | None = None,
    ) -> None:
        self.folder, self.pipe, self.max_pixels, self._tell = folder, pipe, max_pixels, tell
        self.hashes = hashes(pipe.builder)
        self._colors = TokenColors(pipe.tokenizer)
        self._opened = OrderedDict[str, Opened]()
        self._said: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._named, self._guard = set[Path](), threading.RLock()
        self.live: str | None = None
        """The canvas that is being edited here: of it records are shown that do not count yet."""

    def names(self) -> dict[str, str]:
        """Return the names of the canvases that are there, by id."""
        found = sorted(path.parent.name for path in self.folder.glob("*/canvas.json"))
        return {id_of(name): name for name in found}

    def path(self, canvas: str) -> Path:
        """Return the folder of a canvas."""
        opened = self._opened.get(canvas)
        name = opened.name if opened else self.names().get(canvas)
        if name is None:
            raise UsageError("canvas", canvas, "there is none of that id: look at the list")
        return self.folder / name

    def open(self, canvas: str) -> Opened:
        """Return a canvas as it is now."""
        with self._guard:
            found = self._opened.get(canvas)
            if found is None:
                path = self.path(canvas)
                view = CanvasView(path, self.pipe, self.hashes, max_pixels=self.max_pixels)
                found = Opened(canvas, path.name, view, Tiles(view, self.pipe.tokenizer, self._colors))
                self._opened[canvas] = found
                while len(self._opened) > _OPEN:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(canvas)
        self._refresh(found)
        return found

    def poll(self) -> None:
        """Take in what is new of all canvases that are looked at."""
        for opened in list(self._opened.values()):
            try:
                self._refresh(opened)
            except (UsageError, OSError):
                with self._guard:
                    self._opened.pop(opened.id, None)

    def _refresh(self, opened: Opened) -> None:
        opened.view.live = opened.id == self.live
        change = opened.view.refresh()
        if change is not None:
            opened.tiles.forget(change.areas)
            self._tell(opened.id, change)

    def told(self) -> list[dict[str, Any]]:
        """Return what the page lists; of what cannot be shown, why."""
        said: dict[str, tuple[Any, dict[str, Any]]] = {}
        for canvas, name in self.names().items():
            key, before = self._stamp(name), self._said.get(canvas)
            if before is not None and before[0] == key and canvas not in self._opened:
                said[canvas] = before
                continue
            entry: dict[str, Any] = {"id": canvas, "name": name}
            try:
                entry |= self.open(canvas).view.told()
            except (UsageError, OSError) as error:
                entry["error"] = str(error)
            said[canvas] = key, entry
        self._said = said
        return [entry for _, entry in said.values()]

    def _stamp(self, name: str) -> Any:
        """Return what is another as soon as a canvas is."""
        try:
            found = [(self.folder / name / file).stat() for file in ("canvas.json", "tokens.log")]
            return [(state.st_mtime_ns, state.st_ino, state.st_size) for state in found]
        except OSError:
            return None

    def new_folder(self, name: str) -> Path:
        """Return a folder for a new canvas, of a name like this one that is free."""
        stem = re.sub(r"[^\w\-]+", "-", name).strip("-_")[:60] or "canvas"
        for number in range(1, 1_000_000):
            path = self.folder / f"{stem}{'' if number == 1 else f'-{number}'}.canvas"
            if path not in self._named and not path.exists():  # it is made later
                self._named.add(path)
                return path
        raise UsageError("name", name, "is taken: choose another")


def id_of(name: str) -> str:
    """Return the id of a canvas in a folder of this name."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@final
class Uploads:
    """Images that were dropped on the page; the last few."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._images = OrderedDict[str, InputImage]()

    def add(self, data: bytes, name: str) -> tuple[str, InputImage]:
        """Return the id of an image, and the image."""
        shown = re.sub(r"[^\w.\- ]", "_", name)[:80] or "image"
        if len(data) > UPLOAD_BYTES:
            raise UsageError("image", shown, f"is larger than {UPLOAD_BYTES >> 20} MB: make it smaller")
        if not data.startswith(tuple(_FORMATS.values())):
            raise UsageError("image", shown, f"is none that is taken here: give {', '.join(_FORMATS)}")
        key = secrets.token_hex(8)
        path = self._folder / key
        path.write_bytes(data)
        try:
            image = InputImage.open(path, max_pixels=UPLOAD_PIXELS)
        except UsageError as error:
            raise UsageError("image", shown, error.hint.replace("raise `max_pixels` if you trust the file",
                                                                "make it smaller")) from None  # fmt: skip
        finally:
            path.unlink()
        for note in image.notes:
            _LOG.warning(note.replace(str(path), shown))
        self._images[key] = replace(image, source=shown)
        while len(self._images) > _UPLOADS:
            self._images.popitem(last=False)
        return key, self._images[key]

    def get(self, key: str) -> InputImage:
        """Return an image."""
        if key not in self._images:
            raise UsageError("image", key, "is not there any more: drop it once more")
        return self._images[key]
