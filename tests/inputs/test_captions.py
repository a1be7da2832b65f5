"""Captions: the words as they were written, or one line with the number of the line."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from nuwa_lightning.data import FolderPhotos
from nuwa_lightning.errors import UsageError
from tests.data.conftest import Paint

WORDS = "Seeufer im Grünen, Café \u2013 früh"
ROWS = f'file_name,text\na.png,"{WORDS}"\nb.png,dunes\n'
SEMI = f"file_name;text\na.png;{WORDS}\nb.png;dunes\n"
SAID = {"a.png": WORDS, "b.png": "dunes"}
JSON = "\n".join(json.dumps({"file_name": name, "text": SAID[name]}, ensure_ascii=False) for name in SAID)
TABLES = {
    "UTF-8": ("captions.csv", ROWS.encode()),
    "UTF-8 with a mark": ("captions.csv", ROWS.encode("utf-8-sig")),
    "UTF-16": ("captions.csv", ROWS.encode("utf-16")),
    "UTF-16, big-endian with a mark": ("captions.csv", b"\xfe\xff" + ROWS.encode("utf-16-be")),
    "UTF-16, little-endian without": ("captions.csv", ROWS.encode("utf-16-le")),
    "UTF-16, big-endian without": ("captions.csv", ROWS.encode("utf-16-be")),
    "cp1252": ("captions.csv", ROWS.encode("cp1252")),
    "line ends of Windows": ("captions.csv", ROWS.replace("\n", "\r\n").encode()),
    "line ends of old Macs": ("captions.csv", ROWS.replace("\n", "\r").encode()),
    "semicolons": ("captions.csv", SEMI.encode()),
    "semicolons, told": ("captions.csv", b"sep=;\r\n" + SEMI.encode("cp1252")),
    "semicolons as Excel writes": ("captions.csv", SEMI.replace("\n", "\r\n").encode("utf-8-sig")),
    "tabs named CSV": ("captions.csv", SEMI.replace(";", "\t").encode()),
    "empty cells at the end": ("captions.csv", SEMI.replace("dunes", "dunes;;").encode()),
    "decomposed accents": ("captions.csv", unicodedata.normalize("NFD", ROWS).encode()),
    "JSON lines": ("metadata.jsonl", JSON.encode()),
    "JSON lines, UTF-16": ("metadata.jsonl", JSON.encode("utf-16")),
    "JSON lines, cp1252": ("metadata.jsonl", JSON.encode("cp1252")),
    "JSON lines with a line separator within": ("metadata.jsonl", JSON.replace("Grünen, ", "Grünen,\u2028").encode()),
}


def captions_of(folder: Path) -> dict[str, str]:
    return {photo.key: photo.caption for photo in FolderPhotos(str(folder), val_fraction=0).photos("train")}


@pytest.fixture
def folder(paint: Paint, tmp_path: Path) -> Path:
    for number, name in enumerate("ab"):
        paint(f"p/{name}.png", seed=number)
    return tmp_path / "p"


@pytest.mark.parametrize("kind", TABLES)
def test_tables(folder: Path, kind: str) -> None:
    name, content = TABLES[kind]
    (folder / name).write_bytes(content)
    assert captions_of(folder) == SAID


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_texts_beside(folder: Path, encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a.txt").write_bytes(f"{WORDS}\r\n".encode(encoding))
    assert captions_of(folder)["a.png"] == WORDS
    assert ("read as cp1252" in caplog.text) == (encoding == "cp1252")


@pytest.mark.parametrize("name", ["NFC", "NFD"])
@pytest.mark.parametrize("said", ["NFC", "NFD"])
@pytest.mark.parametrize("beside", [False, True])
def test_accents_of_names(folder: Path, name: str, said: str, beside: bool, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a.png").rename(folder / unicodedata.normalize(name, "café.png"))
    if beside:
        (folder / unicodedata.normalize(said, "café.txt")).write_text("coffee")
    else:
        (folder / "captions.csv").write_text(f"file,caption\n{unicodedata.normalize(said, 'café.png')},coffee\n")
    assert "coffee" in captions_of(folder).values()
    assert "without a file" not in caplog.text


REFUSED = {
    "an unquoted comma": ("captions.csv", b"file_name,text\na.png,snow\nb.png,snow, fog\n", "line 3 has 3 cells"),
    "an unquoted semicolon": ("captions.csv", b"file_name;text\na.png;snow; fog\n", "line 2 has 3 cells"),
    "a cell too few": ("captions.csv", b"file_name,text,by\na.png,snow\n", "line 2 has 2 cells, the header 3"),
    "a quotation that never ends": ("captions.csv", b'file_name,text\na.png,"snow\nb.png,fog\n', "is damaged"),
    "bytes of no text": ("captions.csv", b"file_name,text\na.png,\x81\x8d\n", "is damaged"),
    "half a letter of UTF-16": ("captions.csv", ROWS.encode("utf-16")[:-1], "is damaged"),
    "a line that is no JSON": ("metadata.jsonl", JSON.encode() + b"\n{", "line 3 is no JSON"),
    "deep JSON": ("metadata.jsonl", b"[" * 100_000, "line 1 is no JSON"),
    "a list": ("metadata.jsonl", b"[1]", "line 1 is no JSON object"),
    "no caption": ("metadata.jsonl", b'{"file_name": "a.png"}', "line 1 has no caption"),
    "a number for a caption": ("metadata.jsonl", b'{"file_name": "a.png", "text": 7}', "line 1 has no caption"),
    "no column of names": ("captions.csv", b"x,text\na.png,snow\n", "line 2 has no file name"),
    "a text of no letters": ("a.txt", b"\x81\x8d", "cannot be read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_one_line(folder: Path, kind: str) -> None:
    name, content, words = REFUSED[kind]
    (folder / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        captions_of(folder)
    assert words in str(caught.value)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)
