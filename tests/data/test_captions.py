"""Captions from every kind of file, and what is said when they and the photos do not match."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import torch

from nuwa_lightning.data import FolderPhotos, FolderVideos, TokenDataModule, captions
from nuwa_lightning.data.captions import read_captions
from nuwa_lightning.data.token_data import BankSettings
from nuwa_lightning.errors import UsageError
from tests.data.conftest import Paint
from tests.data.test_token_data import Means
from tests.text.letters import Letters

SAYS = {"a/1.png": "a lake", "b/2.png": "dunes, at dusk"}
FILES = {
    "metadata.jsonl": [
        '{"file_name": "a/1.png", "text": "a lake"}',
        "",
        r'{"file_name": "b\\2.png", "text": "dunes,  at dusk\n"}',
    ],
    "metadata.csv": ["file_name,text", "a/1.png,a lake", './b/2.png,"dunes, at dusk"'],
    "captions.csv": ["Caption,Image,other", "a lake,a/1.png,7", '"dunes, at dusk",b/2.png,8'],
    "captions.jsonl": [
        '{"captions": ["a lake", "water"], "path": "a/1.png"}',
        '{"caption": "dunes, at dusk", "file": "b/2.png"}',
    ],
}


@pytest.fixture
def photos(paint: Paint, tmp_path: Path) -> Path:
    for number, name in enumerate(["a/1.png", "b/2.png", "c.png"]):
        paint(f"photos/{name}", seed=number)
    return tmp_path / "photos"


@pytest.mark.parametrize("name", FILES)
def test_a_file_for_all_is_found_by_its_name(photos: Path, name: str) -> None:
    mark = "\ufeff" if name.endswith("csv") else ""  # as some spreadsheets write it
    (photos / name).write_text(mark + "\n".join(FILES[name]), encoding="utf-8")
    said = read_captions(photos)
    assert said.source == photos / name
    assert dict(said.by_path) == SAYS
    assert said.of(photos / "c.png") == ""
    found = {photo.key: photo.caption for photo in FolderPhotos(str(photos), val_fraction=0).photos("train")}
    assert found == {**SAYS, "c.png": ""}


def test_a_file_for_all_is_named_and_a_text_beside_a_photo_wins(photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "said.tsv").write_text("file_name\tcaption\na/1.png\ta lake\n")
    (photos / "a" / "1.txt").write_text("a pond\n in  fog")
    source = FolderPhotos(str(photos), captions="said.tsv", val_fraction=0)
    assert {photo.key: photo.caption for photo in source.photos("train")}["a/1.png"] == "a pond in fog"
    assert read_captions(photos).by_path == {}


def test_what_does_not_match_is_counted_and_named(photos: Path, caplog) -> None:
    lines = [f'{{"file_name": "gone{n}.png", "text": "x"}}' for n in range(5)]
    (photos / "metadata.jsonl").write_text('{"file_name": "c.png", "text": "hills"}\n' + "\n".join(lines))
    with caplog.at_level(logging.WARNING):
        FolderPhotos(str(photos)).prepare()
    first, second = (record.getMessage() for record in caplog.records)
    assert first.endswith("5 captions without a file: gone0.png, gone1.png, gone2.png, ...")
    assert second.endswith("2 files without a caption: a/1.png, b/2.png")


def told(caplog) -> list[str]:
    return [record.getMessage().split(": ", 1)[1] for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture(params=["photos", "videos"])
def two_folders(request, paint: Paint, tmp_path: Path):
    """One of four files lies in a folder of its own, for validation; the source of them."""
    suffix = "png" if request.param == "photos" else "mp4"
    for number in range(4):
        path = paint(f"{'held_out' if number == 3 else 'all'}/{number}.png", seed=number)
        path.rename(path.with_suffix(f".{suffix}"))  # a file is not opened to read its caption
    kind = FolderPhotos if request.param == "photos" else FolderVideos

    def prepare(captions: str | None = None) -> None:
        kind(str(tmp_path / "all"), val_root=str(tmp_path / "held_out"), captions=captions).prepare()

    return prepare, tmp_path, suffix


def test_one_file_for_two_folders_is_read_once_and_told_once(two_folders, caplog, monkeypatch) -> None:
    prepare, place, suffix = two_folders
    file = place / "said.csv"
    file.write_text("\n".join(["file_name,text", *(f"{n}.{suffix},words" for n in (0, 1, 3, 9))]))
    read = []
    monkeypatch.setattr("nuwa_lightning.data.captions._rows", lambda *a, f=captions._rows: read.append(a) or f(*a))
    prepare(str(file))
    assert told(caplog) == [
        f"1 captions without a file: 9.{suffix}",
        f"1 files without a caption: 2.{suffix}",
    ]
    assert len(read) == 1


def test_texts_beside_are_looked_through_as_well(two_folders, caplog) -> None:
    prepare, place, suffix = two_folders
    (place / "all" / "readme.txt").write_text("this is no caption")
    prepare()
    assert told(caplog) == []
    (place / "all" / "readme.txt").unlink()
    for name in ("all/0", "all/gone", "all/1", "all/.hidden"):
        (place / f"{name}.txt").write_text("words")
    prepare()
    assert told(caplog) == [
        "1 captions without a file: gone.txt",
        f"2 files without a caption: 2.{suffix}, 3.{suffix}",
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.jsonl", "{}\n", "line 1 has no file name"),
        ("m.jsonl", '{"file_name": "a"}\n', "line 1 has no caption"),
        ("m.jsonl", '{"file_name": "a", "text": 3}\n', "line 1 has no caption"),
        ("m.jsonl", "\n[1]\n", "line 2 is no JSON object"),
        ("m.jsonl", "{", "line 1 is no JSON ("),
        ("m.csv", "a,b\n1,2\n", "line 2 has no file name"),
        ("m.csv", "file_name,text\n1.png\n", "line 2 has 1 cells, the header 2"),
        ("m.csv", "file_name,text\n1.png,a lake\n2.png,snow, fog\n", "line 3 has 3 cells, the header 2"),
        ("m.csv", 'file_name,text\n1.png,"a lake\n', "is damaged"),
        ("m.csv", b"file_name,text\n\x81,x\n", "is damaged"),
        ("m.xls", "", "of another kind"),
        ("gone.csv", None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_damaged_file_is_one_line(photos: Path, name: str, content: str | bytes | None, words: str) -> None:
    if isinstance(content, bytes):
        (photos / name).write_bytes(content)
    elif content is not None:
        (photos / name).write_text(content)
    with pytest.raises(UsageError) as error:
        read_captions(photos, name)
    assert words in str(error.value)
    assert str(error.value).startswith("captions: ")
    assert "\n" not in str(error.value)


def test_batches_carry_the_captions_of_their_photos(photo_folder: Path, caplog) -> None:
    for number in range(1, 12):
        (photo_folder / "ab"[number % 2] / f"{number:02}.txt").write_text("x" * number)
    source = FolderPhotos(str(photo_folder), val_fraction=0.3)
    data = TokenDataModule(source, grid=(4, 4), bank=BankSettings((40,)), batch_size=4, steps_per_epoch=3)
    data.attach_tokenizer(Means())
    without = [batch.keys() for batch in data.train_dataloader()]
    assert without == [{"tokens", "index", "height"}] * 3
    data.attach_text_encoder(Letters())
    with caplog.at_level(logging.WARNING):
        stream = data.train_dataloader()
    assert "leaving out 1 of 12 photos without a caption: a/00.png" in caplog.text
    for loader in (stream, pickle.loads(pickle.dumps(stream._maker)), *data.val_dataloader()):
        batches = list(loader) if not hasattr(loader, "batch") else [loader.batch(0)]
        for batch in batches:
            assert len(batch["text"]) == len(batch["tokens"])
            for index, states, seen in zip(batch["index"], batch["text"], batch["text_mask"], strict=True):
                key = data.bank.keys[int(index)]
                assert key != "a/00.png"
                assert int(seen.sum()) == int(key[2:4])
                expected = Letters().states(["x" * int(key[2:4])])[0].float()
                assert torch.equal(states[seen], expected)


def test_no_caption_at_all_is_refused(photo_folder: Path) -> None:
    data = TokenDataModule(FolderPhotos(str(photo_folder)), grid=(4, 4), bank=BankSettings((40,)))
    data.attach_tokenizer(Means())
    data.attach_text_encoder(Letters())
    with pytest.raises(UsageError, match=r"^root: .*no photo has a caption"):
        data.train_dataloader()
