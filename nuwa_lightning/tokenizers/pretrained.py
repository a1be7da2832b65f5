"""A trained tokenizer, or a decoder of videos, as a folder: ``config.json`` and ``model.safetensors``.

The JSON names a class of a closed table and holds plain numbers only, so a folder from a stranger cannot run code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nuwa_lightning.atomic import atomic_folder
from nuwa_lightning.errors import UsageError
from nuwa_lightning.legacy import upgrade_state, upgraded
from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder, PixelGuidedSize
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.tokenizers.base import Tokenizer

KIND = "nuwa-lightning tokenizer"
GUIDED_KIND = "nuwa-lightning pixel-guided decoder"
FORMAT = 1
_CLASSES = {"VQGAN": VQGAN}


def save_tokenizer(folder: str | os.PathLike[str], vqgan: VQGAN) -> None:
    """Write the folder, whole or not at all; a folder that is there is replaced.

    Raises:
        OSError: if it cannot be written.
    """
    said = {"class": type(vqgan).__name__, "size": vqgan.size.as_dict(), "fingerprint": vqgan.fingerprint()}
    _save(folder, vqgan, {"kind": KIND, "format": FORMAT, **said})


def load_tokenizer(folder: str | os.PathLike[str], *, option: str = "--tokenizer.path") -> VQGAN:
    """Read a folder that :func:`save_tokenizer` wrote; the tokenizer comes frozen, in evaluation mode.

    Args:
        folder: the folder itself, or a stage-1 run that holds it as ``tokenizer``.
        option: what the user called it, for error messages.

    Raises:
        UsageError: if the folder is missing, of another kind or format, or damaged.
    """
    path = _inside(folder, "tokenizer")
    vqgan = _build(_read_config(path, KIND, option), path, option)
    _load_weights(vqgan, path, option)
    return vqgan.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def save_pixel_guided(folder: str | os.PathLike[str], guided: PixelGuidedDecoder) -> None:
    """Write the folder, whole or not at all; a folder that is there is replaced.

    Raises:
        OSError: if it cannot be written.
    """
    said = {"size": guided.size.as_dict(), "tokenizer_fingerprint": guided.fingerprint()}
    _save(folder, guided, {"kind": GUIDED_KIND, "format": FORMAT, **said})


def load_pixel_guided(
    folder: str | os.PathLike[str], *, tokenizer: Tokenizer | None = None, option: str = "--tokenizer.guided"
) -> PixelGuidedDecoder:
    """Read a folder that :func:`save_pixel_guided` wrote; the decoder comes frozen, in evaluation mode.

    Args:
        folder: the folder itself, or a run that holds it as ``pixel_guided``.
        tokenizer: the one whose tokens are to be decoded; without, it is not checked.
        option: what the user called it, for error messages.

    Raises:
        UsageError: if the folder is missing, of another kind or format, damaged, or of another tokenizer.
    """
    path = _inside(folder, "pixel_guided")
    config = _read_config(path, GUIDED_KIND, option)
    try:
        size, fingerprint = PixelGuidedSize.from_dict(config["size"]), config["tokenizer_fingerprint"]
        if not isinstance(fingerprint, str):
            raise TypeError(f"tokenizer_fingerprint {fingerprint!r}: a text is needed")
        with torch.device("meta"):
            guided = PixelGuidedDecoder.build(size, tokenizer=fingerprint)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(option, path, f"config.json makes no sense ({error}): copy the folder again") from None
    if tokenizer is not None:
        guided.check_tokenizer(tokenizer, option=option, value=path)
    _load_weights(guided, path, option)
    return guided.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def first_not_finite(state: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor of a state dict that holds NaN or infinity, or None."""
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None


def _inside(folder: str | os.PathLike[str], name: str) -> Path:
    path = Path(folder)
    if not (path / "config.json").exists() and (path / name / "config.json").exists():
        return path / name
    return path


def _save(folder: str | os.PathLike[str], module: nn.Module, config: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder, overwrite=True) as partial:
        (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        save_file(state, partial / "model.safetensors")


def _load_weights(module: nn.Module, path: Path, option: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path / "model.safetensors")
    except FileNotFoundError:
        raise UsageError(option, path, "model.safetensors is missing: copy the folder again or retrain") from None
    except (SafetensorError, OSError) as error:
        raise UsageError(option, path, f"model.safetensors is damaged ({error}): copy it again or retrain") from None
    spoiled = first_not_finite(state)
    if spoiled is not None:
        raise UsageError(option, path, f"{spoiled} holds NaN or infinity: train it again or name another")
    try:
        upgrade_state(state)
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise UsageError(option, path, f"weights and config.json do not belong together: {first}") from None


def _read_config(path: Path, wanted: str, option: str) -> Mapping[str, Any]:
    what = wanted.removeprefix("nuwa-lightning ")
    if path.is_file():
        raise UsageError(option, path, "is a file: name the folder with config.json and model.safetensors")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(option, path, f"there is no {what} here: name a folder with config.json") from None
    except (OSError, ValueError) as error:
        raise UsageError(option, path, f"config.json cannot be read ({error}): copy the folder again") from None
    kind = config.get("kind") if isinstance(config, Mapping) else None
    if kind != wanted:
        raise UsageError(option, path, f"holds {kind or 'something else'}, not a {wanted}: name the folder of one")
    if config.get("format") != FORMAT:
        raise UsageError(option, path, f"has format {config.get('format')}, this version reads {FORMAT}")
    return dict(upgraded(config))


def _build(config: Mapping[str, Any], path: Path, option: str) -> VQGAN:
    kind = _CLASSES.get(str(config.get("class")))
    if kind is None:
        raise UsageError(option, path, f"class {config.get('class')} is unknown; known: {', '.join(_CLASSES)}")
    try:
        size = VQGANConfig.from_dict(config["size"])
        with torch.device("meta"):  # no memory is taken before the weights turn out to fit
            return kind.build(size)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(option, path, f"config.json makes no sense ({error}): copy the folder again") from None
