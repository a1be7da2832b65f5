"""Measure whole canvases: the numbers of docs/generate.md.

    python experiments/measure_canvas.py runs/landscape --output measured_canvas

Runs ``generate`` in processes of their own and writes ``measured_canvas/numbers.json``: time a patch and the largest
memory of a canvas, and of one 16 times as wide; the paper's canvas of 38912 x 2048 pixels, with records and without;
how long it takes to go on at its end. Takes about half an hour on two cores; ``--quick`` leaves the paper's canvas out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAPER = "38912x2048"


def generate(run: Path, *options: str) -> dict[str, Any]:
    """Run the command; returns seconds, processor seconds and the largest memory in bytes."""
    command = [sys.executable, "-m", "nuwa_lightning", "generate", "--checkpoint", str(run.resolve()), "--unprompted"]
    command += options
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}:\n{said[-2000:]}")
    return {
        "options": " ".join(options),
        "seconds": time.monotonic() - started,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "load_before": os.getloadavg()[0],
    }


def aims(numbers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what was aimed at, what was measured, and whether that is as good."""
    found = {
        "processor seconds a patch, 16 times as wide / once": (
            numbers["wide_to_narrow_processor_seconds_a_patch"],
            1.05,
        ),
        "largest memory, 16 times as wide / once": (numbers["wide_to_narrow_peak_bytes"], 1.03),
    }
    if "paper" in numbers:
        found[f"{PAPER}: minutes"] = numbers["paper"]["seconds"] / 60, 10.0
        found[f"{PAPER}: largest memory in GB"] = numbers["paper"]["peak_bytes"] / 1e9, 1.5
    return {
        name: {"measured": value, "at_most": most, "reached": value <= most} for name, (value, most) in found.items()
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=Path("measured_canvas"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--option", action="append", default=[], help="more for generate, such as --option=--cache=int8"
    )
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    target = str((options.output / "canvas.tif").resolve())
    more = ("--output", target, "--overwrite", "--preview", "none", *options.option)
    numbers: dict[str, Any] = {}
    start = generate(options.run, "--size", "64x64", *more)
    for name, width in (("narrow", 1024), ("wide", 16 * 1024)):
        numbers[name] = generate(options.run, "--size", f"{width}x512", *more)
        patches = width // 64 * 8
        numbers[name]["processor_seconds_a_patch"] = (
            numbers[name]["processor_seconds"] - start["processor_seconds"]
        ) / patches
    for what in ("processor_seconds_a_patch", "peak_bytes"):
        numbers[f"wide_to_narrow_{what}"] = numbers["wide"][what] / numbers["narrow"][what]
    if not options.quick:
        numbers["paper"] = generate(options.run, "--size", PAPER, *more)
    numbers["aims"] = aims(numbers)
    (options.output / "numbers.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
