"""The adversarial losses against their formulas, and the discriminator's locality."""

from __future__ import annotations

import pytest
import torch

from nuwa_lightning.models.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss


def test_hinge_loss_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.25])
    assert hinge_loss(real, fake).item() == pytest.approx(0.5 * (0.5 / 2 + 1.25 / 2))


def test_adaptive_weight_is_the_ratio_of_gradients():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction, adversarial = 3 * weight[0] + 4 * weight[1], (0.5 * weight).sum()
    found = adaptive_weight(reconstruction, adversarial, last_weight=weight)
    assert found.item() == pytest.approx(5 / (0.5 * 2**0.5 + 1e-4), rel=1e-5)
    assert not found.requires_grad
    assert adaptive_weight(reconstruction, 0 * adversarial, last_weight=weight, limit=7).item() == 7


def test_both_losses_can_still_be_trained_after_weighing():
    weight = torch.ones(2, requires_grad=True)
    reconstruction, adversarial = weight.square().sum(), weight.sum()
    (reconstruction + adaptive_weight(reconstruction, adversarial, last_weight=weight) * adversarial).backward()
    assert weight.grad is not None


def test_one_score_per_cell_and_only_from_nearby():
    torch.manual_seed(0)
    net = PatchDiscriminator(8, 2, cell=4)
    image = torch.randn(1, 3, 64, 48)
    score = net(image)
    assert score.shape == (1, 1, 16, 12)
    changed = image.clone()
    changed[:, :, 32:] += 1
    assert torch.equal(net(changed)[:, :, :5], score[:, :, :5])
    assert not torch.equal(net(changed)[:, :, 5:8], score[:, :, 5:8])


def test_learns_to_tell_stripes_from_noise():
    torch.manual_seed(0)
    net = PatchDiscriminator(8, 1, cell=4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    stripes = (torch.arange(16) % 2 * 2.0 - 1).expand(4, 3, 16, 16)
    for _ in range(60):
        optimizer.zero_grad()
        loss = hinge_loss(net(stripes), net(torch.randn(4, 3, 16, 16)))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
