"""Parser errors in one line, with the nearest right name for a typo.

jsonargparse parses a class's arguments by a parser of their own, inside the parser of what holds the class. An error of
an inner one is therefore caught, wrapped in a longer one and reported again, once per level; here it stays one object
that only gets a longer name on its way out.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, get_args

import yaml
from jsonargparse import ArgumentParser, _loaders_dumpers, set_loader, set_parsing_settings
from jsonargparse._typehints import get_all_subclass_paths

from nuwa_lightning.errors import UsageError
from nuwa_lightning.legacy import first_names
from nuwa_lightning.plain_data import OneMeaning, is_too_large, parse_yaml, read_mapping

_NO_YAML = (yaml.YAMLError, UnicodeEncodeError)


def _load(text: str) -> Any:
    """Return what a value says. Names of files that are no UTF-8 are no YAML, but a list of them may be JSON."""
    try:
        return _loaders_dumpers.yaml_load(text)  # type: ignore[no-untyped-call]
    except _NO_YAML:
        if text.startswith('["'):
            with suppress(ValueError):
                return json.loads(text)
        raise


class _Loader(OneMeaning, _loaders_dumpers.get_yaml_default_loader()):  # type: ignore[misc]
    """The parser's own, which knows no dates, and 1e-4 as a number."""


_loaders_dumpers.yaml_default_loader = _Loader  # type: ignore[assignment]
set_loader("yaml", _load, exceptions=_NO_YAML)

_DENIED = ("torch.load", "torch.hub", "numpy.load", "joblib", "pickle", "cloudpickle", "dill")

# The parser's words for an option that it does not know, for a class that does not fit, and for a wrong value.
_UNKNOWN = re.compile(
    r"(?:^unrecognized arguments: --|Group '(?P<group>[\w.]*)' does not accept option '|does not accept option '"
    r"|^Option ')(?P<name>[\w.\-]+)(?:[= ](?!--)(?P<value>.*))?",
    re.DOTALL,
)
_CLASS = re.compile(
    r"Expected (?:a dot import path string: |an instantiatable class, but )(?P<name>[\w.]+)(?P<abstract> is abstract)?"
)
_KEY = re.compile(r'^Parser key "(?P<key>[\w.]*)"[^:]*:(?P<rest>.*)', re.DOTALL)
_VALUE = re.compile(r"Got value: (.*)|class_path '(.*)':$|Given value: (.*)", re.MULTILINE)
_PATH = re.compile(r"Import path ([\w.]+) (?=does not)")
_ARGUMENT = re.compile(
    r"^argument (?:[\w-]+/)*(?P<option>--[\w.]+)(?:/\S+)?: (?P<reason>.*?)"
    r"(?:: '(?P<value>.*?)'(?: \((?P<choice>choose from .*)\))?)?$",
    re.DOTALL,
)
# Wrapping that tells nothing to a user.
_NOISE = re.compile(
    r"^\W*(?:Does not validate|Subtypes:|Errors:|Given value|Expected a path but|Expected a <class 'NoneType'>"
    r"|Problem with given class_path).*|[.] (?:Got value:|Add the import path) .*|^\W+|<class '(?:builtins[.])?|'>"
    r"|(?<=Expected )an? (?:typing[.]Literal)?",
    re.MULTILINE,
)

OWN = re.compile(r"`own=\[([^]`]*)\]`")
"""How a hint says, in the words of Python, which classes have to be allowed."""
_CHOICE = re.compile(r"Expected \[(['\w, -]+)\]")


def deny_imports() -> None:
    """Let no class path of a YAML name what loads pickles; jsonargparse itself denies ``os``, ``subprocess``, ...

    A YAML still is a program: it may name any other class that can be imported.
    """
    set_parsing_settings(import_path_denylist=list(_DENIED))


class _Fault(UsageError):
    """An error below some option: ``name`` is relative to the parser that found it."""

    def __init__(self, name: str, value: object, hint: str, near: str | None = None) -> None:
        self.name, self.near, self.plain_hint = name, near, hint
        super().__init__(f"--{name}", value, f"{hint}; did you mean --{near}?" if near else hint)

    def below(self, key: str) -> _Fault:
        """Return the same fault as seen from the parser that holds this one as ``key``."""
        near = f"{key}.{self.near}" if self.near else None
        return _Fault(f"{key}.{self.name}", self.value, self.plain_hint, near)


