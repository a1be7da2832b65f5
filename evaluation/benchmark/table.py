"""The benchmark's figures as aligned text."""

from collections.abc import Mapping
from typing import Any

from evaluation.table import aligned


def benchmark_table(found: Mapping[str, Any]) -> str:
    """Return tokens a second and the figures with their aims."""
    lines = [["writes", "size", "rows", "tokens/s"]]
    for size, each in found["times"].items():
        for name, t in each.items():
            if not name.startswith("reading"):
                lines.append([name, size, str(t["rows"]), f"{t['tokens_per_second']:.1f}"])
    figures = [["figure", "measured", "aim", "reached", "note"], *map(_line, found["figures"])]
    machine, threads = found["machine"], found["threads"]
    foot = [
        *([machine["device"]] if machine["device"] != "cpu" else []),
        f"{machine['cpu']}, {machine['capability']}, {threads} thread(s) on core(s) {found['pinned_to']}; "
        f"torch {machine['versions']['torch']}, transformers {machine['versions']['transformers']}",
        f"medians of {found['rounds']} interleaved bursts of {found['steps']} tokens; load before "
        f"{found['load_before'][0]:.2f}, after {found['load_after'][0]:.2f}; {found['seconds'] / 60:.1f} minutes",
    ]
    if found["quick"]:
        foot.append("quick: this shows that it works, nothing else")
    if found["load_before"][0] > 0.5:
        foot.append("other work was running: only the ratios mean something, and not much")
    return "\n".join([*aligned(lines), "", *aligned(figures), "", *foot])


def _line(figure: Mapping[str, Any]) -> list[str]:
    value = "-" if figure["value"] is None else f"{figure['value']:.3g}"
    sign = ">=" if figure["at_least"] else "<="
    aim = "" if figure["aim"] is None else f"{sign} {figure['aim']:g}"
    reached = {None: "", True: "yes", False: "no"}[figure["reached"]]
    return [figure["name"], value, aim, reached, figure["note"]]
