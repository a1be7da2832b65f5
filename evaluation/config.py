"""Strict YAML: jsonargparse turns a mapping into a dataclass; what does not fit is one line that names the key."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import parse_yaml, read_mapping

T = TypeVar("T")

_UNKNOWN = re.compile(r"Group 'it\.?(?P<group>[\w.-]*)' does not accept option '(?P<name>[\w.-]+)'|"
                      r"(?:Key|Option) '(?P<key>[\w.-]+)' is not (?:accepted|expected)")  # fmt: skip
_WRONG = re.compile(r'Parser key "it\.?(?P<key>[\w.-]*)"')
_MISSING = re.compile(r"(?:arguments? (?:is|are) required: |Key \")(?:it\.)?(?P<key>[\w.]+)")
_EXPECTED = re.compile(r"Expected an? (?!<class 'NoneType'>)[^\n]*")


def read_yaml(path: Path, option: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        UsageError: if it is missing, no YAML, or no mapping.
    """
    return read_mapping(path, option, example="name: mine")


def build(cls: type[T], content: object, where: str) -> T:
    """Return the dataclass that a mapping describes; nested ones, tuples, literals and options included.

    Args:
        cls: a dataclass.
        content: the mapping, as YAML gives it.
        where: what to call it in an error.

    Raises:
        UsageError: for an unknown key, one that is missing, or a value of a wrong kind.
    """
    from jsonargparse import ArgumentParser

    if not isinstance(content, Mapping):
        raise UsageError(where, content, f"write the settings of {cls.__name__} below it, one a line")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "it")
    try:
        made = parser.instantiate(parser.parse_object({"it": dict(content)})).it
        # An unknown key that holds an empty mapping leaves no trace in what jsonargparse returns.
        for key in _keys(content):
            _check_known(made, key, where)
    except UsageError:
        raise
    except Exception as error:  # jsonargparse raises several kinds, all of them about the content
        raise _fault(str(error), content, where, cls) from error
    assert isinstance(made, cls)
    return made


def _fault(text: str, content: Mapping[str, Any], where: str, cls: Any) -> UsageError:
    if found := _UNKNOWN.search(text):
        name = (found["key"] or found["name"]).rpartition(".")[2]
        key = next((key for key in _keys(content) if key.rpartition(".")[2] == name), name)
        return _unknown(f"{where}.{key}", _at(content, key), list(_names(cls)))
    key = found["key"] if (found := _WRONG.search(text)) else ""
    full = ".".join(part for part in (where, key) if part)
    if "must be a mapping" in text:
        return UsageError(full, "given", "one of its groups holds a single value: write its settings below it")
    if found := _MISSING.search(text):
        name = found["key"].removeprefix(f"{key}.")
        return UsageError(f"{full}.{name}", "missing", "it has no default: give it")
    reasons = dict.fromkeys(_EXPECTED.findall(text)) or {text: None}
    said = "; ".join(re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", reason) for reason in reasons)
    said = re.sub(r"Expected an? (?:Literal)?", "expected ", said.partition(". Got value")[0])
    return UsageError(full, _at(content, key), " ".join(said.split())[:300])


def _unknown(option: str, value: object, known: Sequence[str]) -> UsageError:
    near = difflib.get_close_matches(option.rpartition(".")[2], known, n=1, cutoff=0.5)
    return UsageError(option, value, f"there is no such setting; {f'did you mean {near[0]}?' if near else 'remove it'}")


def _check_known(made: Any, key: str, where: str) -> None:
    """Refuse a key that no dataclass on the way has; below a free mapping everything is known."""
    for part in key.split("."):
        if not dataclasses.is_dataclass(made):
            made = made.get(part) if isinstance(made, Mapping) else None
            continue
        names = [field.name for field in dataclasses.fields(made)]
        if part not in names:
            raise _unknown(f"{where}.{key}", "given", names)
        made = getattr(made, part)


def _names(hint: Any) -> Iterator[str]:
    """Yield the names of all settings of a dataclass and of those inside it."""
    if dataclasses.is_dataclass(hint):
        for name, inner in get_type_hints(hint).items():
            yield name
            yield from _names(inner)
    for part in get_args(hint):
        yield from _names(part)


def _keys(content: Any, prefix: str = "") -> Iterator[str]:
    for key, value in content.items() if isinstance(content, Mapping) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def _at(content: Any, key: str) -> Any:
    for part in filter(None, key.split(".")):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def set_option(content: dict[str, Any], text: str, option: str = "--set") -> None:
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
