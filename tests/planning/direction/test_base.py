from __future__ import annotations

import itertools

import pytest
from hypothesis import given

from nuwa_lightning.errors import LawError, UsageError
from nuwa_lightning.planning.direction import DirectionController, Step
from nuwa_lightning.planning.geometry import OMEGA, SYMMETRIES, ZETA, PatchGrid, PatchIndex
from nuwa_lightning.testing import check_direction_controller
from tests.strategies import CONTROLLERS, canvases, controllers, grids, package_classes

GRID = PatchGrid(2, 1, 2)
A, B, C, D = GRID


class ScriptedController(DirectionController):
    """Yields whatever the test wants."""

    def __init__(self, *steps):
        self.answer = steps

    def __repr__(self):
        return "ScriptedController()"

    def steps(self, grid, known):
        return iter(self.answer)

    def supports_endless(self, grid):
        return grid.x is None


def written(*patches):
    return [Step(patch, OMEGA) for patch in patches]


def test_every_controller_there_is_is_tested():
    assert {type(controller) for controller in CONTROLLERS} == package_classes(DirectionController)


@pytest.mark.parametrize("controller", CONTROLLERS, ids=repr)
def test_laws(controller):
    check_direction_controller(controller)


@given(canvases(), controllers)
def test_a_plan_writes_every_unknown_patch_once_whatever_is_known(canvas, controller):
    grid, known = canvas
    steps = list(controller.plan(grid, known))
    assert sorted(step.patch for step in steps if not step.known) == sorted(set(grid) - known)
    # All of our own name all known patches: which ones matter is the pool's affair.
    assert sorted(step.patch for step in steps if step.known) == sorted(known)
    for frame in range(grid.t):
        last_known = max((n for n, s in enumerate(steps) if s.known and s.patch.t == frame), default=0)
        assert all(s.known for s in steps[:last_known] if s.patch.t >= frame)


@given(grids, controllers)
def test_frames_are_written_in_turn(grid, controller):
    frames = [step.patch.t for step in controller.plan(grid)]
    assert frames == sorted(frames)


@pytest.mark.parametrize("controller", CONTROLLERS, ids=repr)
def test_every_view_is_one_that_training_draws(controller):
    grid = PatchGrid(1, 4, 4)
    trained = {step.symmetry for _, plan in controller.training_plans(grid) for step in plan}
    if controller.training_symmetries:
        known = frozenset([PatchIndex(0, 2, 1)])
        assert {step.symmetry for step in controller.plan(grid, known)} <= {
            symmetry for _, symmetry in controller.training_symmetries
        }
        assert trained == {symmetry for weight, symmetry in controller.training_symmetries if weight > 0}
    else:
        assert controller.training_plans(grid) == [(1.0, tuple(controller.plan(grid)))]


def test_a_training_sample_has_a_size():
    with pytest.raises(UsageError, match=r"grid: \(1, 1, None\): a training sample has a size"):
        CONTROLLERS[0].training_plans(PatchGrid(1, 1, None))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (written(A, B, C), r"\(1, 0, 1\): breaks its law: every patch that is not known is written"),
        (written(A, B, B), r"\(0, 0, 1\): breaks its law: a plan names each patch once"),
        (written(A, PatchIndex(0, 1, 0)), r"\(0, 1, 0\): breaks its law: a plan stays inside its grid \(2, 1, 2\)"),
        ([*written(A, B, C), Step(D, OMEGA, known=True)], r"\(1, 0, 1\): breaks its law: known patches, and no others"),
    ],
)
def test_a_controller_that_breaks_its_law_is_named(steps, message):
    with pytest.raises(LawError, match=r"^direction: ScriptedController\(\) at patch " + message) as caught:
        list(ScriptedController(*steps).plan(GRID))
    assert "\n" not in str(caught.value)


def test_a_controller_that_yields_no_steps_or_raises_is_named():
    class Raising(DirectionController):
        def supports_endless(self, grid):
            return False

        def steps(self, grid, known):
            yield Step(A, OMEGA)
            yield self.nothing

    with pytest.raises(LawError, match="steps raises no error, and this is one: AttributeError: 'Raising'") as caught:
        list(Raising().plan(GRID))
    assert "0x" not in str(caught.value)
    assert str(caught.value).endswith(": correct the class; nuwa_lightning.testing.check_direction_controller finds it")
    with pytest.raises(LawError, match=r"steps yields objects of Step, and PatchIndex\(.*\) is none"):
        list(ScriptedController(A).plan(GRID))


def test_known_patches_come_in_time():
    late = ScriptedController(*written(A), Step(B, OMEGA, known=True), *written(C, D))
    with pytest.raises(LawError, match=r"\(0, 0, 1\): .*: a known patch comes before what is written in its own"):
        list(late.plan(GRID, [B]))
    in_time = ScriptedController(*written(A, B), Step(C, ZETA, known=True), *written(D))
    assert len(list(in_time.plan(GRID, [C]))) == 4
    left_out = ScriptedController(*written(A, B, D))
    assert len(list(left_out.plan(GRID, [C]))) == 3
    with pytest.raises(LawError, match="known patches, and no others, are marked"):
        list(ScriptedController(*written(A, B, C, D)).plan(GRID, [C]))


def test_an_endless_plan_must_not_end():
    with pytest.raises(LawError, match=r"a plan of the endless grid \(1, 1, None\) ends"):
        list(ScriptedController(*written(A, B)).plan(PatchGrid(1, 1, None)))


def test_what_the_user_can_get_wrong():
    with pytest.raises(UsageError, match=r"^known: \(0, 3, 0\): give patches inside the grid \(2, 1, 2\)$"):
        ScriptedController().plan(GRID, [PatchIndex(0, 3, 0)])
    with pytest.raises(UsageError, match=r"^direction: ScriptedController\(\): it cannot fill the endless grid"):
        ScriptedController().plan(PatchGrid(1, None, 1))


def test_plans_are_lazy():
    class Endless(ScriptedController):
        def steps(self, grid, known):
            for number, patch in enumerate(OMEGA.walk(grid)):
                assert number < 10, "drawn further than asked"
                yield Step(patch, OMEGA)

    assert len(list(itertools.islice(Endless().plan(PatchGrid(1, 3, None)), 10))) == 10


@pytest.mark.parametrize("controller", CONTROLLERS, ids=repr)
def test_controllers_are_values(controller):
    assert eval(repr(controller), {type(controller).__name__: type(controller)}) == controller
    assert all(symmetry in SYMMETRIES for _, symmetry in controller.training_symmetries)
