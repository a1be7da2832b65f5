"""Options of a command: one dataclass says them all; flags, a YAML file (``--config``) and ``--help`` follow."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from nuwa_lightning.commands.parsing import OneLineParser
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import parse_yaml, read_mapping

T = TypeVar("T")


class Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of what a command does and of its examples."""


class _Parser(OneLineParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise one line; of an option that has no default, its name alone."""
        _, wanted, names = message.partition("arguments are required: ")
        if wanted:
            name = names.split(", ")[0].removeprefix("--")
            raise UsageError(f"--{name}", "missing", "there is no default: give it, see --help")
        super().error(message, ex)


def parser_of(cls: type[Any], prog: str, *, about: str, epilog: str = "") -> ArgumentParser:
    """Return the parser of a command; arguments as of `parse`."""
    p = _Parser(prog, description=about, epilog=epilog, formatter_class=Help)
    if "config" not in get_type_hints(cls):
        p.add_argument("-c", "--config", action="config", help="a YAML file of these options; what follows it wins")
    p.add_class_arguments(cls)
    return p


def parse(
    cls: type[T],
    prog: str,
    arguments: Sequence[str],
    *,
    about: str,
    epilog: str = "",
    positional: Sequence[str] = (),
) -> T:
    """Return the options of a command.

    Args:
        cls: a dataclass; its docstring describes each field. The metadata ``alone`` of a field is its value where the
            option is given without one.
        prog: what the command is called by.
        arguments: behind it. ``--no-cache`` is the field ``no_cache``; a field that is true or false needs no value, a
            tuple takes several, and may be given again.
        about: what the command does.
        epilog: lines that show it.
        positional: the fields of arguments without a name; beside them a tuple takes one value each time.

    Raises:
        UsageError: naming the option, the value and what to do.
    """
    p = parser_of(cls, prog, about=about, epilog=epilog)
    fields = {each.name: each for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
    alone = {name: each.metadata["alone"] for name, each in fields.items() if "alone" in each.metadata}
    given = _with_values(get_type_hints(cls), arguments, positional, alone)
    for argument in given if "config" not in fields else ():
        option, _, value = argument.partition("=")
        if option in ("-c", "--config"):
            read_mapping(value, "--config", example="threads: 1")
    found = vars(p.parse_args(given))
    return cls(**{n: tuple(found[n]) if isinstance(found[n], list) else found[n] for n in fields})


def completed(error: UsageError, *classes: type[Any]) -> UsageError:
    """Return an error in the words of the command line: names of fields of these dataclasses become options."""
    names = {each.name for cls in classes for each in dataclasses.fields(cls)} | {"mask"}
    error.option = f"--{error.option.removesuffix('_file')}" if error.option in names else error.option
    error.hint = re.sub(r"`(\w+)`", lambda found: f"--{found[1]}" if found[1] in names else found[0], error.hint)
    return error


def _with_values(
    hints: dict[str, Any], arguments: Sequence[str], positional: Sequence[str] = (), alone: dict[str, str] | None = None
) -> list[str]:
    """Return the arguments with a value for each flag, and each tuple as one list.

    >>> _with_values({"dry_run": bool, "set": tuple[str, ...]}, ["--dry-run", "--set", "a", "--set=b"])
    ['--dry_run=true', '--set=["a", "b"]']
    >>> _with_values({"run": str, "resume": str}, ["x", "--resume"], ["run"], {"resume": "last"})
    ['--run=x', '--resume=last']
    """
    kept, lists = [], dict[str, list[str]]()
    words, rest = list(positional), list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument[2:].partition("=")
        flag = flag.replace("-", "_")
        if argument == "-c":
            flag = "config"
        elif not argument.startswith("--"):
            if not words or argument == "-h":
                kept.append(argument)
            elif _has(tuple, hints[words[0]]):
                lists.setdefault(words[0], []).append(argument)
            else:
                kept.append(f"--{words[0]}={as_name(argument)}")
                words.pop(0)
            continue
        if _has(tuple, hints.get(flag)):
            found = lists.setdefault(flag, [])
            found += [value] if equals else []
            while not equals and rest and not rest[0].startswith("--"):
                found.append(rest.pop(0))
                if positional:
                    break
        elif equals:
            kept.append(f"--{flag}={value}")
        elif hints.get(flag) is bool:
            kept.append(f"--{flag}=true")
        elif rest and not rest[0].startswith("--"):
            value = rest.pop(0)
            kept.append(f"--{flag}={as_name(value) if _has(Path, hints.get(flag)) else value}")
        else:
            kept.append(f"--{flag}={alone[flag]}" if alone and flag in alone else f"--{flag}")
    return kept + [f"--{flag}={json.dumps(values)}" for flag, values in lists.items()]


def _has(kind: type[Any], hint: Any) -> bool:
    """Say whether a type hint is of a kind, or may be."""
    return any(part is kind or get_origin(part) is kind for part in (hint, *get_args(hint)))


def as_name(name: str) -> str:
    """Return a file's name as the parser takes it: some, such as ``#h`` and ``null``, are nothing in YAML."""
    try:
        return f"./{name}" if name and parse_yaml(name) is None else name
    except ValueError:
        return name
