"""Strict YAML: jsonargparse turns a mapping into a dataclass; what does not fit is one line that names the key."""

import copy
import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import parse_yaml, read_mapping

T = TypeVar("T")


def read_yaml(path: Path, option: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds."""
    return read_mapping(path, option, example="name: mine")


def build(cls: type[T], content: object, where: str) -> T:
    """Return the dataclass that a mapping describes; nested ones, tuples, literals and options included."""
    if not isinstance(content, Mapping):
        raise UsageError(where, content, f"write the settings of {cls.__name__} below it, one a line")
    from nuwa_lightning.commands.parsing import OneLineParser

    parser = OneLineParser()
    parser.add_class_arguments(cls, "it")
    try:
        made = parser.instantiate(parser.parse_object({"it": copy.deepcopy(dict(content))})).it
    except UsageError as error:
        if not error.option.startswith("--it."):
            raise  # of the dataclass itself
        name = error.option.removeprefix("--it.")
        # Names of cells and the like are left out by the parser.
        alike = [key for key in _keys(content) if key.rpartition(".")[2] == name.rpartition(".")[2]]
        full = name if name in alike else next(iter(alike), name)
        raise UsageError(f"{where}.{full}", error.value, error.hint.replace("--it.", "")) from None
    except (TypeError, ValueError):  # the second of a text with a NUL in the place of a group
        hint = "one of its groups holds a single value: write its settings below it"
        raise UsageError(where, "given", hint) from None
    # An unknown key that holds an empty mapping leaves no trace in what jsonargparse returns.
    for key in _keys(content):
        _check_known(made, key, where)
    assert isinstance(made, cls)
    return made


def _check_known(made: Any, key: str, where: str) -> None:
    """Refuse a key that no dataclass on the way has; below a free mapping everything is known."""
    for part in key.split("."):
        if not dataclasses.is_dataclass(made):
            made = made.get(part) if isinstance(made, Mapping) else None
        elif part in (names := [field.name for field in dataclasses.fields(made)]):
            made = getattr(made, part)
        else:
            near = difflib.get_close_matches(part, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "remove it"
            raise UsageError(f"{where}.{key}", "given", f"there is no such setting; {hint}")


def _keys(content: Any, prefix: str = "") -> Iterator[str]:
    for key, value in content.items() if isinstance(content, Mapping) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def set_option(content: dict[str, Any], text: str, option: str = "set") -> None:
    """Change one entry of nested mappings in place: ``a.b=VALUE``, the value written as in YAML.

    >>> content = {"real": {"count": 200}}
    >>> set_option(content, "real.count=50")
    >>> content
    {'real': {'count': 50}}

    Raises:
        UsageError: if it is not of that form.
    """
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
        content[last] = parse_yaml(value)
    except ValueError as error:
        raise UsageError(option, text, f"the value is no YAML ({error}): quote it") from None


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
