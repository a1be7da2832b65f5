"""What a report is about: entries (variants, or scored folders), each with the same metrics at one seed or several."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from evaluation.ablation.config import Cell, load_ablation
from evaluation.ablation.curves import Curve, read_curves
from evaluation.ablation.running import DONE, read_cell, reports_of
from evaluation.estimates import student_quantile
from evaluation.record import check_comparable, read_report
from nuwa_lightning.errors import UsageError

SOURCE: Final = "ablation.yaml"
"""The ablation's file, kept in its output folder."""


@dataclass(frozen=True)
class Result:
    """An entry at one seed.

    Attributes:
        seed: of training; 0 where there is none.
        reports: a report of ``score`` for each set of samples, by its name.
        folders: the images of each set of samples.
        told: what the cell says of itself (``cell.json``); empty for a scored folder.
        curves: what it logged.
    """

    seed: int
    reports: Mapping[str, Mapping[str, Any]]
    folders: Mapping[str, Path]
    told: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A column of the tables."""

    name: str
    note: str
    results: Sequence[Result]


@dataclass(frozen=True)
class Study:
    """Everything that a report shows.

    Attributes:
        title: of the report.
        question: what it asks.
        entries: in the order of the tables.
        commands: that make it again.
        missing: cells that are not done.
    """

    title: str
    question: str
    entries: Sequence[Entry]
    commands: Sequence[str]
    missing: Sequence[str] = ()

    def sample_sets(self) -> list[str]:
        """Return the names of the sets of samples."""
        return list(dict.fromkeys(name for e in self.entries for r in e.results for name in r.reports))

    def results(self, samples: str) -> list[Result]:
        """Return what there is of a set of samples."""
        return [result for entry in self.entries for result in entry.results if samples in result.reports]


@dataclass(frozen=True)
class Number:
    """A metric of an entry over its seeds.

    Attributes:
        value: the mean.
        low: lower end of the 95 % interval.
        high: upper end.
        seeds: the value at each seed.
        n: how many images (or pairs) each is of, the fewest; 0 where that is not known.
        how: how value and interval of each seed were made.
    """

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]
    n: int = 0
    how: str = ""


@dataclass(frozen=True)
class Line:
    """A metric of every entry: a row of a table.

    Attributes:
        name: of the metric, and of the set it is about where that is not "generated".
        better: "lower", "higher", or "as real", which has no best.
        numbers: by entry; an entry may lack it.
        floor: what real images get; None where entries have no floor in common.
        best: the entry whose interval parts from all others', or None.
    """

    name: str
    better: str
    numbers: Mapping[str, Number]
    floor: float | None
    best: str | None

    def notes(self) -> list[str]:
        """Return how its numbers were made, and which of them where not all were made alike."""
        found: dict[str, list[str]] = {}
        for name, number in self.numbers.items():
            if number.how:
                found.setdefault(number.how, []).append(name)
        return [how if len(found) == 1 else f"{', '.join(names)}: {how}" for how, names in found.items()]


def load_study(runs: Sequence[Path], command: str) -> Study:
    """Return what a report on these runs is about.

    Args:
        runs: one output folder of an ablation, or reports of ``score`` (or folders with a ``report.json``).
        command: the report's own command.
    """
    ablations = [run for run in runs if (run / SOURCE).is_file()]
    if ablations and len(runs) > 1:
        hint = "an ablation is a report of its own: merge outputs first, `merge` of ablate"
        raise UsageError("RUN", str(ablations[0]), hint)
    study = _of_ablation(runs[0], command) if ablations else _of_reports(runs, command)
    for name in study.sample_sets():
        found = {f"{e.name}:{r.seed}": r.reports[name] for e in study.entries for r in e.results if name in r.reports}
        check_comparable(found)
    return study


def lines_of(study: Study, samples: str) -> list[Line]:
    """Return the table of a set of samples: its metrics, each over the seeds of every entry."""
    found: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for entry in study.entries:
        for result in entry.results:
            for row in result.reports.get(samples, {"metrics": ()})["metrics"]:
                found.setdefault((row["name"], row["set"]), {}).setdefault(entry.name, []).append(row)
    lines = []
    for (name, which), rows in found.items():
        numbers = {entry: over_seeds(these) for entry, these in rows.items()}
        first = next(iter(rows.values()))[0]
        label = name if which == "generated" else f"{name}, {which}"
        floors = [row["floor"] for these in rows.values() for row in these if "floor" in row]
        # Of unequal numbers of images (pairs without equal ones, too) neither can be called better.
        alike = len({frozenset(row.get("n") for row in these) for these in rows.values()}) == 1
        best = best_of(numbers, first["better"]) if alike else None
        lines.append(Line(label, first["better"], numbers, _one(floors), best))
    return [*lines, *_time_line(study, samples)]


def seconds_of_canvas(told: Mapping[str, Any], samples: str) -> float:
    """Return how long a cell needed for one canvas, tokens and pixels."""
    table = told["sampling"][samples]
    seconds: float = table["seconds_tokens"] + table["seconds_pixels"]
    return seconds / max(1, int(table.get("images", table.get("pictures", 0))))


def _one(floors: Sequence[float]) -> float | None:
    """Return the floor that all rows share, but for rounding on other machines; a mean of others belongs to none."""
    same = all(math.isclose(floor, floors[0], rel_tol=1e-3, abs_tol=1e-6) for floor in floors)
    return floors[0] if floors and same else None


def _time_line(study: Study, samples: str) -> list[Line]:
    """Return the row of generation time, which scores have to be read beside."""
    timed = [e for e in study.entries if all(samples in r.told.get("sampling", {}) for r in e.results)]
    numbers = {e.name: student([seconds_of_canvas(r.told, samples) for r in e.results]) for e in timed}
    if not numbers:
        return []
    # One measurement has no interval that could part from another.
    best = best_of(numbers, "lower") if len(next(iter(numbers.values())).seeds) > 1 else None
    return [Line("seconds a canvas", "lower", numbers, None, best)]


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> Number:
    """Return the mean over seeds with Student's interval; of one seed, its own interval over images."""
    values = [float(row["value"]) for row in rows]
    about = min(row.get("n", 0) for row in rows), "; or ".join(dict.fromkeys(row.get("how", "") for row in rows))
    if len(values) == 1:
        return Number(values[0], *_interval(rows[0]), (values[0],), *about)
    found = student(values)
    low, high = found.low, found.high
    if low == high:  # seeds that agree by chance say nothing of the next one: the interval over images stays
        ends = [_interval(row) for row in rows]
        low, high = min(end for end, _ in ends), max(end for _, end in ends)
    if rows[0].get("share"):
        low, high = max(0.0, low), min(1.0, high)
    return Number(found.value, low, high, found.seeds, *about)


