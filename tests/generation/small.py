"""Small models for the tests of generation."""

from __future__ import annotations

import torch

from nuwa_lightning.models.nuwa_infinity import PatchTransformer
from nuwa_lightning.models.patch_layer import TransformerSize
from nuwa_lightning.planning.context import ContextPool


def small_model(pool: ContextPool, *, patch_size: tuple[int, int] = (2, 2), kv_heads: int = 1) -> PatchTransformer:
    """Return a model of random weights that heeds its context, in torch's default dtype."""
    torch.manual_seed(0)
    size = TransformerSize(16, 2, heads=4, kv_heads=kv_heads, layer_scale=1.0)
    model = PatchTransformer(16, 4, patch_size=patch_size, embedding_extent=pool.embedding_extent, size=size)
    model.set_codes(torch.randn(16, 4))
    for layer in model.layers:
        torch.nn.init.normal_(layer.embedding.views, std=0.5)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    torch.nn.init.normal_(model.code_head.weight, std=0.1)
    return model.eval()
