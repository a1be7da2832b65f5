"""Text files as people have them: in which encoding one is, where that can be told, and what no encoder reads."""

import codecs
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

_LOG = logging.getLogger(__name__)

_MARKS: Final = {
    codecs.BOM_UTF32_LE: "utf-32",  # begins as the mark of UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NO_TEXT: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but for those of lines and tabs, and halves of characters."""
_WORD: Final = re.compile(r"[^\W\d_]+")
_SIGNS: Final = "°£€«»\u2018\u201c\u201d\u201e\u2026"
_WESTERN: Final = frozenset(f"àáâãäåæçèéêëìíîïñòóôõöøœùúûüßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØŒÙÚÛÜ\xa0\u2019\u2013\u2014{_SIGNS}")
"""Of cp1252. Left out is what other encodings often become when they are read so: ð, þ, ý (Turkish), ¹, ³ (Polish)."""
_LONG_WORD: Final = 20
_SIGN_WITHIN: Final = re.compile(rf"\w[{_SIGNS}]\w")
"""Letters of DOS (cp850)."""


def decoded(raw: bytes, path: Path) -> str:
    """Return the text of a file: UTF-8, or UTF-16 and UTF-32 with a mark, or what is plainly Western European.

    Raises:
        UnicodeError: if it is none of these, or damaged.
    """
    for mark, name in _MARKS.items():
        if raw.startswith(mark):
            return raw.decode(name)
    guesses: tuple[str, ...] = ("utf-16-le", "utf-16-be")  # of Latin text every other byte is zero
    if b"\0" not in raw:
        guesses = ("cp1252",)
        with suppress(UnicodeDecodeError):
            return raw.decode("utf-8-sig")
    for guess in guesses:
        with suppress(UnicodeDecodeError):
            if _is_western(text := raw.decode(guess)):
                if guess == "cp1252":
                    word = next(word for word in text.split() if not word.isascii())
                    _LOG.warning("%s: not UTF-8, read as cp1252 (%s): save it as UTF-8 if that is wrong", path, word)
                return text
    raise UnicodeError("it is not UTF-8")


def check_text(text: str) -> None:
    """Refuse what is no text.

    Raises:
        UnicodeError: if there are control characters in it, or halves of characters (surrogates).
    """
    if (found := _NO_TEXT.search(text)) is not None:
        kind = "half of a character" if found[0] >= "\ud800" else "a control character"
        raise UnicodeError(f"holds {kind}, {found[0]!a}")


def _is_western(text: str) -> bool:
    """Say whether a guess at an encoding gives text of Western Europe: most letters, and some of each word, are ASCII.

    Cyrillic, Greek or Chinese that is read as cp1252 gives words without an ASCII letter, and UTF-16 no spaces.
    """
    parts = re.split(r"[ \t\r\n]+", text.strip())
    words = _WORD.findall(text)
    letters = "".join(words)
    return (
        not _NO_TEXT.search(text)
        and 1 < len(parts) > len(text) / _LONG_WORD
        and all(char.isascii() or char in _WESTERN for char in text)
        and all(len(word) == 1 or any(char.isascii() for char in word) for word in words)
        and 2 * sum(char.isascii() for char in letters) > len(letters)
        and not _SIGN_WITHIN.search(text)
    )
