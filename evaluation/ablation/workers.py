"""Several cells at a time: processes that take the next free cell, each on its share of the cores (ours).

Threads of one small model wait for each other more than they help; two processes of one thread each do nearly twice
the work of one process of two threads.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nuwa_lightning.errors import UsageError
from nuwa_lightning.signals import die_with_parent

Start = Callable[[Sequence[str], dict[str, str]], "subprocess.Popen[bytes]"]


def check_jobs(jobs: int) -> None:
    """Refuse numbers of processes that cannot be."""
    if jobs > 1 and sys.platform == "win32":
        raise UsageError("jobs", jobs, "Windows has no locks of the kind that cells need: leave it out")
    if not 1 <= jobs <= cores():
        raise UsageError("jobs", jobs, f"this machine has {cores()} cores: give 1 to {cores()}")


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a process whose libraries use so many threads, and its children's."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def work_side_by_side(
    config: Path, output: Path, cells: Sequence[str], jobs: int, *, start: Start | None = None
) -> bool:
    """Let ``jobs`` processes do the cells; returns whether all of them ended well.

    A cell belongs to the process that took it first; what fails in one does not stop the others.

    Raises:
        KeyboardInterrupt: if it is stopped, after all processes have ended.
    """
    command = [sys.executable, "-m", "evaluation", "ablate", "--config", str(config), "--output", str(output)]
    command += ["--no-report", "--only", *cells]
    settings = environment(max(1, cores() // jobs))
    running = [(start or _start)(command, settings) for _ in range(min(jobs, len(cells)))]
    try:
        ended = [process.wait() for process in running]
    except KeyboardInterrupt:
        # They were told by the terminal, too, and save what they have.
        for process in running:
            process.wait()
        raise
    if 130 in ended:
        raise KeyboardInterrupt
    return not any(ended)


def _start(command: Sequence[str], settings: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=settings, preexec_fn=die_with_parent)
