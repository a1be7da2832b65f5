"""Parser errors in one line, with the nearest right name for a typo.

jsonargparse parses a class's arguments by a parser of their own, inside the parser of what holds the class. An error of
an inner one is therefore caught, wrapped in a longer one and reported again, once per level; here it stays one object
that only gets a longer name on its way out.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NoReturn, get_args

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import parse_yaml, read_mapping

_DENIED = ("torch.load", "torch.hub", "numpy.load", "joblib", "pickle", "cloudpickle", "dill")

# What jsonargparse calls an option that it does not know; the value is there in the first only.
_UNKNOWN = (
    re.compile(r"^unrecognized arguments: --(?P<name>[\w.\-]+)(?:[= ](?P<value>.*))?", re.DOTALL),
    re.compile(r"Subcommand '\w+' does not accept option '(?P<name>[\w.\-]+)'"),
    re.compile(r"Group '(?P<group>[\w.]*)' does not accept option '(?P<name>[\w.\-]+)'"),
    re.compile(r"Option '(?P<name>[\w.\-]+)' is not accepted"),
)
_KEY = re.compile(r'^Parser key "(?P<key>[\w.]*)"[^:]*:(?P<rest>.*)', re.DOTALL)
_NO_CLASS = re.compile(r"^Expected a dot import path string: (?P<name>.*)")
_ABSTRACT = re.compile(r"^Expected an instantiatable class, but (?P<name>[\w.]+) is abstract")
_ARGUMENT = re.compile(
    r"^argument (?:[\w-]+/)*(?P<option>--[\w.]+)(?:/\S+)?: (?P<reason>.*?)(?:: '(?P<value>.*)')?$", re.DOTALL
)
_IMPORTED = re.compile(r"^Problem with given class_path '(?P<name>.*)':$")
# Wrapping that tells nothing to a user.
_NOISE = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a path but",
    "Expected a <class 'NoneType'>",
)


def deny_imports() -> None:
    """Let no class path of a YAML name what loads pickles; jsonargparse itself denies ``os``, ``subprocess``, ...

    A YAML still is a program: it may name any other class that can be imported.
    """
    set_parsing_settings(import_path_denylist=list(_DENIED))


class _Fault(UsageError):
    """An error below some option: ``name`` is relative to the parser that found it."""

    def __init__(self, name: str, value: object, hint: str, near: str | None = None) -> None:
        self.name, self.near = name, near
        suggestion = f"{hint}; did you mean --{near}?" if near else hint
        super().__init__(f"--{name}", value, suggestion)
        self.plain_hint = hint

    def below(self, key: str) -> _Fault:
        """Return the same fault as seen from the parser that holds this one as ``key``."""
        near = f"{key}.{self.near}" if self.near else None
        return _Fault(f"{key}.{self.name}", self.value, self.plain_hint, near)


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are :class:`UsageError`: one line, naming option, value and cure."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Otherwise --data.bank.phase would quietly set phases.
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message in one line, with the nearest right name where a name is unknown."""
        text = str(message).strip()
        inner = next((e for e in _chain(ex) if isinstance(e, UsageError)), None)
        key = _KEY.match(text)
        if isinstance(inner, _Fault) and key:
            raise inner.below(key["key"]) from None
        if inner is not None:
            raise inner from None
        raise self._fault(text, key) from None

    def _fault(self, text: str, key: re.Match[str] | None) -> UsageError:
        for pattern in _UNKNOWN:
            found = pattern.search(text)
            if found:
                parts = found.groupdict()
                name = ".".join(part for part in (parts.get("group"), parts["name"]) if part)
                hint = "there is no such option"
                return _Fault(name, (parts.get("value") or "").strip() or "unknown", hint, self._nearest(name))
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
        argument = _ARGUMENT.match(text)
        if argument:
            return UsageError(argument["option"], argument["value"] or "nothing", argument["reason"])
        if key:
            return self._wrong_value(key["key"], key["rest"])
        return UsageError("option", " ".join(text.split())[:400], "see --help")

    def _wrong_value(self, name: str, text: str) -> UsageError:
        """Explain why a value was refused."""
        reasons, value = _reasons(text)
        accepted = _class_names(self._typehint(name))
        for reason in reasons:
            no_class, abstract = _NO_CLASS.match(reason), _ABSTRACT.match(reason)
            if no_class or abstract:
                found = (no_class or abstract)["name"].strip()  # type: ignore[index]
                near = difflib.get_close_matches(found, accepted, n=1, cutoff=0.5) if no_class else []
                what = "is no class known here" if no_class else "is abstract"
                guess = f"; did you mean {near[0]}?" if near else ""
                choice = f"give {', '.join(accepted)} or the import path of your own" if accepted else "give another"
                return _Fault(name, found, f"{what}{guess} ({choice})" if guess else f"{what}: {choice}")
        hint = " or ".join(dict.fromkeys(map(_plain, reasons))) or "see --help"
        return _Fault(name, value or "this value", hint[:500])

    def _typehint(self, name: str) -> Any:
        return next((getattr(a, "_typehint", None) for a in self._all_actions() if a.dest == name), None)

    def _all_actions(self) -> Iterator[Any]:
        yield from self._actions
        for action in self._actions:
            for parser in (getattr(action, "_name_parser_map", None) or {}).values():
                yield from parser._actions

    def _nearest(self, name: str) -> str | None:
        dests = {action.dest for action in self._all_actions()}
        known = {d for d in dests if d not in ("subcommand", "print_config") and d.rpartition(".")[2] != "help"}
        if "model" in known:  # the outermost: options of classes are parsed further in
            known.add("help")
            from nuwa_lightning.commands.training import known_classes

            for prefix, classes in known_classes().items():
                for cls in classes:
                    known.update(f"{prefix}.{argument}" for argument in inspect.signature(cls).parameters)
        return nearest(name, known)


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known dotted name that ``name`` was probably meant to be, or None.

    >>> nearest("trainr.max_steps", ["trainer.max_steps", "model"]), nearest("xyz", ["model"])
    ('trainer.max_steps', None)
    """
    found = [option for option in sorted(known) if option.startswith(f"{name}_")]
    found += difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
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


def whole_name(option: str, value: object, options: Mapping[str, Any]) -> str:
    """Complete the name of an option of which an object knows only its own part.

    Where several end alike the one with that value is meant, else the innermost: outer ones know their whole name.

    Args:
        option: the part, such as ``extent``.
        value: what was given.
        options: all options of the run.

    >>> whole_name("extent", 3, {"model": {"class_path": "M", "init_args": {"pool": {"init_args": {"extent": 3}}}}})
    '--model.pool.extent'
    """
    named = [(name, given) for name, given in _named("", options) if f".{name}".endswith(f".{option}")]
    alike = [(name, given) for name, given in named if given == (list(value) if isinstance(value, tuple) else value)]
    return max((f"--{name}" for name, _ in alike or named), key=lambda name: name.count("."), default=option)


def _named(prefix: str, given: Any) -> Iterator[tuple[str, Any]]:
    if prefix:
        yield prefix, given
    if isinstance(given, Mapping):
        for name, inner in given.items():
            # The arguments of a class are named as if they were its own fields.
            yield from _named(prefix if name == "init_args" else f"{prefix}.{name}".strip("."), inner)


def check_configs(arguments: list[str]) -> None:
    """Look at the files after ``--config`` before the parser does.

    Raises:
        UsageError: if one is missing or is no YAML, naming the file and the line, or is an overlay with nothing below.
    """
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
        for part in ("model", "data"):
            given = content.get(part)
            if isinstance(given, str) or (isinstance(given, dict) and "class_path" in given):
                chosen.add(part)
            elif given is not None and part not in chosen:
                hint = f"is an overlay, it names no class of {part}: give a recipe before it"
                raise UsageError("--config", value, f"{hint}, -c recipes/landscape.yaml -c {value}")


def _check_name(option: str, value: str) -> None:
    """Refuse the name of a file that the parser would take for something else, such as ``#h`` and ``a: b``."""
    try:
        read = parse_yaml(value) if option.startswith("--") and os.path.lexists(value) else ""
    except ValueError:
        return
    if read is None or isinstance(read, dict | list):
        what = "nothing" if read is None else f"a {type(read).__name__}"
        way_out = f"write ./{value}" if read is None else "write it into a YAML file, in quotes"
        raise UsageError(option, value, f"is a file here, but {what} to the parser: {way_out}")


