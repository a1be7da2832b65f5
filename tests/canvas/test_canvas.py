"""The folder of a canvas: what was committed comes back or is told to be damaged; one process at a time."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuwa_lightning.canvas.canvas import Canvas
from nuwa_lightning.canvas.facts import UNWRITTEN, CanvasFacts, CanvasState, Stage, differences
from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.tokenizers.tiling import Rectangle

GRID = PatchGrid(1, 3, 70)
FACTS = CanvasFacts(
    (Stage(GRID, size=(6, 500)),), (5, 6), (2, 3), 300, 8, how={"identity": {"seed": 5}, "deep": [None, "ü"]}
)


def patch_tokens(*seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 300, (2, 2, 3)))


def state(waves: int) -> CanvasState:
    tensors = {"a": torch.arange(waves).float(), "b": torch.full((2, 3), waves).to(torch.bfloat16)}
    return CanvasState(waves, {"patches": 3 * waves, "patches_of": 99}, tensors)


def opened(folder: Path) -> closing[Canvas]:
    return closing(Canvas.open(folder))


@pytest.fixture
def canvas(tmp_path: Path) -> Iterator[Canvas]:
    made = Canvas.create(tmp_path / "canvas", FACTS)
    yield made
    made.close()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 69)), max_size=60), st.integers(0, 99), st.booleans())
def test_areas_hold_what_was_put_last(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int]], seed: int, again: bool
) -> None:
    folder = tmp_path_factory.mktemp("canvas") / "c"
    whole_BYX = torch.full((2, 6, 210), UNWRITTEN)
    canvas = Canvas.create(folder, replace(FACTS, stages=(Stage(GRID, (0, -2, -65)),)))
    for n, (y, x) in enumerate(places):
        tokens = patch_tokens(n, seed)
        canvas.put([(PatchIndex(0, y, x), tokens)])
        whole_BYX[:, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3] = tokens
    if again:
        canvas.close()
        canvas = Canvas.open(folder)
    assert canvas.facts == replace(FACTS, stages=(Stage(GRID, (0, -2, -65)),))
    assert set(canvas.written()) == {PatchIndex(0, y, x) for y, x in places}
    assert canvas.patches == len(set(places))
    rng = random.Random(seed)
    for number in (0, 1):
        (top, bottom), (left, right) = (sorted(rng.sample(range(length + 1), 2)) for length in (6, 210))
        area = canvas.read(Rectangle(top, left, bottom, right), number=number)
        assert torch.equal(area, whole_BYX[number, top:bottom, left:right])
    for y, x in places[:3]:
        found = canvas.patch(PatchIndex(0, y, x))
        assert found is not None
        assert torch.equal(found, whole_BYX[:, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3])
    assert canvas.patch(PatchIndex(0, 2, 69)) is None or (2, 69) in places
    canvas.close()


def test_states_come_back_and_two_are_kept(canvas: Canvas) -> None:
    assert canvas.latest() is None
    for waves in (0, 9, 10, 100):
        canvas.put([(PatchIndex(0, 0, waves % 70), patch_tokens(waves))])
        canvas.commit(state(waves))
        canvas.put([(PatchIndex(0, 1, 1), patch_tokens(3))])
        found = canvas.latest()  # what came after it is cut
        assert found is not None
        assert (found.waves, {**found.facts, "log": None}) == (waves, {**state(waves).facts, "log": None})
        assert {name: t.dtype for name, t in found.tensors.items()} == {"a": torch.float32, "b": torch.bfloat16}
        assert all(torch.equal(found.tensors[name], t) for name, t in state(waves).tensors.items())
        assert canvas.patch(PatchIndex(0, 1, 1)) is None
    names = sorted(path.name for path in canvas.folder.iterdir())
    assert names == ["canvas.json", "lock", "state-000000000010", "state-000000000100", "tokens.log"]
    canvas.remove()
    assert not canvas.folder.exists()


@pytest.mark.parametrize("name", ["state-000000000002", "tokens.log", "canvas.json"])
def test_every_byte_counts(canvas: Canvas, name: str) -> None:
    canvas.put((PatchIndex(0, 0, x), patch_tokens(x)) for x in range(5))
    canvas.commit(state(2))
    canvas.close()
    path = canvas.folder / name
    whole = path.read_bytes()
    places = random.Random(0).sample(range(len(whole)), 40)
    damaged = [whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :] for at in places]
    for content in (*damaged, *(whole[:length] for length in (0, 5, 60, len(whole) - 2))):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"does not say what|is damaged"), opened(canvas.folder) as found:
            found.latest()
    path.write_bytes(whole)
    with opened(canvas.folder) as found:
        assert found.latest() is not None


@pytest.mark.parametrize("name", ["state-000000000002", "tokens.log"])
def test_the_state_before_is_offered_and_taken(canvas: Canvas, name: str) -> None:
    for n in (1, 2):
        canvas.put([(PatchIndex(0, 0, n), patch_tokens(n))])
        canvas.commit(state(n))
    path = canvas.folder / name
    path.write_bytes(path.read_bytes()[:-1])
    canvas.load()
    with pytest.raises(UsageError, match=r"the state before it \(3 of 99 patches\) is good: choose resume earlier"):
        canvas.latest()
    found = canvas.latest(earlier=True)
    assert found is not None
    assert (found.waves, list(canvas.written())) == (1, [PatchIndex(0, 0, 1)])
    assert not (canvas.folder / "state-000000000002").exists(), "or it would be in the way of new ones"
    assert canvas.latest() is not None


def test_a_torn_tail_is_cut(canvas: Canvas) -> None:
    canvas.put((PatchIndex(0, 0, x), patch_tokens(x)) for x in range(5))
    canvas.commit(state(1))
    size = (canvas.folder / "tokens.log").stat().st_size
    canvas.put([(PatchIndex(0, 1, 1), patch_tokens(9))])
    with (canvas.folder / "tokens.log").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"abc")
    canvas.close()
    with opened(canvas.folder) as found:
        assert found.patches == 5
        assert (canvas.folder / "tokens.log").stat().st_size == size


def test_what_a_stranger_wrote_is_refused(canvas: Canvas, tmp_path: Path) -> None:
    """With right checksums, too."""
    from nuwa_lightning.canvas.facts import _sum_of

    canvas.put([(PatchIndex(0, 0, 1), patch_tokens(1))])
    canvas.commit(state(1))
    canvas.close()
    path = canvas.folder / "canvas.json"

    def stage(**grid: object) -> dict[str, object]:
        return {"grid": grid, "corner": [0, 0, 0], "size": [6, 20], "origin": [0, 0]}

    content = json.loads(path.read_text())["canvas"]
    for change in (
        {"format": 1},
        {"seeds": []},
        {"seeds": ["a"]},
        {"patch_size": [2]},
        {"patch_size": [2, -3]},
        {"patch_size": [2**30, 2**30]},
        {"codebook_size": 2.5},
        {"stages": []},
        {"stages": [stage(t=1, y=None, x=None, wrap="")]},
        {"stages": [stage(t=1, y=0, x=3, wrap="")]},
        {"stages": [{**stage(t=1, y=3, x=3, wrap=""), "corner": [0, 0.5, 0]}]},
        {"log": -1},
        {"finished": 1},
        {"how": []},
        {"more": 1},
        {"finished": True, "stages": [{**stage(t=1, y=3, x=3, wrap=""), "size": [6, None]}]},
        {"stages": [{**stage(t=1, y=3, x=3, wrap=""), "size": [6, 500]}]},
        {"stages": [{**stage(t=1, y=3, x=3, wrap=""), "origin": [48, 0]}]},
        {"stages": [{**stage(t=1, y=3, x=3, wrap=""), "origin": [-1, 0]}]},
        *(
            {"how": {name: value}}
            for name, value in (
                ("metadata", {}),
                ("metadata", [1]),
                ("request", "a"),
                ("edits", [1]),
                ("edits", [{"grow": {}}]),
                ("undo", [0.5]),
                ("undo", [-1]),
                ("undo", [10**6]),
                ("given", {"image.png": 1}),
                ("versions", []),
            )
        ),
    ):
        wrong = {**content, **change}
        path.write_text(json.dumps({"canvas": wrong, "sha256": _sum_of(wrong)}))
        with pytest.raises(UsageError, match="does not say what is made there"):
            Canvas.open(canvas.folder)
    for change in ({"codebook_size": 10}, {"stages": [stage(t=1, y=3, x=1, wrap="")]}):
        wrong = {**content, **change}
        path.write_text(json.dumps({"canvas": wrong, "sha256": _sum_of(wrong)}))
        with pytest.raises(UsageError, match="record 0 is damaged"):
            Canvas.open(canvas.folder)
    path.write_text(json.dumps({"canvas": content, "sha256": _sum_of(content)}))
    (canvas.folder / "tokens.log").rename(tmp_path / "mine")
    (canvas.folder / "tokens.log").symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="is a link"):
        Canvas.open(canvas.folder)
    (canvas.folder / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds note\.txt, which is no part of a canvas"):
        Canvas.create(canvas.folder, FACTS)


def test_one_process_at_a_time(canvas: Canvas) -> None:
    with pytest.raises(UsageError, match="another process is writing it"):
        Canvas.open(canvas.folder)
    canvas.close()
    Canvas.open(canvas.folder).close()
    with pytest.raises(UsageError, match="holds no canvas"):
        Canvas.open(canvas.folder / "gone")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_states_before(canvas: Canvas, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    canvas.commit(state(1))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UsageError, match=r"cannot be written \(No space left on device\): make room there"):
        canvas.commit(state(2))
    found = canvas.latest()
    assert found is not None
    assert found.waves == 1
    assert not [path for path in canvas.folder.iterdir() if "partial" in path.name]


def test_differences_are_named() -> None:
    assert differences({"seed": 1, "a": [1]}, {"a": [1], "seed": 1}) == []
    found = differences({"seed": 1, "old": "x"}, {"seed": 2, "new": "y" * 99})
    assert found[:2] == ["seed was 1, now 2", 'old was "x", now not given']
    assert found[2].startswith('new was not given, now "yyy')
    assert len(found[2]) < 90


def test_damage_in_a_finished_canvas_is_told_and_nothing_is_cut(canvas: Canvas) -> None:
    canvas.put((PatchIndex(0, 0, x), patch_tokens(x)) for x in range(5))
    row = Stage(PatchGrid(1, 1, 4), size=(6, 60))
    canvas.amend(replace(FACTS, stages=(row,), finished=True, log=4))
    canvas.close()
    with opened(canvas.folder) as found:
        assert (found.patches, found.length) == (4, 4), "what was not sure to last is cut"
    path = canvas.folder / "tokens.log"
    content = bytearray(path.read_bytes())
    content[len(content) // 4 + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="record 1 is damaged, and so is the canvas"):
        Canvas.open(canvas.folder)
    assert path.read_bytes() == content


def test_a_finished_canvas_has_all_of_its_patches(canvas: Canvas) -> None:
    canvas.put((PatchIndex(0, 0, x), patch_tokens(x)) for x in (0, 1, 1, 0))
    canvas.amend(replace(FACTS, stages=(Stage(PatchGrid(1, 1, 4), size=(6, 60)),), finished=True, log=4))
    canvas.close()
    with pytest.raises(UsageError, match="holds 2 of 4 patches: put back a copy"):
        Canvas.open(canvas.folder)
