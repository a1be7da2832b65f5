"""Coarse plans: made of images, read in training and while a canvas is written, and nothing where there is none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.coarse_plan import CoarseEncoder, CoarsePlan
from nuwa_lightning.generation.pretrained import load_generator, save_generator
from nuwa_lightning.models.nuwa_infinity import ABSENT, TransformerConfig
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
from tests.generation.test_pretrained import generator

PLAN = CoarsePlan(scale=4)


def module(plan: CoarsePlan | None) -> NuwaInfinityModule:
    torch.manual_seed(0)
    size = TransformerConfig(dim=24, num_layers=2, num_heads=2, num_kv_heads=1, layer_scale=1.0, copy_head=True)
    pool, direction = NearbyContextPool((0, 1, 1)), ArbitraryDirectionController()
    made = NuwaInfinityModule(
        16, 4, patch_size=(2, 2), transformer=size, context_pool=pool, direction=direction, plan=plan
    )
    made.transformer.set_codes(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)))
    return made.eval()


@pytest.fixture(scope="module")
def tokenizer() -> VQGAN:
    torch.manual_seed(0)
    channels = {"encoder_channels": (8, 8), "decoder_channels": (8, 8)}
    return VQGAN.build(VQGANConfig(64, 4, encoder_blocks=(1, 1), decoder_blocks=(1, 1), **channels)).eval()


class Squares:
    """A token is the brightness of a 2x2 square; the image of a token is that square."""

    downsample_factor, codebook_size, codebook_dim, encode_halo, decode_halo, step = 2, 256, 1, 0, 0, 1
    codebook_KD = torch.arange(256.0)[:, None]

    def encode(self, image_B3YX: Tensor) -> Tensor:
        return ((torch.nn.functional.avg_pool2d(image_B3YX.mean(1), 2) + 1) * 127.5).round().long()

    def decode(self, tokens_BYX: Tensor) -> Tensor:
        pixels_BYX = (tokens_BYX / 127.5 - 1).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return pixels_BYX[:, None].expand(-1, 3, -1, -1)

    def fingerprint(self) -> str:
        return "squares"


def test_plan_of_an_image_is_the_image_at_low_resolution() -> None:
    ramp_YX = torch.linspace(-0.9, 0.9, 48)[:, None].expand(48, 32)
    image_13YX = ramp_YX.expand(1, 3, 48, 32)
    tokens = Squares().encode(image_13YX)
    found = PLAN.of_image(Squares(), image_13YX)
    assert found.shape == tokens.shape
    assert (found - tokens).abs().max() <= 16  # of 256: a coarse token is 8 pixels, a ramp of 38 levels
    lines = image_13YX.clone()
    lines[..., ::2] *= -1  # detail of one pixel is not in the plan
    assert (PLAN.of_image(Squares(), lines) - 127.5).abs().mean() < 30


@pytest.mark.parametrize("size", [(64, 96), (40, 104)])
def test_plan_lies_on_the_grid_of_the_tokens(size: tuple[int, int], tokenizer: VQGAN) -> None:
    image_13YX = torch.rand(1, 3, *size) * 2 - 1
    assert PLAN.of_image(tokenizer, image_13YX).shape == tokenizer.encode(image_13YX).shape


def test_noise_is_the_seeds() -> None:
    image_13YX = torch.rand(1, 3, 64, 64) * 2 - 1
    clean = PLAN.of_image(Squares(), image_13YX)
    noisy = [PLAN.of_image(Squares(), image_13YX, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    assert 0 < (noisy[0] != clean).float().mean() < 0.6
    assert torch.equal(dataclasses.replace(PLAN, noise=0.0).of_image(Squares(), image_13YX, seed=1), clean)


def test_training_drops_plans_and_validation_does_not() -> None:
    coarse_BTYX = torch.zeros(1000, 1, 2, 2, dtype=torch.long)
    found = PLAN.of_batch({"coarse": coarse_BTYX}, torch.Generator().manual_seed(0))
    absent_B = (found == ABSENT).flatten(1)
    assert torch.equal(absent_B.any(1), absent_B.all(1))
    assert 0.07 < absent_B.all(1).float().mean() < 0.13
    assert torch.equal(PLAN.of_batch({"coarse": coarse_BTYX}, None), coarse_BTYX)
    with pytest.raises(UsageError, match="no coarse plans"):
        PLAN.of_batch({}, None)


def test_model_without_a_plan_has_nothing_of_it() -> None:
    without, reads = module(None), module(PLAN)
    names = {name: p.shape for name, p in without.named_parameters()}
    differ = {name for name, p in reads.named_parameters() if names[name] != p.shape}
    assert differ == {
        "transformer.neighbor_embedding.linear.weight",
        *(f"transformer.copy_head.linear.{n}" for n in ("weight", "bias")),
    }
    # What it reads of a plan is what more it has: with those weights zero, or no plan, it is the model without.
    width = 4 * 8
    with torch.no_grad():
        for name, p in reads.named_parameters():
            mine = dict(without.named_parameters())[name]
            p[..., :width].copy_(mine) if "neighbor" in name else p[: len(mine)].copy_(mine)
    tokens, coarse = torch.randint(0, 16, (3, 1, 4, 6)), torch.randint(0, 16, (3, 1, 4, 6))

    def losses(made: NuwaInfinityModule, plans: Tensor | None) -> list[Tensor]:
        return [made.loss(written) for written in made.draw_plans(tokens, None, coarse_BTYX=plans)]

    expected = losses(without, None)
    for a, b in zip(losses(reads, torch.full_like(coarse, ABSENT)), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert any(not torch.allclose(a, b) for a, b in zip(losses(reads, coarse), expected, strict=True))


def test_plan_is_learned() -> None:
    """Where tokens are those of the plan, a model that reads it knows them all; else they are noise."""
    made = module(dataclasses.replace(PLAN, dropout=0.5))
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    draw = torch.Generator().manual_seed(0)
    for _ in range(120):
        tokens = torch.randint(0, 16, (16, 1, 4, 4), generator=draw)
        coarse = made.plan.of_batch({"coarse": tokens}, draw)
        loss = torch.cat([made.loss(w).flatten() for w in made.draw_plans(tokens, draw, coarse_BTYX=coarse)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens = torch.randint(0, 16, (16, 1, 4, 4), generator=draw)
    with torch.no_grad():
        found = [
            torch.cat([made.loss(w).flatten() for w in made.draw_plans(tokens, None, coarse_BTYX=plans)]).mean()
            for plans in (tokens, torch.full_like(tokens, ABSENT))
        ]
    assert found[0] < 1.0
    assert found[1] > 2.5  # ln 16 is 2.77


def test_plan_comes_back_from_a_folder(tmp_path: Path) -> None:
    without = generator()
    save_generator(tmp_path / "without", without)
    assert load_generator(tmp_path / "without").plan is None
    config = json.loads((tmp_path / "without" / "config.json").read_text())
    assert not {"plan", "coarse_plan"} & {*config, *config["model"]}
    made = module(PLAN)
    plan = CoarsePlan(scale=8, top_k=7)
    save_generator(
        tmp_path / "with", dataclasses.replace(without, model=made.transformer, pool=made.context_pool, plan=plan)
    )
    back = load_generator(tmp_path / "with")
    assert back.plan == plan
    assert back.model.coarse_plan


def test_numbers_out_of_range_are_named() -> None:
    for name, value in (("scale", 1), ("noise", 1.5), ("dropout", -0.1), ("top_k", -1)):
        with pytest.raises(UsageError, match=name):
            CoarsePlan(**{name: value})


def test_encoder_says_what_decides() -> None:
    names = {CoarseEncoder(plan, Squares()).name for plan in (PLAN, CoarsePlan(8), dataclasses.replace(PLAN, noise=0))}
    assert len(names) == 3
