"""What is trained beside the transformer, a tokenizer or a decoder of videos, out of folders and into them."""

import os

import torch

from nuwa_lightning.errors import UsageError
from nuwa_lightning.hub import find_part
from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder, PixelGuidedSize
from nuwa_lightning.models.unfilled import unfilled
from nuwa_lightning.models.vqgan import VQGAN
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.published import PublishedVQGAN
from nuwa_lightning.tokenizers.sharing import (
    FORMAT,
    NotItsWeights,
    fill,
    load_tokenizer,
    read_config,
    read_whole_weights,
    save_folder,
    save_tokenizer,
)
from nuwa_lightning.tokenizers.windows import WindowedTokenizer

__all__ = ["load_pixel_guided", "load_tokenizer", "load_trainable", "save_pixel_guided", "save_tokenizer"]

GUIDED_KIND = "nuwa-lightning pixel-guided decoder"


def load_trainable(
    folder: str | os.PathLike[str], *, option: str
) -> tuple[VQGAN | PublishedVQGAN, tuple[int, int] | None]:
    """Return what trains a tokenizer, our own or a published one, and ``step`` and ``overlap`` of its windows."""
    found = load_tokenizer(folder, option=option)
    tokenizer, windows = found, None
    if isinstance(found, WindowedTokenizer):
        tokenizer, windows = found.whole, (found.step, found.overlap)
    if not isinstance(tokenizer, VQGAN | PublishedVQGAN):
        hint = f"holds a {type(tokenizer).__name__}: a VQGAN of this package, or a published tokenizer, is needed"
        raise UsageError(option, folder, hint)
    return tokenizer, windows


def save_pixel_guided(
    folder: str | os.PathLike[str], guided: PixelGuidedDecoder, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write the folder, whole or not at all, its weights as ``dtype``; a folder that is there is replaced."""
    said = {"size": guided.size.as_dict(), "tokenizer_fingerprint": guided.fingerprint()}
    state = {name: value.to(dtype) for name, value in guided.state_dict().items()}
    save_folder(folder, state, {"kind": GUIDED_KIND, "format": FORMAT, **said})


def load_pixel_guided(
    folder: str | os.PathLike[str], *, tokenizer: Tokenizer | None = None, option: str = "tokenizer.guided"
) -> PixelGuidedDecoder:
    """Read a folder that :func:`save_pixel_guided` wrote, or a run that holds it; the decoder comes frozen.

    Without a tokenizer it is not checked whether it belongs to that.
    """
    path = find_part(folder, "pixel_guided")
    config = read_config(path, GUIDED_KIND, option)
    try:
        size, fingerprint = PixelGuidedSize.from_dict(config["size"]), config["tokenizer_fingerprint"]
        if not isinstance(fingerprint, str):
            raise TypeError(f"tokenizer_fingerprint {fingerprint!r}: a text is needed")
        with unfilled():
            guided = PixelGuidedDecoder.build(size, tokenizer=fingerprint)
    except Exception as error:  # of classes that are made of what anybody may have written
        raise UsageError(option, path, f"config.json makes no sense ({error!r:.200}): copy the folder again") from None
    if tokenizer is not None:
        guided.check_tokenizer(tokenizer, option=option, value=path)
    try:
        fill(guided, read_whole_weights(path, option), assign=True)
    except NotItsWeights as error:
        raise UsageError(option, path, f"weights and config.json do not belong together: {error}") from None
    return guided.to(memory_format=torch.channels_last).eval().requires_grad_(False)
