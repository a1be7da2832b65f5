"""What numbers were made with: versions of packages, and the machine. For records of runs, reports and benchmarks."""

import io
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

RANKS: Final = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""What torchrun and SLURM tell each process that they start."""
BEGAN: Final = time.time()
"""When this process was started, in seconds since 1970; a little later, and before PyTorch is imported."""


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of packages, "absent" where one is not installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def machine() -> dict[str, Any]:
    """Return the name of the CPU, the number of cores and the system."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()}


def commit(folder: Path | None = None) -> str | None:
    """Return the commit checked out in a folder, or above it; ``-dirty`` at its end says that files differ from it.

    To find that out git would run filters and hooks that its configuration names, or fetch what is missing. Where it
    names such, files are not looked at, and that is said.

    Args:
        folder: by default the working directory.
    """
    found = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if not found:
        return None
    look = ["status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all", "--no-renames"]
    named = _git(folder, "config", "--get-regexp", r"^(filter|hook)\.|promisor|partialclone")
    changed = _git(folder, *look) if named == "" else None
    return found[:12] + (" (changes not looked for)" if changed is None else "-dirty" if changed else "")


def _git(folder: Path | None, *words: str) -> str | None:
    """Return what git says, without hooks and monitors; None if it does not run."""
    command = ["git", "--no-optional-locks", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", *words]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode in (0, 1) else None


def print_any_name() -> None:
    """Let a name that no encoding of the terminal holds be printed, with escapes, instead of ending the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def started_together() -> bool:
    """Say whether torchrun started this process, and others with it."""
    told = all(name in os.environ for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
    return told and os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def is_first() -> bool:
    """Say whether this process is the first, or the only one, of those that torchrun or SLURM started together."""
    return all(os.environ.get(name, "0") in ("", "0") for name in RANKS)


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
