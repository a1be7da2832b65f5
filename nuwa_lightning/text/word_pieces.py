"""BERT's uncased word pieces, in plain Python."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

_LONGEST_WORD = 100


class WordPieces:
    r"""Cut text into word pieces: lower case, accents off, punctuation apart, then the longest known pieces in turn.

    Args:
        vocabulary: a file with one piece a line; its number is the piece's.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "vocab.txt"
        >>> _ = path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nlake\nsnow\n##y\n,\n")
        >>> WordPieces(path)("Snowy LAKE, lake!", limit=9)
        [2, 5, 6, 4, 7, 4, 1, 3]
    """

    def __init__(self, vocabulary: Path) -> None:
        lines = vocabulary.read_text(encoding="utf-8").split("\n")
        self._number = {piece: number for number, piece in enumerate(lines) if piece}
        self._unknown = self._number["[UNK]"]

    def __call__(self, text: str, *, limit: int) -> list[int]:
        """Return the numbers of at most ``limit`` pieces, those for beginning and end included."""
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        return [self._number["[CLS]"], *pieces[: limit - 2], self._number["[SEP]"]]

    def fitting(self, text: str, *, limit: int) -> str:
        """Return the text, or as many of its words as are read whole."""
        words = text.split(" ")
        for count in range(len(words), 0, -1):
            pieces = sum(len(self._pieces(word)) for word in _words(" ".join(words[:count])))
            if pieces <= limit - 2:
                return " ".join(words[:count])
        return ""

    def _pieces(self, word: str) -> list[int]:
        found: list[int] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self._number), None)
            if end is None or len(word) > _LONGEST_WORD:
                return [self._unknown]
            found.append(self._number[mark + word[start:end]])
            start = end
        return found


def _words(text: str) -> Iterator[str]:
    word = ""
    for sign in unicodedata.normalize("NFD", _clean(text).lower()):
        category = unicodedata.category(sign)
        if category == "Mn":
            continue
        alone = _is_punctuation(sign, category) or _is_chinese(sign)
        if word and (alone or sign.isspace()):
            yield word
            word = ""
        if alone:
            yield sign
        elif not sign.isspace():
            word += sign
    if word:
        yield word


def _clean(text: str) -> str:
    """Return text without control characters; any white space becomes a blank."""
    kept = []
    for sign in text:
        if sign in "\t\n\r" or unicodedata.category(sign) == "Zs":
            kept.append(" ")
        elif sign not in "\0\ufffd" and not unicodedata.category(sign).startswith("C"):
            kept.append(sign)
    return "".join(kept)


def _is_punctuation(sign: str, category: str) -> bool:
    # BERT counts every ASCII sign that is no letter, digit or blank, such as $ and ^.
    ascii_sign = sign.isascii() and not sign.isalnum() and not sign.isspace()
    return ascii_sign or category.startswith("P")


def _is_chinese(sign: str) -> bool:
    code = ord(sign)
    blocks = (
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B820, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    )
    return any(first <= code <= last for first, last in blocks)
