"""The paper's tables beside ours: its numbers, ours with their intervals, and whether the ordering holds (ours)."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from evaluation.config import build, read_yaml
from evaluation.report.document import shown
from evaluation.report.study import Number, Study, alike_in_seeds, lines_of

FILE: Final = Path(__file__).with_name("paper.yaml")
SAMPLES: Final = ("views", "wide")
"""Sets of samples that stand for the paper's two columns, Block-FID and Block-FID (x4)."""


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        title: what it is about, and which models it is of.
        ablation: our file with the same cells.
        rows: cell to the paper's numbers, one for each of `SAMPLES`; None where it gives none.
        below: cell to the one that a figure without numbers shows it below, in the first of `SAMPLES`.
    """

    title: str
    ablation: str
    rows: dict[str, tuple[float | None, float | None]]
    below: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """All tables."""

    tables: tuple[PaperTable, ...]


def load_paper(path: Path = FILE) -> Paper:
    """Return the paper's tables."""
    return build(Paper, read_yaml(path, "paper"), "paper")


def ours_of(study: Study, samples: str) -> Mapping[str, Number]:
    """Return our Block-FID of each cell, the mean over positions; nothing where the study has none."""
    lines = lines_of(study, samples) if samples in study.sample_sets() else []
    found = (line.numbers for line in lines if "Block-FID" in line.name and line.name.endswith("(positions)"))
    return next(found, {})


def ordering(first: Number, second: Number) -> str:
    """Say whether ``first`` is below ``second``, as the paper has it.

    >>> ordering(Number(1, 0.9, 1.1, ()), Number(2, 1.9, 2.1, ()))
    'holds'
    >>> ordering(Number(1, 0, 2, ()), Number(2, 1, 3, ()))
    'same order, intervals meet'
    """
    if first.high < second.low:
        return "holds"
    if first.low > second.high:
        return "does not hold"
    return "same order, intervals meet" if first.value < second.value else "other order, intervals meet"


def comparison(table: PaperTable, study: Study) -> list[list[str]]:
    """Return a table as rows of text: a cell's numbers, and whether it is below the paper's next worse one."""
    lines = [["cell", "samples", "paper", "ours [95 % interval]", "seeds", "ordering"]]
    for column, samples in enumerate(SAMPLES):
        ours = ours_of(study, samples)
        ranked = sorted((values[column], name) for name, values in table.rows.items() if values[column] is not None)
        worse = {a: b for (_, a), (_, b) in itertools.pairwise(ranked)} | ({} if column else table.below)
        for name, values in table.rows.items():
            one, other = ours.get(name), ours.get(worse.get(name, ""))
            said = (
                f"{ordering(one, other)} (below {worse[name]})" if one and other and alike_in_seeds(one, other) else ""
            )
            paper = "" if values[column] is None else f"{values[column]:.2f}"
            lines.append(
                [name, samples, paper, shown(one) if one else "not done", str(len(one.seeds) if one else 0), said]
            )
    return lines
