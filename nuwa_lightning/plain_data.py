"""YAML, JSON and plain arrays that anybody may have written: read whole or refused, whatever they hold (ours)."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONGEST: Final = 4 << 20
_DEEPEST: Final = 64
_MOST: Final = 100_000
T = TypeVar("T")


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
    for name in map(str, content):
        dots = (place for place, sign in enumerate(name) if sign == ".")
        if group := next((name[:dot] for dot in dots if name[:dot] in content), None):
            raise UsageError(option, path, f"says {name} beside {group}, of which one is lost: write it below {group}")
    return content


def parse_yaml(text: str) -> Any:
    """Return what a YAML document says: plain values and nothing else."""
    try:
        _check_growth(text)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


_TAG: Final = "tag:yaml.org,2002:"
_BY_EIGHTS_OR_SIXTIES: Final = re.compile(r".*:.*|[-+]?0[0_]*[1-7][0-7_]+")


class OneMeaning(yaml.constructor.SafeConstructor):
    """Refuses, in a loader, numbers that YAML 1.1 reads by eights or sixties, and keys of which one would be lost."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """See `yaml`; 1.2 reads 010 as ten, and 1:30 as text."""
        number = node.tag in (f"{_TAG}int", f"{_TAG}float") and isinstance(node, yaml.ScalarNode)
        if number and _BY_EIGHTS_OR_SIXTIES.fullmatch(node.value):
            hint = f"write '{node.value}' in quotes, or a number without colons and without 0 before it"
            raise yaml.YAMLError(f"{node.value} in line {node.start_mark.line + 1} has two meanings in YAML: {hint}")
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See `yaml`; keys of two kinds may be equal, as 1, 1.0 and true are."""
        seen: dict[Any, str] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            special, line = key.tag in (f"{_TAG}merge", f"{_TAG}value"), key.start_mark.line + 1
            name = key.tag if special else self.construct_object(key)
            if isinstance(name, bool):
                raise yaml.YAMLError(f"{key.value} in line {line} is no name in YAML, but {name}: write '{key.value}'")
            if name in seen:
                also = "" if seen[name] == key.value else f" (as {seen[name]})"
                raise yaml.YAMLError(f"{key.value} is there twice{also}, the second time in line {line}")
            seen[name] = key.value
        return super().construct_mapping(node, deep)


class _Loader(OneMeaning, yaml.SafeLoader):
    pass


def is_too_large(text: str) -> bool:
    """Say whether a text is a number with a point or an exponent that becomes infinite when it is read.

    >>> is_too_large("1e400"), is_too_large("-2.5e999"), is_too_large("1e3"), is_too_large("inf")
    (True, True, False, False)
    """
    try:
        return any(sign in text for sign in ".eE") and "n" not in text.lower() and math.isinf(float(text))
    except ValueError:
        return False


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
            if event.implicit[0] and is_too_large(event.value):
                raise ValueError(f"{event.value:.100} is too large a number")
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
    """Return what JSON text says; a key that is there twice is refused."""
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level = [found]
    for _ in range(_DEEPEST):
        level = [inner for one in level if isinstance(one, dict | list) for inner in _inside(one)]
        if not level:
            return found
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name!r:.100} is there twice")
    return found


def _inside(value: dict[str, Any] | list[Any]) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def read_json(path: str | os.PathLike[str], *, longest: int = _LONGEST) -> Any:
    """Return what a JSON file says.

    Raises:
        OSError: if there is none that can be read.
        ValueError: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, longest=longest))


def fits(value: object, kind: Any) -> bool:
    """Say whether a plain value is of a kind, given as a type hint; numbers are finite and of 64 bits, booleans none.

    >>> fits({"a": [1, 2]}, dict[str, list[int]]), fits([1, "a"], tuple[int, int]), fits(True, int | None)
    (True, False, False)
    """
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if kind is float and isinstance(value, float):
        return math.isfinite(value)
    if kind in (int, float):
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if origin in (list, tuple):  # a tuple comes as a list out of JSON
        if not isinstance(value, list | tuple):
            return False
        if origin is list or args[-1] is Ellipsis:
            return all(fits(one, args[0]) for one in value)
        return len(value) == len(args) and all(map(fits, value, args))
    return value is None if kind in (None, type(None)) else isinstance(value, kind)


def from_plain(cls: Callable[..., T], values: Any) -> T:
    """Return an object of a class from the plain values that a file says; lists become tuples.

    Raises:
        ValueError: as `check_plain`; and whatever the class raises.
    """
    check_plain(cls, values)
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def check_plain(cls: Callable[..., Any], values: Any) -> None:
    """Refuse arguments of a class, out of a file, that are of another kind than the class declares.

    Raises:
        ValueError: naming the first one.
    """
    if not fits(values, dict[str, Any]):
        raise ValueError(f"{getattr(cls, '__name__', cls)}: names and values are needed")
    try:
        kinds = get_type_hints(cls if is_dataclass(cls) else cls.__init__)
    except (NameError, TypeError):  # a class of the user's own whose types are there for a type checker only
        return
    for name, value in values.items():
        if name in kinds and not fits(value, kinds[name]):
            raise ValueError(f"{name}: {value!r:.100} is not of the kind {kinds[name]}")


def mapped_array(path: Path) -> NDArray[Any] | None:
    """Return the array in a .npy file, mapped; None if there is none, or it is damaged."""
    import numpy as np

    if not path.is_file():  # a pipe would keep its reader waiting
        return None
    try:
        found: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # of a parser that meets what anybody may have written
        return None
    return found
