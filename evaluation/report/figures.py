"""Plots of a study as SVG text: the same study gives the same text."""

import io
from collections.abc import Sequence
from typing import Any, Final

from evaluation.report.study import Study, lines_of, seconds_of_canvas, student

_FEW: Final = 12
_WIDE: Final = 8.0
"""Ratio of costs above which their scale is logarithmic."""

_COLORS: Final = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5ea2", "#b8860b", "#5d737e", "#d1495b", "#2a9d8f")


def learning_curves(study: Study) -> str | None:
    """Return the losses by step, a panel for each curve, or None where nothing was logged."""
    names = list(dict.fromkeys(name for e in study.entries for r in e.results for name in r.curves))
    if not names:
        return None
    figure, axes = _panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        for number, entry in enumerate(study.entries):
            curves = [result.curves[name] for result in entry.results if name in result.curves]
            for i, curve in enumerate(curves):
                steps, values = zip(*_smoothed(curve), strict=True)
                label = entry.name if i == 0 else None
                dots = "o" if len(steps) < _FEW else None  # a single point has no line
                style = {"color": _color(number), "lw": 1.2, "alpha": 0.9 if i == 0 else 0.45}
                axis.plot(steps, values, label=label, marker=dots, ms=3, **style)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        _cut_start(axis)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7, frameon=False)
    return _svg(figure)


def curves_over_time(study: Study, samples: str) -> str | None:
    """Return how clips change over time, a panel for each curve, real clips dotted; None where nothing is known."""
    told = {e.name: e.results[0].reports.get(samples, {}).get("curves") for e in study.entries if e.results}
    found = {name: curves for name, curves in told.items() if curves}
    if not found:
        return None
    first = next(iter(found.values()))
    figure, axes = _panels(len(first["generated"]))
    for axis, name in zip(axes, first["generated"], strict=True):
        lines = [(entry, curves["generated"][name], _color(i), "-") for i, (entry, curves) in enumerate(found.items())]
        for entry, curve, color, style in [*lines, ("real", first["real"][name], "#777777", ":")]:
            axis.plot(curve["frames"], curve["value"], label=entry, color=color, ls=style, lw=1.3)
            if None not in [*curve["low"], *curve["high"]]:
                axis.fill_between(curve["frames"], curve["low"], curve["high"], color=color, alpha=0.12, lw=0)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("frame of the clip", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7, frameon=False)
    return _svg(figure)


def quality_against_cost(study: Study, samples: str, metric: str) -> str | None:
    """Return a metric against training time and against sampling time, or None where no times are known."""
    line = next((line for line in lines_of(study, samples) if line.name == metric), None)
    timed = [entry for entry in study.entries if all(result.told for result in entry.results)]
    if line is None or not timed:
        return None
    from matplotlib.ticker import NullFormatter

    figure, axes = _panels(2)
    costs = ("training, minutes", f"sampling {samples}, seconds a canvas")
    for axis, cost in zip(axes, costs, strict=True):
        for number, entry in enumerate(study.entries):
            if entry not in timed or entry.name not in line.numbers:
                continue
            found = line.numbers[entry.name]
            values = [_cost(result.told, samples, cost) for result in entry.results]
            x = student(values).value
            error = [[found.value - found.low], [found.high - found.value]]
            axis.errorbar([x], [found.value], yerr=error, fmt="o", ms=5, capsize=3, color=_color(number))
            axis.annotate(entry.name, (x, found.value), textcoords="offset points", xytext=(6, 4), fontsize=7)
        axis.set_xlabel(cost, fontsize=8)
        axis.set_ylabel(f"{metric} ({line.better} is better)", fontsize=8)
        axis.margins(x=0.25, y=0.2)
    points = [float(x) for bar in axes[1].containers for x in bar.lines[0].get_xdata() if x > 0]
    if line.floor is not None:
        for axis in axes:
            axis.axhline(line.floor, color="#999999", lw=0.8, ls=":")
    if points and max(points) > _WIDE * min(points):
        axes[1].set_xscale("log")
        axes[1].set_xlim(min(points) / 2, max(points) * 4)  # room for the names
        axes[1].xaxis.set_major_formatter("{x:g}")
        axes[1].xaxis.set_minor_formatter(NullFormatter())
    return _svg(figure)


def _cost(told: Any, samples: str, cost: str) -> float:
    if cost.startswith("training"):
        return float(told["training_seconds"]) / 60
    return seconds_of_canvas(told, samples)


def _smoothed(curve: Sequence[tuple[int, float]], most: int = 60) -> list[tuple[float, float]]:
    """Return at most ``most`` points: means of neighbors."""
    size = max(1, -(-len(curve) // most))
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]


def _cut_start(axis: Any) -> None:
    """Let the steep beginning run out of the image, where most of the curve would be a flat line otherwise."""
    values = sorted(float(v) for line in axis.get_lines() for v in line.get_ydata())
    if values:
        low, high = values[0], values[int(0.92 * (len(values) - 1))]
        room = 0.08 * (high - low) or 0.1
        axis.set_ylim(low - room, high + room)


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]


def _panels(count: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * count, 3.1), layout="constrained")
    axes = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, lw=0.5)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib as mpl

    out = io.StringIO()
    # Names inside the file come from a hash with this salt, text stays text, and no date is written.
    with mpl.rc_context({"svg.hashsalt": "nuwa_lightning", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :].strip()
