"""What a run remembers of itself: versions, machine, data sources, settings."""

import contextlib
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nuwa_lightning import environment
from nuwa_lightning.errors import UsageError

_PACKAGES = ("nuwa-lightning", "torch", "lightning", "torchmetrics", "jsonargparse", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of what decides about numbers."""
    return environment.versions(_PACKAGES)


def check_run_folder(folder: Path) -> None:
    """Refuse a run folder that cannot be made or written to, before any work; leaves nothing behind."""
    made: list[Path] = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError("--run", folder, f"cannot be written ({error.strerror}): name another folder") from None
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def run_record(config: Any, datamodule: Any, *, networks: Mapping[str, str | None]) -> dict[str, Any]:
    """Return what ``record.json`` says; ``networks`` are those used beside what is trained, by what for."""
    record: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": environment.commit(),
        "machine": environment.machine(),
        "seed": config.seed_everything,
        "networks": dict(networks),
    }
    if hasattr(datamodule, "record"):  # a data module of the user's own need not
        datamodule.prepare_data()
        record["data"] = datamodule.record()
    return record
