"""Samples of which a part is given, and samples with a text."""

from __future__ import annotations

import pytest
import torch

from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import TransformerConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController, RasterDirectionController, Step
from nuwa_lightning.planning.geometry import OMEGA, PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import walk
from nuwa_lightning.text.base import padded
from nuwa_lightning.training.conditioning import HEIGHT_DROPOUT, Conditions, closing, draw_known, reach_of
from nuwa_lightning.training.muon import MuonAdamW, muon_groups
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule, Optimize
from tests.text.letters import Letters

SMALL = TransformerConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, layer_scale=1.0)


def module(share: float, optimize: Optimize = "joint", *, token_noise: float = 0.0) -> NuwaInfinityModule:
    torch.manual_seed(0)
    return NuwaInfinityModule(
        16,
        4,
        patch_size=(2, 2),
        transformer=SMALL,
        context_pool=NearbyContextPool((0, 1, 1)),
        optimize=optimize,
        conditions=Conditions(known_prob=share, token_noise=token_noise),
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
    grid, begun, alike = PatchGrid(4, 2, 2), [], 0
    for _ in range(300):
        known = draw_known(grid, generator)
        assert 0 < len(known) < grid.size
        places = [frozenset((p.y, p.x) for p in known if p.t == t) for t in range(4)]
        if len(places[0]) == 4:  # whole frames from the first one on, the video is gone on with
            begun.append(sum(map(bool, places)))
            assert places == [places[0]] * begun[-1] + [frozenset()] * (4 - begun[-1])
        else:
            assert len(set(places)) == 1
            alike += 1
    assert set(begun) == {1, 2, 3}
    assert begun.count(1) > len(begun) / 2
    assert 60 < alike < 140


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
    from nuwa_lightning.training import plans

    monkeypatch.setattr(plans, "_KNOWN_LAYOUTS", 3)
    made, generator = module(1.0), torch.Generator().manual_seed(0)
    for _ in range(8):
        made.draw_plans(torch.randint(0, 16, (2, 1, 4, 4)), generator)
        assert len(made._plans._known) <= 3
    (grid, known), layout = next(reversed(made._plans._known.items()))
    assert grid == PatchGrid(1, 2, 2)
    assert sum(layout.known_P.tolist()) == len(known)
    assert all(isinstance(patch, PatchIndex) for patch in known)


@pytest.mark.parametrize("direction", [ArbitraryDirectionController(), RasterDirectionController()], ids=str)
@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 4, 3), (1, 3, 3)])
def test_the_last_line_of_an_order_is_given_as_on_a_closed_canvas(direction, shape) -> None:
    """What the line before it sees is what the last line of a closed canvas sees, at the same offsets."""
    grid, pool = PatchGrid(*shape), NearbyContextPool((1, 1, 1))
    for _, plan in direction.training_plans(grid):
        closed = closing(plan, grid)
        symmetry = plan[0].symmetry
        line = shape[2] if symmetry.transpose else shape[1]
        given = [step.patch for step in closed if step.known]
        assert len(given) == line * shape[0]
        assert sorted(step.patch for step in closed) == sorted(step.patch for step in plan)
        assert [s.patch for s in closed if not s.known] == [s.patch for s in plan if s.patch not in given]
        assert {patch.y if symmetry.transpose else patch.x for patch in given} == {
            getattr(plan[-1].patch, "y" if symmetry.transpose else "x")
        }
        if shape[0] > 1:
            continue
        wrapped = PatchGrid(*shape, wrap="y" if symmetry.transpose else "x")
        last = [p for p in walk([Step(s.patch, symmetry) for s in plan], pool, wrapped)][-line:]
        before = [p for p in walk(closed, pool, grid) if not p.step.known][-line:]
        assert [set(p.places) for p in before] == [set(p.places) for p in last]


def test_a_plan_of_one_line_is_left_alone() -> None:
    grid = PatchGrid(1, 3, 1)
    plan = [Step(patch, OMEGA) for patch in OMEGA.walk(grid)]
    assert closing(plan, grid) == tuple(plan)


