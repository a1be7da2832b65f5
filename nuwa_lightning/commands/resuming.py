"""Going on with a run: which checkpoint ``--ckpt_path`` means, and whether it fits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from nuwa_lightning.callbacks.checkpoint_io import read_checkpoint
from nuwa_lightning.errors import UsageError

_LOG = logging.getLogger(__name__)
TRAINED: Final = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""Parts of a checkpoint that a training goes on from."""


@runtime_checkable
class ChecksCheckpoints(Protocol):
    """A module that says whether it can go on from a checkpoint."""

    def check_checkpoint(self, checkpoint: dict[str, object], name: object) -> None:
        """Raise a UsageError if not."""


def find_checkpoint(given: str | None, run: Path, *, needed: bool) -> str | None:
    """Return the file that ``--ckpt_path`` means; None to start from the beginning.

    Args:
        given: what the user said; ``last`` is the newest ``last*.ckpt`` below the run folder.
        run: the run folder.
        needed: whether there must be one (validation) or a first run may say ``last``, too (training).

    Raises:
        UsageError: if there is no such file.
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


def check_checkpoint(path: str | None, model: object, *, parts: Sequence[str] = ()) -> None:
    """Refuse a checkpoint that does not fit ``model``, or lacks one of ``parts``, before anything else is done.

    Raises:
        UsageError: if it cannot be read or is of another stage or size.
    """
    if path is None or not Path(path).is_file() or not isinstance(model, ChecksCheckpoints):
        return
    content = read_checkpoint(path, mapped=True)
    missing = next((name for name in parts if name not in content), None)
    if missing is not None:
        hint = f"has no {missing}, without which a training cannot go on: name last.ckpt, or an earlier one"
        raise UsageError("--ckpt_path", path, hint)
    try:
        if parts:  # Lightning counts from the beginning, without a word, where they do not say how far it was
            for name in ("epoch_progress", "epoch_loop.batch_progress"):
                content["loops"]["fit_loop"][name]["total"]["processed"]
            content["optimizer_states"][0]["param_groups"], content["lr_schedulers"]
        model.check_checkpoint(content, path)
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise unusable(path, error) from None


def unusable(path: object, error: BaseException) -> UsageError:
    """Return what to raise where a part of a checkpoint is not what this run has in its place."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    hint = f"does not fit this run, or is damaged ({reason}): name an earlier one, or start anew"
    return UsageError("--ckpt_path", path, hint)
