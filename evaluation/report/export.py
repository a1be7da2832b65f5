"""The tables of a study for a paper: LaTeX (booktabs) and CSV."""

import csv
import io
from typing import Final

from evaluation.report.document import score_table
from evaluation.report.study import Study, lines_of

_SPECIAL: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def to_latex(study: Study) -> str:
    """Return a booktabs table of each set of samples; what is best stands in bold, as in the report."""
    parts = [r"% needs \usepackage{booktabs}"]
    for samples in study.sample_sets():
        table = score_table(study, lines_of(study, samples))
        lines = [rf"% {samples}", rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 2)}l}}", r"\toprule"]
        lines += [_row([escaped(cell) for cell in table.head]), r"\midrule"]
        for number, row in enumerate(table.rows):
            cells = [escaped(cell) for cell in row]
            lines.append(_row([rf"\textbf{{{c}}}" if (number, i) in table.marked else c for i, c in enumerate(cells)]))
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def to_csv(study: Study) -> str:
    """Return every number unrounded, one a line: samples, metric, entry, value, ends of its interval, floor, better."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["samples", "metric", "entry", "value", "low", "high", "seeds", "floor", "better"])
    for samples in study.sample_sets():
        for line in lines_of(study, samples):
            floor = "" if line.floor is None else line.floor
            for name, one in line.numbers.items():
                ends = ["" if end != end else end for end in (one.low, one.high)]
                writer.writerow([samples, line.name, name, one.value, *ends, len(one.seeds), floor, line.better])
    return out.getvalue()


def escaped(text: str) -> str:
    """Return text as LaTeX shows it."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
