"""Text encoders of the Hugging Face library: CLIP's, as in the paper, and any other.

``transformers`` is an optional dependency, imported when an encoder is used. Code of a repository is never run
(``trust_remote_code=False`` is passed everywhere, so the library does not even ask), and only safetensors weights are
read.

Shape legend: B captions, S tokens of a caption, E width of a token.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.text.base import TextEncoder, say_cut

_CLIP: Final = ("clip", "clip_text_model")
"""What a whole CLIP and its text half are called in ``config.json``."""
_CLIP_NAME: Final = "openai/clip-vit-base-patch32"


@dataclass(frozen=True)
class _Transformers(TextEncoder):
    """A model of the library, loaded when it is needed."""

    name: str
    max_tokens: int = 77

    def __post_init__(self) -> None:
        _check_tokens(self.max_tokens, 1, None)

    @property
    def width(self) -> int:
        return self._loaded.width

    def fingerprint(self) -> str:
        return f"{self._loaded.fingerprint} {self.max_tokens}"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        return self._loaded.encode(captions, self.max_tokens)

    @property
    def _loaded(self) -> _Loaded:
        loaded = _load(self.name, clip=isinstance(self, ClipTextEncoder))
        _check_tokens(self.max_tokens, *loaded.limits)
        return loaded


@final
@dataclass(frozen=True)
class ClipTextEncoder(_Transformers):
    """The text half of CLIP: 77 tokens of 512 numbers with the default (paper: frozen CLIP text encoder, ViT-B/32).

    Args:
        name: a folder with a whole CLIP or its text half, or a name on the hub (downloaded once by ``transformers``).
        max_tokens: the most tokens that the model reads at once.
        long_captions: ``cut`` a caption that is longer, and say where; or read it in ``chunks`` of that many tokens,
            each with its own beginning and end, whose states follow one another.

    Raises:
        UsageError: if ``max_tokens`` is below 1; if it is above what the model reads, when that is loaded.
    """

    name: str = _CLIP_NAME
    long_captions: Literal["cut", "chunks"] = "cut"

    def expected_size(self) -> tuple[int, int]:
        """See `TextEncoder.expected_size`; the paper's model is not fetched to be counted."""
        return (512, self.max_tokens) if self.name == _CLIP_NAME else super().expected_size()

    def fingerprint(self) -> str:
        return f"CLIP {super().fingerprint()}{' chunks' if self.long_captions == 'chunks' else ''}"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        return self._loaded.encode(captions, self.max_tokens, chunked=self.long_captions == "chunks")


@final
@dataclass(frozen=True)
class HuggingFaceTextEncoder(_Transformers):
    """The last states of any text encoder, of encoder-decoder models the encoder's half (BERT, T5, ...).

    Args:
        name: a folder, or a name on the hub (downloaded once by ``transformers``).
        max_tokens: longer captions are cut.

    Raises:
        UsageError: if ``max_tokens`` is below 1; if it is above what the model reads, when that is loaded.
    """


