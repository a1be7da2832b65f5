"""A report as a list of blocks, which Markdown and HTML both are made of."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.report.figures import curves_over_time, learning_curves, quality_against_cost
from evaluation.report.image_grids import Strip, nearest_strips, strips_of
from evaluation.report.study import Line, Number, Study, lines_of, seconds_of_canvas, student
from evaluation.table import LOW_RANK, said_of_protocol, said_of_set


@dataclass(frozen=True)
class Heading:
    """A heading of the second level."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; ``marked`` are row and column (from 0, the head not counted) of the cells to be set off."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Notes:
    """Footnotes of a table, numbered from 1."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Figure:
    """A drawing as SVG text; ``name`` is that of its file."""

    name: str
    svg: str
    caption: str

    @property
    def data(self) -> bytes:
        """The drawing as a file holds it."""
        return self.svg.encode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class ImageStrips:
    """Strips of images; ``name`` begins the names of their files."""

    name: str
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Commands:
    """Lines to be typed."""

    lines: Sequence[str]


Block = Heading | Paragraph | Table | Notes | Figure | ImageStrips | Commands


def blocks_of(study: Study) -> Iterator[Block]:
    """Yield the blocks of a study's report."""
    seeds = sorted({len(entry.results) for entry in study.entries})
    yield Paragraph(study.question)
    if study.missing:
        yield Paragraph(f"Not done yet, and left out: {', '.join(study.missing)}.")
    notes = [f"{entry.name}: {entry.note}" for entry in study.entries if entry.note]
    if notes:
        yield Paragraph(f"{'. '.join(notes)}.")
    over = "training seeds (Student's t)" if seeds[-1] > 1 else "images (one seed: no word on other trainings)"
    over += ", of a single seed over images" if seeds[0] == 1 < seeds[-1] else ""
    yield Paragraph(
        f"Values are means over {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seed(s) with 95 % "
        f"intervals over {over}. The best of a row is bold only if its interval parts from all others"
        f"{', and if none or all are of a single seed' if seeds[0] == 1 < seeds[-1] else ''}. "
        "Floor: what real images get against other real ones, at the same number or brought to it; of IS, precision "
        "and the like of half of the real ones where these are fewer than twice ours (`floor_n` in report.json)."
    )
    for samples in study.sample_sets():
        yield Heading(f"Scores of {samples}")
        lines = lines_of(study, samples)
        notes = list(dict.fromkeys(note for line in lines for note in line.notes()))
        yield score_table(study, lines, notes)
        if seeds[-1] > 1:
            yield Paragraph("Notes on the numbers of each training seed:")
        yield Notes(notes)
        yield Paragraph(f"{'; '.join(about(study, samples))}.")
        drawn = curves_over_time(study, samples)
        if drawn is not None:
            yield Heading(f"{samples} over time")
            said = "Means over clips on 0..255 with 95 % intervals over files (Student's t)"
            yield Figure(f"over_time_{samples}", drawn, f"{said}; dotted: real clips.")
    costs = cost_table(study)
    if costs is not None:
        yield Heading("Cost")
        yield costs
    curves = learning_curves(study)
    if curves is not None:
        yield Heading("Learning curves")
        yield Figure("learning_curves", curves, "Losses by step; every seed is a line. The scale cuts off the start.")
    yield from _against_cost(study)
    for samples in study.sample_sets():
        strips = strips_of(study, samples)
        if strips:
            yield Heading(f"Samples of {samples}, at the same seeds of each training seed")
            yield ImageStrips(f"samples_{samples}", strips)
        near = nearest_strips(study, samples)
        if near:
            yield Heading(f"Nearest real images of {samples}")
            yield Paragraph("Above the samples that lie nearest to a real image in feature space, below that image.")
            yield ImageStrips(f"nearest_{samples}", near)
    yield from _how(study)


def score_table(study: Study, lines: Sequence[Line], notes: Sequence[str] = ()) -> Table:
    """Return metrics as rows, entries as columns, with the numbers of its notes where there are some."""
    names = [entry.name for entry in study.entries]
    rows, marked = [], set()
    for number, line in enumerate(lines):
        cells = [shown(line.numbers[name]) if name in line.numbers else "" for name in names]
        rows.append([line.name, *cells, "" if line.floor is None else short(line.floor), line.better])
        rows[-1] += [", ".join(str(notes.index(note) + 1) for note in line.notes())] if notes else []
        if line.best is not None:
            marked.add((number, 1 + names.index(line.best)))
    several = any(len(entry.results) > 1 for entry in study.entries)
    head = [f"{e.name} ({_seeds(len(e.results))})" if several else e.name for e in study.entries]
    return Table(["metric", *head, "floor", "better", *(["note"] if notes else [])], rows, frozenset(marked))


