"""Caches that are read back: whatever lies there, the same comes out, or it is made anew."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nuwa_lightning.data import FolderPhotos, GiantImage, ImageFolderDataModule
from nuwa_lightning.data.crops import CropSettings
from nuwa_lightning.data.token_bank import TokenBank
from nuwa_lightning.data.token_data import BankSettings, build_token_bank
from nuwa_lightning.errors import UsageError
from tests.data.conftest import painted
from tests.data.test_token_data import Means

CROPS = CropSettings(size=16, short_sides=(32,), val_short_sides=(32,))


def saved(array: np.ndarray) -> Callable[[Path], object]:
    return lambda path: np.save(path, array)


ARRAYS: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "another shape": saved(np.zeros((5, 5, 3), np.uint8)),
    "floats": saved(np.full((32, 43, 3), np.nan)),
    "objects": lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
    "a zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", ARRAYS)
def test_prepared_photos(photo_folder: Path, own_cache: Path, damage: str) -> None:
    def first_batch() -> torch.Tensor:
        data = ImageFolderDataModule(str(photo_folder), crops=CROPS, batch_size=8, steps_per_epoch=1)
        data.prepare_data()
        return next(iter(data.train_dataloader()))["image"]

    before = first_batch()
    files = list(own_cache.glob("prepared-*/*.npy"))
    assert len(files) == 12
    for file in files:
        ARRAYS[damage](file)
    torch.testing.assert_close(first_batch(), before, rtol=0, atol=0)


def changed(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**index, **values}))

    return change


def changed_entry(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        index["entries"][1] = {**index["entries"][1], **values}
        (folder / "index.json").write_text(json.dumps(index))

    return change


def tokens(array: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / "tokens.npy", array(np.load(folder / "tokens.npy")))


def index(text: str | bytes) -> Callable[[Path], object]:
    content = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / "index.json").write_bytes(content)


BANKS: dict[str, Callable[[Path], object]] = {
    "an index that is empty": index(""),
    "an index of binary": index(b"\xff\xfe\0"),
    "an index that is a list": index("[]"),
    "an index that is null": index("null"),
    "an index that is deep": index("[" * 100_000),
    "an index without entries": index("{}"),
    "entries that are null": changed(entries=None),
    "entries of other keys": changed(entries=[{"a": 1}]),
    "a codebook of text": changed(codebook_size="many"),
    "a codebook below its tokens": changed(codebook_size=3),
    "a codebook of another type": changed(codebook_size=10**6),
    "a fingerprint that is a number": changed(fingerprint=7),
    "a split that is none": changed(photos=[{"key": "a", "split": "test"}]),
    "photos without names": changed(photos=[{}]),
    "too few photos": changed(photos=[{"key": "a", "split": "train"}]),
    "skipped numbers": changed(skipped=[1]),
    "an entry beyond the end": changed_entry(start=10**9),
    "an entry before the beginning": changed_entry(start=-5),
    "an entry of no size": changed_entry(y=0),
    "an entry of parts": changed_entry(x=1.5),
    "an entry of text": changed_entry(x="7"),
    "an entry of an unknown photo": changed_entry(photo=99),
    "tokens cut short": lambda folder: (folder / "tokens.npy").write_bytes((folder / "tokens.npy").read_bytes()[:-9]),
    "tokens gone": lambda folder: (folder / "tokens.npy").unlink(),
    "no tokens": lambda folder: (folder / "tokens.npy").write_bytes(b""),
    "tokens of floats": tokens(lambda found: found.astype(np.float32)),
    "tokens beyond the codebook": tokens(lambda found: np.full_like(found, 60000)),
    "fewer tokens": tokens(lambda found: found[:-1]),
    "tokens in a table": tokens(lambda found: found.reshape(1, -1)),
    "objects": lambda folder: np.save(folder / "tokens.npy", np.array([{}], object), allow_pickle=True),
}


@pytest.mark.parametrize("damage", BANKS)
def test_token_banks(photo_folder: Path, own_cache: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    def bank() -> TokenBank:
        source = FolderPhotos(str(photo_folder / "a"), val_fraction=0.2)
        photos = {"train": source.photos("train"), "val": source.photos("val")}
        settings = BankSettings((32,), flips=False, phases=1)
        return build_token_bank(photos, Means(), cache=own_cache, settings=settings, progress=False)

    before = bank()
    expected = [before.tokens(entry).copy() for entry in before.entries]
    folder = before.folder
    del before
    BANKS[damage](folder)
    with pytest.raises(UsageError, match="damaged; delete the folder, it is built anew"):
        TokenBank(folder)
    after = bank()
    assert "encoding anew" in caplog.text
    assert all(np.array_equal(after.tokens(e), t) for e, t in zip(after.entries, expected, strict=True))


CROPPED: dict[str, Callable[[Path], object]] = {
    "an index that is empty": index(""),
    "an index of text": index('{"size": "large"}'),
    "an index of huge numbers": index('{"size": [1e300, 5]}'),
    "an index of nothing": index('{"size": [0, 0]}'),
    "an index that is deep": index("[" * 100_000),
    "a crop gone": lambda folder: next(folder.glob("*.png")).unlink(),
}


@pytest.mark.parametrize("damage", CROPPED)
def test_crops_of_one_image(tmp_path: Path, damage: str) -> None:
    Image.fromarray(painted(80, 300)).save(tmp_path / "a.png")

    def source() -> GiantImage:
        made = GiantImage(str(tmp_path / "a.png"), crop=64, overlap=16)
        made.prepare()
        return made

    photos = source().photos("train")
    content = {photo.path: photo.path.read_bytes() for photo in photos}
    CROPPED[damage](photos[0].path.parent)
    assert {photo.path: photo.path.read_bytes() for photo in source().photos("train")} == content


def test_a_store_of_keys_that_cannot_be_used(tmp_path: Path, own_cache: Path) -> None:
    from nuwa_lightning.data.folders import content_key

    (tmp_path / "a").write_bytes(bytes(2 << 20))
    os.utime(tmp_path / "a", ns=(10**18, 10**18))
    key = content_key(tmp_path / "a")
    own_cache.mkdir(exist_ok=True)
    for content in (b"", b"text", os.urandom(9000)):
        (own_cache / "content-keys.sqlite").write_bytes(content)
        assert content_key(tmp_path / "a") == key
    (own_cache / "content-keys.sqlite").unlink()
    (own_cache / "content-keys.sqlite").mkdir()
    assert content_key(tmp_path / "a") == key
