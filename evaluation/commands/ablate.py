"""``python -m evaluation ablate``: train, sample and score every cell of an ablation, and write its report."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from evaluation.ablation.config import Ablation, Cell
    from evaluation.ablation.running import Tokenizer

ABOUT = """\
Train, sample and score variants of a recipe.
A base recipe, variants of it, seeds: each cell is trained, sampled from the same seeds, scored by the same protocols.
The tokenizer and its tokens are shared. Cells that are done are skipped, one that was stopped goes on. With --jobs
several are made at a time; or make some elsewhere (--only, --index) and --merge their output folder."""
EXAMPLES = """\
  python -m evaluation ablate --config recipes/ablations/context.yaml --dry-run --jobs 2
  python -m evaluation ablate --config recipes/ablations/context.yaml --jobs 2"""


@dataclass(frozen=True)
class Options:
    """What to make.

    Args:
        config: the ablation, such as recipes/ablations/context.yaml
        output: folder where everything lies (default: runs/ablations/NAME)
        dry_run: show the grid with cost and time, and do nothing
        only: these cells only: a name, or a name with a seed as full:0
        jobs: cells at a time, each on its share of the cores
        index: the I-th cell only, from 0 (for job arrays)
        merge: output folders whose finished cells are taken over
        no_report: leave the report out
    """

    config: Path
    output: Path | None = None
    dry_run: bool = False
    only: tuple[str, ...] = ()
    jobs: int = 1
    index: int | None = None
    merge: tuple[Path, ...] = ()
    no_report: bool = False


def run(options: Options, command: str) -> int:
    """Run an ablation, or show what it would do."""
    from evaluation.ablation.config import load_ablation
    from evaluation.ablation.estimating import estimate, plan_table
    from evaluation.ablation.merging import merge
    from evaluation.ablation.running import finished, output_folder
    from evaluation.ablation.workers import check_jobs
    from evaluation.report.study import SOURCE, load_study
    from evaluation.report.writing import write_study
    from evaluation.table import aligned
    from nuwa_lightning.atomic import atomic_write

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    check_jobs(options.jobs)
    ablation = load_ablation(options.config)
    output = output_folder(ablation, options.output)
    cells = chosen(ablation.grid(), options.only or None, options.index)
    if options.dry_run:
        costs = estimate(ablation, output, _named_tokenizer(ablation))
        sys.stdout.write("\n".join(aligned(plan_table(costs, cells, jobs=options.jobs))) + "\n")
        return 0
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / SOURCE) as partial:
        partial.write_bytes(options.config.read_bytes())
    if options.merge:
        for cell in merge(ablation, output, options.merge):
            sys.stderr.write(f"{cell.label}: taken over\n")
    todo = [cell for cell in cells if finished(cell, output) is None]
    well = bool(options.merge) or not todo or _make(ablation, output, todo, options)
    left = [cell.label for cell in ablation.grid() if finished(cell, output) is None]
    if not options.no_report and len(left) < len(ablation.grid()):
        page = write_study(load_study([output], f"python -m evaluation report {output}"), output / "report")
        sys.stdout.write(f"{page}\n")
    sys.stderr.write(f"left to do: {' '.join(left)}\n" if left else "all cells are done\n")
    return 0 if well else 2


def _make(ablation: Ablation, output: Path, todo: list[Cell], options: Options) -> bool:
    """Make cells; returns whether none failed in another process. Here, the first that fails ends all."""
    from evaluation.ablation.estimating import resolve
    from evaluation.ablation.running import provide_tokenizer, run_cell
    from evaluation.ablation.workers import work_side_by_side
    from evaluation.score import Work

    for cell in todo:
        cell.definition()  # a missing recipe or protocol shows now
    for name in dict.fromkeys(cell.name for cell in todo):
        # Every cell's options are understood before the first is trained.
        resolve(next(cell for cell in todo if cell.name == name), _named_tokenizer(ablation))
    tokenizer = provide_tokenizer(ablation)
    if options.jobs > 1:
        return work_side_by_side(options.config, output, [cell.label for cell in todo], options.jobs)
    for number, cell in enumerate(todo):
        sys.stderr.write(f"cell {number + 1} of {len(todo)}: {cell.label}\n")
        if run_cell(cell, output, tokenizer, work=Work(progress=sys.stderr.isatty())) is None:
            sys.stderr.write(f"{cell.label}: another process is at it\n")
    return True


def _named_tokenizer(ablation: Ablation) -> Tokenizer:
    from evaluation.ablation.running import Tokenizer, tokenizer_source

    path = Path(tokenizer_source(ablation).get("path", "none"))
    return Tokenizer(path, path)


def chosen(cells: list[Cell], only: Sequence[str] | None, index: int | None) -> list[Cell]:
    """Return the cells that are asked for."""
    if index is not None:
        if not 0 <= index < len(cells):
            raise UsageError("--index", index, f"there are {len(cells)} cells: give 0 to {len(cells) - 1}")
        return [cells[index]]
    if only is None:
        return cells
    known = {cell.name for cell in cells} | {cell.label for cell in cells}
    for name in only:
        if name not in known:
            raise UsageError("--only", name, f"choose among {', '.join(dict.fromkeys(c.name for c in cells))}")
    return [cell for cell in cells if cell.name in only or cell.label in only]
