"""What an action on a kept canvas holds, counted: hardly more for a canvas four times as long."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nuwa_lightning import GenerationRequest
from nuwa_lightning.canvas.editing import FinishedCanvas
from nuwa_lightning.canvas.facts import CanvasFacts, Stage
from nuwa_lightning.canvas.history import begun
from nuwa_lightning.canvas.log import TokenLog
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.request_fields import Size
from tests.canvas.editable import tiny

ACTIONS: dict[str, Callable[[FinishedCanvas], object]] = {
    "info": FinishedCanvas.info,
    "redo": lambda canvas: canvas.redo((canvas.size[0] - 8, 8, canvas.size[0], 16), seed=5),
    "grow": lambda canvas: canvas.grow(right=8),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_holds_little_of_a_patch(name: str, tmp_path: Path) -> None:
    """A patch, with what it sees, is some numbers; all its tokens and states would be ten times as much."""
    pipe, peaks = tiny(), {}
    for columns in (200, 800):
        request = GenerationRequest(size=Size(8 * columns, 16), unprompted=True, seed=1)
        store = begun(tmp_path / str(columns), pipe, request)
        store.put((patch, torch.zeros(1, 2, 2, dtype=torch.long)) for patch in store.facts.grid)
        store.amend(replace(store.facts, finished=True, log=store.length))
        store.close()
        gc.collect()
        tracemalloc.start()
        try:
            with FinishedCanvas.open(tmp_path / str(columns), pipe) as canvas:
                ACTIONS[name](canvas)
            peaks[columns] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (peaks[800] - peaks[200]) / (2 * 600) < 700


def test_a_frame_of_few_patches_holds_little(tmp_path: Path) -> None:
    """How many patches a frame has must not matter much: a page of memory for each frame would be a thousand bytes."""
    log, frames = TokenLog(tmp_path / "tokens.log"), 500
    log.facts = CanvasFacts((Stage(PatchGrid(frames, 2, 2), size=(8, 8), origin=(0, 0)),), (0,), (2, 2), 16, 2, how={})
    tracemalloc.start()
    for patch in log.facts.grid:
        log.note(patch)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert log.patches == 4 * frames
    assert held < 250 * log.patches
