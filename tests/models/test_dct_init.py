"""The start as a cosine transform: exact where it can be, and as good as scipy's transform where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from nuwa_lightning.models.dct_init import start_spectral
from nuwa_lightning.models.vqgan import CHART, Decoder, Encoder, from_chart, to_chart


def images(sample_photos) -> torch.Tensor:
    crops = [photo[:128, 40:168] for photo in sample_photos.values()]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize(("channels", "cell"), [((48, 192), 4), ((64, 200), 4), ((192,), 8), ((12, 48, 192), 2)])
def test_with_all_components_nothing_is_lost(sample_photos, channels, cell):
    encoder = Encoder(193, channels=channels, blocks=(1,) * len(channels), cell=cell)
    decoder = Decoder(193, channels=channels[::-1], blocks=(1,) * len(channels), cell=cell)
    start_spectral(encoder, decoder, rounding=1e-3)
    image = images(sample_photos)
    # The sphere is flat enough near the pole: what is left of its curvature is a few grey levels.
    torch.testing.assert_close(decoder(encoder(image)), image, atol=0.06, rtol=0)


def test_leading_components_are_those_of_a_block_cosine_transform(sample_photos):
    encoder, decoder = Encoder(16), Decoder(16)
    start_spectral(encoder, decoder)
    image = images(sample_photos)
    z_BDYX = encoder(image)
    coordinates_BDYX = (z_BDYX / z_BDYX[:, -1:])[:, :-1] * CHART
    grey = image.sum(1).numpy() / np.sqrt(3)
    blocks = grey.reshape(2, 16, 8, 16, 8).transpose(0, 1, 3, 2, 4)
    mean = dctn(blocks, axes=(3, 4), norm="ortho")[..., 0, 0]
    np.testing.assert_allclose(coordinates_BDYX[:, 0].detach().numpy(), mean, atol=1e-3)


def test_an_untrained_tokenizer_already_shows_the_image(sample_photos):
    image = images(sample_photos)

    def psnr(encoder: Encoder, decoder: Decoder) -> float:
        with torch.no_grad():
            error = decoder(encoder(image)) - image
        return -10 * float((error / 2).square().mean().log10())

    torch.manual_seed(0)
    encoder, decoder = Encoder(16), Decoder(16)
    before = psnr(encoder, decoder)
    start_spectral(encoder, decoder)
    assert psnr(encoder, decoder) > before + 6
    assert psnr(encoder, decoder) > 20


def test_flat_colours_stay_flat():
    encoder, decoder = Encoder(16), Decoder(16)
    start_spectral(encoder, decoder)
    flat = torch.tensor([0.5, -0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(decoder(encoder(flat)), flat, atol=0.01, rtol=0)


def test_looking_at_neighbours_beats_transforming_each_square_back_alone(sample_photos):
    image = images(sample_photos)
    encoder, decoder = Encoder(16), Decoder(16)
    start_spectral(encoder, decoder)
    with torch.no_grad():
        coordinates = to_chart(encoder(image))
        coordinates[:, :-1] += 0.4 * torch.randn(coordinates[:, :-1].shape, generator=torch.Generator().manual_seed(0))
        together = decoder(from_chart(coordinates))
        spread = encoder.head.linear.weight.diagonal()[:15]
        decoder.stem.weight.zero_()
        decoder.stem.weight[torch.arange(15), torch.arange(15), 1, 1] = 1 / spread
        alone = decoder(from_chart(coordinates))
    assert (together - image).square().mean() < 0.9 * (alone - image).square().mean()
    # Steps across the borders of squares, against steps inside of them.
    jumps = [(x[..., 1:] - x[..., :-1]).abs().mean((0, 1, 2)) for x in (together, alone)]
    border, border_alone = (float(j[7::8].mean() / j.mean()) for j in jumps)
    assert border < 0.8 * border_alone
