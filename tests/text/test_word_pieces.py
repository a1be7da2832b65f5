from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuwa_lightning.text.minilm import PACKAGE
from nuwa_lightning.text.word_pieces import WordPieces


@functools.cache
def both() -> tuple[WordPieces, Any]:
    """Our cutter and the reference: the Rust library, with the package's own description of the tokenizer."""
    tokenizers = pytest.importorskip("tokenizers")
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{PACKAGE} is not installed")
    folder = Path(next(iter(spec.submodule_search_locations)), "model")
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(64)
    return WordPieces(folder / "vocab.txt"), reference


# Beyond these the two know different versions of Unicode; and the reference takes a written [SEP] for the real one.
SIGNS = st.characters(max_codepoint=0x2FFF, exclude_categories=["Cn", "Co", "Cs"], exclude_characters="[")


@given(st.text(SIGNS, max_size=60))
def test_any_text_is_cut_as_by_the_reference(text: str) -> None:
    ours, reference = both()
    assert ours(text, limit=64) == reference.encode(text).ids


@pytest.mark.parametrize(
    "text",
    [
        "a snowy mountain above a lake at dusk",
        'Ünïcode naïve CAFÉ, 日本の湖 -- "quoted", don\'t (x) $3.50 ^_^',
        "pneumonoultramicroscopicsilicovolcanoconiosis " * 20,
        "x" * 150,
        "tabs\tand\u00a0blanks\r\nﬁ \u200b \ufffd \0",
        "",
    ],
)
def test_hard_cases(text: str) -> None:
    ours, reference = both()
    assert ours(text, limit=64) == reference.encode(text).ids
