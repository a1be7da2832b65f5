"""What windows change of a published tokenizer: tokens that stay, and pixels, by window and overlap.

    python experiments/measure_windows.py published/taming-f16      (a folder that convert-tokenizer wrote)
    python experiments/measure_windows.py random                    (narrow networks with random weights)

Two photographs of scikit-learn, enlarged to 640x960 (40x60 tokens of f16), which the default window does not see
whole. Pixels are compared with those of the whole decoded at once, in [-1, 1].
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from nuwa_lightning.tokenizers.pretrained import load_tokenizer
from nuwa_lightning.tokenizers.published import PublishedVQGAN
from nuwa_lightning.tokenizers.windows import WindowedTokenizer

WINDOWS = ((16, 8), (16, 4), (8, 4), (24, 12), (8, 2), (16, 2), (24, 4))


def narrow(*, attention: bool) -> PublishedVQGAN:
    """Return taming's f16, a quarter as wide, with random weights and codes where the latents are."""
    torch.manual_seed(0)
    last = "Attn" if attention else ""
    vqmodel: dict[str, Any] = {
        "down_block_types": [*["DownEncoderBlock2D"] * 4, f"{last}DownEncoderBlock2D"],
        "up_block_types": [f"{last}UpDecoderBlock2D", *["UpDecoderBlock2D"] * 4],
        "block_out_channels": [32, 32, 64, 64, 128],
        "layers_per_block": 2,
        "latent_channels": 64,
        "num_vq_embeddings": 1024,
        "vq_embed_dim": 64,
        "mid_block_add_attention": attention,
    }
    made = PublishedVQGAN(vqmodel).eval().requires_grad_(False)
    z_BDYX = made.encode_features(photographs()[:1])
    vectors_ND = z_BDYX.permute(0, 2, 3, 1).flatten(0, 2)
    made.quantizer.codebook_KD = vectors_ND.mean(0) + torch.randn(1024, 64) * vectors_ND.std(0)
    return made


def photographs() -> Tensor:
    """Return the images ``[2, 3, 640, 960]`` in [-1, 1]."""
    image_BYX3 = torch.from_numpy(np.stack(load_sample_images().images))
    return resize(image_BYX3.permute(0, 3, 1, 2) / 127.5 - 1, [640, 960], antialias=True).clamp(-1, 1)


def table(name: str, whole: Any) -> None:
    """Print a row for each window."""
    image_B3YX = photographs()
    tokens_BYX = whole.encode(image_B3YX)
    whole_B3YX = whole.decode(tokens_BYX)
    for step, overlap in WINDOWS:
        windowed = WindowedTokenizer(whole, step, overlap)
        same = (windowed.encode(image_B3YX) == tokens_BYX).double().mean()
        made_B3YX = windowed.decode(tokens_BYX)
        apart_B3YX = (made_B3YX - whole_B3YX).abs()
        # Steps from column to column at the borders of windows, over those of the whole there.
        side = step * whole.downsample_factor
        jump = [x[..., side::side].sub(x[..., side - 1 : -1 : side]).abs().mean() for x in (made_B3YX, whole_B3YX)]
        height, width = tokens_BYX.shape[1:]
        seen = min(step + 2 * overlap, height) * min(step + 2 * overlap, width) / step**2
        sys.stdout.write(
            f"| {name} | {step} | {overlap} | {100 * same:.1f} % | {apart_B3YX.mean():.4f} | {apart_B3YX.max():.3f} "
            f"| {jump[0] / jump[1]:.3f} | {seen:.1f} |\n"
        )
        sys.stdout.flush()


def main() -> None:
    """Print the table."""
    sys.stdout.write(
        "| tokenizer | window | overlap | tokens equal | mean apart | most | seam | work |\n|---" + "|---" * 7 + "|\n"
    )
    if sys.argv[1] == "random":
        table("attention", narrow(attention=True))
        table("GroupNorm only", narrow(attention=False))
        return
    found: Any = load_tokenizer(sys.argv[1])
    table(sys.argv[1], found.whole if isinstance(found, WindowedTokenizer) else found)


if __name__ == "__main__":
    main()
