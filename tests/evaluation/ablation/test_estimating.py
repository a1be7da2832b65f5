"""What a grid will take: scoring is counted, and finished cells tell the pace of those that are left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation.ablation import estimating
from evaluation.ablation.config import Ablation, Cell, Samples, Variant
from evaluation.ablation.estimating import estimate, plan_table
from evaluation.ablation.running import Tokenizer

SAMPLES = {"small": Samples("256x256", 40, "landscape"), "wide": Samples("1024x256", 10, "landscape_wide")}
ABLATION = Ablation(
    "a",
    "?",
    "base.yaml",
    {"little": Variant(), "much": Variant(), "window": Variant(sampler="sliding_window")},
    SAMPLES,
)
WORK = {"little": (1, 10.0, 4.0), "much": (2, 30.0, 12.0), "window": (1, 10.0, 400.0)}


def took(name: str) -> dict[str, Any]:
    """What a cell says of itself on a machine that trains 2 and samples 0.5 TFLOP a second (the window 4)."""
    _, training, sampling = WORK[name]
    seconds = sampling / (4 if name == "window" else 0.5)
    table = {"seconds_tokens": seconds / 2, "seconds_pixels": 5.0}
    return {
        "training_seconds": training / 2,
        "sampling": {"small": table, "wide": table},
        "scoring_seconds": {"small": 40.0, "wide": 60.0},
    }


def costs(monkeypatch: pytest.MonkeyPatch, done: set[str]) -> dict[str, estimating.Cost]:
    def finished(cell: Cell, output: Path) -> dict[str, Any] | None:
        return took(cell.name) if cell.label in done else None

    monkeypatch.setattr(estimating, "finished", finished)
    monkeypatch.setattr(estimating, "resolve", lambda cell, tokenizer: {})
    monkeypatch.setattr(estimating, "count", lambda config, cell: WORK[cell.name])
    monkeypatch.setattr(estimating, "timed", lambda cell, tokenizer: (20.0, WORK[cell.name][2]))
    monkeypatch.setattr(estimating, "make_extractor", lambda name: lambda crops: None)
    monkeypatch.setattr(estimating.time, "perf_counter", iter(range(0, 1000, 16)).__next__)  # a second a crop
    return estimate(ABLATION, Path("out"), Tokenizer(Path("t"), Path("t")))


def test_finished_cells_tell_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    found = costs(monkeypatch, {"little:0", "window:0"})
    for name in WORK:
        told = took(name)
        tokens = sum(table["seconds_tokens"] for table in told["sampling"].values())
        seconds = told["training_seconds"] + tokens + 10 + 100
        for seed in range(3):
            assert found[f"{name}:{seed}"].minutes == pytest.approx(seconds / 60), name
    assert {label for label, cost in found.items() if cost.done} == {"little:0", "window:0"}


def test_scoring_counts_before_any_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    found = costs(monkeypatch, set())
    pixels = (40 * 256 * 256 + 10 * 1024 * 256) / 1e6
    assert found["little:0"].scored == pytest.approx(pixels)
    # Nine shifted blocks of 64 pixels are in 256 x 256, 45 in 1024 x 256, which is four windows.
    after = 2 * 45 + 0.3 * pixels + 40 * (1 + 9) + 10 * (4 + 45)
    assert found["little:1"].minutes * 60 == pytest.approx(20 + 4 + after)
    assert found["little:0"].minutes * 60 == pytest.approx(20 + 4 + after + 2 * 200 * (1 + 9))  # and the real ones
    lines = plan_table(found, ABLATION.grid(), jobs=2)
    assert lines[0][-2:] == ["scoring megapixels", "minutes (a few steps timed)"]
    assert len({len(line) for line in lines}) == 1
