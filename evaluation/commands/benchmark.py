"""``python -m evaluation benchmark``: speed and memory of writing, beside others, in one run."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from nuwa_lightning.errors import UsageError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    p = commands.add_parser(
        "benchmark", parents=[common], help="speed and memory of writing, beside others at the same parameters",
        description="Random weights, interleaved bursts, medians. Run it on an idle machine: the load is recorded.",
    )  # fmt: skip
    p.add_argument("--output", type=Path, metavar="FILE", help="write all figures as JSON")
    p.add_argument("--threads", type=int, default=1, help="cores and threads to use (default: %(default)s)")
    p.add_argument("--steps", type=int, default=64, help="tokens of a burst (default: %(default)s)")
    p.add_argument("--rounds", type=int, default=5, help="bursts of each (default: %(default)s)")
    p.add_argument("--only-19m", action="store_true", help="leave the 85M models out")
    p.add_argument("--no-canvases", action="store_true", help="leave whole canvases out")
    p.add_argument(
        "--run",
        dest="folder",
        type=Path,
        metavar="RUN",
        help="a trained run of the default recipe, to time the paper's canvas with",
    )
    p.add_argument("--quick", action="store_true", help="short bursts, small canvases: does it work? Not to be quoted")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    for name in ("threads", "steps", "rounds"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name}", getattr(options, name), "give a whole number from 1 up")
    if options.steps > 240:
        raise UsageError("--steps", options.steps, "a patch has 256 tokens: give at most 240")
    if options.output is not None and not options.output.parent.is_dir():
        raise UsageError("--output", options.output, f"the folder {options.output.parent} is missing: make it first")
    if options.folder is not None and not (options.folder / "model").is_dir():
        raise UsageError("--run", options.folder, "holds no model: name the run folder of stage 2")
    if options.quick:
        options.steps, options.rounds = min(options.steps, 8), 1

    # Only now what takes time to import.
    from evaluation.benchmark.figures import Settings, report, run
    from evaluation.benchmark.measuring import load, machine, pin
    from evaluation.benchmark.table import benchmark_table
    from nuwa_lightning.atomic import write_json

    cores = pin(options.threads)
    shrink = 16 if options.quick else 1
    settings = Settings(
        options.steps, options.rounds, not options.only_19m, not options.no_canvases, shrink, options.folder
    )
    before, began = load(), time.monotonic()
    figures, times = run(settings, _say)
    found = {
        "machine": machine(),
        "threads": options.threads,
        "pinned_to": cores,
        "steps": options.steps,
        "rounds": options.rounds,
        "quick": options.quick,
        "load_before": before,
        "load_after": load(),
        "seconds": time.monotonic() - began,
        **report(figures, times),
    }
    sys.stdout.write(benchmark_table(found) + "\n")
    if options.output is not None:
        write_json(options.output, found)
    return 0


def _say(line: str) -> None:
    """Tell on standard error what was just measured."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
