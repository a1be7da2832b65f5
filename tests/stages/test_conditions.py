"""Samples of which a part is given: which parts come up, and that given tokens are no targets."""

from __future__ import annotations

import pytest
import torch

from nuwa_lightning.context import NearbyContextPool
from nuwa_lightning.errors import UsageError
from nuwa_lightning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.modules.patch_layer import TransformerSize
from nuwa_lightning.stages.conditions import Conditions, draw_known
from nuwa_lightning.stages.nuwa_module import NuwaInfinityModule, Optimize

SMALL = TransformerSize(width=16, depth=1, heads=2, kv_heads=1, layer_scale=1.0)


def module(share: float, optimize: Optimize = "joint") -> NuwaInfinityModule:
    torch.manual_seed(0)
    return NuwaInfinityModule(
        16,
        4,
        patch_size=(2, 2),
        transformer=SMALL,
        context_pool=NearbyContextPool((0, 1, 1)),
        optimize=optimize,
        conditions=Conditions(known_share=share),
    )


def test_every_combination_of_sides_comes_up() -> None:
    """Seen from what is to be written: which of its four sides meet something given."""
    generator, grid = torch.Generator().manual_seed(0), PatchGrid(1, 3, 4)
    met, holes = set(), 0
    for _ in range(600):
        known = draw_known(grid, generator)
        assert known
        assert len(known) < grid.size
        for patch in grid:
            if patch not in known:
                sides = [(0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0)]
                met.add(tuple(patch.shifted(side) in known for side in sides))
        holes += all(patch in known for patch in grid if patch.y in (0, 2) or patch.x in (0, 3))
    assert len(met) == 16
    assert holes > 5


def test_frames_are_given_alike_and_a_single_patch_never() -> None:
    generator = torch.Generator().manual_seed(1)
    assert draw_known(PatchGrid(1, 1, 1), generator) == frozenset()
    known = draw_known(PatchGrid(2, 2, 2), generator)
    assert {patch.shifted((1, 0, 0)) for patch in known if patch.t == 0} == {p for p in known if p.t == 1}


def test_given_tokens_are_no_targets() -> None:
    made, tokens = module(1.0), torch.randint(0, 16, (6, 1, 6, 6))
    groups = made.draw_plans(tokens, torch.Generator().manual_seed(3))
    assert sum(len(written.tokens_BPN) for written in groups) == 6
    for written in groups:
        known_P = written.layout.known_P
        assert 0 < int(known_P.sum()) < 9
        assert written.count == len(written.tokens_BPN) * int((~known_P).sum()) * 4
        steps = [step for step, _ in made.step_losses(written)]
        assert steps == [n for n, known in enumerate(known_P.tolist()) if not known]
        losses = torch.stack([loss for _, loss in made.step_losses(written)])
        made.optimize = "accumulated"
        torch.testing.assert_close(made.loss(written)[:, ~known_P].mean(), losses.mean())


def test_without_a_share_nothing_changes() -> None:
    tokens = torch.randint(0, 16, (4, 1, 6, 6))
    for generator in (None, torch.Generator().manual_seed(3)):
        for written in module(0.0 if generator else 1.0).draw_plans(tokens, generator):
            assert not written.layout.known_P.any()
            assert written.count == written.tokens_BPN.numel()


def test_layouts_with_given_patches_are_kept_and_bounded(monkeypatch) -> None:
    from nuwa_lightning.stages import nuwa_module

    monkeypatch.setattr(nuwa_module, "_KNOWN_LAYOUTS", 3)
    made, generator = module(1.0), torch.Generator().manual_seed(0)
    for _ in range(8):
        made.draw_plans(torch.randint(0, 16, (2, 1, 4, 4)), generator)
        assert len(made._known_layouts) <= 3
    (grid, known), layout = next(reversed(made._known_layouts.items()))
    assert grid == PatchGrid(1, 2, 2)
    assert sum(layout.known_P.tolist()) == len(known)
    assert all(isinstance(patch, PatchIndex) for patch in known)


def test_a_share_that_is_none_is_refused() -> None:
    for wrong in (-0.1, 1.1):
        with pytest.raises(UsageError, match=r"model\.conditions\.known_share"):
            Conditions(known_share=wrong)
