"""YAML and JSON that anybody may have written: read whole or refused, whatever they hold (ours)."""

from __future__ import annotations

import difflib
import json
import os
import stat
from pathlib import Path
from typing import Any, Final

import yaml

from nuwa_lightning.errors import UsageError

_LONGEST: Final = 4 << 20
_DEEPEST: Final = 64
_MOST: Final = 100_000


def read_text(path: str | os.PathLike[str], *, longest: int = _LONGEST) -> str:
    """Return the text of a file, refused if it is no regular file (a pipe waits forever), too long, or no UTF-8."""
    state = os.stat(path)
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        raise ValueError("a pipe, a socket or a device, no file")
    if state.st_size > longest:
        raise ValueError(f"{state.st_size} bytes are too many, at most {longest} are read")
    return Path(path).read_text(encoding="utf-8")


def read_mapping(path: str | os.PathLike[str], option: str, *, example: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; errors name the ``option`` and show an ``example`` of a line."""
    path = Path(path)
    try:
        content = parse_yaml(read_text(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        others = [str(p) for p in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
        near = difflib.get_close_matches(str(path), others, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "give the path of a YAML file, such as recipes/landscape.yaml"
        raise UsageError(option, path, f"there is no such file; {hint}") from None
    except OSError as error:
        hint = f"cannot be read ({error.strerror}): give the path of a YAML file"
        raise UsageError(option, path, hint) from None
    except ValueError as error:
        raise UsageError(option, path, f"is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(option, path, f"holds no options: write lines such as '{example}'")
    return content


def parse_yaml(text: str) -> Any:
    """Return what a YAML document says: plain values and nothing else."""
    try:
        _check_growth(text)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                raise ValueError(f"{key.value} is there twice, the second time in line {key.start_mark.line + 1}")
            if name is not None:
                seen.add(name)
        return super().construct_mapping(node, deep)


def _check_growth(text: str) -> None:
    """Refuse what would be large or deep once its aliases are put in, before anything is made of it."""
    open_nodes: list[tuple[str | None, int]] = []
    sizes: dict[str, int] = {}
    total = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise ValueError(f"*{event.anchor} holds itself")
            total += sizes.get(event.anchor or "", 0)
        if len(open_nodes) > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        if total > _MOST:
            raise ValueError(f"it holds more than {_MOST} values")


def parse_json(text: str | bytes) -> Any:
    """Return what JSON text says."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
