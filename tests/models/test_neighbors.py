"""Neighbors that raise the score of their own code."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from nuwa_lightning.generation.local import MaskedLocalDecoder
from nuwa_lightning.models.nuwa_infinity import ABSENT, CopyHead, TransformerConfig, motion, neighbors
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import Extent
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule


def test_each_neighbour_that_is_there_raises_its_own_code() -> None:
    torch.manual_seed(0)
    scores = CopyHead(6, count=3).double()
    for parameter in scores.parameters():
        torch.nn.init.normal_(parameter)
    before_MS, x_MW = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 6, dtype=torch.float64)
    neighbors_MK = torch.randint(-1, 5, (40, 3))
    assert bool((neighbors_MK == ABSENT).any())
    expected_MS = before_MS.clone()
    more_MK = x_MW @ scores.linear.weight.T + scores.linear.bias
    for m, neighbors_K in enumerate(neighbors_MK.tolist()):
        for k, code in enumerate(neighbors_K):  # of two neighbors with one code both count
            if code != ABSENT:
                expected_MS[m, code] += more_MK[m, k].detach()
    torch.testing.assert_close(
        scores(before_MS.clone(), x_MW, neighbors_MK, torch.zeros(5, 2)), expected_MS, rtol=0, atol=1e-12
    )


def module(*, copy_head: bool, masked: bool = False, extent: Extent = (1, 1, 1)) -> NuwaInfinityModule:
    torch.manual_seed(0)
    made = NuwaInfinityModule(
        64,
        4,
        patch_size=(2, 2),
        transformer=TransformerConfig(
            dim=16, num_layers=1, num_heads=2, num_kv_heads=1, layer_scale=1.0, copy_head=copy_head
        ),
        context_pool=NearbyContextPool(extent),
        direction=ArbitraryDirectionController("omega"),
        **({"local_decoder": MaskedLocalDecoder()} if masked else {}),
    )
    made.transformer.set_codes(torch.randn(64, 4, generator=torch.Generator().manual_seed(9)))
    return made


def test_nothing_changes_before_training() -> None:
    tokens_BTYX = torch.randint(0, 64, (2, 2, 4, 4), generator=torch.Generator().manual_seed(1))
    for masked in (False, True):
        losses = []
        for repeat in (False, True):
            made = module(copy_head=repeat, masked=masked)
            losses.append([made.loss(w) for w in made.draw_plans(tokens_BTYX, torch.Generator().manual_seed(3))])
        for without, with_it in zip(*losses, strict=True):
            torch.testing.assert_close(without, with_it, rtol=0, atol=0)


def test_what_stands_still_is_learned_sooner() -> None:
    """Videos of random tokens of which the second frame is the first: after as many steps, a fraction of the loss."""
    ended = []
    for repeat in (False, True):
        made, generator = module(copy_head=repeat), torch.Generator().manual_seed(2)
        optimizer = torch.optim.Adam(made.transformer.parameters(), lr=2e-2)
        for _ in range(60):
            frame_B1YX = torch.randint(0, 64, (8, 1, 4, 4), generator=generator)
            (written,) = made.draw_plans(frame_B1YX.expand(-1, 2, -1, -1), generator)
            loss_BPN = made.loss(written)
            optimizer.zero_grad()
            loss_BPN.mean().backward()
            optimizer.step()
        ended.append(float(loss_BPN[:, 4:].detach().mean()))
    assert ended[1] < 0.5 * ended[0]


def test_motion_is_what_matching_finds() -> None:
    """Against a plain search over named places."""
    torch.manual_seed(0)
    codebook_KE, names = torch.randn(7, 3), neighbors(past=True, matched=True)
    neighbors_MK = torch.randint(-1, 7, (50, len(names)))
    found_MF = motion(neighbors_MK, codebook_KE) / 4
    steps = list(itertools.product((-1, 0, 1), repeat=2))
    for neighbors_K, found_F in zip(neighbors_MK.tolist(), found_MF.tolist(), strict=True):
        at = {name[:4]: code for name, code in zip(names, neighbors_K, strict=True) if name.turned}

        def alike(pairs: list[tuple[int, int]]) -> float | None:
            there = [codebook_KE[a] - codebook_KE[b] for a, b in pairs if ABSENT not in (a, b)]
            return None if not there else sum(math.exp(-float((d**2).mean())) for d in there) / len(there)

        beside = [(-1, 0), (0, -1), (-1, -1), (1, -1)]
        ways = [
            [alike([(at[0, y, x, True], at[-1, y + dy, x + dx, True]) for y, x in beside]) for dy, dx in steps],
            [alike([(at[-1, y, x, True], at[-2, y + dy, x + dx, True]) for y, x in steps]) for dy, dx in steps],
        ]
        for way, part in zip(ways, (found_F[:9], found_F[9:]), strict=True):
            known = [value for value in way if value is not None]
            mean = sum(known) / max(1, len(known))
            assert part == pytest.approx([0 if value is None else value - mean for value in way], abs=1e-5)


def test_what_moves_is_learned_sooner_by_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of random tokens, each of which moves its own way; the third frame of a motion that has been seen."""
    ended = []
    for told in (False, True):
        made, generator = module(copy_head=True, extent=(2, 1, 1)), torch.Generator().manual_seed(2)
        if not told:
            monkeypatch.setattr(
                "nuwa_lightning.models.nuwa_infinity.motion",
                lambda neighbors, codes: codes.new_zeros(*neighbors.shape[:-1], 18),
            )
        optimizer = torch.optim.Adam(made.transformer.parameters(), lr=2e-2)
        for _ in range(60):
            ways = torch.randint(-1, 2, (8, 2), generator=generator).tolist()
            first_BYX = torch.randint(0, 64, (8, 6, 6), generator=generator)
            videos = [
                torch.stack([torch.roll(first, (t * y, t * x), (0, 1)) for t in range(3)])
                for first, (y, x) in zip(first_BYX, ways, strict=True)
            ]
            (written,) = made.draw_plans(torch.stack(videos), generator)
            loss_BPN = made.loss(written)
            optimizer.zero_grad()
            loss_BPN.mean().backward()
            optimizer.step()
        ended.append(float(loss_BPN[:, 18:].detach().mean()))
        monkeypatch.undo()
    assert ended[1] < 0.6 * ended[0]
