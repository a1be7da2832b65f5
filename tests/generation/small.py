"""Small models for the tests of generation."""

from __future__ import annotations

import torch

from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.planning.context import ContextPool


def small_model(pool: ContextPool, *, patch_size: tuple[int, int] = (2, 2), num_kv_heads: int = 1) -> PatchTransformer:
    """Return a model of random weights that heeds its context, in torch's default dtype."""
    torch.manual_seed(0)
    size = TransformerConfig(16, 2, num_heads=4, num_kv_heads=num_kv_heads, layer_scale=1.0)
    model = PatchTransformer(16, 4, patch_size=patch_size, embedding_extent=pool.embedding_extent, size=size)
    model.set_codes(torch.randn(16, 4))
    for layer in model.layers:
        torch.nn.init.normal_(layer.embedding.symmetries, std=0.5)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    torch.nn.init.normal_(model.code_head.weight, std=0.1)
    return model.eval()
