"""Text encoders of the Hugging Face library: CLIP's, as in the paper, and any other.

``transformers`` is an optional dependency, imported when an encoder is used. Code of a repository is never run
(``trust_remote_code`` stays off) and only safetensors weights are read.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.text.base import TextEncoder


@final
@dataclass(frozen=True)
class ClipTextEncoder(TextEncoder):
    """The text half of CLIP: 77 tokens of 512 numbers with the default (paper: frozen CLIP text encoder, ViT-B/32).

    Args:
        name: a folder, or a name on the hub (downloaded once by ``transformers``).
        max_tokens: longer captions are cut.
    """

    name: str = "openai/clip-vit-base-patch32"
    max_tokens: int = 77

    @property
    def width(self) -> int:
        """See `TextEncoder.width`."""
        return int(_load(self.name, clip=True)[1].config.hidden_size)

    def fingerprint(self) -> str:
        """See `TextEncoder.fingerprint`."""
        return f"CLIP {_fingerprint(self.name, clip=True)} {self.max_tokens}"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """See `TextEncoder.encode`."""
        return _encode(self.name, captions, max_tokens=self.max_tokens, clip=True)


@final
@dataclass(frozen=True)
class HuggingFaceTextEncoder(TextEncoder):
    """The last states of any text encoder, of encoder-decoder models the encoder's half (BERT, T5, ...).

    Args:
        name: a folder, or a name on the hub (downloaded once by ``transformers``).
        max_tokens: longer captions are cut.
    """

    name: str
    max_tokens: int = 77

    @property
    def width(self) -> int:
        """See `TextEncoder.width`."""
        return int(_load(self.name, clip=False)[1].config.hidden_size)

    def fingerprint(self) -> str:
        """See `TextEncoder.fingerprint`."""
        return f"{_fingerprint(self.name, clip=False)} {self.max_tokens}"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """See `TextEncoder.encode`."""
        return _encode(self.name, captions, max_tokens=self.max_tokens, clip=False)


@functools.lru_cache(maxsize=2)
def _load(name: str, *, clip: bool) -> tuple[Any, Any]:
    """Return tokenizer and frozen model.

    Raises:
        UsageError: if the library or the model is not there.
    """
    try:
        import transformers
    except ImportError:
        cure = "needs the package transformers: pip install 'nuwa-lightning[text]'"
        raise UsageError("text encoder", name, cure) from None
    kind = transformers.CLIPTextModel if clip else transformers.AutoModel
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = kind.from_pretrained(name, use_safetensors=True)
    except Exception as error:  # the library raises nearly everything, depending on what is missing
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        cure = f"cannot be loaded ({reason}): name a folder with safetensors weights, or a model on the hub"
        raise UsageError("text encoder", name, cure) from None
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return tokenizer, model.eval().requires_grad_(False)


@functools.lru_cache(maxsize=2)
def _fingerprint(name: str, *, clip: bool) -> str:
    """Return a hash of the weights and the vocabulary, so that equal names of other models are told apart."""
    tokenizer, model = _load(name, clip=clip)
    digest = hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _encode(name: str, captions: Sequence[str], *, max_tokens: int, clip: bool) -> list[Tensor]:
    tokenizer, model = _load(name, clip=clip)
    batch = tokenizer(list(captions), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    states_BSE = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    seen_BS = batch["attention_mask"].bool()
    return [states_SE[seen_S] for states_SE, seen_S in zip(states_BSE, seen_BS, strict=True)]
