"""A part of a canvas made again, and its last stage in the making."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nuwa_lightning.canvas.edits import Boxes, Candidate, listed, steered, touched
from nuwa_lightning.canvas.facts import CanvasState
from nuwa_lightning.canvas.history import History
from nuwa_lightning.canvas.job import Generation, Progress
from nuwa_lightning.canvas.memory import TokenStore
from nuwa_lightning.canvas.order_builder import batched
from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchIndex


def remade(
    store: TokenStore,
    history: History,
    box: Boxes,
    seed: int,
    frames: tuple[int, int] | None,
    options: Mapping[str, Any] | None,
    callback: Callable[[Progress], None] | None,
) -> Candidate:
    """Put what is made again into a canvas, where it does not count yet; on an error the canvas is what it was.

    Arguments as for :meth:`FinishedCanvas.redo`.
    """
    facts, request = store.facts, steered(history.request, options or {})
    history, found = replace(history, request=request), set[PatchIndex]()
    renderer = history.maker.renderer(request)
    seeds, patches = range(seed, seed + len(facts.seeds)), 0
    try:
        for number, part, positions in history.remakes(touched(facts, box, frames)):
            found |= positions
            stage, order = facts.stages[number], history.order(number, part=part, texts=True)
            order = replace(order, seeds=tuple(seeds))
            rendering = order.rendering(renderer, walked=part.steps(), corner=stage.corner)
            for wave in rendering:
                store.put(
                    (facts.stage.patch(stage.position(done.patch)), done.tokens_BYX) for done in wave if not done.known
                )
                patches += len(wave)
                if callback is not None:
                    progress = Progress(patches, wave[-1].wave * len(seeds), wave[-1].live, wave, rendering.alive)
                    callback(progress)
        if not found:
            raise UsageError("box", box, "holds given pixels alone: choose one that holds others")
    except BaseException:
        store.load()
        raise
    boxes = [list(each) for each in listed(box)]
    edit: dict[str, Any] = {"redo": boxes if len(boxes) > 1 else boxes[0], "seed": seed, "patches": len(found)}
    edit |= {name: value for name, value in (("frames", frames and list(frames)), ("options", options)) if value}
    tokens = {patch: store.patch(patch) for patch in map(facts.stage.patch, found)}
    kept = {patch: tokens_BYX for patch, tokens_BYX in tokens.items() if tokens_BYX is not None}
    return Candidate(edit, kept, tuple(facts.how.get("edits", ())))


def last_stage(store: TokenStore, history: History, state: CanvasState | None) -> tuple[Generation, int]:
    """Return the last stage of a canvas in the making, from a state on, and of how many patches it is."""
    facts, request, maker = store.facts, history.request, history.maker
    if len(facts.stages) == 1:
        renderer = maker.renderer(request)
        order = maker.builder.order(request, direction=renderer.direction)
        order = batched(order, facts.seeds, first=facts.seeds[0] - request.seed)
        return Generation(order, renderer, store, state=state), order.grid.size
    edit = facts.how["edits"][-1]
    history = replace(history, request=steered(request, edit.get("options", {})))
    last = len(facts.stages) - 1
    part = history.remake(last, lambda _: True)
    order = history.order(last, part=part, texts=True)
    if "seed" in edit:
        order = replace(order, seeds=tuple(range(edit["seed"], edit["seed"] + len(facts.seeds))))
    renderer = maker.renderer(history.request)
    return Generation(order, renderer, store, state=state, walked=part.steps()), len(part.depth)
