"""Where a trained run lies: in a folder, in this package, or on the Hugging Face hub.

Only JSON and safetensors are ever fetched.
"""

import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, Self

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import read_json

PARTS: Final = ("model", "tokenizer", "pixel_guided", "coarse")
"""Folders of a run; the last two are there for videos, and for coarse plans, only."""
SHIPPED: Final = Path(__file__).parent / "shipped"
"""Trained runs that come with this package, each with a ``README.md``: what it was trained on, what it can do."""
DEFAULT: Final = "landscape"
"""Which of them is taken where none is named."""
FILES: Final = tuple(f"{part}/{name}" for part in PARTS for name in ("config.json", "model.safetensors"))
ABOUT: Final = ("README.md", "record.json")
"""What tells how a run was trained; nothing is read of it."""


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
            (:func:`shipped`), or ``OWNER/NAME`` on the hub.
        revision: a branch, tag or commit on the hub.
        token: of the hub.
        cache_dir: where the hub's files are kept.
        local_files_only: fetch nothing.

    Raises:
        UsageError: if there is no such run, or it is not finished.
    """
    run = named(checkpoint)
    if not run.is_dir():
        if not _is_repository(checkpoint):
            *more, last = shipped()
            hint = f"is no folder: name the run folder of stage 2, or {', '.join(more)} or {last} of this package"
            raise UsageError("checkpoint", run, hint)
        run = _fetched(str(checkpoint), revision, token, cache_dir, local_files_only)
    model, tokenizer = (run / "model").is_dir(), (run / "tokenizer").is_dir()
    if tokenizer and not model:
        raise UsageError("checkpoint", checkpoint, "holds a tokenizer only (stage 1): name the run folder of stage 2")
    if model and not tokenizer:
        hint = "holds no tokenizer, which comes at the end of training: go on with fit until its end"
        raise UsageError("checkpoint", checkpoint, hint)
    return run


def _is_repository(checkpoint: str | os.PathLike[str]) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", str(checkpoint)) is not None


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


def write_card(folder: Path, run: Path | None) -> None:
    """Write ``README.md``, the card of a saved run: that of the ``run`` it was loaded from, or one made of its record.

    The record goes along. Nothing is said that is not in these files.
    """
    there = [name for name in ABOUT if run is not None and (run / name).is_file()]
    for name in there:
        assert run is not None
        if run.resolve() != folder.resolve():
            with atomic_write(folder / name) as partial:
                shutil.copyfile(run / name, partial)
    if "README.md" not in there:
        record = _said(folder / "record.json") if "record.json" in there else {}
        with atomic_write(folder / "README.md") as partial:
            partial.write_text(card(_said(folder / "model" / "config.json"), record), encoding="utf-8")


def _said(path: Path) -> dict[str, Any]:
    """Return what a JSON file says; nothing of one that is damaged."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _part(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = said.get(name)
    return part if isinstance(part, Mapping) else {}


