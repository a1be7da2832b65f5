"""``python -m evaluation report``: Markdown and one HTML page on an ablation, or on scored folders side by side."""

import sys
from dataclasses import dataclass
from pathlib import Path

ABOUT = "Write a report that people read: report.md, report.html (one page, nothing is fetched) and report.json."
EXAMPLES = """\
  python -m evaluation report runs/ablations/context
  python -m evaluation report mine.json theirs.json --output both"""


@dataclass(frozen=True)
class Options:
    """What to report on.

    Args:
        runs: an ablation's output folder, or report.json files of score
        output: folder to write (default: RUN/report, or ./report)
    """

    runs: tuple[Path, ...]
    output: Path | None = None


def run(options: Options, command: str) -> int:
    """Write the report."""
    from evaluation.record import showing
    from evaluation.report.study import SOURCE, load_study
    from evaluation.report.writing import write_study

    with showing(*options.runs):
        study = load_study(options.runs, command)
        first = options.runs[0]
        output = options.output or (first / "report" if (first / SOURCE).is_file() else Path("report"))
        sys.stdout.write(f"{write_study(study, output)}\n")
    return 0
