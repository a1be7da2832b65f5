"""Captions: the words as they were written, or one line with the number of the line."""

# ruff: noqa: RUF001 - other alphabets

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from nuwa_lightning.data import FolderPhotos
from nuwa_lightning.errors import UsageError
from tests.data.conftest import Paint
from tests.text.letters import Letters

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
    "UTF-32": ("captions.csv", ROWS.encode("utf-32")),
    "UTF-32, big-endian with a mark": ("captions.csv", b"\0\0\xfe\xff" + ROWS.encode("utf-32-be")),
    "bars": ("captions.csv", SEMI.replace(";", "|").encode()),
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


WESTERN = {
    "French": "L\u2019été près de l\u2019île, ça brûle ici\u2026",
    "Italian": "Il lago è più blu",
    "Spanish": "Una montaña al atardecer, «el niño»",
    "Portuguese": "A manhã no verão",
    "Danish": "Søen på en ø",
    "Finnish": "Järvi yöllä, ääni",
    "a foreign name": "A lake near Malmö",
}


@pytest.mark.parametrize("language", WESTERN)
def test_what_windows_wrote_in_western_europe(folder: Path, language: str, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a.txt").write_bytes(WESTERN[language].encode("cp1252"))
    assert captions_of(folder)["a.png"] == WESTERN[language]
    (record,) = (record for record in caplog.records if "cp1252" in record.getMessage())
    word = next(word for word in WESTERN[language].split() if not word.isascii())
    assert f"a.txt: not UTF-8, read as cp1252 ({word})" in record.getMessage()


OTHERS = {
    "gb18030": "湖水平静，远处有雪山",
    "big5": "湖水平靜，遠處有雪山",
    "shift_jis": "山の湖、夕焼け",
    "euc_jp": "山の湖",
    "euc_kr": "호수와 산",
    "cp1251": "Озеро в горах",
    "koi8_r": "Озеро в горах",
    "cp866": "Озеро в горах",
    "cp1253": "Λίμνη στα βουνά",
    "cp1255": "אגם בהרים",
    "cp1256": "بحيرة",
    "cp1250": "Przepływa rzeka i las",
    "cp1254": "Dağlar ve göl",
    "cp850": "Bäume am schönen See",
    "cp437": "Un été près du lac",
    "utf-16-le": "湖" * 150 + " lake",
    "utf-16-be": "湖" * 150 + " lake",
    "utf-32-le": "a lake",
    "utf-32-be": "a lake",
}


@pytest.mark.parametrize("more", ["", "A lake in summer, snow and a hill: {}, seen from a boat"])
@pytest.mark.parametrize("encoding", OTHERS)
def test_what_is_not_known_for_sure_is_refused(folder: Path, encoding: str, more: str) -> None:
    text = more.format(OTHERS[encoding]) if more else OTHERS[encoding]
    (folder / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(UsageError, match=r"a\.txt: cannot be read \(it is not UTF-8\): save it as UTF-8$"):
        captions_of(folder)
    (folder / "a.txt").unlink()
    (folder / "captions.csv").write_bytes(f'file_name,text\na.png,"{text}"\n'.encode(encoding))
    with pytest.raises(UsageError, match=r"captions\.csv: is damaged \(it is not UTF-8\): save it as UTF-8 CSV"):
        captions_of(folder)


@pytest.mark.parametrize("text", ["湖边", "雪山下", "静かな湖", "Лес и река"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_short_texts_of_utf_16_without_a_mark(folder: Path, encoding: str, text: str) -> None:
    (folder / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(UsageError, match=r"a\.txt: cannot be read \((it is not UTF-8|holds a control character)"):
        captions_of(folder)


TOLD = {
    "two rows for a file": (
        "captions.csv",
        "file_name,text\na.png,snow\nb.png,dunes\na.png,snow\n./a.png,fog\n",
        "captions.csv: 1 captions of a file that has another one, which counts: line 5 (a.png, line 2)",
    ),
    "two columns of captions": (
        "captions.csv",
        "file_name,text,caption\na.png,fog,snow\nb.png,dunes,dunes\n",
        "captions.csv: line 2 has caption and text: caption counts",
    ),
    "two columns of names": (
        "metadata.jsonl",
        '{"file": "b.png", "text": "dunes"}\n{"path": "b.png", "file_name": "a.png", "text": "snow"}',
        "metadata.jsonl: line 2 has file_name and path: file_name counts",
    ),
    "an empty column of captions": ("captions.csv", "file_name,text,caption\na.png,snow,\nb.png,dunes,\n", None),
}


@pytest.mark.parametrize("kind", TOLD)
def test_what_counts_is_told(folder: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    name, content, words = TOLD[kind]
    (folder / name).write_text(content)
    assert captions_of(folder) == {"a.png": "snow", "b.png": "dunes"}
    told = [record.getMessage() for record in caplog.records if name in record.getMessage()]
    assert told == ([] if words is None else [f"{folder}/{words}"])


@pytest.mark.parametrize("text", ["lake \ud83c", "a\0b"])
def test_texts_that_are_none_reach_no_encoder(text: str) -> None:
    with pytest.raises(UsageError, match=r"^text: 'lake \\ud83c': holds half of|^text: 'a\\x00b': holds a control"):
        Letters().states(["a lake", text])


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
    "half an emoji": (
        "metadata.jsonl",
        rb'{"file_name": "a.png", "text": "lake \ud83c"}',
        "line 1 holds half of",
    ),
    "half of one in a list": (
        "metadata.jsonl",
        rb'{"file": "a.png", "text": ["\udf0a"]}',
        "line 1 holds half of",
    ),
    "a zero in JSON": (
        "metadata.jsonl",
        rb'{"file_name": "a.png", "text": "a\u0000"}',
        "line 1 holds a control",
    ),
    "a bell": (
        "captions.csv",
        b"file_name,text\nb.png,dunes\na.png,a\x07b\n",
        r"line 3 holds a control character",
    ),
    "UTF-8 read as latin-1": ("a.txt", "Grün…".encode().decode("latin-1").encode(), r"a control character, '\x80'"),
    "a column twice": ("captions.csv", b"file_name,text,Text\na.png,snow,fog\n", "line 2 has text 2 times"),
    "a name twice": ("metadata.jsonl", b'{"file":"a.png","file":"b.png","text":"fog"}', "line 1 has file 2 times"),
    "other columns": (
        "captions.csv",
        b"name|label\na.png|snow\n",
        "line 2 has no file name, columns are",
    ),
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
