"""Names of options: the whole one, and the nearest one to a typo."""

from __future__ import annotations

import itertools

from nuwa_lightning.commands.known_classes import known_classes
from nuwa_lightning.commands.parsing import OneLineParser, nearest, whole_name
from nuwa_lightning.generation.local import LocalDecoder
from nuwa_lightning.planning.context import ContextPool
from nuwa_lightning.planning.direction import DirectionController
from tests.strategies import package_classes


def test_the_types_of_all_our_options_are_known():
    strategies = [cls for base in (ContextPool, DirectionController, LocalDecoder) for cls in package_classes(base)]
    for cls in (*strategies, *itertools.chain.from_iterable(known_classes().values())):
        parser = OneLineParser()
        parser.add_class_arguments(cls, "it")
        for action in parser._actions:
            assert "Unvalidated" not in str(getattr(action, "_typehint", "")), (cls, action.dest)


def test_nearest_name():
    known = ["model.context_pool", "model.lr", "trainer.max_steps", "run"]
    assert nearest("model.contxt_pool.extent", known) == "model.context_pool"
    assert nearest("trainer.maxsteps", known) == "trainer.max_steps"
    assert nearest("max_steps", known) == "trainer.max_steps"
    assert nearest("modle.lr", known) == "model.lr"
    assert nearest("qqqq", known) is None


def test_the_whole_name_of_an_option():
    inner = {"class_path": "P", "init_args": {"extent": [0, 1, 1], "cache": None}}
    model = {"class_path": "M", "init_args": {"pool": inner}}
    options = {"run": "x", "model": model, "data": {"cache": "y", "size": 3}}
    assert whole_name("extent", (0, 1, 1), options) == "--model.pool.extent"
    assert whole_name("pool", "P() at patch", options) == "--model.pool"
    assert whole_name("pool.extent", 0, options) == "--model.pool.extent"
    assert whole_name("cache", "y", options) == "--data.cache"
    assert whole_name("cache", "z", options) == "--model.pool.cache"
    assert whole_name("tent", 0, options) == "tent"
    assert whole_name("--data.size", 0, options) == "--data.size"