def _interval(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the ends of a row's interval, nan where it has none."""
    return (math.nan, math.nan) if row["low"] is None else (float(row["low"]), float(row["high"]))


def student(values: Sequence[float]) -> Number:
    """Return the mean of independent values with Student's 95 % interval.

    >>> number = student([1.0, 2.0, 3.0])
    >>> number.value, round(number.high - number.value, 3)
    (2.0, 2.484)
    """
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return Number(mean, mean, mean, tuple(values))
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    half = student_quantile(n - 1) * spread / math.sqrt(n)
    return Number(mean, mean - half, mean + half, tuple(values))


def best_of(numbers: Mapping[str, Number], better: str) -> str | None:
    """Return the entry that is best, if its interval parts from that of every other one.

    None is where one has a single seed and another several: the former's interval knows nothing of other trainings.
    """
    if len(numbers) < 2 or better not in ("lower", "higher") or not alike_in_seeds(*numbers.values()):
        return None
    sign = 1 if better == "lower" else -1
    first, *others = sorted(numbers, key=lambda name: sign * numbers[name].value)
    ours = numbers[first]
    for name in others:
        other = numbers[name]
        if not (ours.high < other.low if better == "lower" else ours.low > other.high):
            return None
    return first


def alike_in_seeds(*numbers: Number) -> bool:
    """Say whether intervals are of the same kind: all of single trainings, or all over several."""
    return len({len(number.seeds) > 1 for number in numbers}) == 1


def _of_ablation(output: Path, command: str) -> Study:
    ablation = load_ablation(output / SOURCE)
    entries, missing = [], []
    for name, variant in ablation.cells.items():
        results = []
        for cell in ablation.grid():
            if cell.name != name:
                continue
            path = cell.folder(output) / DONE
            if not path.is_file():
                missing.append(cell.label)
                continue
            results.append(_of_cell(cell, output))
        if results:
            entries.append(Entry(name, variant.note, results))
    if not entries:
        raise UsageError("RUN", str(output), "no cell of it is done: run python -m evaluation ablate first")
    told = next(iter(entries[0].results)).told
    commands = [
        told.get("ablate", f"python -m evaluation ablate --config {output / SOURCE} --output {output}"),
        command,
    ]
    return Study(ablation.name, ablation.question, entries, commands, missing)


def _of_cell(cell: Cell, output: Path) -> Result:
    folder = cell.folder(output)
    folders = {name: folder / name for name in cell.ablation.samples}
    curves = read_curves(folder / "run" / "tensorboard")
    return Result(cell.seed, reports_of(cell, output), folders, read_cell(folder), curves)


def _of_reports(runs: Sequence[Path], command: str) -> Study:
    entries = []
    names: set[str] = set()
    for run in runs:
        path = run / "report.json" if run.is_dir() else run
        report = read_report(path)
        sets = report["sets"]
        label = sets.get("generated", sets.get("reconstruction", {})).get("folder", path.stem)
        number = 1
        while (name := f"{label} ({number})" if number > 1 else label) in names:
            number += 1
        names.add(name)
        entries.append(Entry(name, str(path), [Result(0, {"images": report}, {})]))
    if not entries:
        raise UsageError("RUN", "missing", "name an ablation's output folder, or report.json files")
    return Study("scores", "How do these folders compare?", entries, [command])
