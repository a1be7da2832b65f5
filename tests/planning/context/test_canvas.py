from __future__ import annotations

import itertools

import pytest

from nuwa_lightning.errors import LawError, UsageError
from nuwa_lightning.planning.context import CanvasPool, ContextPool, NearbyContextPool
from nuwa_lightning.planning.geometry import OMEGA, PatchGrid, PatchIndex

GRID = PatchGrid(2, 2, 2)
A, B, LATER = PatchIndex(0, 0, 0), PatchIndex(0, 0, 1), PatchIndex(1, 0, 0)


class ScriptedPool(ContextPool):
    """Answers whatever the test wants."""

    embedding_extent = (0, 1, 1)

    def __init__(self, select=(), remove=()):
        self.answers = select, remove

    def __repr__(self):
        return "ScriptedPool()"

    def select(self, patch, live):
        return self.answers[0]

    def remove(self, live, grid, finished):
        return self.answers[1]


def test_select_add_remove_with_any_payload():
    canvas: CanvasPool[str] = NearbyContextPool((0, 0, 1)).new_canvas(PatchGrid(1, 1, 3))
    line = list(OMEGA.walk(canvas.grid))
    assert canvas.select(line[0]) == []
    canvas.add(line[0], "a")
    assert canvas.remove() == []
    assert canvas.select(line[1]) == [(line[0], "a")]
    canvas.add(line[1], "b")
    assert canvas.remove() == [line[0]]
    assert canvas.live == [line[1]]
    assert len(canvas) == 1
    assert [canvas.finished(patch) for patch in line] == [True, True, False]
    canvas.add(line[2], "c")
    assert canvas.remove() == line[1:]


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 2, None), (None, 2, 3)])
def test_nobody_waits_for_a_patch_outside_of_the_grid(shape):
    canvas: CanvasPool[None] = CanvasPool(ScriptedPool(), PatchGrid(*shape))
    outside = [PatchIndex(-1, 0, 0), PatchIndex(0, 2, 0), PatchIndex(0, -1, 0)]
    for patch in (A, B):
        assert all(map(canvas.finished, outside))
        assert not canvas.finished(patch)
        canvas.add(patch, None)
        assert canvas.finished(patch)


def test_beyond_a_seam_the_patch_on_the_other_side_is_waited_for():
    asked = []

    class Right(ScriptedPool):
        def remove(self, live, grid, finished):
            asked.append([finished(patch.shifted((0, 0, 1))) for patch in live])
            asked.append([finished(patch.shifted((0, 1, 0))) for patch in live])
            return ()

    canvas: CanvasPool[None] = CanvasPool(Right(), PatchGrid(1, 1, 3, wrap="x"))
    for x in (2, 0):
        canvas.add(PatchIndex(0, 0, x), None)
        canvas.remove()
    assert asked == [[False], [True], [True, False], [True, True]]


def test_what_is_selected_comes_in_the_order_of_addition():
    canvas: CanvasPool[int] = CanvasPool(ScriptedPool(select=[A, LATER, B]), GRID)
    for number, patch in enumerate((B, LATER, A)):
        canvas.add(patch, number)
    assert canvas.select(PatchIndex(1, 1, 1)) == [(B, 0), (LATER, 1), (A, 2)]


@pytest.mark.parametrize(
    ("answer", "law"),
    [
        ([B], "alive, and (0, 0, 1) is not"),
        ([A, A], "each patch once"),
        ([LATER], "no patch of a later frame, and (1, 0, 0) is one"),
    ],
)
def test_a_pool_that_selects_against_the_law_is_named(answer, law):
    canvas: CanvasPool[None] = CanvasPool(ScriptedPool(select=answer), GRID)
    canvas.add(A, None)
    canvas.add(LATER, None)
    with pytest.raises(LawError) as caught:
        canvas.select(PatchIndex(0, 1, 1))
    message = str(caught.value)
    assert message.startswith("context_pool: ScriptedPool() at patch (0, 1, 1): breaks its law: select returns ")
    assert law in message
    assert message.endswith(": correct the class; nuwa_lightning.testing.check_context_pool finds it")
    assert "\n" not in message
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("answer", "law"),
    [
        (None, "select returns patches, and this is an error: TypeError: 'NoneType' object is not iterable"),
        ([(0, 0, 0)], "select returns patches (PatchIndex), and (0, 0, 0) is none"),
        ([3], "select returns patches (PatchIndex), and 3 is none"),
    ],
)
@pytest.mark.parametrize("grid", [GRID, PatchGrid(2, 2, 2, wrap="x")])
def test_a_pool_that_answers_with_no_patches_is_named(answer, law, grid):
    canvas: CanvasPool[None] = CanvasPool(ScriptedPool(select=answer, remove=answer), grid)
    canvas.add(A, None)
    with pytest.raises(LawError) as caught:
        canvas.select(B)
    assert f"at patch (0, 0, 1): breaks its law: {law}" in str(caught.value)
    with pytest.raises(LawError) as caught:
        canvas.remove()
    assert f"at patch (0, 0, 0): breaks its law: {law.replace('select', 'remove')}" in str(caught.value)


def test_a_pool_that_raises_is_named_without_an_address():
    class Raising(ContextPool):
        embedding_extent = (0, 1, 1)

        def select(self, patch, live):
            return self.nothing

        def remove(self, live, grid, finished):
            raise UsageError("reach", 3, "is refused")

    canvas: CanvasPool[None] = Raising().new_canvas(GRID)
    with pytest.raises(LawError, match="this is an error: AttributeError: 'Raising' object has") as caught:
        canvas.select(A)
    assert str(caught.value).startswith(f"context_pool: {__name__}.test_a_pool_that_raises_is_named")
    assert "0x" not in str(caught.value)
    with pytest.raises(UsageError, match=r"^reach: 3: is refused$"):
        canvas.remove()


def test_a_pool_that_removes_against_the_law_is_named():
    canvas: CanvasPool[None] = CanvasPool(ScriptedPool(remove=[B]), GRID)
    canvas.add(A, None)
    with pytest.raises(LawError, match=r"ScriptedPool\(\) at patch \(0, 0, 1\): breaks its law: remove"):
        canvas.remove()
    assert canvas.live == [A]


def test_a_plan_that_goes_astray_is_named():
    canvas: CanvasPool[None] = CanvasPool(NearbyContextPool(), GRID)
    canvas.add(A, None)
    with pytest.raises(LawError, match=r"direction: \(0, 0, 0\): a plan names each patch once"):
        canvas.add(A, None)
    with pytest.raises(LawError, match=r"direction: \(0, 0, 2\): a plan stays inside its grid"):
        canvas.add(PatchIndex(0, 0, 2), None)


def test_memory_and_time_do_not_grow_on_an_endless_canvas():
    calls = 0

    class CountingPool(ContextPool):
        embedding_extent = (0, 2, 2)

        def select(self, patch, live):
            nonlocal calls
            calls += len(live)
            return NearbyContextPool().select(patch, live)

        def remove(self, live, grid, finished):
            return NearbyContextPool().remove(live, grid, finished)

    grid = PatchGrid(1, 3, None)
    canvas: CanvasPool[bytes] = CountingPool().new_canvas(grid)
    for patch in itertools.islice(OMEGA.walk(grid), 3000):
        canvas.select(patch)
        canvas.add(patch, b"payload")
        canvas.remove()
        assert len(canvas) <= 9
        assert canvas._finished.footprint <= 4
    assert calls <= 3000 * 9