@final
@dataclass(frozen=True)
class _Loaded:
    """A tokenizer and a frozen model."""

    tokenizer: Any
    model: Any
    width: int

    @property
    def limits(self) -> tuple[int, int | None]:
        """The fewest and the most tokens of a caption; None where positions are relative."""
        # A tokenizer that knows no limit tells a huge one; of some models not all positions are for tokens.
        positions = getattr(self.model.config, "max_position_embeddings", None)
        most = None if positions is None else min(int(positions), int(self.tokenizer.model_max_length))
        return int(self.tokenizer.num_special_tokens_to_add()) + 1, most

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the weights and the vocabulary, so that equal names of other models are told apart."""
        digest = hashlib.sha256(json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode())
        for key, value in sorted(self.model.state_dict().items()):
            if _of_states(key):
                digest.update(key.encode())
                digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def encode(self, captions: Sequence[str], max_tokens: int, *, chunked: bool = False) -> list[Tensor]:
        """See `TextEncoder.encode`; ``chunked`` reads all of a long caption, in pieces."""
        if chunked:
            pieces = [self._chunks(caption, max_tokens) for caption in captions]
            states = iter(self._states([torch.tensor(piece) for some in pieces for piece in some]))
            return [torch.cat([next(states) for _ in some]) for some in pieces]
        found = self.tokenizer(list(captions), truncation=True, max_length=max_tokens)["input_ids"]
        for caption, one in zip(captions, found, strict=True):
            if len(one) == max_tokens and len(self.tokenizer(caption, verbose=False)["input_ids"]) > max_tokens:
                self._say_cut(caption, max_tokens)
        return self._states([torch.tensor(one) for one in found])

    def _say_cut(self, caption: str, max_tokens: int) -> None:
        room = max_tokens - int(self.tokenizer.num_special_tokens_to_add())
        ends = [m.start() for m in re.finditer(r" |$", caption)]
        read = (caption[:end] for end in reversed(ends))
        fits = (text for text in read if len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) <= room)
        say_cut(caption, next(fits, ""), max_tokens)

    def _chunks(self, caption: str, max_tokens: int) -> list[list[int]]:
        options = {"truncation": True, "max_length": max_tokens, "return_overflowing_tokens": True}
        found: list[list[int]] = self.tokenizer([caption], **options)["input_ids"]
        return found

    def _states(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        # Filled up here and not by the tokenizer, since some have no token for that; the mask hides it.
        filling = self.tokenizer.pad_token_id or 0
        tokens_BS = torch.nn.utils.rnn.pad_sequence(list(tokens), batch_first=True, padding_value=filling)
        text_mask_BS = torch.arange(tokens_BS.shape[1]) < torch.tensor([[len(one)] for one in tokens])
        states_BSE = self.model(input_ids=tokens_BS, attention_mask=text_mask_BS.long()).last_hidden_state
        return [states_SE[: len(one)] for states_SE, one in zip(states_BSE, tokens, strict=True)]


@functools.lru_cache(maxsize=2)
def _load(name: str, *, clip: bool) -> _Loaded:
    try:
        import transformers
    except ImportError:
        hint = "needs the package transformers: pip install 'nuwa-lightning[text]'"
        raise UsageError("text encoder", name, hint) from None
    try:
        with _quiet(transformers, name):
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
            is_clip = config.model_type in _CLIP
            if clip and not is_clip:
                raise UsageError("text encoder", name, "is no CLIP: use HuggingFaceTextEncoder")
            kind = transformers.CLIPTextModel if is_clip else transformers.AutoModel
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            options: dict[str, Any] = {} if is_clip else {"trust_remote_code": False}
            model, info = kind.from_pretrained(name, use_safetensors=True, output_loading_info=True, **options)
    except UsageError:
        raise
    except Exception as error:  # the library raises nearly everything, depending on what is missing
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = f"cannot be loaded ({reason}): name a folder with safetensors weights, or a model on the hub"
        raise UsageError("text encoder", name, hint) from None
    missing = sorted(key for key in info["missing_keys"] if _of_states(key))
    if missing:  # the library would make them up
        hint = f"lacks {len(missing)} weights, the first is {missing[0]}: name a folder with all of them"
        raise UsageError("text encoder", name, hint)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    width = getattr(model.config, "hidden_size", None)
    if not isinstance(width, int):
        raise UsageError("text encoder", name, f"is of kind {model.config.model_type}, which is no text encoder")
    return _Loaded(tokenizer, model.eval().requires_grad_(False), width)


@contextmanager
def _quiet(transformers: Any, name: str) -> Iterator[None]:
    """Keep the library from listing what else is in a file (of a whole CLIP, all that sees); downloads are shown."""
    logging = transformers.logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled() and Path(name).is_dir()
    logging.set_verbosity_error()
    if bar:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _of_states(key: str) -> bool:
    """Say whether a weight has to do with the states of tokens; a pooler only reads them, and is often missing."""
    return not key.startswith("pooler.")


def _check_tokens(value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        limits = f"{least} or more" if most is None else f"{least} to {most}"
        raise UsageError("max_tokens", value, f"give {limits} tokens, beginning and end included")
