"""Where a trained run lies: in a folder, in this package, or on the Hugging Face hub.

Only JSON and safetensors are ever fetched.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from nuwa_lightning.errors import UsageError

PARTS: Final = ("model", "tokenizer", "pixel_guided", "coarse")
"""Folders of a run; the last two are there for videos, and for coarse plans, only."""
SHIPPED: Final = Path(__file__).parent / "shipped"
"""Trained runs that come with this package, each with a ``README.md``: what it was trained on, what it can do."""
DEFAULT: Final = "landscape"
"""Which of them is taken where none is named."""
FILES: Final = tuple(f"{part}/{name}" for part in PARTS for name in ("config.json", "model.safetensors"))


def find_run(
    checkpoint: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the folder of a trained run, fetched from the hub if it is none here.

    Args:
        checkpoint: a folder with ``model`` and ``tokenizer``, the name of a run that comes with this package
            (``landscape``), or ``OWNER/NAME`` on the hub.
        revision: a branch, tag or commit on the hub.
        token: of the hub.
        cache_dir: where the hub's files are kept.
        local_files_only: fetch nothing.

    Raises:
        UsageError: if there is no such run, or it is not finished.
    """
    run = named(checkpoint)
    if not run.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(checkpoint)):
            hint = f"is no folder: name the run folder of stage 2, or {DEFAULT}, which comes with the package"
            raise UsageError("checkpoint", run, hint)
        run = _fetched(str(checkpoint), revision, token, cache_dir, local_files_only)
    model, tokenizer = (run / "model").is_dir(), (run / "tokenizer").is_dir()
    if tokenizer and not model:
        raise UsageError("checkpoint", checkpoint, "holds a tokenizer only (stage 1): name the run folder of stage 2")
    if model and not tokenizer:
        hint = "holds no tokenizer, which comes at the end of training: go on with fit until its end"
        raise UsageError("checkpoint", checkpoint, hint)
    return run


def named(folder: str | os.PathLike[str]) -> Path:
    """Return a folder, or the one that comes with this package if that is meant: ``landscape``, and no run here."""
    path = Path(folder)
    if str(folder) in shipped() and not any((path / part).is_dir() for part in PARTS):
        return SHIPPED / str(folder)
    return path


def find_part(folder: str | os.PathLike[str], part: str) -> Path:
    """Return the folder of a trained part: itself, or in the run that is meant, of this package or not."""
    path, inside = Path(folder), named(folder) / part
    return inside if (inside / "config.json").exists() and not (path / "config.json").exists() else path


def shipped() -> tuple[str, ...]:
    """Return the names of the trained runs that come with this package."""
    return tuple(sorted(folder.parent.name for folder in SHIPPED.glob("*/model")))


def _fetched(
    name: str, revision: str | None, token: str | None, cache: str | os.PathLike[str] | None, local: bool
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name,
            revision=revision,
            token=token,
            cache_dir=None if cache is None else Path(cache),
            local_files_only=local,
            allow_patterns=list(FILES),
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        hint = f"is no folder here, and the hub gives none of that name ({reason}): name a run folder or OWNER/NAME"
        raise UsageError("checkpoint", name, hint) from None
    return Path(found)


def upload(
    folder: Path, repo_id: str, *, private: bool | None = None, token: str | None = None, message: str | None = None
) -> str:
    """Put a saved pipeline on the hub; returns the address of the commit.

    Args:
        folder: what ``save_pretrained`` wrote.
        repo_id: ``OWNER/NAME``; made if it is not there.
        private: whether a new repository is hidden from others.
        token: of the hub.
        message: of the commit.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    name = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
    commit = hub.upload_folder(
        repo_id=name,
        folder_path=folder,
        allow_patterns=list(FILES),
        commit_message=message or "Upload a NUWA-Infinity pipeline",
    )
    return str(commit.commit_url)
