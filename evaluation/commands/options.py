"""Options of a command: one dataclass says them all; flags, a YAML file (``--config``) and ``--help`` follow."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import DefaultHelpFormatter

from nuwa_lightning.commands.parsing import OneLineParser
from nuwa_lightning.errors import UsageError

T = TypeVar("T")


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of what a command does and of its examples."""


class _Parser(OneLineParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise one line; of an option that has no default, its name alone."""
        _, wanted, names = message.partition("arguments are required: ")
        if wanted:
            raise UsageError(f"--{names.split(', ')[0]}", "missing", "there is no default: give it, see --help")
        super().error(message, ex)


def parse(
    cls: type[T],
    name: str,
    arguments: Sequence[str],
    *,
    about: str,
    examples: str = "",
    positional: str | None = None,
) -> T:
    """Return the options of a command.

    Args:
        cls: a dataclass; its docstring describes each field.
        name: of the command.
        arguments: behind it. ``--no-cache`` is the field ``no_cache``; a field that is true or false needs no value, a
            tuple takes several, and may be given again.
        about: what the command does.
        examples: lines that show it.
        positional: the field of arguments without a name.

    Raises:
        UsageError: naming the option, the value and what to do.
    """
    p = _Parser(
        f"python -m evaluation {name}",
        description=about,
        epilog=f"Options that are true or false need no value; --no-cache is --no_cache.\n\nexamples\n{examples}",
        formatter_class=_Help,
    )
    hints = get_type_hints(cls)
    if "config" not in hints:
        p.add_argument("--config", action="config", help="a YAML file of these options; what follows it wins")
    p.add_argument("--traceback", action="store_true", help="show where an error came from")
    p.add_class_arguments(cls)
    found = vars(p.parse_args(_with_values(hints, arguments, positional)))
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return cls(**{n: tuple(found[n]) if isinstance(found[n], list) else found[n] for n in names})


def _with_values(hints: dict[str, Any], arguments: Sequence[str], positional: str | None) -> list[str]:
    """Return the arguments with a value for each flag, and each tuple as one list.

    >>> _with_values({"dry_run": bool, "set": tuple[str, ...]}, ["--dry-run", "--set", "a", "--set=b"], None)
    ['--dry_run=true', '--set=["a", "b"]']
    """
    kept, lists, name = [], dict[str, list[str]](), positional
    for argument in arguments:
        if not argument.startswith("--"):
            if name is None:
                kept.append(argument)
            else:
                lists.setdefault(name, []).append(argument)
            continue
        flag, equals, value = argument[2:].partition("=")
        flag, name = flag.replace("-", "_"), None
        if _is_tuple(hints.get(flag)):
            lists.setdefault(flag, []).extend([value] if equals else [])
            name = None if equals else flag
        else:
            kept.append(f"--{flag}{equals}{value}" + ("=true" if hints.get(flag) is bool and not equals else ""))
    return kept + [f"--{flag}={json.dumps(values)}" for flag, values in lists.items()]


def _is_tuple(hint: Any) -> bool:
    return any(get_origin(part) is tuple for part in (hint, *get_args(hint)))
