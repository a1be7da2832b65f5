"""Laws of stage 2: what the three ways to optimise share, and what context can and cannot learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local import (
    AutoregressiveLocalDecoder,
    LocalDecoder,
    LocalityLocalDecoder,
    MaskedLocalDecoder,
    ParallelLocalDecoder,
)
from nuwa_lightning.models.nuwa_infinity import TransformerConfig
from nuwa_lightning.planning.context import ContextPool, EmptyContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import SYMMETRIES
from nuwa_lightning.training.muon import MuonAdamW, muon_groups
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule, Optimize, Written

AUTOREGRESSIVE = AutoregressiveLocalDecoder()
SMALL = TransformerConfig(dim=24, num_layers=2, num_heads=2, num_kv_heads=1, layer_scale=1.0)


def module(
    pool: ContextPool,
    optimize: Optimize = "joint",
    order: str = "omega",
    local_decoder: LocalDecoder = AUTOREGRESSIVE,
) -> NuwaInfinityModule:
    torch.manual_seed(0)
    direction = ArbitraryDirectionController(symmetries=(order,)) if order != "all" else ArbitraryDirectionController()  # type: ignore[arg-type]
    made = NuwaInfinityModule(
        16,
        4,
        patch_size=(2, 2),
        transformer=SMALL,
        context_pool=pool,
        direction=direction,
        optimize=optimize,
        local_decoder=local_decoder,
    )
    made.transformer.set_codes(torch.randn(16, 4))
    return made


def gradients(made: NuwaInfinityModule) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


def test_accumulated_gradient_is_the_sum_of_detached_per_patch_gradients() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        made = module(NearbyContextPool((0, 1, 1)), "accumulated", "all")
        tokens = torch.randint(0, 16, (4, 1, 6, 4))
        groups = made.draw_plans(tokens, None)
        for written in groups:
            size = written.tokens_BPN[:, 0].numel()
            made.zero_grad()
            (made.loss(written).sum() / size).backward()
            accumulated = gradients(made)
            made.zero_grad()
            for _, loss in made.step_losses(written):
                loss.backward()
            summed = gradients(made)
            assert accumulated.keys() == summed.keys()
            for name, value in accumulated.items():
                torch.testing.assert_close(value, summed[name], rtol=1e-9, atol=1e-11, msg=name)
            made.zero_grad()
            made.optimize = "joint"
            (made.loss(written).sum() / size).backward()
            made.optimize = "accumulated"
            assert any(not torch.allclose(v, accumulated[n]) for n, v in gradients(made).items())
    finally:
        torch.set_default_dtype(torch.float32)


def _learn(pool: ContextPool, local_decoder: LocalDecoder = AUTOREGRESSIVE) -> float:
    """Train on two patches, the right one a fixed relabelling of the left; return the loss on the right one."""
    made = module(pool, local_decoder=local_decoder)
    optimizer = MuonAdamW(muon_groups(made.transformer, made.transformer.layers), lr=1e-2, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    relabel = torch.randperm(16, generator=generator)
    right = torch.zeros(())
    for step in range(220):
        left = torch.randint(0, 16, (24, 1, 2, 2), generator=generator)
        tokens = torch.cat([left, relabel[left]], dim=3)
        (written,) = made.draw_plans(tokens, None)
        loss_BPN = made.loss(written)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 220)
        optimizer.zero_grad()
        loss_BPN.mean().backward()
        optimizer.step()
        right = loss_BPN.detach()[:, 1].mean()
        if written.token_mask is not None:
            shown = written.token_mask.tokens.float().mean() / written.token_mask.tokens[:, 1].float().mean()
            right = right * shown  # the mean over hidden tokens of this patch
    return float(right)


def test_nearby_context_learns_a_function_of_the_left_patch_and_empty_context_cannot() -> None:
    assert _learn(NearbyContextPool((0, 1, 1))) < 0.1
    assert _learn(EmptyContextPool()) > 2.6  # chance is ln 16 = 2.77


@pytest.mark.parametrize(
    "local_decoder", [MaskedLocalDecoder(), ParallelLocalDecoder(), LocalityLocalDecoder(schedules=(4, 2))], ids=str
)
def test_so_do_the_others(local_decoder: LocalDecoder) -> None:
    assert _learn(NearbyContextPool((0, 1, 1)), local_decoder) < 0.1


@pytest.mark.parametrize("local_decoder", [MaskedLocalDecoder(), ParallelLocalDecoder()], ids=str)
@pytest.mark.parametrize("order", ["mirrored", "raster"])
def test_the_loss_is_that_of_hidden_tokens_and_none_of_them_is_seen(local_decoder: LocalDecoder, order: str) -> None:
    made = module(NearbyContextPool((0, 1, 1)), order="omega*", local_decoder=local_decoder)
    made.token_order = order  # type: ignore[assignment]
    tokens = torch.randint(0, 16, (4, 1, 4, 4))
    (written,) = made.draw_plans(tokens, torch.Generator().manual_seed(0))
    assert written.token_mask is not None
    masked_BPN = written.token_mask.tokens
    loss_BPN = made.loss(written)
    assert not loss_BPN[~masked_BPN].any()
    torch.testing.assert_close(loss_BPN.mean(), (loss_BPN[masked_BPN] / loss_BPN.numel()).sum())
    # The last patch is nobody's context: to change what is hidden in it must not change its scores.
    alone = torch.zeros_like(masked_BPN)
    alone[:, -1] = masked_BPN[:, -1]
    changed = tokens.clone()
    place = written.layout.index_PN
    changed.flatten(1)[:, place] = torch.where(alone, (written.tokens_BPN + 1) % 16, written.tokens_BPN)
    (other,) = made.draw_plans(changed, torch.Generator().manual_seed(0))

    def scores(seen: Written) -> Tensor:
        out: Tensor = made.transformer(
            seen.tokens_BPN,
            seen.entry_BP,
            neighbors_BPNK=seen.neighbors_BPNK,
            groups=seen.layout.groups,
            token_mask=seen.token_mask,
        )
        return out

    torch.testing.assert_close(scores(other), scores(written), rtol=0, atol=1e-5)


@pytest.mark.parametrize("local_decoder", [MaskedLocalDecoder(), LocalityLocalDecoder(schedules=(4, 2))], ids=str)
@pytest.mark.parametrize("optimize", ["accumulated", "per_patch"])
def test_they_train_patch_by_patch_as_well(optimize: Optimize, local_decoder: LocalDecoder) -> None:
    made = module(NearbyContextPool((0, 1, 1)), optimize, local_decoder=local_decoder)
    (written,) = made.draw_plans(torch.randint(0, 16, (2, 1, 4, 4)), None)
    assert written.token_mask is not None
    with torch.no_grad():
        whole = made.loss(written)
        for step, loss in made.step_losses(written):
            masked_BN = written.token_mask.tokens[:, step]
            share = written.token_mask.tokens.float().mean()
            torch.testing.assert_close(loss, whole[:, step][masked_BN].mean() * share, rtol=1e-4, atol=1e-5)


def test_plans_are_drawn_by_weight_and_share_a_batch_when_masks_agree() -> None:
    made = module(NearbyContextPool((0, 1, 1)), order="all")
    tokens = torch.randint(0, 16, (64, 1, 4, 4))
    generator = torch.Generator().manual_seed(0)
    (written,) = made.draw_plans(tokens, generator)
    assert written.tokens_BPN.shape == (64, 4, 4)
    assert set(written.entry_BP[:, 0].tolist()) == {0, 1, 2, 3}
    made.token_order = "raster"
    made._plans._layouts.clear()
    assert len(made.draw_plans(tokens, generator)) == 4


def test_a_mirrored_view_is_the_canonical_order_of_the_mirrored_grid() -> None:
    made = module(NearbyContextPool((0, 1, 1)), order="all")
    tokens = torch.randint(0, 16, (1, 1, 6, 6))
    mirrored = {
        "omega": tokens,
        "omega*": tokens.flip(3),
        "zeta": tokens.transpose(2, 3),
        "zeta*": tokens.flip(2).transpose(2, 3),
    }
    _, layouts = made.layouts((1, 6, 6))
    canonical = next(p for p in layouts if int(p.symmetry_P[0]) == 0)
    for layout in layouts:
        seen = mirrored[SYMMETRIES[int(layout.symmetry_P[0])].name]
        assert torch.equal(tokens.flatten()[layout.index_PN], seen.flatten()[canonical.index_PN])
        assert layout.key == canonical.key


def test_numbers_that_do_not_fit_are_named() -> None:
    with pytest.raises(UsageError, match="no multiple of num_heads"):
        NuwaInfinityModule(transformer=TransformerConfig(dim=30, num_heads=4))
    made = module(EmptyContextPool())
    with pytest.raises(UsageError, match="not whole patches"):
        made.layouts((1, 5, 4))


def test_codes_of_another_tokenizer_are_refused() -> None:
    class Other:
        codebook_KD = torch.zeros(8, 4)

    with pytest.raises(UsageError, match="codebook_size=8"):
        module(EmptyContextPool()).attach_tokenizer(Other())  # type: ignore[arg-type]


def test_a_gradient_that_is_not_finite_stops_and_names_step_and_tensor() -> None:
    made = module(EmptyContextPool())
    with torch.no_grad():
        made.transformer.norm.bias[0] = float("nan")
    (written,) = made.draw_plans(torch.randint(0, 16, (2, 1, 2, 2)), None)
    made.loss(written).sum().backward()
    with pytest.raises(UsageError, match=r"model\.lr: .* the gradient of bos is not finite at step 0"):
        made._clip_and_step(None)


def test_patches_that_are_not_square_are_refused_where_views_transpose_them() -> None:
    made = NuwaInfinityModule(16, 4, patch_size=(2, 4), transformer=SMALL, context_pool=EmptyContextPool())
    with pytest.raises(UsageError, match=r"model\.patch_size: \(2, 4\).* needs square patches"):
        made.layouts((1, 4, 4))
