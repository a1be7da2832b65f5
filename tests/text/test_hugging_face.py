"""Encoders of the Hugging Face library, on models of random weights: every kind of folder, and limits in one line."""

from __future__ import annotations

import io
import re
import string
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nuwa_lightning.errors import UsageError
from nuwa_lightning.testing import check_text_encoder
from nuwa_lightning.text import ClipTextEncoder, HuggingFaceTextEncoder, TextEncoder
from tests.text.own_code import with_code

SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
ENDS = ["<|startoftext|>", "<|endoftext|>"]
WORDS = {piece: n for n, piece in enumerate([*ENDS, *string.ascii_lowercase, *(c + "</w>" for c in "abcdefghijk")])}


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip(library: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP whose text half is as wide as that of ViT-B/32, with one layer."""
    folder = tmp_path_factory.mktemp("clip")
    library.CLIPTokenizer(vocab=WORDS, merges=[]).save_pretrained(folder)
    tokens = {"vocab_size": len(WORDS), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**SMALL, **tokens, "hidden_size": 512, "num_attention_heads": 8}
    seen = {**SMALL, "hidden_size": 16, "image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    library.CLIPModel(library.CLIPConfig(text_config=text, vision_config=seen)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("encoder", [ClipTextEncoder, HuggingFaceTextEncoder])
def test_a_whole_clip_gives_77_tokens_of_512_without_a_word(library: Any, clip: Path, encoder: Any, capfd) -> None:
    capfd.readouterr()
    made: TextEncoder = encoder(str(clip))
    states = made.states(["a b " * 100, "abc"])
    assert [tuple(s.shape) for s in states] == [(77, 512), (5, 512)]
    assert made.width == 512
    assert capfd.readouterr() == ("", "")
    assert library.logging.get_verbosity() == library.logging.WARNING
    model = library.CLIPTextModel.from_pretrained(clip)
    with torch.no_grad():
        alone = model(torch.tensor([[0, *(WORDS[c] for c in ("a", "b", "c</w>")), 1]])).last_hidden_state[0]
    torch.testing.assert_close(states[1].float(), alone, atol=2e-3, rtol=2e-3)
    check_text_encoder(made)


@pytest.mark.parametrize("encoder", [ClipTextEncoder, HuggingFaceTextEncoder])
def test_more_or_fewer_tokens_than_the_model_reads_are_one_line(clip: Path, encoder: Any) -> None:
    with pytest.raises(UsageError, match=r"^max_tokens: 0: give 1 or more tokens"):
        encoder(str(clip), max_tokens=0)
    for wrong in (2, 78):
        for use in (lambda e: e.width, lambda e: e.fingerprint(), lambda e: e.states(["a"])):
            with pytest.raises(UsageError, match=f"^max_tokens: {wrong}: give 3 to 77 tokens"):
                use(encoder(str(clip), max_tokens=wrong))
    assert encoder(str(clip), max_tokens=3).states(["abcdef"])[0].shape == (3, 512)


def test_a_tokenizer_without_a_token_for_filling(library: Any, tmp_path: Path) -> None:
    """As that of GPT-2 is: captions of other lengths beside it change nothing."""
    tokenizer = library.GPT2Tokenizer(vocab={**WORDS, "Ġ": len(WORDS)}, merges=[])
    assert tokenizer.pad_token is None
    tokenizer.save_pretrained(tmp_path)
    config = library.GPT2Config(
        vocab_size=len(WORDS) + 1, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1
    )
    library.GPT2Model(config).save_pretrained(tmp_path)
    encoder = HuggingFaceTextEncoder(str(tmp_path))
    long, short = encoder.states(["abcdefg", "abc"])
    assert (long.shape, short.shape, encoder.width) == ((7, 8), (3, 8), 8)
    torch.testing.assert_close(encoder.states(["abc"])[0], short, atol=2e-3, rtol=2e-3)
    with pytest.raises(UsageError, match=r"text encoder: .*: is no CLIP: use HuggingFaceTextEncoder"):
        ClipTextEncoder(str(tmp_path)).states(["a"])


def test_weights_are_never_made_up(library: Any, clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    library.CLIPTokenizer(vocab=WORDS, merges=[]).save_pretrained(tmp_path)
    torch.manual_seed(0)
    bert = library.BertModel(library.BertConfig(vocab_size=len(WORDS), hidden_size=16, **SMALL))
    bert.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")

    def kept(*gone: str) -> HuggingFaceTextEncoder:
        some = {key: value for key, value in weights.items() if not key.startswith(gone)}
        save_file(some, tmp_path / "model.safetensors", metadata={"format": "pt"})
        # Two names of one folder, since a name is loaded once.
        return HuggingFaceTextEncoder(str(tmp_path) + "/" * len(gone))

    whole = kept().fingerprint()
    assert kept("pooler.").fingerprint() == whole  # nothing of it is read
    with pytest.raises(UsageError) as caught:
        kept("encoder.layer.0.attention", "pooler.").states(["a"])
    assert re.search(r"lacks \d+ weights, the first is encoder\.layer\.0\.attention", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoder", [ClipTextEncoder, HuggingFaceTextEncoder])
@pytest.mark.parametrize("kind", ["clip", "bert", "mine"])
def test_code_in_a_folder_stays_off(clip: Path, tmp_path: Path, monkeypatch, encoder: Any, kind: str) -> None:
    """Nobody is asked either: a module in the folder of a model is never imported."""
    folder = with_code(clip, tmp_path, kind)
    monkeypatch.setattr(sys, "stdin", answers := io.StringIO("y\n" * 9))
    if kind == "clip":  # a model that the library knows is read by the library's own code
        assert encoder(str(folder)).width == 512
    else:
        with pytest.raises(UsageError, match=f"^text encoder: {folder}: ") as caught:
            encoder(str(folder)).states(["a"])
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert answers.tell() == 0


def test_a_model_of_images_is_refused(library: Any, tmp_path: Path) -> None:
    library.CLIPTokenizer(vocab=WORDS, merges=[]).save_pretrained(tmp_path)
    seen = {**SMALL, "hidden_size": 16, "image_size": 8, "patch_size": 4}
    text = {**SMALL, "hidden_size": 16, "vocab_size": len(WORDS), "projection_size": 16}
    library.SiglipModel(library.SiglipConfig(text_config=text, vision_config=seen)).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="is of kind siglip, which is no text encoder"):
        HuggingFaceTextEncoder(str(tmp_path)).states(["a"])
