"""The command line: ``python -m evaluation score`` and ``crops``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nuwa_lightning.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after one line on standard error about what the user can mend."""
    options = _parser().parse_args(arguments)
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
    return 2


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where an error came from")
    common.add_argument("--seed", type=int, default=0, help="of all random choices (default: 0)")
    parser = argparse.ArgumentParser(prog="python -m evaluation", description="Scores folders of pictures.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    score = commands.add_parser(
        "score", parents=[common], help="score generated pictures against real ones",
        description="Distance to real pictures (lite0-KID), seams and collapse, each beside what real pictures get.",
    )  # fmt: skip
    score.add_argument("--real", type=Path, required=True, metavar="DIR", help="real pictures at the same scale")
    score.add_argument("--generated", type=Path, required=True, metavar="DIR", help="pictures to score")
    score.add_argument("--reconstruction", type=Path, metavar="DIR", help="reconstructions, named as their originals")
    score.add_argument("--window", type=_side, metavar="PX", help="cut pictures into squares of this side")
    score.add_argument("--patch", type=_side, default=64, metavar="PX", help="side of a patch (default: 64)")
    score.add_argument("--token", type=_side, default=8, metavar="PX", help="side of a token (default: 8)")
    score.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    score.set_defaults(run=_score)

    crops = commands.add_parser(
        "crops", parents=[common], help="cut squares from photographs, to score against",
        description="Cuts the same random squares every time, all photographs and scales in turn.",
    )  # fmt: skip
    crops.add_argument("--photos", type=Path, required=True, metavar="DIR", help="photographs")
    crops.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    crops.add_argument("--count", type=_side, default=200, help="number of squares (default: 200)")
    crops.add_argument("--side", type=_side, default=256, metavar="PX", help="side of a square (default: 256)")
    crops.add_argument(
        "--short-side", type=_side, nargs="+", default=[288, 352], metavar="PX",
        help="scales: length of the shorter side of a photograph (default: 288 352)",
    )  # fmt: skip
    crops.set_defaults(run=_crops)
    return parser


def _score(options: argparse.Namespace) -> int:
    from evaluation.score import Settings, score, table
    from nuwa_lightning.atomic import write_json

    if options.output is not None and not options.output.parent.is_dir():
        cure = f"the folder {options.output.parent} does not exist: make it first"
        raise UsageError("--output", str(options.output), cure)
    report = score(
        options.real,
        options.generated,
        reconstruction=options.reconstruction,
        settings=Settings(window=options.window, patch=options.patch, token=options.token, seed=options.seed),
        progress=sys.stderr.isatty(),
    )
    if options.output is not None:
        write_json(options.output, report)
    print(table(report))
    return 0


def _crops(options: argparse.Namespace) -> int:
    from evaluation.crops import write_crops

    made = write_crops(
        options.photos,
        options.output,
        count=options.count,
        side=options.side,
        short_sides=options.short_side,
        seed=options.seed,
    )
    print(f"{made} squares in {options.output}")
    return 0


def _side(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
