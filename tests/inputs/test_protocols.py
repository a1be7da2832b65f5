"""Numbers of a protocol: each has a range, and what lies outside is one line that names it."""

from __future__ import annotations

import pytest

from evaluation.protocol import FOLDER, load_protocol
from evaluation.video.score import load_video_protocol
from nuwa_lightning.errors import UsageError

NUMBERS = [
    *("seed", "version", "resamples", "splits", "real.count", "real.side", "real.seed", "generated.count"),
    *("generated.seed", "metrics.kid.subsets", "metrics.manifold.k", "metrics.manifold.k_coverage"),
    *("metrics.diversity.pairs", "metrics.seams.patch", "metrics.seams.token", "metrics.collapse.window"),
    "metrics.collapse.percentile",
]


@pytest.mark.parametrize("value", ["-1", "1000000000000000", ".nan", ".inf", "nine", "[1]"])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_out_of_range(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_protocol("landscape", [f"{name}={value}"])
    assert str(caught.value).startswith("protocol.")
    assert name.rpartition(".")[2] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resamples", "splits", "real.count", "metrics.kid.subsets", "metrics.manifold.k"])
def test_nothing_is_no_number_of_images(name: str) -> None:
    with pytest.raises(UsageError, match=rf"protocol\.({name}|{name.rpartition('.')[2]}): 0: "):
        load_protocol("landscape", [f"{name}=0"])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_own_are_in_range(path) -> None:  # type: ignore[no-untyped-def]
    load = load_video_protocol if "frames: 16" in path.read_text() else load_protocol
    assert load(path).settings()["version"] >= 1
