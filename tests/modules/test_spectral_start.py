"""The start as a cosine transform: exact where it can be, and as good as scipy's transform where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch.nn import functional

from nuwa_lightning.modules.decoder import Decoder
from nuwa_lightning.modules.encoder import Encoder
from nuwa_lightning.modules.spectral_start import start_spectral


def pictures(sample_photos) -> torch.Tensor:
    crops = [photo[:128, 40:168] for photo in sample_photos.values()]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize(("channels", "cell"), [((48, 192), 4), ((64, 200), 4), ((192,), 8), ((12, 48, 192), 2)])
def test_with_all_components_nothing_is_lost(sample_photos, channels, cell):
    encoder = Encoder(193, channels=channels, blocks=(1,) * len(channels), cell=cell)
    decoder = Decoder(193, channels=channels[::-1], blocks=(1,) * len(channels), cell=cell)
    start_spectral(encoder, decoder)
    image = pictures(sample_photos)
    # 1.3 makes up for the unit length of codes, which is left out here.
    torch.testing.assert_close(decoder(encoder(image) / 1.3), image, atol=1e-3, rtol=0)


def test_leading_components_are_those_of_a_block_cosine_transform(sample_photos):
    encoder, decoder = Encoder(16), Decoder(16)
    start_spectral(encoder, decoder)
    image = pictures(sample_photos)
    z_BDYX = encoder(image)
    assert torch.allclose(z_BDYX[:, -1], torch.ones(()))
    grey = image.sum(1).numpy() / np.sqrt(3)
    blocks = grey.reshape(2, 16, 8, 16, 8).transpose(0, 1, 3, 2, 4)
    mean = dctn(blocks, axes=(3, 4), norm="ortho")[..., 0, 0]
    np.testing.assert_allclose(z_BDYX[:, 0].detach().numpy() * 6, mean, atol=1e-3)


def test_an_untrained_tokenizer_already_shows_the_picture(sample_photos):
    image = pictures(sample_photos)

    def psnr(encoder: Encoder, decoder: Decoder) -> float:
        with torch.no_grad():
            error = decoder(functional.normalize(encoder(image), dim=1)) - image
        return -10 * float((error / 2).square().mean().log10())

    torch.manual_seed(0)
    encoder, decoder = Encoder(16), Decoder(16)
    before = psnr(encoder, decoder)
    start_spectral(encoder, decoder)
    assert psnr(encoder, decoder) > before + 6
    assert psnr(encoder, decoder) > 17.5
