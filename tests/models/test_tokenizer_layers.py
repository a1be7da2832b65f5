"""Blocks of the tokenizer against plain definitions; how far encoder and decoder really see."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from nuwa_lightning.models.vqgan import (
    ChannelNorm,
    Decoder,
    Encoder,
    PixelShuffleUp,
    Pointwise,
    ResidualBlock,
    local_conv,
)

SHAPES = [((12, 16), (1, 2), 4), ((8,), (2,), 8), ((8, 12, 16), (0, 1, 1), 2)]


def awake(module: torch.nn.Module) -> torch.nn.Module:
    """Give every weight that starts at zero a value, so that nothing hides."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double().eval()


def test_channel_norm_uses_each_position_alone():
    norm = ChannelNorm(5)
    x = torch.randn(2, 5, 3, 4)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected)


def test_pointwise_is_a_1x1_convolution():
    layer, x = Pointwise(5, 7), torch.randn(2, 5, 3, 4)
    expected = functional.conv2d(x, layer.linear.weight[:, :, None, None], layer.linear.bias)
    torch.testing.assert_close(layer(x), expected)


def test_a_new_block_changes_nothing_and_an_awake_one_does():
    block, x = ResidualBlock(6), torch.randn(1, 6, 5, 5)
    assert torch.equal(block(x), x)
    assert not torch.allclose(awake(block)(x.double()), x.double())


def test_padding_continues_the_border():
    conv = local_conv(2, 2, 3)
    flat = torch.ones(1, 2, 4, 5) * 0.7
    out = conv(flat)
    torch.testing.assert_close(out, out[:, :, :1, :1].expand_as(out))


def test_shuffle_starts_without_lattice():
    up = PixelShuffleUp(6, 2, factor=2, kernel=3)
    out = up(torch.randn(1, 6, 4, 4))
    torch.testing.assert_close(out, functional.interpolate(out[:, :, ::2, ::2], scale_factor=2, mode="nearest"))


def box(changed_YX: torch.Tensor) -> tuple[int, int]:
    rows = changed_YX.any(1).nonzero().flatten()
    return int(rows.min()), int(rows.max())


@pytest.mark.parametrize(("channels", "blocks", "cell"), SHAPES)
def test_encoder_halo_is_how_far_a_token_sees(channels, blocks, cell):
    torch.manual_seed(0)
    encoder = awake(Encoder(4, channels=channels, blocks=blocks, cell=cell))
    factor, halo = encoder.downsample_factor, encoder.halo
    side = 2 * halo + 3
    image = torch.randn(1, 3, side * factor, side * factor, dtype=torch.float64, requires_grad=True)
    middle = side // 2
    encoder(image)[0, :, middle, middle].sum().backward()
    first, last = box(image.grad[0].abs().sum(0) > 0)
    assert (middle - halo) * factor <= first
    assert last < (middle + halo + 1) * factor
    # The bound is tight: a margin of one token less would not do.
    assert first < (middle - halo + 1) * factor
    assert last >= (middle + halo) * factor


@pytest.mark.parametrize(("channels", "blocks", "cell"), SHAPES)
def test_decoder_halo_is_how_far_a_token_reaches(channels, blocks, cell):
    torch.manual_seed(0)
    decoder = awake(Decoder(4, channels=channels[::-1], blocks=blocks[::-1], cell=cell))
    factor, halo = decoder.downsample_factor, decoder.halo
    side = 2 * halo + 3
    z = torch.randn(1, 4, side, side, dtype=torch.float64, requires_grad=True)
    middle = side // 2
    square = slice(middle * factor, (middle + 1) * factor)
    decoder(z)[0, :, square, square].square().sum().backward()
    first, last = box(z.grad[0].abs().sum(0) > 0)
    assert (first, last) == (middle - halo, middle + halo)


def test_channels_and_blocks_must_agree():
    with pytest.raises(ValueError, match="one number per level"):
        Encoder(4, channels=(8, 8), blocks=(1,))
    with pytest.raises(ValueError, match="one number per level"):
        Decoder(4, channels=(8, 8), blocks=(1,))
