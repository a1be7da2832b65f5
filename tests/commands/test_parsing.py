"""Names of options: the whole one, and the nearest one to a typo."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from nuwa_lightning.commands.known_classes import known_classes
from nuwa_lightning.commands.options import parse
from nuwa_lightning.commands.parsing import OneLineParser, completed, nearest, whole_name
from nuwa_lightning.errors import UsageError
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


def test_errors_are_completed():
    options = {"data": {"photos": {"init_args": {"max_pixels": 9}}, "size": 3}}
    told = completed(UsageError("photos.path", "x", "raise `max_pixels` or `x`"), options)
    assert str(told) == "photos.path: x: raise --data.photos.max_pixels or `x`"
    assert str(completed(UsageError("data.size", 4, "no"), options)) == "--data.size: 4: no"
    assert str(completed(UsageError("data.gone", 4, "no"), {})) == "--data.gone: 4: no"


def test_no_option_is_called_by_its_flag_below_the_commands(repository):
    """Whatever raises there names a field; only programs that are called have flags."""
    callers = {"cli.py", "legacy.py", "serve/recipes.py", "data/packages.py", "__main__.py", "benchmark/canvas.py"}
    callers |= {f"ablation/{name}.py" for name in ("estimating", "running", "workers")} | {
        "environment.py",
        "config.py",
        "report/study.py",
        "generation/processes.py",
    }
    found = []
    for path in sorted(p for part in ("nuwa_lightning", "evaluation") for p in (repository / part).rglob("*.py")):
        name = path.relative_to(repository).as_posix().partition("/")[2]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bodies = [node.body for node in ast.walk(tree) if hasattr(node, "body") and isinstance(node.body, list)]
        said = {id(line.value) for body in bodies for line in body if isinstance(line, ast.Expr)}  # docstrings
        for node in ast.walk(tree) if not name.startswith("commands/") and name not in callers else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
                flags = re.findall(r"(?<![\w-])--[a-z][\w.-]*", node.value)
                whole = "pip install" in node.value or "python -m" in node.value
                found += [(name, flag) for flag in flags if not whole]
    assert found == []


@pytest.mark.parametrize("command", ["generate", "canvas", "canvas grow", "serve", "estimate", "convert-tokenizer"])
def test_help_comes_without_torch(command, repository):
    code = f"""
import sys
from nuwa_lightning.cli import main
try:
    main([*{command.split()!r}, "--help"])
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m nuwa_lightning {command}" in done.stdout
    assert "--config" in done.stdout or command == "canvas"


@dataclass(frozen=True)
class Wanted:
    """What is wanted.

    Args:
        folder: one
        also: another
        part: several
        quick: or not
        resume: on
    """

    folder: Path
    also: Path | None = None
    part: tuple[str, ...] = ()
    quick: bool = False
    resume: Literal["last", "earlier"] | None = field(default=None, metadata={"alone": "last"})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a", Wanted(Path("a"))),
        ("--resume --folder a", Wanted(Path("a"), resume="last")),
        ("a b --resume earlier --quick", Wanted(Path("a"), Path("b"), quick=True, resume="earlier")),
        ("--part x a --part=y --quick=false b", Wanted(Path("a"), Path("b"), ("x", "y"))),
        ("#a null", Wanted(Path("#a"), Path("null"))),
    ],
)
def test_words_and_flags(line, expected):
    assert parse(Wanted, "x", line.split(), about="", positional=("folder", "also")) == expected
