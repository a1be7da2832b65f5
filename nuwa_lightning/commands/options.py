"""Options of a command: one dataclass says them all; flags, a YAML file (``--config``) and ``--help`` follow."""

import argparse
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import DefaultHelpFormatter

from nuwa_lightning.commands.parsing import OWN, OneLineParser
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hub import DEFAULT
from nuwa_lightning.plain_data import parse_yaml, read_mapping

T = TypeVar("T")


class Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of what a command does and of its examples."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it computes.

    Args:
        checkpoint: run folder of stage 2 (holds model/ and tokenizer/), landscape, landscape_text or landscape_video
            (they come with the package), or OWNER/NAME on the Hugging Face hub
        own: your pool, direction, local decoder, text encoder or tokenizer that the model was trained with, or that is
            named here: my_pools.MyPool; may be repeated
        threads: CPU threads for decoding tokens; one is the fastest for small models, and beside other processes by far
        max_pixels: read an image or mask of at most so many pixels; raise it for a file that you trust (default: 200
            million)
    """

    checkpoint: str = field(default=DEFAULT, metadata={"file": True})
    own: tuple[str, ...] = ()
    threads: int = 1
    max_pixels: int | None = None


class OptionsParser(OneLineParser):
    """Takes arguments as people write them, see `parser_of`."""

    given: Callable[[Sequence[str]], list[str]] = list

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:  # type: ignore[override]
        """Return the options."""
        return super().parse_args(self.given(args or ()), *more, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise one line; of an option that has no default, its name alone."""
        _, wanted, names = message.partition("arguments are required: ")
        if wanted:
            name = names.split(", ")[0].removeprefix("--")
            raise UsageError(f"--{name}", "missing", "there is no default: give it, see --help")
        super().error(message, ex)


def parser_of(
    prog: str,
    *classes: type[Any],
    about: str,
    epilog: str = "",
    positional: Sequence[str] = (),
    several: bool = False,
    skip: Collection[str] = (),
) -> OptionsParser:
    """Return the parser of a command.

    A flag whose field is true or false needs no value; ``--no-cache`` is the field ``no_cache``; a tuple may be given
    again.

    Args:
        prog: what the command is called by.
        classes: dataclasses; their docstrings describe each field. Of a field's metadata ``alone`` is its value where
            the option is given without one, and ``file`` says that it is the name of a file, as paths are.
        about: what the command does.
        epilog: lines that show it.
        positional: the fields of arguments without a name.
        several: whether a tuple takes as many values as follow; else one, each time.
        skip: fields that are no options.
    """
    p = OptionsParser(prog, description=about, epilog=epilog, formatter_class=Help)
    hints = {name: hint for cls in classes for name, hint in get_type_hints(cls).items()}
    if "config" not in hints:
        p.add_argument("-c", "--config", action="config", help="a YAML file of these options; what follows it wins")
    for cls in classes:
        p.add_class_arguments(cls, skip={name for name in skip if name in get_type_hints(cls)})
    metadata = {each.name: each.metadata for cls in classes for each in dataclasses.fields(cls)}
    p.given = functools.partial(
        _with_values,
        hints,
        positional=positional,
        alone={name: each["alone"] for name, each in metadata.items() if "alone" in each},
        files=frozenset(name for name, each in metadata.items() if "file" in each or _has(Path, hints[name])),
        several=several,
    )
    return p


def parse(cls: type[T], prog: str, arguments: Sequence[str], **of_the_parser: Any) -> T:
    """Return the options of a command, arguments as of `parser_of`.

    Raises:
        UsageError: naming the option, the value and what to do.
    """
    found = vars(parser_of(prog, cls, **of_the_parser).parse_args(arguments))
    names = [each.name for each in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return cls(**{n: tuple(found[n]) if isinstance(found[n], list) else found[n] for n in names})


def completed(error: UsageError, *classes: type[Any]) -> UsageError:
    """Return an error in the words of the command line: names of fields of these dataclasses become options."""
    names = {each.name for cls in classes for each in dataclasses.fields(cls)} | {"mask"}
    error.option = f"--{error.option.removesuffix('_file')}" if error.option in names else error.option
    error.hint = OWN.sub(lambda found: " ".join(f"--own {path}" for path in found[1].split(", ")), error.hint)
    error.hint = re.sub(r"`(\w+)`", lambda found: f"--{found[1]}" if found[1] in names else found[0], error.hint)
    return error


def _with_values(
    hints: Mapping[str, Any],
    arguments: Sequence[str],
    *,
    positional: Sequence[str] = (),
    alone: Mapping[str, str] = {},
    files: Collection[str] = (),
    several: bool = False,
) -> list[str]:
    """Return the arguments with a value for each flag, and each tuple as one list.

    >>> _with_values({"dry_run": bool, "set": tuple[str, ...]}, ["--dry-run", "--set", "a", "--set=b"])
    ['--dry_run=true', '--set=["a", "b"]']
    >>> _with_values({"run": str, "resume": str}, ["x", "--resume"], positional=["run"], alone={"resume": "last"})
    ['--run=x', '--resume=last']
    """
    kept, lists = [], dict[str, list[str]]()
    words, rest = list(positional), list(arguments)
    while rest:
        argument = "--config" if rest[0] == "-c" else rest[0]
        del rest[0]
        flag, equals, value = argument[2:].partition("=")
        flag = flag.replace("-", "_")
        if not argument.startswith("--"):
            if not words or argument == "-h":
                kept.append(argument)
                continue
            flag, equals, value = words[0], "=", argument
            words = words if _has(tuple, hints[flag]) else words[1:]
        follows = bool(rest) and not rest[0].startswith("--")
        if _has(tuple, hints.get(flag)):
            found = lists.setdefault(flag, [])
            if not (equals or follows):
                raise UsageError(f"--{flag}", "nothing", "expected one argument, see --help")
            found.append(value if equals else rest.pop(0))
            while several and not equals and rest and not rest[0].startswith("--"):
                found.append(rest.pop(0))
            continue
        if not equals and hints.get(flag) is bool:
            value = "true"
        elif not equals and follows:
            value = rest.pop(0)
        elif not equals and flag in alone:
            value = alone[flag]
        elif not equals:
            kept.append(f"--{flag}")
            continue
        if flag == "config" and "config" not in hints:
            read_mapping(value, "--config", example="size: 4096x512")
        kept.append(f"--{flag}={_as_name(value) if flag in files else value}")
    return kept + [f"--{flag}={json.dumps(values)}" for flag, values in lists.items()]


def _has(kind: type[Any], hint: Any) -> bool:
    """Say whether a type hint is of a kind, or may be."""
    return any(part is kind or get_origin(part) is kind for part in (hint, *get_args(hint)))


def _as_name(name: str) -> str:
    """Return a file's name as the parser takes it: some, such as ``#h`` and ``null``, are nothing in YAML."""
    try:
        return f"./{name}" if name and parse_yaml(name) is None else name
    except ValueError:
        return name