def card(config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Return the text of a card.

    Args:
        config: of the patch transformer, as it is exported.
        record: of its training; empty where it is not known.
    """
    task = "text-to-image" if "text_encoder" in config else "unconditional-image-generation"
    return _CARD.format(task=task, table=_table(_transformer(config), config, record))


def _table(said: dict[str, str], config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    said["format of the files"] = str(config.get("format"))
    data, ended = _part(record, "data"), _part(record, "ended")
    if record:
        said["trained on"] = f"{data.get('source', 'see record.json')}: {_count(data.get('train'))}"
        said["steps"] = f"{ended.get('step', '?')} ({ended.get('by', 'not ended')}), seed {record.get('seed')}"
        versions = _part(record, "versions")
        said["trained with"] = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    rows = "\n".join(f"| {name} | {value.replace('|', '/')} |" for name, value in said.items())
    how = "`record.json` holds the rest." if record else "How it was trained is not recorded."
    return f"| | |\n|---|---|\n{rows}\n\n{how}"


def _transformer(config: Mapping[str, Any]) -> dict[str, str]:
    model, said = _part(config, "model"), {}
    size = _part(model, "size")
    said["patch transformer"] = (
        f"{size.get('num_layers')} layers, width {size.get('dim')}, {size.get('num_heads')} heads"
    )
    said["patches"] = f"{model.get('patch_size')} tokens of {model.get('codebook_size')} codes"
    for part in ("context_pool", "direction", "local_decoder", "text_encoder"):
        if part in config:
            arguments = ", ".join(f"{name}={value}" for name, value in _part(config[part], "args").items())
            said[part.replace("_", " ")] = f"`{str(config[part].get('name')).rpartition('.')[2]}({arguments})`"
    said["frames of a training sample"] = str(config.get("frames", 1))
    return said


def _count(names: object) -> str:
    return f"{len(names)} of it" if isinstance(names, list) else "see record.json"


_CARD: Final = """---
library_name: nuwa-lightning
pipeline_tag: {task}
tags: [nuwa-infinity, autoregressive]
---
# A NUWA-Infinity model

Images of any size, patch by patch (NUWA-Infinity, arXiv 2207.09814), by `nuwa-lightning`:

```python
from nuwa_lightning import NuwaInfinityPipeline

pipe = NuwaInfinityPipeline.from_pretrained("OWNER/NAME")
pipe(size=(2048, 512), seed=0).images[0].save("wide.png")
```

{table}
"""


def _fetched(
    name: str,
    revision: str | None,
    token: str | None,
    cache: str | os.PathLike[str] | None,
    local: bool,
    files: Sequence[str] = FILES,
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
            allow_patterns=list(files),
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
        allow_patterns=[*FILES, *ABOUT],
        commit_message=message or "Upload a NUWA-Infinity pipeline",
    )
    return str(commit.commit_url)


class Pretrained(ABC):
    """A part of a run that is shared by itself, in a folder or on the hub, or read out of a run's."""

    part: ClassVar[Literal["model", "tokenizer"]]
    """Its folder in a run."""
    _record: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | os.PathLike[str],
        *,
        own: Sequence[type[Any]] = (),
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load what :meth:`save_pretrained` or :meth:`push_to_hub` kept, or this part of a run.

        Args:
            checkpoint: a folder, ``landscape`` (the model that comes with this package), or ``OWNER/NAME`` on the hub.
            own: classes outside of this package that the files may name.
            revision: a branch, tag or commit on the hub.
            token: of the hub.
            cache_dir: where the hub's files are kept.
            local_files_only: fetch nothing.

        Raises:
            UsageError: if it is not there, damaged, or of another class.
        """
        folder = find_part(checkpoint, cls.part)
        if not (folder / "config.json").exists() and not named(checkpoint).exists() and _is_repository(checkpoint):
            # A run of stage 2 holds a tokenizer, too, but its record is the transformer's.
            files = ["record.json", "model/config.json", *(name for name in FILES if name.startswith(f"{cls.part}/"))]
            folder = _fetched(str(checkpoint), revision, token, cache_dir, local_files_only, files) / cls.part
        found = cls._loaded(folder, own)
        if not isinstance(found, cls):
            kind = type(found).__name__
            raise UsageError("checkpoint", checkpoint, f"holds no {cls.__name__}: call {kind}.from_pretrained")
        if folder.name == cls.part and (cls.part == "model" or not (folder.parent / "model").is_dir()):
            object.__setattr__(found, "_record", _said(folder.parent / "record.json"))
        return found

    @classmethod
    @abstractmethod
    def _loaded(cls, folder: Path, own: Sequence[type[Any]]) -> object:
        """Return what lies in a folder with ``config.json``."""

    @abstractmethod
    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Put it into a repository of the Hugging Face hub, made if need be; returns the address of the commit."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / self.part)
            cls, config = type(self), _said(Path(folder) / self.part / "config.json")
            said = _transformer(config) if self.part == "model" else {"tokenizer": f"`{cls.__name__}`"}
            names = {"part": self.part, "module": cls.__module__, "cls": cls.__name__, "repo": repo_id}
            text = _PART_CARD.format(**names, table=_table(said, config, self._record))
            (Path(folder) / "README.md").write_text(text, encoding="utf-8")
            if self._record:
                write_json(Path(folder) / "record.json", self._record)
            message = commit_message or f"Upload a {cls.__name__}"
            return upload(Path(folder), repo_id, private=private, token=token, message=message)


_PART_CARD: Final = """---
library_name: nuwa-lightning
tags: [nuwa-infinity]
---
# The {part} of a NUWA-Infinity model

```python
from {module} import {cls}

{part} = {cls}.from_pretrained("{repo}")
```

{table}
"""