def usage_error(error: BaseException, option: str) -> UsageError:
    """Return the user's error that ``error`` was caused by, or its innermost cause as one.

    Args:
        error: what was raised while objects were made of options.
        option: which option to name if the cause does not say.
    """
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


def _reasons(text: str) -> tuple[list[str], str]:
    """Split a message into what tells a user something, and the value it is about."""
    reasons: list[str] = []
    value = ""
    for line in text.splitlines():
        bare = line.strip().removeprefix("- ").strip()
        if bare.startswith("Given value: "):
            value = value or bare.removeprefix("Given value: ")
        if not bare or bare.startswith(_NOISE):
            continue
        named = _IMPORTED.match(bare)
        if named:
            value = named["name"]
            continue
        reason, got, found = bare.partition(". Got value: ")
        if got:
            value = found
        reasons.append(reason)
    return reasons, value


def _plain(reason: str) -> str:
    """Say it without the names of Python's typing."""
    reason = re.sub(r"<class '(?:builtins\.)?([\w.]+)'>", r"\1", reason)
    reason = re.sub(r"(?:Expected a )?typing\.Literal\[(.*)\]", r"give one of \1", reason)
    reason = re.sub(r"\. Add the import path to .*", ": name another class", reason)
    return re.sub(r"^Expected an? ", "give a value of type ", reason)


def _class_names(typehint: Any) -> list[str]:
    """Return the names of our classes that an option of this type takes."""
    names: dict[str, None] = {}
    for base in _bases(typehint):
        for cls in (base, *_subclasses(base)):
            if cls.__module__.startswith("nuwa_lightning.") and not inspect.isabstract(cls):
                names[cls.__name__] = None
    return list(names)


def _bases(typehint: Any) -> Iterable[type[Any]]:
    if inspect.isclass(typehint) and not get_args(typehint):
        return [typehint] if typehint not in (type(None), str, int, float, bool, dict, list) else []
    return [base for part in get_args(typehint) for base in _bases(part)]


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for cls in type.__subclasses__(base):
        yield cls
        yield from _subclasses(cls)