def cost_table(study: Study) -> Table | None:
    """Return parameters and times of each entry, or None where none is known."""
    entries = [entry for entry in study.entries if all(result.told for result in entry.results)]
    if not entries:
        return None
    rows = [
        ["parameters, millions", *(f"{entry.results[0].told['parameters'] / 1e6:.2f}" for entry in entries)],
        ["training, minutes", *(_mean(entry.results, lambda told: told["training_seconds"] / 60) for entry in entries)],
    ]
    for samples in study.sample_sets():
        seconds = {e.name: [seconds_of_canvas(r.told, samples) for r in e.results] for e in entries}
        means = {name: student(values).value for name, values in seconds.items()}
        rows.append([f"{samples}: seconds a canvas", *(short(means[e.name]) for e in entries)])
        slowest = max(means.values())
        rows.append(
            [f"{samples}: canvases while the slowest makes one", *(_ratio(slowest, means[e.name]) for e in entries)]
        )
        rows.append([f"{samples}: tokens a second", *(_mean(e.results, lambda t: _rate(t, samples)) for e in entries)])  # noqa: B023 - used at once
    return Table(["", *(entry.name for entry in entries)], rows)


def shown(number: Number) -> str:
    """Return a value with its interval.

    >>> shown(Number(0.1234, 0.12, 0.13, ()))
    '0.123 [0.120, 0.130]'
    """
    if math.isnan(number.low):
        return short(number.value)
    value, low, high = (_rounded(x, _digits(number.value)) for x in (number.value, number.low, number.high))
    return f"{value} [{low}, {high}]"


def short(value: float) -> str:
    """Return a value as briefly as in :func:`shown`.

    >>> short(-0.0001), short(12.34)
    ('0.000', '12.3')
    """
    return _rounded(value, _digits(value))


def _rounded(value: float, digits: int) -> str:
    # Adding 0 turns minus zero into zero.
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _digits(value: float) -> int:
    return 3 if abs(value) < 10 else 1


def _mean(results: Sequence[Any], read: Any) -> str:
    found = student([float(read(result.told)) for result in results])
    return short(found.value) if math.isfinite(found.value) else ""


def _seeds(count: int) -> str:
    return f"{count} seeds" if count > 1 else "1 seed"


def _ratio(slowest: float, ours: float) -> str:
    return f"{slowest / ours:.1f}" if ours else ""


def _rate(told: Any, samples: str) -> float:
    table = told["sampling"][samples]
    seconds: float = table["seconds_tokens"]
    return float(table["tokens"]) / seconds if seconds else math.nan


def about(study: Study, samples: str) -> list[str]:
    """Return what a reader has to know of a set of samples: protocol, images, how they were made."""
    results = study.results(samples)
    reports = [r.reports[samples] for r in results]
    lines = [f"Protocol {said_of_protocol(reports[0]['protocol'])}"]
    lines += dict.fromkeys(said_of_set(name, found) for one in reports for name, found in one["sets"].items())
    tables = [r.told.get("sampling", {}).get(samples) or r.reports[samples]["run"].get("sampling") for r in results]
    for size, temperature, top_k in dict.fromkeys((t["size"], t["temperature"], t["top_k"]) for t in tables if t):
        lines.append(f"sampled at {size}, temperature {temperature}, top-k {top_k}")
    low_rank = any(row.get("low_rank") for report in reports for row in report["metrics"])
    return [*lines, *([LOW_RANK] if low_rank else [])]


def _against_cost(study: Study) -> Iterator[Block]:
    for samples in study.sample_sets():
        metric = next((line.name for line in lines_of(study, samples) if line.name.endswith("KID")), None)
        drawn = quality_against_cost(study, samples, metric) if metric else None
        if drawn is not None:
            yield Heading(f"Quality of {samples} against cost")
            yield Figure(f"cost_{samples}", drawn, f"{metric}; dotted: its floor. Bars are the intervals of the table.")


def _how(study: Study) -> Iterator[Block]:
    yield Heading("How to make it again")
    told = [result.told for entry in study.entries for result in entry.results if result.told]
    reports = [report for entry in study.entries for result in entry.results for report in result.reports.values()]
    commits = sorted({t["commit"] for t in told} | {report["commit"] for report in reports})
    machines = sorted({f"{report['machine']['cpu']}, {report['machine']['cores']} cores" for report in reports})
    threads = sorted({t["machine"]["threads"] for t in told if "threads" in t["machine"]})
    machines += [f"{' or '.join(map(str, threads))} thread(s) a process"] if threads else []
    versions = reports[0]["versions"]
    yield Paragraph(
        f"Commit {', '.join(commits)}; {'; '.join(machines)}; python {versions['python']}, torch {versions['torch']}."
    )
    yield Commands(study.commands)
    if told:
        yield Paragraph("Each cell was trained by")
        yield Commands([t["command"] for t in told])
    scored = [command for report in reports if (command := report["run"].get("command"))]
    if scored:
        yield Paragraph("Images were scored by")
        yield Commands(scored)
