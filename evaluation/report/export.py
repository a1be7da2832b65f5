"""The tables of a study for a paper: LaTeX (booktabs) and CSV."""

import csv
import io
from typing import Final

from evaluation.report.document import about, score_table
from evaluation.report.study import Study, lines_of

_SPECIAL: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def to_latex(study: Study) -> str:
    """Return a booktabs table of each set of samples; what is best stands in bold, as in the report.

    What the numbers are of stands above as comments.
    """
    parts = [r"% needs \usepackage{booktabs}"]
    for samples in study.sample_sets():
        found = lines_of(study, samples)
        table = score_table(study, found)
        noted: dict[str, list[str]] = {}
        for line in found:
            for note in line.notes():
                noted.setdefault(note, []).append(line.name)
        told = [samples, *about(study, samples), *(f"{', '.join(names)}: {note}" for note, names in noted.items())]
        lines = [f"% {' '.join(line.split())}" for line in told]  # a comment ends with its line
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 2)}l}}", r"\toprule"]
        lines += [_row([escaped(cell) for cell in table.head]), r"\midrule"]
        for number, row in enumerate(table.rows):
            cells = [escaped(cell) for cell in row]
            lines.append(_row([rf"\textbf{{{c}}}" if (number, i) in table.marked else c for i, c in enumerate(cells)]))
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def to_csv(study: Study) -> str:
    """Return every number unrounded, one a line, with what it is of: protocol, number of images, how it was made."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["samples", "metric", "entry", "value", "low", "high", "seeds", "floor", "better", "n", "protocol", "how"]
    )
    for samples in study.sample_sets():
        protocol = study.results(samples)[0].reports[samples]["protocol"]
        named = f"{protocol['name']} {protocol['sha256']}"
        for line in lines_of(study, samples):
            floor = "" if line.floor is None else line.floor
            for name, one in line.numbers.items():
                ends = ["" if end != end else end for end in (one.low, one.high)]
                told = [len(one.seeds), floor, line.better, one.n or "", named, one.how]
                writer.writerow([samples, line.name, name, one.value, *ends, *told])
    return out.getvalue()


def escaped(text: str) -> str:
    """Return text as LaTeX shows it."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
