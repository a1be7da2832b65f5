"""``python -m evaluation paper``: the paper's ablations and baselines at a given size, beside the paper's numbers."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from evaluation.paper import PaperTable

ABOUT = """\
Run the paper's tables and print its number, ours with the interval over seeds, and whether the ordering holds.
What is done is skipped, what was stopped goes on; without options it takes many hours: see --dry-run."""
EXAMPLES = """\
  python -m evaluation paper --dry-run
  python -m evaluation paper --only caches position --jobs 2
  python -m evaluation paper --set base=recipes/landscape.yaml samples.views.count=24 --option trainer.max_steps=200"""
_LEAST_SEEDS = 3


@dataclass(frozen=True)
class Options:
    """What to run.

    Args:
        output: folder of all ablations
        only: names of ablations, such as caches
        seeds: training seeds, three or more
        set: change a setting of every ablation, such as base=recipes/landscape.yaml
        option: change an option of every fit, such as trainer.max_steps=200
        jobs: cells at a time
        dry_run: show cost and time, and do nothing
        tables_only: print the tables of what is done
    """

    output: Path = Path("runs/paper")
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    set: tuple[str, ...] = ()
    option: tuple[str, ...] = ()
    jobs: int = 1
    dry_run: bool = False
    tables_only: bool = False


def run(options: Options, command: str) -> int:
    """Run the ablations, or those that are asked for, and print the tables."""
    from evaluation.commands import ablate
    from evaluation.paper import comparison, load_paper
    from evaluation.report.study import load_study
    from evaluation.table import aligned
    from nuwa_lightning.atomic import atomic_write

    if len(set(options.seeds)) < _LEAST_SEEDS:
        raise UsageError("--seeds", list(options.seeds), f"an interval over trainings needs {_LEAST_SEEDS} or more")
    tables = load_paper().tables
    names = list(dict.fromkeys(Path(table.ablation).stem for table in tables))
    for name in options.only:
        if name not in names:
            raise UsageError("--only", name, f"choose among {', '.join(names)}")
    well = True
    for name in options.only or names:
        ours = [table for table in tables if Path(table.ablation).stem == name]
        folder = options.output / name
        if not options.tables_only:
            folder.mkdir(parents=True, exist_ok=True)
            config = folder / "asked.yaml"
            with atomic_write(config) as partial:
                partial.write_text(json.dumps(asked(ours, options), indent=2), encoding="utf-8")  # YAML, too
            wanted = ablate.Options(config=config, output=folder, dry_run=options.dry_run, jobs=options.jobs)
            sys.stdout.write(f"{name}\n")
            well = ablate.run(wanted, command) == 0 and well
        if options.dry_run:
            continue
        study = load_study([folder], command)
        for table in ours:
            sys.stdout.write("\n".join(["", table.title, *aligned(comparison(table, study)), ""]))
    return 0 if well else 2


def asked(tables: list[PaperTable], options: Options) -> dict[str, Any]:
    """Return the ablation behind some tables with the cells that these name, and what the options change.

    Raises:
        UsageError: for an option that is not of the form NAME=VALUE.
    """
    from evaluation.config import read_yaml, set_option
    from nuwa_lightning.plain_data import parse_yaml

    content = read_yaml(Path(tables[0].ablation), "paper")
    named = {name for table in tables for name in table.rows}
    content["cells"] = {name: cell for name, cell in content["cells"].items() if name in named}
    content["seeds"] = sorted(set(options.seeds))
    for change in options.set:
        set_option(content, change)
    for change in options.option:
        name, equals, value = change.partition("=")
        if not equals:
            raise UsageError("--option", change, "write NAME=VALUE, such as trainer.max_steps=200")
        content.setdefault("options", {})[name] = parse_yaml(value)
    return content
