"""Dependencies point one way: the contracts of pyproject.toml hold, and they can fail; no imports go in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

LINT = "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c(['--no-cache', *sys.argv[1:]]))"


def lint(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def test_contracts_hold(repository: Path) -> None:
    result = lint(repository)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("planning/bad.py", "import torch"),
        ("planning/geometry.py", "from nuwa_lightning.writers import base"),
        ("writers/bad.py", "from nuwa_lightning.models import bad"),
        ("writers/bad.py", "import evaluation"),
        ("models/bad.py", "import lightning"),
        ("writers/bad.py", "import torchvision"),
    ],
)
def test_a_wrong_import_is_found(repository: Path, tmp_path: Path, module: str, line: str) -> None:
    """Each contract is shown to bite on a copy of the tree with one wrong import."""
    (tmp_path / "pyproject.toml").write_bytes((repository / "pyproject.toml").read_bytes())
    for package in ("nuwa_lightning", "evaluation"):
        for source in (repository / package).rglob("*.py"):
            copy = tmp_path / source.relative_to(repository)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    bad = tmp_path / "nuwa_lightning" / "models" / "bad.py"
    bad.write_text("")
    with (tmp_path / "nuwa_lightning" / module).open("a") as file:
        file.write(f"\n{line}\n")
    result = lint(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BROKEN" in result.stdout


def circle(*packages: str) -> list[str]:
    """Return modules that import one another in a circle, functions' imports included, those for types left out."""
    graph = grimp.build_graph(*packages, exclude_type_checking_imports=True, cache_dir=None)
    try:
        TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circles() -> None:
    assert circle("nuwa_lightning", "evaluation") == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from round_about import a", True),
        ("def late():\n    from round_about.a import x", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from round_about import a", False),
    ],
)
def test_a_circle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, found: bool) -> None:
    (tmp_path / "round_about").mkdir()
    for name, text in {"__init__": "", "a": "from round_about import b\nx = 1", "b": line}.items():
        (tmp_path / "round_about" / f"{name}.py").write_text(f"{text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(circle("round_about")) == ({"round_about.a", "round_about.b"} if found else set())


def test_every_public_method_is_described(repository: Path) -> None:
    """There, or by what it overrides in a class of ours."""
    classes = {
        node.name: node
        for package in ("nuwa_lightning", "evaluation")
        for source in (repository / package).rglob("*.py")
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.ClassDef)
    }

    def described(name: str) -> set[str]:
        bases = [
            getattr(base, "value", base) if isinstance(base, ast.Subscript) else base for base in classes[name].bases
        ]
        above = [described(base.id) for base in bases if isinstance(base, ast.Name) and base.id in classes]
        own = {m.name for m in classes[name].body if isinstance(m, ast.FunctionDef) and ast.get_docstring(m)}
        return own.union(*above)

    methods = [
        (name, method.name)
        for name, node in classes.items()
        for method in node.body
        if isinstance(method, ast.FunctionDef) and not name.startswith("_") and not method.name.startswith("_")
    ]
    assert len(methods) > 500
    assert not [(name, method) for name, method in methods if method not in described(name)]
