"""The command line: ``python -m evaluation COMMAND``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from nuwa_lightning.errors import UsageError
from nuwa_lightning.processes import keep_freed_memory

COMMANDS = ("score", "score_videos", "crops", "sample", "ablate", "report", "benchmark")
"""Each is a module of ``evaluation.commands`` with a function ``add``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after one line on standard error about what the user can mend."""
    options = _parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Half of the time that features take on a CPU went into giving memory back and fetching it again.
    keep_freed_memory()
    try:
        return int(options.run(options))
    except UsageError as error:
        if options.traceback:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    except OSError as error:
        if options.traceback:
            raise
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 2


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser = argparse.ArgumentParser(prog="python -m evaluation", description="Scores folders of images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"evaluation.commands.{name}").add(commands, common)
    return parser


if __name__ == "__main__":
    sys.exit(main())
