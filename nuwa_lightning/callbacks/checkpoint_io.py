"""Checkpoints that are whole or not there."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.fabric.plugins.io import CheckpointIO

from nuwa_lightning.atomic import atomic_write
from nuwa_lightning.errors import UsageError
from nuwa_lightning.legacy import upgrade_checkpoint
from nuwa_lightning.tokenizers.pretrained import first_not_finite


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its final name, forces it to the disk and renames it; reads plain values only.

    Lightning 2.6 writes to the system's temporary folder and moves the file. Across file systems that is a copy onto
    the final name, so a kill leaves half a checkpoint there; and it never forces anything to the disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``, whole or not at all: on an error what was there is still there."""
        if storage_options is not None:
            raise TypeError("checkpoints are local files: there are no storage_options")
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target) as partial, partial.open("wb") as file:
                _save(checkpoint, file)
        except OSError as error:
            kept = "the one before it is kept: " if target.exists() else ""
            hint = f"cannot be written ({error.strerror or error}): {kept}make room, go on with --ckpt_path last"
            raise UsageError("checkpoint", target, hint) from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read tensors and plain values; nothing in the file is run, whatever ``weights_only`` says."""
        return read_checkpoint(path, map_location=map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file (or a folder, as other plugins write)."""
        target = Path(path)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


class _Sink:
    """A file that remembers what the system said: of a full disk torch tells only "unexpected pos"."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.flush = file.flush
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    sink = _Sink(file)
    try:
        torch.save(checkpoint, cast("BinaryIO", sink))
    except (RuntimeError, OSError) as error:
        raise sink.error or error from None


def read_checkpoint(path: str | Path, *, map_location: Any = "cpu", mapped: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint, refused if it is none or its weights are not finite.

    ``mapped`` leaves tensors on the disk until they are used: quick, to look at the rest.
    """
    option = "ckpt_path"
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise UsageError(option, path, "there is no such file: name one in RUN/checkpoints, or say last") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(option, path, "is no checkpoint, or a damaged one: name another") from None
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UsageError(option, path, "is no checkpoint of a training: name one in RUN/checkpoints")
    upgrade_checkpoint(content)
    for part in ("state_dict", "current_model_state"):
        spoiled = first_not_finite(content.get(part, {}))
        if spoiled is not None:
            raise UsageError(option, path, f"{spoiled} holds NaN or infinity: name an earlier one, or start anew")
    return content
