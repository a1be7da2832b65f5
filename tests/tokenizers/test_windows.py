"""Windows make any tokenizer local: pieces are the whole, every pixel has weight one, and borders do not show."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nuwa_lightning.canvas.decoding import Crop, DecodedImage, TileDecoder, to_uint8
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import decode_tiled, encode_tiled
from nuwa_lightning.tokenizers.windows import WindowedTokenizer, window_error


class GroupNormed:
    """Each pixel is its token's value over the mean of all tokens that it is shown with: far from local."""

    downsample_factor, codebook_size, codebook_dim, step = 2, 16, 1, 1
    encode_halo = decode_halo = 10**9

    def __init__(self) -> None:
        self.codebook_KD = torch.linspace(0.1, 1, 16)[:, None]

    def encode(self, image_B3YX: Tensor) -> Tensor:
        mean_BYX = torch.nn.functional.avg_pool2d(image_B3YX, 2).mean(1)
        share_BYX = mean_BYX / mean_BYX.mean((1, 2), keepdim=True)
        return (share_BYX * 8).long().clamp(0, 15)

    def decode(self, tokens_BYX: Tensor) -> Tensor:
        value_BYX = self.codebook_KD[:, 0][tokens_BYX]
        share_BYX = value_BYX / value_BYX.mean((1, 2), keepdim=True) - 1
        return share_BYX.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand(-1, 3, -1, -1)

    def fingerprint(self) -> str:
        return "group norm"


class Constant(GroupNormed):
    def decode(self, tokens_BYX: Tensor) -> Tensor:
        return torch.ones(len(tokens_BYX), 3, 2 * tokens_BYX.shape[1], 2 * tokens_BYX.shape[2])


def tokens(height: int, width: int) -> Tensor:
    ramp = torch.arange(width).float()[None] / width * 12 + torch.rand(height, width)
    return ramp.long().clamp(0, 15)[None]


def test_it_is_a_tokenizer() -> None:
    windowed = WindowedTokenizer(GroupNormed(), 8, 2)
    assert isinstance(windowed, Tokenizer)
    assert (windowed.downsample_factor, windowed.codebook_size, windowed.codebook_dim) == (2, 16, 1)
    assert windowed.fingerprint() != WindowedTokenizer(GroupNormed(), 8, 3).fingerprint()
    for step, overlap in ((8, 0), (8, 5), (0, 0)):
        with pytest.raises(ValueError, match="overlap"):
            WindowedTokenizer(GroupNormed(), step, overlap)


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 12), st.data())
def test_every_pixel_has_weight_one(height: int, width: int, step: int, data: st.DataObject) -> None:
    windowed = WindowedTokenizer(Constant(), step, data.draw(st.integers(1, step // 2)))
    image_B3YX = windowed.decode(torch.zeros(1, height, width, dtype=torch.long))
    torch.testing.assert_close(image_B3YX, torch.ones(1, 3, 2 * height, 2 * width))


@settings(max_examples=20)
@given(st.integers(1, 24), st.integers(1, 30), st.integers(2, 9), st.integers(5, 20), st.data())
def test_pieces_are_the_whole(height: int, width: int, step: int, tile: int, data: st.DataObject) -> None:
    windowed = WindowedTokenizer(GroupNormed(), step, data.draw(st.integers(1, step // 2)))
    tokens_BYX = tokens(height, width)
    torch.testing.assert_close(decode_tiled(windowed, tokens_BYX, tile=tile), windowed.decode(tokens_BYX))
    image_B3YX = torch.rand(1, 3, 2 * height, 2 * width)
    assert torch.equal(encode_tiled(windowed, image_B3YX, tile=tile), windowed.encode(image_B3YX))


@pytest.mark.parametrize("size", [(12, 60), (33, 41), (5, 5)])
def test_an_image_of_tiles_is_whole(size: tuple[int, int]) -> None:
    windowed = WindowedTokenizer(GroupNormed(), 8, 3)
    tokens_BYX = tokens(*size)
    expected = to_uint8(windowed.decode(tokens_BYX)[0]).astype(int)
    tiles = TileDecoder(windowed, size, lambda a: tokens_BYX[0, a.top : a.bottom, a.left : a.right], tile=13)
    image = DecodedImage(tiles, Crop((2 * size[0], 2 * size[1])))
    pixels = image.rows(0, image.height)
    assert pixels.shape == expected.shape
    assert abs(pixels.astype(int) - expected).max() <= 1


def test_fading_takes_the_edge_off() -> None:
    """Windows that are simply put side by side jump at their borders; the least overlap spreads the jump."""
    tokens_BYX = torch.arange(16).repeat_interleave(8)[None, None, 4:-4].expand(1, 8, -1)
    side_by_side = torch.cat([GroupNormed().decode(part) for part in tokens_BYX.split(24, dim=2)], dim=3)

    def jump(image_B3YX: Tensor) -> float:
        return image_B3YX[..., 48::48].sub(image_B3YX[..., 47:-1:48]).abs().max().item()

    assert jump(WindowedTokenizer(GroupNormed(), 24, 6).decode(tokens_BYX)) < 0.2 * jump(side_by_side)


def test_what_windows_change_is_told() -> None:
    small = WindowedTokenizer(GroupNormed(), 8, 2)
    assert window_error(small, tokens(8, 8)) == pytest.approx((0, 0), abs=1e-6)
    mean, largest = window_error(small, tokens(8, 40))
    assert 0 < mean < largest
