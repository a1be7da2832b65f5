"""What a run remembers of itself: versions, machine, data sources, settings."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nuwa_lightning.atomic import write_json
from nuwa_lightning.errors import UsageError

_PACKAGES = ("nuwa-lightning", "torch", "lightning", "torchmetrics", "jsonargparse", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of what decides about numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def check_run_folder(folder: Path) -> None:
    """Refuse a run folder that cannot be made or written to, before any work; leaves nothing behind.

    Raises:
        UsageError: saying why.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError("--run", folder, f"cannot be written ({error.strerror}): name another folder") from None
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def write_record(run_folder: Path, config: Any, datamodule: Any, *, networks: Mapping[str, str | None]) -> None:
    """Write ``record.json`` into the run folder, atomically.

    Args:
        run_folder: the folder.
        config: the run's options.
        datamodule: where its data comes from.
        networks: which trained networks it uses beside what it trains, by what for.
    """
    record: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": _commit(),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "system": platform.platform()},
        "seed": config.seed_everything,
        "networks": dict(networks),
    }
    if datamodule is not None and hasattr(datamodule, "record"):
        datamodule.prepare_data()
        record["data"] = datamodule.record()
    run_folder.mkdir(parents=True, exist_ok=True)
    write_json(run_folder / "record.json", record)
