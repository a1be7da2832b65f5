"""The one error that the command line turns into a single line and exit status 2; words for it and for warnings."""

import math
from collections.abc import Sequence


class UsageError(ValueError):
    """Something the user gave does not work: one line that names the option, the value and what to do.

    Args:
        option: its whole name (``data.grid``), or the part of it that an object knows of itself (``extent``), which the
            command line completes.
        value: what was given.
        hint: what is wrong with it and what to do; in backticks names of options, which the command line completes.
    """

    def __init__(self, option: str, value: object, hint: str) -> None:
        self.option = option
        self.value = value
        self.hint = hint
        super().__init__(option, value, hint)

    def __str__(self) -> str:
        """Return the line."""
        return f"{self.option}: {shortened(self.value)}: {shortened(self.hint, longest=600)}"


def check_range(option: str, value: float, least: float, most: float = math.inf) -> None:
    """Refuse a number that is not from ``least`` to ``most``; NaN never is, nor infinity."""
    if not (least <= value <= most and value < math.inf):
        end = f" to {most:g}" if math.isfinite(most) else " up"
        raise UsageError(option, value, f"give a number from {least:g}{end}")


class LawError(UsageError):
    """A strategy (a context pool, a direction) broke one of its laws during a run: a fault of its class."""

    def __init__(self, option: str, value: object, law: str, check: str) -> None:
        self.law = law
        super().__init__(option, value, f"{law}: correct the class; nuwa_lightning.testing.{check} finds it")


class ToldError(UsageError):
    """A process that was started for the user has told already what does not work: nothing is left to say."""


def shortened(value: object, *, longest: int = 300) -> str:
    """Return a value as a line has room for it.

    >>> shortened(12), shortened("a" * 400)[-24:]
    ('12', 'aaa... (400 characters)')
    """
    text = " ".join(str(value).splitlines())
    return text if len(text) <= longest else f"{text[: longest // 2]}... ({len(text)} characters)"


def shown(strategy: object) -> str:
    """Return an object as a user knows it: its class where ``repr`` would give an address."""
    cls = type(strategy)
    return f"{cls.__module__}.{cls.__qualname__}" if cls.__repr__ is object.__repr__ else repr(strategy)


def some_of(names: Sequence[str], *, count: int = 5) -> str:
    """Return the first of ``names``, for a message.

    >>> some_of(["a", "b", "c"], count=2)
    'a, b, ...'
    """
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
