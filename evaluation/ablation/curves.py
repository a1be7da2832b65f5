"""What a run logged: losses by step, and how long it trained, from TensorBoard's files."""

import itertools
from pathlib import Path
from typing import Final

CURVES: Final = ("train/loss", "val/loss", "val/loss_first_column")
_LONGEST_PAUSE: Final = 120.0
"""Seconds between two entries of one file above which the machine slept or was stopped."""

Curve = list[tuple[int, float]]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return ``(step, value)`` of each logged curve; of a step that was repeated after a stop, the last value."""
    found: dict[str, dict[int, float]] = {name: {} for name in CURVES}
    for events in _files(folder):
        for name, step, value, _ in events:
            if name in found:
                found[name][step] = value
    return {name: sorted(points.items()) for name, points in found.items() if points}


def training_seconds(folder: Path) -> float:
    """Return the seconds between first and last entry, of each file (one a start) added up, pauses left out."""
    total = 0.0
    for events in _files(folder):
        times = sorted(time for *_, time in events)
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        total += sum(gap for gap in gaps if gap < _LONGEST_PAUSE)
    return round(total, 1)


def _files(folder: Path) -> list[list[tuple[str, int, float, float]]]:
    """Return the entries ``(name, step, value, time)`` of each file, in the order in which they were begun."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        entries = []
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("tensor") and value.tensor.float_val:
                    entries.append((value.tag, event.step, float(value.tensor.float_val[0]), event.wall_time))
        found.append(entries)
    return found
