"""``python -m evaluation report``: Markdown and one HTML page on an ablation, or on scored folders side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    p = commands.add_parser(
        "report", parents=[common], help="write a report people read",
        description="Writes report.md, report.html (one page, nothing is fetched) and report.json.",
    )  # fmt: skip
    p.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="an ablation's output folder, or report.json files of score"
    )
    p.add_argument("--output", type=Path, metavar="DIR", help="folder to write (default: RUN/report, or ./report)")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the report."""
    from evaluation.report.study import SOURCE, load_study
    from evaluation.report.writing import write_study

    first = options.runs[0]
    output = options.output or (first / "report" if (first / SOURCE).is_file() else Path("report"))
    command = f"python -m evaluation report {' '.join(map(str, options.runs))}"
    command += f" --output {options.output}" if options.output else ""
    page = write_study(load_study(options.runs, command), output)
    sys.stdout.write(f"{page}\n")
    return 0
