"""What a run remembers of itself: versions, machine, data sources, settings."""

import contextlib
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nuwa_lightning import environment
from nuwa_lightning.errors import UsageError

_PACKAGES = ("nuwa-lightning", "torch", "lightning", "torchmetrics", "jsonargparse", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of what decides about numbers."""
    return environment.versions(_PACKAGES)


def _commit() -> str | None:
    """Return the commit checked out in the working directory, or above it; nothing of it is run.

    Its files are read, since even ``git describe`` starts what ``.git/config`` names (``core.fsmonitor``).
    """
    here = Path.cwd()
    git = next((folder / ".git" for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    try:
        if git is None:
            return None
        if git.is_file():  # a work tree
            git = (git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
        common = git / (git / "commondir").read_text(encoding="utf-8").strip() if (git / "commondir").exists() else git
        said = (git / "HEAD").read_text(encoding="utf-8").strip()
        name = said.removeprefix("ref:").strip()
        if name == said:
            return _hash(said)
        for folder in (git, common):
            if (folder / name).is_file():
                return _hash((folder / name).read_text(encoding="utf-8"))
        packed = (common / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((_hash(line) for line in packed if line.endswith(f" {name}")), None)
    except (OSError, ValueError):
        return None


def _hash(text: str) -> str | None:
    found = re.match(r"[0-9a-f]{40,64}\b", text)
    return found[0][:12] if found else None


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


@runtime_checkable
class Recorded(Protocol):
    """A data module that says where its data comes from."""

    def prepare_data(self) -> None:
        """See Lightning."""

    def record(self) -> dict[str, Any]:
        """Return plain values."""


def run_record(config: Any, datamodule: Any, *, networks: Mapping[str, str | None]) -> dict[str, Any]:
    """Return what ``record.json`` says; ``networks`` are those used beside what is trained, by what for."""
    record: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": _commit(),
        "machine": environment.machine(),
        "seed": config.seed_everything,
        "networks": dict(networks),
    }
    if isinstance(datamodule, Recorded):
        datamodule.prepare_data()
        record["data"] = datamodule.record()
    return record
