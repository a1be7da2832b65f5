"""A canvas in a new folder: of a request, with nothing on it yet; or of another canvas, copied."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from nuwa_lightning.canvas.canvas import Canvas
from nuwa_lightning.canvas.history import CanvasMaker
from nuwa_lightning.canvas.job import facts_of
from nuwa_lightning.canvas.keeping import hashes
from nuwa_lightning.canvas.memory import TokenView
from nuwa_lightning.errors import UsageError
from nuwa_lightning.request import GenerationRequest


def begun(folder: str | os.PathLike[str], maker: CanvasMaker, request: GenerationRequest) -> Canvas:
    """Return the canvas of a request with nothing on it yet."""
    renderer = maker.renderer(request)
    order = maker.builder.order(request, direction=renderer.direction)
    if order.grid.endless or request.count != 1:
        raise UsageError("size", request.canvas_size, "give one image with two sides: it can be grown later")
    path = Path(folder)
    if path.exists():
        raise UsageError("canvas", path, "is there already: name a new one")
    store = Canvas(path)
    try:
        how = {**maker.how(request, order), **hashes(maker.builder)}
        store.begin(facts_of(order, renderer, maker.builder.tokenizer, how), request)
    except BaseException:
        store.remove()
        raise
    return store


def copied(folder: str | os.PathLike[str], maker: CanvasMaker, request: GenerationRequest, *, of: TokenView) -> Canvas:
    """Return a copy of a finished canvas; what was undone or made again is left out."""
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError("folder", folder, "is there already: name a new one")
    store = Canvas(path, option="folder")
    try:
        how = {name: value for name, value in of.facts.how.items() if name != "undo"} | hashes(maker.builder)
        store.begin(replace(of.facts, finished=False, log=0, how=how), request)
        store.put((patch, tokens_BYX) for patch in of.written() if (tokens_BYX := of.patch(patch)) is not None)
        store.amend(replace(store.facts, finished=True, log=store.length))
    except BaseException:
        store.remove()
        raise
    return store
