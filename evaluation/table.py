"""A report as aligned text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from evaluation.protocol import FOLDER, check_protocol_name, differences, load_protocol
from nuwa_lightning.errors import UsageError

LOW_RANK: Final = "Frechet distances are of fewer images than features: read them beside their floor only"


def text_table(report: Mapping[str, Any]) -> str:
    """Return the metrics of a report as an aligned text table, with its protocol and what was left out."""
    head = ["metric", "set", "value", "95 % interval", "floor (real)", "n", "better", "note"]
    notes = list(dict.fromkeys(row["how"] for row in report["metrics"]))
    lines = [head, *([*_line(row), f"[{notes.index(row['how']) + 1}]"] for row in report["metrics"])]
    about = report["protocol"]
    foot = [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
    foot += ["", f"protocol {said_of_protocol(about)}"]
    foot += [said_of_set(name, found) for name, found in report["sets"].items()]
    if any(row.get("low_rank") for row in report["metrics"]):
        foot.append(LOW_RANK)
    foot.append(f"digest {report['digest'][:12]} (equal images, protocol, code and machine give an equal one)")
    return "\n".join([*aligned(lines), "", *foot])


def said_of_protocol(about: Mapping[str, Any]) -> str:
    """Return name, version and hash of a report's protocol, and whether it is the one that ships under that name."""
    version = f"version {about['version']} ({said_of_origin(about['settings'])})"
    return f"{_visible(about['name'])} {version}, sha256 {about['sha256'][:12]}"


def said_of_origin(settings: Mapping[str, Any]) -> str:
    """Return whether a protocol is what ships under its name, or in which settings it is not, or is of one's own."""
    from evaluation.video.score import VideoProtocol, load_video_protocol  # slow, and not every table is of scores

    clips = settings.keys() >= {field.name for field in dataclasses.fields(VideoProtocol)}
    try:
        check_protocol_name(settings["name"])
        shipped = (load_video_protocol if clips else load_protocol)(FOLDER / f"{settings['name']}.yaml").settings()
    except UsageError:  # none of that name, or images under the name of a protocol of clips, or the other way round
        return "of your own"
    changes = differences({key: value for key, value in settings.items() if key in shipped}, shipped)
    return f"changed: {'; '.join(changes)}" if changes else "as it ships"


def said_of_set(name: str, found: Mapping[str, Any]) -> str:
    """Return what a reader has to know of a set of images: how many, of which format and size, chosen or repeated."""
    formats = f" ({', '.join(f'{n} {kind}' for kind, n in found['formats'].items())})" if found.get("formats") else ""
    crops = found.get("crops", found.get("squares"))
    text = f"{name}: {_visible(found['folder'])}, {crops} crops of {found['files']} files"
    text += formats + (f" of {found['sizes']} pixels" if "sizes" in found else "")
    large = found.get("too_large", 0)
    unreadable = len(found.get("skipped", ())) - large
    text += f", {large} skipped as larger than `max_pixels`" if large else ""
    text += f", {unreadable} skipped as unreadable" if unreadable else ""
    text += f", {found['short']} with too few frames" if found.get("short") else ""
    text += f", chosen of {found['made']} that were made" if "made" in found else ""
    text += f", {found['repeated']} of them repeat another one" if found.get("repeated") else ""
    equal, pairs = found.get("equal_pairs"), found.get("pairs")
    return text + (f", {equal} of {pairs} pairs are equal to the last bit" if equal else "")


def _visible(name: str) -> str:
    """Return a name without what moves the cursor or cannot be seen."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines of equal columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def _line(row: Mapping[str, Any]) -> list[str]:
    interval = "none" if row["low"] is None else f"{number(row['low'])} .. {number(row['high'])}"
    spread = "" if row.get("floor_std") is None else f" +-{number(row['floor_std'])}"
    floor = f"{number(row['floor'])}{spread}" if "floor" in row else ""
    return [row["name"], row["set"], number(row["value"]), interval, floor, str(row["n"]), row["better"]]


def number(value: float) -> str:
    """Return a number with four digits behind the point, or two where it is large.

    >>> number(0.123456), number(54.2)
    ('0.1235', '54.20')
    """
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
