"""``python -m evaluation benchmark``: speed and memory of writing, beside others, in one run."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from nuwa_lightning.errors import UsageError

ABOUT = """\
Speed and memory of generating, beside others at the same parameters.
Random weights, interleaved bursts, medians. Run it on an idle machine: the load is recorded."""
EXAMPLES = """\
  python -m evaluation benchmark --output benchmark.json
  python -m evaluation benchmark --device cuda --output gpu.json"""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Args:
        output: file to write all figures to as JSON
        threads: cores and threads to use
        steps: tokens of a burst
        rounds: bursts of each
        only_19m: leave the 85M models out
        no_canvases: leave whole canvases out
        run: a trained run of the default recipe, to time the paper's canvas with
        device: such as cuda: there instead, models of 19M, 202M and 809M, each step one graph, fronts of 1, 4 and 16
        quick: short bursts, small canvases: does it work? Not to be quoted
    """

    output: Path | None = None
    threads: int = 1
    steps: int = 64
    rounds: int = 5
    only_19m: bool = False
    no_canvases: bool = False
    run: Path | None = None
    device: str | None = None
    quick: bool = False


def run(options: Options, command: str) -> int:
    """Measure and print."""
    for name in ("threads", "steps", "rounds"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name}", getattr(options, name), "give a whole number from 1 up")
    if options.steps > 240:
        raise UsageError("--steps", options.steps, "a patch has 256 tokens: give at most 240")
    if options.output is not None and not options.output.parent.is_dir():
        raise UsageError("--output", options.output, f"the folder {options.output.parent} is missing: make it first")
    if options.run is not None and not (options.run / "model").is_dir():
        raise UsageError("--run", options.run, "holds no model: name the run folder of stage 2")
    if options.device is not None:
        import torch

        try:
            torch.empty(1, device=options.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError("--device", options.device, f"cannot be used ({reason}): leave it out") from None
    steps, rounds = (min(options.steps, 8), 1) if options.quick else (options.steps, options.rounds)

    # Only now what takes time to import.
    from evaluation.benchmark.device import on_device
    from evaluation.benchmark.figure import Settings
    from evaluation.benchmark.figures import measure, report
    from evaluation.benchmark.measuring import load, machine, pin
    from evaluation.benchmark.table import benchmark_table
    from nuwa_lightning.atomic import write_json

    cores = pin(options.threads)
    shrink = 16 if options.quick else 1
    settings = Settings(steps, rounds, not options.only_19m, not options.no_canvases, shrink, options.run)
    before, began = load(), time.monotonic()
    if options.device is None:
        figures, times = measure(settings, _say)
    else:
        figures, times = on_device(options.device, settings, _say)
    found = {
        "machine": machine(options.device or "cpu"),
        "threads": options.threads,
        "pinned_to": cores,
        "steps": steps,
        "rounds": rounds,
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
