"""Writers go on where a state was taken, whatever came after it; endless canvases get their size in the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers import WRITERS, CanvasWriter, open_writer, read_metadata
from tests.writers.conftest import file_content

HEIGHT, WIDTH, STEP = 300, 420, 64
CORNERS = [(y, x) for x in range(0, WIDTH, STEP) for y in range(0, HEIGHT, STEP)]
NOISE: np.ndarray[Any, np.dtype[np.uint8]] = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def put(writer: CanvasWriter, start: int, stop: int) -> None:
    for y, x in CORNERS[start:stop]:
        writer.write(NOISE[y : y + STEP, x : x + STEP], y=y, x=x)


def opened(path: Path, **more: Any) -> CanvasWriter:
    return open_writer(path, WIDTH, HEIGHT, metadata={"seed": 1}, overwrite=True, keep=True, **more)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    for suffix in WRITERS:
        with opened(folder / f"a{suffix}") as writer:
            put(writer, 0, len(CORNERS))
    return folder


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(
    suffix=st.sampled_from(sorted(WRITERS)),
    places=st.lists(st.integers(0, len(CORNERS)), min_size=3, max_size=3),
    which=st.integers(0, 1),
)
def test_any_of_the_last_two_states_gives_the_same_bytes(
    uninterrupted: Path, tmp_path_factory: pytest.TempPathFactory, suffix: str, places: list[int], which: int
) -> None:
    """A killed process leaves its files as they are, which is what a copy of the folder is."""
    live, after = tmp_path_factory.mktemp("live"), tmp_path_factory.mktemp("after")
    first, second, killed = sorted(places)
    writer = opened(live / f"a{suffix}")
    put(writer, 0, first)
    states = [(first, writer.state())]
    put(writer, first, second)
    states.append((second, writer.state()))
    put(writer, second, killed)
    number, state = states[which]
    shutil.copytree(live, after, dirs_exist_ok=True)
    writer.abort()
    assert list(live.iterdir()) == []
    with opened(after / f"a{suffix}", state=json.loads(json.dumps(state))) as again:
        put(again, number, len(CORNERS))
    assert {found.stem for found in after.iterdir()} <= {"a", "a_files"}
    assert file_content(after / f"a{suffix}", after) == file_content(uninterrupted / f"a{suffix}", uninterrupted)


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_an_error_keeps_what_is_needed_to_go_on(tmp_path: Path, uninterrupted: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    writer = opened(path)
    put(writer, 0, 9)
    state = writer.state()
    with pytest.raises(KeyboardInterrupt), writer:
        raise KeyboardInterrupt
    with opened(path, state=state) as again:
        put(again, 9, 20)
        state = again.state()
        again.suspend()
    assert not path.exists()
    with opened(path, state=state) as again:
        put(again, 20, len(CORNERS))
    assert file_content(path, tmp_path) == file_content(uninterrupted / path.name, uninterrupted)


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_a_state_that_does_not_fit_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    writer = opened(path)
    state = writer.state()
    writer.suspend()
    with pytest.raises(ValueError, match="the state is of"):
        open_writer(path, 5, 5, state=state)
    for name in ("../a", "a", f".a.{'0' * 8}.partial/../../a", ""):
        with pytest.raises(ValueError, match="is no partial file of"):
            opened(path, state={**state, "partial": name})
    opened(path, state=state).abort()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="the unfinished file is gone"):
        opened(path, state=state)


ENDLESS = sorted(suffix for suffix, cls in WRITERS.items() if cls.endless)


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("length", [256, 300, 1000])
def test_an_endless_tiff(tmp_path: Path, axis: str, length: int) -> None:
    """What lies beyond the cut is gone, what was never written is black."""
    path = tmp_path / "a.tif"
    size = (None, HEIGHT) if axis == "x" else (WIDTH, None)
    with open_writer(path, *size, keep=True) as writer:
        put(writer, 0, 9)
        state = writer.state()
        writer.suspend()
    with open_writer(path, *size, state=state) as writer:
        put(writer, 9, len(CORNERS))
        width, height = (length, HEIGHT) if axis == "x" else (WIDTH, length)
        writer.cut(width, height, metadata={"stopped": True})
    expected = np.zeros((height, width, 3), np.uint8)
    kept = NOISE[:height, :width]
    expected[: kept.shape[0], : kept.shape[1]] = kept
    np.testing.assert_array_equal(tifffile.imread(path), expected)
    assert read_metadata(path) == {"stopped": True}


def test_endless_canvases_are_held_to_their_word(tmp_path: Path) -> None:
    for suffix in set(WRITERS) - set(ENDLESS):
        with pytest.raises(UsageError, match=r"cannot hold an endless canvas: use \.tif"):
            open_writer(tmp_path / f"a{suffix}", None, 5)
    for size in ((None, None), (None, 0)):
        with pytest.raises(UsageError, match="--size"):
            open_writer(tmp_path / "a.tif", *size)
    with pytest.raises(ValueError, match="not known yet"), open_writer(tmp_path / "a.tif", None, 5):
        pass
    with open_writer(tmp_path / "a.tif", None, 5) as writer:
        with pytest.raises(ValueError, match="cannot get 5x6"):
            writer.cut(5, 6)
        writer.cut(5, 5)
        with pytest.raises(ValueError, match="not endless"):
            writer.cut(5, 5)
    assert [found.name for found in tmp_path.iterdir()] == ["a.tif"]
