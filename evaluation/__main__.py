"""The command line: ``python -m evaluation COMMAND``."""

import difflib
import importlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from nuwa_lightning.environment import print_any_name
from nuwa_lightning.errors import UsageError
from nuwa_lightning.signals import keep_freed_memory

COMMANDS = ("score", "score-videos", "crops", "sample", "ablate", "paper", "report", "benchmark")
"""Each is a module of ``evaluation.commands``: ``Options``, ``ABOUT``, ``EXAMPLES`` and ``run``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after one line on standard error about what the user can mend."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Half of the time that features take on a CPU went into giving memory back and fetching it again.
    keep_freed_memory()
    print_any_name()
    try:
        return _run(given)
    except UsageError as error:
        if "--traceback" in given:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    except OSError as error:
        if "--traceback" in given:
            raise
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 2


def _run(given: Sequence[str]) -> int:
    if given[:1] in ([], ["-h"], ["--help"]):
        about = "".join(f"  {each:<14}{_command(each).ABOUT.splitlines()[0]}\n" for each in COMMANDS)
        print(f"usage: python -m evaluation COMMAND ...\n\n{about}\npython -m evaluation COMMAND --help tells the rest")
        return 0
    from nuwa_lightning.commands.options import completed

    options = parsed(given)
    try:
        return int(_command(given[0]).run(options, shlex.join(["python", "-m", "evaluation", *given])))
    except UsageError as error:
        raise completed(error, type(options)) from error.__cause__


def parsed(given: Sequence[str]) -> Any:
    """Return the ``Options`` of a command line."""
    from nuwa_lightning.commands.options import parse

    name, *rest = (argument for argument in given if argument != "--traceback")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(COMMANDS)}"
        raise UsageError("COMMAND", name, f"there is no such command; {hint}")
    command, positional = _command(name), ("runs",) if name == "report" else ()
    epilog = (
        "Options that are true or false need no value; --no-cache is --no_cache; --traceback shows where an error came"
        f" from.\n\nexamples\n{command.EXAMPLES}"
    )
    prog = f"python -m evaluation {name}"
    return parse(command.Options, prog, rest, about=command.ABOUT, epilog=epilog, positional=positional, several=True)


def _command(name: str) -> Any:
    return importlib.import_module(f"evaluation.commands.{name.replace('-', '_')}")


if __name__ == "__main__":
    sys.exit(main())
