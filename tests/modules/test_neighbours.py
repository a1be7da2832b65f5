"""Neighbours that raise the score of their own code."""

from __future__ import annotations

import torch

from nuwa_lightning.context import NearbyContextPool
from nuwa_lightning.direction import ArbitraryDirectionController
from nuwa_lightning.generation.local import MaskedLocalDecoder
from nuwa_lightning.modules.neighbours import ABSENT, NeighbourScores
from nuwa_lightning.modules.patch_layer import TransformerSize
from nuwa_lightning.stages.nuwa_module import NuwaInfinityModule


def test_each_neighbour_that_is_there_raises_its_own_code() -> None:
    torch.manual_seed(0)
    scores = NeighbourScores(6, count=3).double()
    for parameter in scores.parameters():
        torch.nn.init.normal_(parameter)
    before_MS, x_MW = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 6, dtype=torch.float64)
    near_MK = torch.randint(-1, 5, (40, 3))
    assert bool((near_MK == ABSENT).any())
    expected_MS = before_MS.clone()
    more_MK = x_MW @ scores.linear.weight.T + scores.linear.bias
    for m, near_K in enumerate(near_MK.tolist()):
        for k, code in enumerate(near_K):  # of two neighbours with one code both count
            if code != ABSENT:
                expected_MS[m, code] += more_MK[m, k].detach()
    torch.testing.assert_close(scores(before_MS.clone(), x_MW, near_MK, torch.zeros(5, 2)), expected_MS, rtol=0, atol=1e-12)


def module(*, repeat: bool, masked: bool = False) -> NuwaInfinityModule:
    torch.manual_seed(0)
    made = NuwaInfinityModule(
        64,
        4,
        patch_size=(2, 2),
        transformer=TransformerSize(width=16, depth=1, heads=2, kv_heads=1, layer_scale=1.0, repeat=repeat),
        context_pool=NearbyContextPool((1, 1, 1)),
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
            made = module(repeat=repeat, masked=masked)
            losses.append([made.loss(w) for w in made.draw_plans(tokens_BTYX, torch.Generator().manual_seed(3))])
        for without, with_it in zip(*losses, strict=True):
            torch.testing.assert_close(without, with_it, rtol=0, atol=0)


def test_what_stands_still_is_learned_sooner() -> None:
    """Films of random tokens of which the second frame is the first: after as many steps, a fraction of the loss."""
    ended = []
    for repeat in (False, True):
        made, generator = module(repeat=repeat), torch.Generator().manual_seed(2)
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
