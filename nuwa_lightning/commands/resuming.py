"""Going on with a run: which checkpoint ``--ckpt_path`` means, and whether it fits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol, runtime_checkable

from nuwa_lightning.callbacks.checkpoint_io import read_checkpoint
from nuwa_lightning.errors import UsageError

_LOG = logging.getLogger(__name__)


@runtime_checkable
class ChecksCheckpoints(Protocol):
    """A module that says whether it can go on from a checkpoint."""

    def check_checkpoint(self, checkpoint: dict[str, object], name: object) -> None:
        """Raise a UsageError if not."""


def find_checkpoint(given: str | None, run: Path, *, needed: bool) -> str | None:
    """Return the file that ``--ckpt_path`` means; None to start from the beginning.

    ``last`` is the newest ``last*.ckpt`` below the run folder; unless one is ``needed`` a first run may say it, too.
    """
    if given is None:
        return None
    if given != "last":
        if not Path(given).is_file():
            raise UsageError(
                "--ckpt_path", given, f"there is no such file: name one in {run / 'checkpoints'}, or say last"
            )
        return given
    found = sorted(run.rglob("last*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    if found:
        _LOG.info("going on from %s", found[-1])
        return str(found[-1])
    if needed:
        raise UsageError("--ckpt_path", given, f"there is no checkpoint below {run}: name a file, or another --run")
    _LOG.info("no checkpoint below %s yet: starting from the beginning", run)
    return None


def check_checkpoint(path: str | None, model: object) -> None:
    """Refuse a checkpoint that does not fit ``model``, before anything else is done."""
    if path is not None and Path(path).is_file() and isinstance(model, ChecksCheckpoints):
        model.check_checkpoint(read_checkpoint(path, mapped=True), path)
