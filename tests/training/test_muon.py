"""The optimizer against torch's own AdamW and Muon."""

from __future__ import annotations

import torch
from torch import nn

from nuwa_lightning.training.muon import MuonAdamW, muon_groups, orthogonalise


def test_adamw_half_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()
    theirs.load_state_dict(ours.state_dict())
    a = MuonAdamW(ours.parameters(), lr=0.01, weight_decay=0.1)
    b = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, betas=(0.9, 0.95))
    for _ in range(5):
        x = torch.randn(4, 5, dtype=torch.float64)
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-10, atol=1e-12)


def test_muon_half_is_close_to_torch_which_rounds_to_bfloat16() -> None:
    torch.manual_seed(0)
    start = torch.randn(32, 64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    a = MuonAdamW([{"params": [ours], "muon": True}], lr=0.01, weight_decay=0.1)
    b = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = torch.randn(32, 64)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        a.step()
        b.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.05 * moved


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 16, 40), (2, 40, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_every_parameter_has_one_group_and_only_layer_matrices_go_to_muon() -> None:
    model = nn.ModuleDict({"head": nn.Linear(4, 4), "layers": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))})
    groups = muon_groups(model, model["layers"])
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    assert [id(p) for p in groups[0]["params"]] == [id(model["layers"][0].weight)]
