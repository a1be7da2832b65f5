"""A part is swapped by a flag, an overlay, a sub-file or a class of one's own, and the model that is saved has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

OWN = """
from dataclasses import dataclass
from nuwa_lightning.planning.context import ContextPool
from nuwa_lightning.planning.direction import DirectionController, Step
from nuwa_lightning.planning.geometry import OMEGA


@dataclass(frozen=True)
class Backwards(DirectionController):
    stride: int = 1

    def supports_endless(self, grid):
        return False

    def steps(self, grid, known):
        for patch in reversed(list(grid)):
            if patch not in known:
                yield Step(patch, OMEGA)


@dataclass(frozen=True)
class Last(ContextPool):
    reach: int = 1

    @property
    def embedding_extent(self):
        return (0, 1, 1)

    def select(self, patch, live):
        return list(live)[-self.reach :]

    def remove(self, live, grid, finished):
        return list(live)[: -self.reach]
"""
POOLS = {
    "flag": (["--model.context_pool=EmptyContextPool"], "EmptyContextPool", {}),
    "overlay": (["-c", "recipes/context/full.yaml"], "FullContextPool", {"embedding_extent": [0, 3, 3]}),
    "sub-file": (["--model.context_pool=sub.yaml"], "NearbyContextPool", {"extent": [0, 1, 0]}),
    "argument": (["--model.context_pool.extent=[0,2,1]"], "NearbyContextPool", {"extent": [0, 2, 1]}),
    "own class": (["--model.context_pool=my_parts.Last", "--model.context_pool.reach=2"], "Last", {"reach": 2}),
}
DIRECTIONS = {
    "flag": (["--model.direction=SpiralDirectionController"], "SpiralDirectionController", {}),
    "overlay": (["-c", "recipes/direction/outward.yaml"], "OutwardDirectionController", {}),
    "sub-file": (["--model.direction=sub.yaml"], "ArbitraryDirectionController", {"order": "zeta*"}),
    "own class": (["--model.direction=my_parts.Backwards", "--model.direction.stride=2"], "Backwards", {"stride": 2}),
}
DECODERS = {
    name: (["-c", f"recipes/local_decoder/{name}.yaml"], f"{name.capitalize()}LocalDecoder", {})
    for name in ("autoregressive", "masked", "parallel")
}
SUB_FILES = {
    "context_pool": "class_path: NearbyContextPool\ninit_args: {extent: [0, 1, 0]}\n",
    "direction": "class_path: ArbitraryDirectionController\ninit_args: {order: zeta*}\n",
}


@pytest.mark.parametrize(
    ("part", "options", "name", "arguments"),
    [
        pytest.param(part, *ways[way], id=f"{part} by {way}")
        for part, ways in (("context_pool", POOLS), ("direction", DIRECTIONS), ("local_decoder", DECODERS))
        for way in ways
    ],
)
def test_the_saved_model_has_what_was_asked_for(shell, repository, monkeypatch, part, options, name, arguments):
    Path("my_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path().resolve()))
    Path("sub.yaml").write_text(SUB_FILES.get(part, ""))
    options = [str(repository / option) if option.startswith("recipes/") else option for option in options]
    done = shell("fit", "-c", "two.yaml", "--trainer.max_steps", 1, *options)
    assert done.status == 0, done.error
    saved = json.loads(Path("two/model/config.json").read_text())[part]
    assert saved["name"] == name
    assert saved["args"].items() >= arguments.items()