class OneLineParser(ArgumentParser):
    """A parser whose errors are :class:`UsageError`: one line, naming option, value and hint."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Otherwise --data.bank.phase would quietly set phases.
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:  # type: ignore[override]
        """Return the options; a number that would silently become infinite is refused."""
        given = list(sys.argv[1:] if args is None else args)
        for argument, following in zip(given, [*given[1:], ""], strict=False):  # given may be empty
            option, equals, value = argument.partition("=")
            if option.startswith("--") and is_too_large(value if equals else following):
                raise UsageError(option, value if equals else following, "is too large a number")
        return super().parse_args(given, *more, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message in one line, with the nearest right name where a name is unknown."""
        text = str(message).strip()
        inner = next((e for e in _chain(ex) if isinstance(e, UsageError)), None)
        key = _KEY.match(text)
        if isinstance(inner, _Fault) and key:
            inner = inner.below(key["key"])
        raise inner or self._fault(text, key) from None

    def _check_value_key(self, action: Any, value: Any, key: str, cfg: Any, append: bool = False) -> Any:
        """Refuse an empty value: jsonargparse lets it pass for any option, and the default is lost."""
        kind = getattr(action, "_typehint", Any)
        if value is None and action.default is not None and kind is not Any and type(None) not in get_args(kind):
            raise TypeError(f'Parser key "{key}":\n  is empty: give it a value, or leave it out. Got value: null')
        return super()._check_value_key(action, value, key, cfg, append=append)

    def known(self) -> set[str]:
        """Return the names of options, those that a typo may have meant."""
        return {a.dest for a in self._all_actions()} - {"subcommand", "print_config"}

    def _fault(self, text: str, key: re.Match[str] | None) -> UsageError:
        unknown, argument = _UNKNOWN.search(text), _ARGUMENT.match(text)
        if unknown:
            name = ".".join(part for part in (unknown["group"], unknown["name"]) if part)
            near = nearest(name, self.known())
            return _Fault(name, (unknown["value"] or "").strip() or "unknown", "there is no such option", near)
        if text.startswith("unrecognized arguments:"):
            stray = text.partition(":")[2].strip()
            return UsageError("option", stray, "belongs to no option: write --NAME VALUE, see --help")
        if text.startswith("the following arguments are required"):
            if not any(action.dest == "config" for action in self._actions):  # the arguments of a class
                name, *others = text.partition(": ")[2].split(", ")
                also = f", and {', '.join(others)} beside it" if others else ""
                return _Fault(name, "missing", f"there is no default: give it a value{also}")
            hint = "give a recipe: --config recipes/landscape.yaml, or those options themselves"
            return UsageError("--config", "missing", f"{re.sub(r'[a-z]+[.](?=[a-z])', '--', text)}; {hint}")
        if argument:
            hint = argument["choice"] or argument["reason"]
            return UsageError(argument["option"], argument["value"] or "nothing", hint)
        if key:
            return self._wrong_value(key["key"], key["rest"])
        return UsageError("option", " ".join(text.split())[:400], "see --help")

    def _wrong_value(self, name: str, text: str) -> UsageError:
        """Explain why a value was refused."""
        of_class = _CLASS.search(text)
        if of_class:
            hint = "is abstract" if of_class["abstract"] else "is no class known here"
            kind = next((getattr(a, "_typehint", None) for a in self._all_actions() if a.dest == name), None)
            paths = get_all_subclass_paths(kind) if kind else []
            accepted = [path.rpartition(".")[2] for path in paths if path.startswith("nuwa_lightning.")]
            if accepted:
                hint += f": give {', '.join(accepted)} or the import path of your own"
            near = [] if of_class["abstract"] else difflib.get_close_matches(of_class["name"], accepted, 1, 0.5)
            return _Fault(name, of_class["name"], hint + (f"; did you mean {near[0]}?" if near else ""))
        value = next(("".join(found) for found in (_VALUE.findall(text) or _PATH.findall(text))), "this value")
        reasons = dict.fromkeys(line.strip() for line in _NOISE.sub("", _PATH.sub("", text)).splitlines())
        reasons.pop("", None)
        hint = _CHOICE.sub(lambda found: f"choose {found[1]}".replace("'", ""), " or ".join(reasons)[:500])
        if hint == "Expected str":
            hint += ": write it in quotes"
        if "No module named" in hint:
            hint += ": name a class in a file of the working directory, as module.Class, or of PYTHONPATH"
        return _Fault(name, value, hint or "see --help")

    def _all_actions(self) -> Iterator[Any]:
        yield from self._actions
        for action in self._actions:
            for parser in (getattr(action, "_name_parser_map", None) or {}).values():
                yield from parser._actions


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known dotted name that ``name`` was probably meant to be, or None.

    Names of the first version, which are still taken, are known, too.

    >>> nearest("trainr.max_steps", ["trainer.max_steps", "model"]), nearest("xyz", ["model"])
    ('trainer.max_steps', None)
    >>> nearest("model.transformer.widht", ["model.transformer.dim", "model.transformer.heights"])
    'model.transformer.dim'
    """
    now = {older: option for option in sorted(known) for older in first_names(option)} | {name: name for name in known}
    found = [option for option in sorted(known) if option.startswith(f"{name}_")]
    found += [now[near] for near in difflib.get_close_matches(name, sorted(now), n=1, cutoff=0.7)]
    if found:
        return found[0]
    head, dot, tail = name.partition(".")
    heads = sorted({option.partition(".")[0] for option in known})
    if dot and head not in heads:
        close = difflib.get_close_matches(head, heads, n=1, cutoff=0.6)
        return f"{close[0]}.{tail}" if close else None
    inside = sorted(option for option in known if option.startswith(f"{head}.")) if dot else sorted(known)
    tails = {option.rpartition(".")[2]: option for option in inside}
    close = difflib.get_close_matches(name.rpartition(".")[2], sorted(tails), n=1, cutoff=0.6)
    return tails[close[0]] if close else None


def whole_name(option: str, value: object, options: Mapping[str, Any], *, default: str | None = None) -> str:
    """Complete the name of an option of which an object knows only its own part, such as ``extent``.

    Where several end alike the one with that value is meant, else the innermost: outer ones know their whole name.

    >>> whole_name("extent", 3, {"model": {"class_path": "M", "init_args": {"pool": {"init_args": {"extent": 3}}}}})
    '--model.pool.extent'
    """
    named = [(name, given) for name, given in _named("", options) if f".{name}".endswith(f".{option}")]
    alike = [(name, given) for name, given in named if given == (list(value) if isinstance(value, tuple) else value)]
    return max((f"--{name}" for name, _ in alike or named), key=lambda name: name.count("."), default=default or option)


def completed(error: UsageError, options: Mapping[str, Any]) -> UsageError:
    """Return an error in the words of the command line: its option, and names in backticks, are whole options."""
    option = whole_name(error.option, error.value, options)
    error.option = f"--{option}" if option.startswith(("data.", "model.")) else option
    own = whole_name("own", None, options, default="--own")
    error.hint = OWN.sub(lambda found: f"{own} '[{found[1]}]'", error.hint)
    error.hint = re.sub(r"`([\w.]+)`", lambda name: whole_name(name[1], None, options, default=name[0]), error.hint)
    return error


def _named(prefix: str, given: Any) -> Iterator[tuple[str, Any]]:
    if prefix:
        yield prefix, given
    if isinstance(given, Mapping):
        for name, inner in given.items():
            # The arguments of a class are named as if they were its own fields.
            yield from _named(prefix if name == "init_args" else f"{prefix}.{name}".strip("."), inner)


def check_configs(arguments: list[str]) -> None:
    """Look at the files after ``--config`` before the parser does: refuses what is no YAML, or overlays nothing."""
    chosen: set[str] = set()
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--model", "--data"):
            chosen.add(option.removeprefix("--"))
        if not equals:
            value = arguments[place + 1] if place + 1 < len(arguments) else ""
        if option not in ("-c", "--config"):
            _check_name(option, value)
            continue
        if not value or value.lstrip().startswith("{"):
            continue
        content = read_mapping(value, "--config", example="run: runs/mine")
        for part in ("trainer", "model", "data"):
            if not isinstance(content.get(part, {}), dict | str):
                hint = f"holds no options of {part}: write them in lines below it, or leave it out"
                raise UsageError("--config", value, hint)
        for part in ("model", "data"):
            given = content.get(part)
            if isinstance(given, str) or (isinstance(given, dict) and "class_path" in given):
                chosen.add(part)
            elif given is not None and part not in chosen:
                hint = f"is an overlay, it names no class of {part}: give a recipe before it"
                raise UsageError("--config", value, f"{hint}, -c recipes/landscape.yaml -c {value}")


def _check_name(option: str, value: str) -> None:
    """Refuse the name of a file that the parser would take for something else, such as ``#h`` and ``a: b``.

    YAML, in which the options of a run are kept, holds no name that is no UTF-8.
    """
    if not option.startswith("--") or value.startswith("--"):
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        hint = "is no UTF-8, as the options of a run have to be: rename it, or name a link to it (ln -s)"
        raise UsageError(option, ascii(value), hint) from None
    try:
        read = parse_yaml(value) if os.path.lexists(value) else ""
    except ValueError:
        return
    if read is None or isinstance(read, dict | list):
        what = "nothing" if read is None else f"a {type(read).__name__}"
        way_out = f"write ./{value}" if read is None else "write it into a YAML file, in quotes"
        raise UsageError(option, value, f"is a file here, but {what} to the parser: {way_out}")


def usage_error(error: BaseException, option: str) -> UsageError:
    """Return the user's error that ``error`` was caused by, or its innermost cause as one."""
    chain = list(_chain(error))
    known = next((e for e in chain if isinstance(e, UsageError)), None)
    if known is not None:
        return known
    where = {"LightningModule": "--model", "LightningDataModule": "--data"}
    option = next((name for kind, name in where.items() if f".{kind}'" in str(error)), option)
    root = chain[-1]
    text = " ".join(str(root).split())[:400]
    return UsageError(option, text or type(root).__name__, "change that value, or see --help")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
