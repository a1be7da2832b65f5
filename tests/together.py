"""Processes that torchrun would start, started by a test: two or more on this machine, talking by gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
# A script of the tests imports others of them, as in pytest; packages that are installed bring a `tests` of their own.
_SCRIPT = f"""
import runpy, sys, types
sys.modules["tests"] = tests = types.ModuleType("tests")
tests.__path__ = [{str(REPOSITORY / "tests")!r}]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """Return what torchrun tells one process."""
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank}
    told |= {"GROUP_RANK": 0, "LOCAL_WORLD_SIZE": world, "TORCHELASTIC_RUN_ID": "test"}
    return {name: str(value) for name, value in told.items()}


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_together(
    arguments: Sequence[object],
    *,
    world: int = 2,
    timeout: float = 300,
    folder: Path | None = None,
    told: Sequence[Mapping[str, str]] | None = None,
) -> list[tuple[int, str]]:
    """Run ``python ARGUMENTS`` (a script of the tests, or a module) as processes that belong together.

    Returns each one's status and standard error.

    Args:
        arguments: of Python.
        world: how many processes.
        timeout: seconds until all of them are killed.
        folder: the working directory.
        told: each one's environment, beside this process' own; by default torchrun's.
    """
    port = free_port()
    told = told or [environment(rank, world, port) for rank in range(world)]
    own = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    script = ["-c", _SCRIPT] if str(arguments[0]).endswith(".py") else []
    command = [sys.executable, *script, *map(str, arguments)]
    processes = [
        subprocess.Popen(command, env={**own, **each}, cwd=folder, stderr=subprocess.PIPE, text=True) for each in told
    ]
    try:
        said = [process.communicate(timeout=timeout)[1] for process in processes]
        return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()
