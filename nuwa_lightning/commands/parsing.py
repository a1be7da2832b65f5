"""Parser errors in one line, with the nearest right name for a typo."""

from __future__ import annotations

import difflib
import inspect
import re
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from nuwa_lightning.errors import UsageError

# What jsonargparse calls an option that it does not know.
_UNKNOWN = (
    re.compile(r"Unrecognized arguments?: (?:--)?([\w.\-]+)"),
    re.compile(r"[Kk]ey ['\"]([\w.\-]+)['\"] is not expected"),
    re.compile(r"No action for key ['\"]([\w.\-]+)['\"]"),
    re.compile(r"[Oo]ption ['\"](?:--)?([\w.\-]+)['\"] is not accepted"),
    re.compile(r"Group '[\w.]*' does not accept nested key '([\w.]+)'"),
    re.compile(r"does not accept nested key ['\"]?([\w.]+)"),
    re.compile(r"Parser key \"[\w.]*\":.*?[Uu]nexpected (?:key|argument)s?:? '?([\w.]+)", re.DOTALL),
)


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are :class:`UsageError`: one line, naming option, value and cure."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message in one line, with the nearest right name where a name is unknown."""
        text = str(message)
        for pattern in _UNKNOWN:
            found = pattern.search(text)
            if found:
                name = found.group(1).lstrip("-")
                raise UsageError("option", f"--{name}", self._nearest(name)) from ex
        lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -")]
        # The outermost line names the option, the innermost the reason.
        raise UsageError("option", lines[0] if lines else text, " ".join(lines[1:4])[:600] or "see --help") from ex

    def _nearest(self, name: str) -> str:
        known = sorted(self._known_options())
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        if not near:
            by_tail = {option.rsplit(".", 1)[-1]: option for option in known}
            near = [by_tail[t] for t in difflib.get_close_matches(name.rsplit(".", 1)[-1], by_tail, n=1, cutoff=0.6)]
        if near:
            return f"there is no such option; did you mean --{near[0]}?"
        return "there is no such option; --help-all lists them"

    def _known_options(self) -> set[str]:
        from nuwa_lightning.commands.training import known_classes

        names = {action.dest for action in self._actions if action.dest and action.dest != "help"}
        for prefix, classes in known_classes().items():
            for cls in classes:
                names.update(_arguments(prefix, cls, depth=2))
        return names


def _arguments(prefix: str, cls: type[Any], *, depth: int) -> set[str]:
    """Return the dotted names of a class's arguments, those of nested dataclasses and defaults included."""
    names = set()
    for name, parameter in inspect.signature(cls).parameters.items():
        names.add(f"{prefix}.{name}")
        names.add(f"{prefix}.init_args.{name}")
        default = parameter.default
        if depth and default is not inspect.Parameter.empty and hasattr(default, "__dataclass_fields__"):
            names.update(_arguments(f"{prefix}.{name}", type(default), depth=depth - 1))
    return names
