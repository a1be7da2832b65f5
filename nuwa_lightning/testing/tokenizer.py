"""The laws of a tokenizer."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

from nuwa_lightning.testing.laws import asked, hold
from nuwa_lightning.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor


def check_tokenizer(tokenizer: Tokenizer, *, seed: int = 0, tolerance: float = 1e-4) -> None:
    """Hold ``tokenizer`` to the laws of :class:`Tokenizer` on small images.

    Args:
        tokenizer: an object of the class to be tested.
        seed: of the images.
        tolerance: how far pixels of pieces may be from those of the whole, in [-1, 1].

    Raises:
        AssertionError: naming the class and the law.
    """
    import torch

    holds = functools.partial(hold, tokenizer)
    with asked(tokenizer, "a member of it"):
        complete = isinstance(tokenizer, Tokenizer)
        lies = complete and tokenizer.codebook_KD.shape == (tokenizer.codebook_size, tokenizer.codebook_dim)
        same = complete and tokenizer.fingerprint() == tokenizer.fingerprint()
    holds("it has all members of a Tokenizer", complete)
    holds("codebook_KD holds K vectors of D numbers", lies)
    holds("fingerprint stays the same", same)
    size, factor = tokenizer.codebook_size, tokenizer.downsample_factor
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for height, width in ((1, 1), (3, 5), (2 * tokenizer.step + 3, tokenizer.step + 9)):
            image_B3YX = torch.rand(2, 3, height * factor, width * factor, generator=generator) * 2 - 1
            _check_encoding(tokenizer, image_B3YX)
            _check_decoding(tokenizer, torch.randint(size, (2, height, width), generator=generator), tolerance)
        colors = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
        _encoded(tokenizer, colors[:, :, None, None].repeat(1, 1, factor, factor))


def _encoded(tokenizer: Tokenizer, image_B3YX: Tensor) -> Tensor:
    """Return the tokens of images, checked for themselves."""
    import torch

    factor, (B, _, height, width) = tokenizer.downsample_factor, image_B3YX.shape
    with asked(tokenizer, "encode"):
        tokens_BYX = tokenizer.encode(image_B3YX)
    shape = (B, height // factor, width // factor)
    good = isinstance(tokens_BYX, torch.Tensor) and tokens_BYX.shape == shape and tokens_BYX.dtype == torch.long
    hold(tokenizer, "encode gives one long token a square", good)
    law = "tokens are from 0 to K - 1, also of black, white and pure colors"
    hold(tokenizer, law, bool(((tokens_BYX >= 0) & (tokens_BYX < tokenizer.codebook_size)).all()))
    return tokens_BYX


def _check_encoding(tokenizer: Tokenizer, image_B3YX: Tensor) -> None:
    import torch

    from nuwa_lightning.tokenizers.tiling import encode_tiled

    holds = functools.partial(hold, tokenizer)
    before = image_B3YX.clone()
    tokens_BYX = _encoded(tokenizer, image_B3YX)
    holds("encode leaves the image as it is", torch.equal(image_B3YX, before))
    holds("encode is deterministic", torch.equal(_encoded(tokenizer, image_B3YX), tokens_BYX))
    holds("an image is encoded by itself", torch.equal(_encoded(tokenizer, image_B3YX[1:]), tokens_BYX[1:]))
    for tile in (1, 2, 5):
        with asked(tokenizer, "encode"):
            pieces_BYX = encode_tiled(tokenizer, image_B3YX, tile=tile)
        holds("pieces are encoded as the whole (encode_halo, step)", torch.equal(pieces_BYX, tokens_BYX))


def _check_decoding(tokenizer: Tokenizer, tokens_BYX: Tensor, tolerance: float) -> None:
    import torch

    from nuwa_lightning.tokenizers.tiling import decode_tiled

    holds, factor = functools.partial(hold, tokenizer), tokenizer.downsample_factor
    B, height, width = tokens_BYX.shape
    with asked(tokenizer, "decode"):
        image_B3YX = tokenizer.decode(tokens_BYX)
    shape = (B, 3, height * factor, width * factor)
    good = isinstance(image_B3YX, torch.Tensor) and image_B3YX.shape == shape
    holds("decode gives factor x factor pixels a token", good)
    holds("pixels are finite", bool(torch.isfinite(image_B3YX).all()))
    holds("pixels are from -1 to 1", bool((image_B3YX.abs() <= 1 + tolerance).all()))
    for tile in (1, 2, 5):
        with asked(tokenizer, "decode"):
            pieces_B3YX = decode_tiled(tokenizer, tokens_BYX, tile=tile)
        apart = float((pieces_B3YX - image_B3YX).abs().max())
        holds("pieces are decoded as the whole (decode_halo, step)", apart <= tolerance)
