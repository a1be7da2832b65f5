"""Checkpoints that are whole or not there."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from nuwa_lightning.atomic import atomic_write
from nuwa_lightning.errors import UsageError
from nuwa_lightning.legacy import upgrade_checkpoint


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its final name, forces it to the disk and renames it; reads plain values only.

    Lightning 2.6 writes to the system's temporary folder and moves the file. Across file systems that is a copy onto
    the final name, so a kill leaves half a checkpoint there; and it never forces anything to the disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``, whole or not at all.

        Raises:
            OSError: if it cannot be written; what was at ``path`` is still there.
            TypeError: if there are ``storage_options``, since files are local.
        """
        if storage_options is not None:
            raise TypeError("checkpoints are local files: there are no storage_options")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            torch.save(checkpoint, partial)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read tensors and plain values; nothing in the file is run, whatever ``weights_only`` says.

        Raises:
            UsageError: if there is no such file or it is no checkpoint.
        """
        return read_checkpoint(path, map_location=map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file (or a folder, as other plugins write)."""
        target = Path(path)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def read_checkpoint(path: str | Path, *, map_location: Any = "cpu", mapped: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Args:
        path: a local file.
        map_location: see ``torch.load``.
        mapped: leave tensors on the disk until they are used: quick, to look at the rest.

    Raises:
        UsageError: if there is no such file or it is no checkpoint.
    """
    option = "--ckpt_path"
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise UsageError(option, path, "there is no such file: name one in RUN/checkpoints, or say last") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise UsageError(option, path, "is no checkpoint, or a damaged one: name another") from None
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UsageError(option, path, "is no checkpoint of a training: name one in RUN/checkpoints")
    upgrade_checkpoint(content)
    return content
