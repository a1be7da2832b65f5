"""Strict YAML: a mapping becomes a dataclass, and what does not fit is one line that names the key (ours)."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nuwa_lightning.errors import UsageError

T = TypeVar("T")


def read_yaml(path: Path, option: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        UsageError: if it is missing, no YAML, or no mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        others = [str(p) for p in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
        near = difflib.get_close_matches(str(path), others, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "give the path of a YAML file"
        raise UsageError(option, str(path), f"there is no such file; {hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(option, str(path), f"is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(option, str(path), "holds no settings: write lines such as 'name: mine'")
    return content


def build(cls: type[T], content: object, where: str) -> T:
    """Return the dataclass that a mapping describes; nested ones, tuples, literals and options included.

    Args:
        cls: a dataclass.
        content: the mapping, as YAML gives it.
        where: what to call it in an error.

    Raises:
        UsageError: for a key that there is not, one that is missing, or a value of a wrong kind.
    """
    if not isinstance(content, Mapping):
        raise UsageError(where, content, f"write the settings of {cls.__name__} below it, one a line")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for key in content:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(fields)}"
            raise UsageError(f"{where}.{key}", content[key], f"there is no such setting; {hint}")
    values = {key: convert(hints[key], value, f"{where}.{key}") for key, value in content.items()}
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where}.{name}", "missing", "it has no default: give it")
    return cls(**values)


def convert(hint: Any, value: object, where: str) -> Any:
    """Return ``value`` as the type ``hint`` asks for.

    Raises:
        UsageError: if it is none.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        return _convert_one([part for part in parts if part is not type(None)], value, where)
    if origin is Literal:
        if value not in parts:
            near = difflib.get_close_matches(str(value), [str(part) for part in parts], n=1)
            hint_text = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(where, value, f"choose one of {', '.join(map(str, parts))}{hint_text}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(where, value, "write a list, [a, b, ...]")
        if parts[-1] is not Ellipsis and len(parts) != len(value):
            raise UsageError(where, value, f"give {len(parts)} values")
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(convert(kind, part, f"{where}[{i}]") for i, (kind, part) in enumerate(zip(kinds, value)))  # noqa: B905 - Ellipsis
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(where, value, "write one 'name: value' a line")
        return {str(key): convert(parts[1], part, f"{where}.{key}") for key, part in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    return _plain(hint, value, where)


def _convert_one(kinds: list[Any], value: object, where: str) -> Any:
    for kind in kinds[:-1]:
        try:
            return convert(kind, value, where)
        except UsageError:
            continue
    return convert(kinds[-1], value, where)


def _plain(hint: Any, value: object, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # A bool is an int to Python, but "count: yes" is a mistake.
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise UsageError(where, value, f"give a value of type {hint.__name__}")
    return value


def set_option(content: dict[str, Any], text: str, option: str = "--set") -> None:
    """Change one entry of nested mappings in place: ``a.b=VALUE``, the value written as in YAML.

    >>> content = {"real": {"count": 200}}
    >>> set_option(content, "real.count=50")
    >>> content
    {'real': {'count': 50}}

    Raises:
        UsageError: if it is not of that form.
    """
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(option, text, "write NAME=VALUE, such as real.count=50")
    *path, last = name.split(".")
    for part in path:
        inner = content.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = content[part] = {}
        content = inner
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(option, text, "the value is no YAML: quote it") from None


def flat(value: object, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by dots, sorted; lists stay values.

    >>> flat({"b": {"c": 1}, "a": [1]})
    {'a': [1], 'b.c': 1}
    """
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key in sorted(value):
        found |= flat(value[key], f"{prefix}.{key}" if prefix else str(key))
    return found
