"""Samples whose tokens are read wrongly now and then."""

from __future__ import annotations

import pytest
import torch

from nuwa_lightning.errors import UsageError
from nuwa_lightning.training.conditioning import Conditions, token_noise
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule, Optimize
from nuwa_lightning.training.plans import look_up
from tests.training import test_conditioning as test_conditions


def module(share: float, optimize: Optimize = "joint") -> NuwaInfinityModule:
    made = test_conditions.module(0.0, optimize, token_noise=share)
    made.transformer.set_codes(torch.randn(16, 4))
    torch.nn.init.normal_(made.transformer.head.weight, std=0.1)
    return made.double()


def test_wrong_tokens_look_alike_or_come_from_the_same_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    codebook_KE = torch.randn(200, 3, generator=generator)
    tokens_BS = torch.stack([torch.randint(0, 100, (500,), generator=generator) for _ in range(40)])
    tokens_BS[20:] += 100
    read_BS = token_noise(tokens_BS, codebook_KE, share=0.4, generator=generator)
    wrong_BS = read_BS != tokens_BS
    # Each draws its share from 0 to .4; of samples with 100 kinds of tokens one hundredth of the strangers is the same.
    assert float(wrong_BS.double().mean()) == pytest.approx(0.2, abs=0.04)
    shares_B = wrong_BS.double().mean(dim=1)
    assert shares_B.max() < 0.47
    assert shares_B.min() < 0.05
    alike = strangers = 0
    for b, s in wrong_BS.nonzero().tolist():
        distance_K = (codebook_KE - codebook_KE[tokens_BS[b, s]]).norm(dim=1)
        looks_alike = bool((distance_K < distance_K[read_BS[b, s]]).sum() <= 32)
        alike += looks_alike
        strangers += not looks_alike
        assert looks_alike or bool((tokens_BS[b] == read_BS[b, s]).any())
    # Of the strangers some look alike by chance.
    assert 0.3 < strangers / (alike + strangers) < 0.5


def test_targets_stay_and_validation_reads_right() -> None:
    tokens_BTYX = torch.randint(0, 16, (3, 1, 4, 4), generator=torch.Generator().manual_seed(2))
    right = module(0.0).draw_plans(tokens_BTYX, torch.Generator().manual_seed(5))
    wrong = module(0.9).draw_plans(tokens_BTYX, torch.Generator().manual_seed(5))
    assert all(written.read_BPN is written.tokens_BPN for written in right)
    everything = sorted(tokens_BTYX.flatten().tolist())
    assert sorted(t for written in wrong for t in written.tokens_BPN.flatten().tolist()) == everything
    assert any(not torch.equal(written.read_BPN, written.tokens_BPN) for written in wrong)
    for written in module(0.9).draw_plans(tokens_BTYX, None):
        assert torch.equal(written.read_BPN, written.tokens_BPN)


def test_the_model_sees_one_misread_canvas_and_is_asked_for_the_right_one() -> None:
    """What was read, laid out again as a canvas, scores as that canvas does; in one forward as patch by patch."""
    tokens_BTYX = torch.randint(0, 16, (2, 1, 4, 4), generator=torch.Generator().manual_seed(2))
    one, each, right = module(0.9), module(0.9, "per_patch"), module(0.0)
    for written in one.draw_plans(tokens_BTYX, torch.Generator().manual_seed(5)):
        layout = written.layout
        read_BS = torch.empty(len(written.read_BPN), tokens_BTYX[0].numel(), dtype=torch.long)
        read_BS[:, layout.index_PN.flatten()] = written.read_BPN.flatten(1)
        # Neighbors and tokens were read off the same canvas: a token that is token_noise is so everywhere.
        neighbors_BPNK = torch.stack([look_up(read_S, layout.neighbors_PNK) for read_S in read_BS])
        assert torch.equal(written.neighbors_BPNK, neighbors_BPNK)
        logits_BPNK = right.transformer(
            written.read_BPN, written.entry_BP, neighbors_BPNK=neighbors_BPNK, groups=layout.groups
        ).log_softmax(-1)
        expected_BPN = -logits_BPNK.gather(-1, written.tokens_BPN[..., None])[..., 0]
        torch.testing.assert_close(one.loss(written), expected_BPN, atol=1e-9, rtol=0)
        assert not torch.equal(written.read_BPN, written.tokens_BPN)
        steps = torch.stack([loss for _, loss in each.step_losses(written)])
        torch.testing.assert_close(steps, expected_BPN.mean(dim=(0, 2)), atol=1e-9, rtol=0)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.conditions\.token_noise"):
        Conditions(token_noise=1.5)
