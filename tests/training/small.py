"""Small tokenizers, a loss without a network, and a trainer that says and keeps nothing."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from nuwa_lightning.models.vqgan import VQGANConfig
from nuwa_lightning.tokenizers.published import PublishedVQGAN
from nuwa_lightning.training.losses import LossWeights, PerceptualTerm

SIZE = VQGANConfig(
    codebook_size=16,
    codebook_dim=4,
    encoder_channels=(8, 12),
    encoder_blocks=(1, 1),
    decoder_channels=(12, 8),
    decoder_blocks=(1, 1),
)
QUIET = LossWeights(perceptual=PerceptualTerm(weight=0))


def trainer(folder: Path, **options) -> Trainer:
    defaults = dict(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=8,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    return Trainer(**(defaults | options))


def published(codebook_size: int = 8) -> PublishedVQGAN:
    """Return one that has never been trained; needs diffusers."""
    down, up = ["DownEncoderBlock2D"] * 2, ["UpDecoderBlock2D"] * 2
    size = {"down_block_types": down, "up_block_types": up, "block_out_channels": [8, 8], "norm_num_groups": 4}
    return PublishedVQGAN({**size, "latent_channels": 4, "num_vq_embeddings": codebook_size, "vq_embed_dim": 4})
