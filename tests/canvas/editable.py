"""A pipeline of random weights whose patches are 8 x 8 pixels, and a look at what an edit changed."""

from __future__ import annotations

import torch

from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.generation.pretrained import Generator
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import ContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController, DirectionController
from nuwa_lightning.planning.geometry import PatchIndex
from tests.text.letters import Letters


def tiny(
    *,
    frames: int = 1,
    text: bool = False,
    layers: int = 1,
    pool: ContextPool | None = None,
    direction: DirectionController | None = None,
) -> NuwaInfinityPipeline:
    """Return it; weights are large enough that what a patch sees decides about its tokens."""
    torch.manual_seed(0)
    config = VQGANConfig(
        16,
        4,
        encoder_channels=(8,),
        encoder_blocks=(0,),
        decoder_channels=(8,),
        decoder_blocks=(1,),
    )
    vqgan = VQGAN.build(config).eval()
    pool = pool or NearbyContextPool((2 if frames > 1 else 0, 1, 1))
    size = TransformerConfig(dim=16, num_layers=layers, num_heads=2, num_kv_heads=1)
    model = PatchTransformer(
        16, 4, patch_size=(2, 2), embedding_extent=pool.embedding_extent, size=size, text_dim=8 if text else 0
    ).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.6)
    model.set_codes(vqgan.codebook_KD)
    generator = Generator(
        model,
        pool,
        direction or ArbitraryDirectionController(),
        "mirrored",
        vqgan.fingerprint(),
        text_encoder=Letters(most=9) if text else None,
        frames=frames,
    )
    return NuwaInfinityPipeline(generator, vqgan)


def same_but(before_TYX: torch.Tensor, after_TYX: torch.Tensor, patches: frozenset[PatchIndex]) -> bool:
    """Say whether two canvases differ in no other than these patches."""
    differs_TYX = before_TYX != after_TYX
    for t, y, x in patches:
        differs_TYX[t, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = False
    return not bool(differs_TYX.any())
