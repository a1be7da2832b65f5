"""``python -m evaluation score``: one report on folders of images."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from nuwa_lightning.errors import UsageError

_DESCRIPTION = """\
Scores folders of images by a protocol, which freezes all that moves a number. Each number is printed with its
interval and its floor: what real images get against other real ones at the same number."""


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    p = commands.add_parser(
        "score", parents=[common], help="score generated images (or reconstructions) against real ones",
        description=_DESCRIPTION,
    )  # fmt: skip
    p.add_argument(
        "--real", required=True, metavar="DIR", help="real images, or 'landscape' for the default photographs"
    )
    p.add_argument("--generated", type=Path, metavar="DIR", help="images to score")
    p.add_argument("--reconstruction", type=Path, metavar="DIR", help="reconstructions, named as their originals")
    p.add_argument("--original", type=Path, metavar="DIR", help="the originals (default: --real)")
    p.add_argument(
        "--protocol", default="landscape", metavar="FILE",
        help="a YAML file, or the name of one in evaluation/protocols (default: %(default)s)",
    )  # fmt: skip
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change a setting of the protocol, such as real.count=50; another protocol then, with another hash",
    )  # fmt: skip
    p.add_argument(
        "--features", metavar="NAME", help="lite0, inception (with --weights), or the import path of your own class"
    )
    p.add_argument("--weights", type=Path, metavar="FILE", help="weights of the features; torch's hub cache is tried")
    p.add_argument("--lpips", choices=["alex", "vgg"], help="LPIPS itself instead of stlpips")
    p.add_argument("--lpips-weights", type=Path, metavar="FILE", help="torchvision's alexnet or vgg16")
    p.add_argument("--clip", type=Path, metavar="DIR", help="a CLIP model: adds the CLIP score of captions")
    p.add_argument("--device", default="cpu", help="where networks compute (default: %(default)s)")
    p.add_argument("--cache", type=Path, metavar="DIR", help="where features are kept (default: the user's cache)")
    p.add_argument("--no-cache", action="store_true", help="keep no features")
    p.add_argument("--skip-corrupt", action="store_true", help="leave out files that cannot be read, and count them")
    p.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score."""
    from evaluation.protocol import load_protocol
    from evaluation.record import write_report
    from evaluation.score import Networks, Work, score
    from evaluation.table import text_table

    if options.output is not None and not options.output.parent.is_dir():
        hint = f"the folder {options.output.parent} does not exist: make it first"
        raise UsageError("--output", str(options.output), hint)
    changes = list(options.set)
    if options.features:
        changes += [f"features.name={options.features}", "features.weights_sha256=null"]
    changes += [f"perceptual=lpips-{options.lpips}"] if options.lpips else []
    changes += ["metrics.clip=true"] if options.clip else []
    protocol = load_protocol(options.protocol, changes)
    report = score(
        protocol,
        options.real,
        generated=options.generated,
        reconstruction=options.reconstruction,
        original=options.original,
        networks=Networks(options.weights, options.lpips_weights, options.clip, options.device),
        work=Work(options.cache, not options.no_cache, options.skip_corrupt, sys.stderr.isatty()),
    )
    report["run"]["command"] = shlex.join(["python", "-m", "evaluation", *options.arguments])
    if options.output is not None and not write_report(options.output, report):
        sys.stderr.write(f"{options.output} says so already and stays as it is\n")
    sys.stdout.write(text_table(report) + "\n")
    return 0