def test_samples_are_closed_as_often_as_asked() -> None:
    plain, generator = module(0.0), torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 16, (200, 1, 4, 4))
    assert not any(written.layout.known_P.any() for written in plain.draw_plans(tokens, generator))
    made = NuwaInfinityModule(16, 4, patch_size=(2, 2), transformer=SMALL, conditions=Conditions(closing_prob=0.25))
    groups = made.draw_plans(tokens, torch.Generator().manual_seed(0))
    closed = sum(len(written.tokens_BPN) for written in groups if written.layout.known_P.any())
    assert 30 < closed < 70


def test_a_share_that_is_none_is_refused() -> None:
    for wrong in (-0.1, 1.1):
        with pytest.raises(UsageError, match=r"model\.conditions\.known_prob"):
            Conditions(known_prob=wrong)


WORDS = ("lake", "dunes", "snow", "", "forest")


def with_text(**conditions: float) -> NuwaInfinityModule:
    torch.manual_seed(0)
    return NuwaInfinityModule(
        16,
        4,
        patch_size=(2, 2),
        transformer=SMALL,
        context_pool=NearbyContextPool((0, 1, 1)),
        conditions=Conditions(Letters(), **conditions),
    )


def batch(size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A sample's tokens are all the same, and its text says which."""
    words = torch.randint(0, 3, (size,), generator=generator)
    text_BSE, text_mask_BS = padded(Letters().states([WORDS[w] for w in words]))
    tokens = words[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    return {"tokens": tokens, "text": text_BSE, "text_mask": text_mask_BS}


def test_text_is_learned_and_guidance_leans_on_it() -> None:
    made, generator = with_text(text_dropout=0.25), torch.Generator().manual_seed(1)
    made.transformer.set_codes(torch.randn(16, 4))
    groups = muon_groups(made.transformer, *made.transformer.stacks)
    optimizer = MuonAdamW(groups, lr=1e-2, weight_decay=0.0)
    matrices = {id(p) for p in groups[0]["params"]}
    assert made.transformer.text is not None
    assert id(made.transformer.text.layer(0).query.weight) in matrices
    for _ in range(60):
        sample = batch(16, generator)
        losses = [
            made.loss(written).flatten()
            for written in made.draw_plans(sample["tokens"], generator, text=made.conditions.text_of(sample, generator))
        ]
        optimizer.zero_grad()
        torch.cat(losses).mean().backward()
        optimizer.step()
    made.eval()
    with torch.no_grad():
        sample = batch(16, generator)
        (written,) = made.draw_plans(sample["tokens"], None, text=made.conditions.text_of(sample, None))
        first = made.loss(written)[:, 0, 0]
        assert float(first.mean()) < 0.3  # without text it is ln 3 = 1.1 at best
        sample["text_mask"] = torch.zeros_like(sample["text_mask"])
        (blind,) = made.draw_plans(sample["tokens"], None, text=made.conditions.text_of(sample, None))
        assert float(made.loss(blind)[:, 0, 0].mean()) > 0.8
    made.transformer.requires_grad_(False)
    shares = []
    for guidance in (0.0, 1.0, 3.0):
        prompts = Prompts.for_canvases(made.transformer, Letters().states, ["dunes"] * 30, guidance=guidance)
        renderer = InfiniteRenderer(
            made.transformer, made.context_pool, made.direction, made.token_order, Sampling(top_k=0)
        )
        tokens = sample_tokens(renderer, PatchGrid(1, 1, 1), seeds=range(30), prompts=prompts)
        shares.append(float((tokens == 1).float().mean()))
    assert shares[0] < 0.7
    assert shares[0] < shares[1] <= shares[2]
    assert shares[2] > 0.9


def test_per_patch_losses_see_the_same_text() -> None:
    made, sample = with_text(), batch(4, torch.Generator().manual_seed(2))
    torch.nn.init.normal_(made.transformer.head.weight)
    made.optimize = "accumulated"
    (written,) = made.draw_plans(sample["tokens"], None, text=made.conditions.text_of(sample, None))
    joint = made.loss(written).mean((0, 2))
    torch.testing.assert_close(torch.stack([loss for _, loss in made.step_losses(written)]), joint)


def test_text_is_dropped_now_and_then_and_in_training_only() -> None:
    sample = batch(400, torch.Generator().manual_seed(0))
    conditions = Conditions(Letters(), text_dropout=0.25)
    text = conditions.text_of(sample, torch.Generator().manual_seed(0))
    assert text is not None
    dropped = ~text.text_mask_BS.any(1)
    assert 0.18 < float(dropped.float().mean()) < 0.32
    assert torch.equal(text.text_mask_BS[~dropped], sample["text_mask"][~dropped])
    kept = conditions.text_of(sample, None)
    assert kept is not None
    assert torch.equal(kept.text_mask_BS, sample["text_mask"])
    assert Conditions().text_of(sample, None) is None
    with pytest.raises(UsageError, match="this data has none"):
        conditions.text_of({"tokens": sample["tokens"]}, None)


def test_a_checkpoint_of_another_text_is_refused() -> None:
    checkpoint: dict[str, object] = {}
    with_text().on_save_checkpoint(checkpoint)
    with_text().check_checkpoint(checkpoint)
    with pytest.raises(UsageError, match=r"model\.conditions\.text_encoder"):
        module(0.0).check_checkpoint(checkpoint)
    del checkpoint["patch_transformer"]["text_dim"]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"model\.conditions\.text_encoder"):
        with_text().check_checkpoint(checkpoint)
    module(0.0).check_checkpoint(checkpoint)  # as written before there was text
    del checkpoint["patch_transformer"]["size"]["heights"]  # type: ignore[attr-defined]
    module(0.0).check_checkpoint(checkpoint)  # as written before there were heights


def test_heights_are_those_of_the_image() -> None:
    """Windows of an image of 12 rows; what is told is which of 3 thirds the middle of each patch lies in."""
    torch.manual_seed(0)
    size = TransformerConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, heights=3)
    made = NuwaInfinityModule(16, 4, patch_size=(2, 2), transformer=size, context_pool=NearbyContextPool((0, 1, 1)))
    tops = torch.tensor([0, 4, 8])
    reach_B2 = torch.stack([tops, tops + 4], dim=1) / 12
    tokens_BTYX = torch.randint(0, 16, (3, 1, 4, 6))
    told = {}
    for written in made.draw_plans(tokens_BTYX, None, reach_B2=reach_B2):
        for tokens_PN, symmetry_P in zip(written.tokens_BPN, written.entry_BP, strict=True):
            b = next(
                b for b in range(3) if sorted(tokens_PN.flatten().tolist()) == sorted(tokens_BTYX[b].flatten().tolist())
            )
            for step, place in enumerate(written.layout.index_PN[:, 0].tolist()):
                told[b, place // 6 // 2] = int(symmetry_P[step]) // 8
    assert told == {(0, 0): 1, (0, 1): 1, (1, 0): 2, (1, 1): 2, (2, 0): 3, (2, 1): 3}
    for written in made.draw_plans(tokens_BTYX, None):
        assert written.entry_BP.max() < 8  # nothing is told


def test_a_tenth_is_told_no_height() -> None:
    reach_B2 = torch.rand(4000, 2)
    with pytest.raises(UsageError, match="no heights"):
        reach_of({}, torch.Generator())
    assert torch.equal(reach_of({"height": reach_B2}, None), reach_B2)
    found = reach_of({"height": reach_B2}, torch.Generator().manual_seed(0))
    dropped = found.isnan().all(1)
    assert torch.equal(found[~dropped], reach_B2[~dropped])
    assert abs(float(dropped.double().mean()) - HEIGHT_DROPOUT) < 0.02
