"""Caches that are read back: whatever lies there, the same comes out, or it is made anew."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.feature_cache import BATCH, FeatureCache
from nuwa_lightning.data import FolderPhotos, GiantImage, ImageFolderDataModule
from nuwa_lightning.data.crops import CropSettings
from nuwa_lightning.data.token_bank import TokenBank
from nuwa_lightning.data.token_data import BankSettings, build_token_bank
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import check_plain, fits, parse_json
from nuwa_lightning.text.base import TextBank
from tests.data.conftest import painted
from tests.data.test_token_data import Means
from tests.evaluation.toys import ToyFeatures
from tests.text.test_encoders import Letters

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
    "an index of a very long image": index('{"size": [1, 1099511627776]}'),
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


def states(array: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / "states.npy", array(np.load(folder / "states.npy")))


TEXTS: dict[str, Callable[[Path], object]] = {
    **{f"an index that is {kind}": index(text) for kind, text in
       (("empty", ""), ("binary", b"\xff\xfe\0"), ("a list", "[]"), ("null", "null"), ("deep", "[" * 100_000),
        ("empty of captions", "{}"))},
    "captions that are null": changed(captions=None),
    "captions without spans": changed(captions=["a", "b"]),
    "captions of numbers": changed(captions=[[1, 0, 1]]),
    "spans of text": changed(captions=[["a", "0", "1"]]),
    "spans of truths": changed(captions=[["a", False, True]]),
    "spans of parts": changed(captions=[["a", 0.0, 1.0]]),
    "spans that are NaN": changed(captions=[["a", float("nan"), 1]]),
    "a span beyond the end": changed(captions=[["a", 0, 10**6]]),
    "a span before the beginning": changed(captions=[["a", -2, 1]]),
    "a span of nothing": changed(captions=[["a", 1, 1]]),
    "a span of too many digits": changed(captions=[["a", 0, 10**30]]),
    "states cut short": lambda folder: (folder / "states.npy").write_bytes((folder / "states.npy").read_bytes()[:-9]),
    "states gone": lambda folder: (folder / "states.npy").unlink(),
    "no states": lambda folder: (folder / "states.npy").write_bytes(b""),
    "states that are a pipe": lambda folder: ((folder / "states.npy").unlink(), os.mkfifo(folder / "states.npy")),
    "states in double precision": states(lambda found: found.astype(np.float64)),
    "whole numbers": states(lambda found: found.astype(np.int16)),
    "fewer states": states(lambda found: found[:-1]),
    "states of another width": states(lambda found: found[:, :1]),
    "states in a row": states(np.ravel),
    "a state that is NaN": states(lambda found: np.concatenate([found[:-1], found[-1:] * np.float16("nan")])),
    "an infinite state": states(lambda found: np.full_like(found, np.inf)),
    "objects": lambda folder: np.save(folder / "states.npy", np.array([{}], object), allow_pickle=True),
}  # fmt: skip
SAID = ["a snowy mountain", "dunes", "fog"]


@pytest.mark.parametrize("damage", TEXTS)
def test_text_states(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    before = Letters().bank(SAID, tmp_path)
    expected = [before.states(caption).clone() for caption in SAID]
    (shard,) = (index.parent for index in before.folder.glob("*/index.json"))
    TEXTS[damage](shard)
    again = Letters()
    after = again.bank(SAID, tmp_path)
    assert caplog.text.count("is damaged: encoding its captions anew") == 1
    assert sorted(again.seen) == sorted(SAID)
    assert all(torch.equal(after.states(c), s) for c, s in zip(SAID, expected, strict=True))
    assert Letters().bank(SAID, tmp_path).states("fog").equal(expected[2])
    assert caplog.text.count("is damaged") == 1  # said once, then mended


def test_a_bank_that_is_read_alone_refuses_damage(tmp_path: Path) -> None:
    bank = Letters().bank(SAID, tmp_path)
    next(bank.folder.rglob("states.npy")).write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"text bank: .*: damaged; delete the folder, it is made anew"):
        TextBank(bank.folder, SAID)


def rows(change: str, *values: object) -> Callable[[Path], object]:
    def execute(path: Path) -> None:
        with sqlite3.connect(path) as store:
            store.execute(change, values)
        store.close()

    return execute


LAST = "UPDATE features SET row = ? WHERE rowid = (SELECT max(rowid) FROM features)"
FEATURES: dict[str, tuple[Callable[[Path], object], int]] = {
    "text": (lambda path: path.write_text("hello, this is no database at all" * 9), 4),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:5000]), 4),
    "zeros inside": (lambda path: path.write_bytes(path.read_bytes()[:4096] + bytes(len(path.read_bytes()) - 4096)), 4),
    "an empty file": (lambda path: path.write_bytes(b""), 4),
    "a name that is no UTF-8": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"tablefeatures", b"tablef\xffatures")), 4
    ),
    "other columns": (rows("ALTER TABLE features RENAME COLUMN row TO content"), 4),
    "a view": (lambda path: (rows("DROP TABLE features")(path), rows("CREATE VIEW features AS SELECT 1 a")(path)), 4),
    "rows of nothing": (rows("UPDATE features SET row = x''"), 4),
    "a longer row": (rows(LAST, bytes(4000)), 1),
    "a shorter row": (rows(LAST, b"abc"), 1),
    "a row of text": (rows(LAST, "hello"), 1),
    "a row of a number": (rows(LAST, 7), 1),
    "a row of null": (rows(LAST, None), 1),
    "a row with NaN": (rows("UPDATE features SET row = zeroblob(length(row) - 4) || x'0000c07f' WHERE rowid = 1"), 1),
}  # fmt: skip


@pytest.mark.parametrize("damage", FEATURES)
def test_features(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    cache = FeatureCache(ToyFeatures(), folder=tmp_path)
    before = cache.of_crops(iter(crops), count=4)
    spoil, lost = FEATURES[damage]
    spoil(cache.path)
    again = ToyFeatures()
    after = FeatureCache(again, folder=tmp_path).of_crops(iter(crops), count=4)
    assert again.seen > BATCH  # a batch of made images is always asked for
    np.testing.assert_array_equal(after.features_ND, before.features_ND)
    np.testing.assert_array_equal(after.scores_NK, before.scores_NK)
    assert ("anew" in caplog.text) is (damage != "an empty file")
    assert lost == 4 or "1 damaged rows" in caplog.text
    whole = ToyFeatures()
    FeatureCache(whole, folder=tmp_path).of_crops(iter(crops), count=4)
    assert whole.seen == BATCH


def test_features_that_cannot_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    cache = FeatureCache(ToyFeatures(), folder=tmp_path)
    cache.path.mkdir(parents=True)
    assert len(cache.of_crops(iter(crops), count=4)) == 4
    assert "features are not kept" in caplog.text
    assert cache.path.is_dir()


@pytest.mark.parametrize(("value", "kind", "good"), [
    (1, int, True), (1, float, True), (True, int, False), (2**63, int, False), (1.0, int, False), ("1", int, False),
    (float("nan"), float, False), (10**400, float, False), ([1, 2], tuple[int, int], True),
    ([1], tuple[int, int], False), ([1, 2, 3], tuple[int, ...], True), ([1, "a"], list[int], False),
    (None, int | None, True), ({"a": 1}, dict[str, int], True),
    ({1: 1}, dict[str, int], False), ("ab", list[str], False),
])  # fmt: skip
def test_kinds_of_plain_values(value: object, kind: object, good: bool) -> None:
    assert fits(value, kind) is good


def test_arguments_out_of_a_file() -> None:
    check_plain(CropSettings, {"size": 16, "short_sides": [32]})
    with pytest.raises(ValueError, match="size: 'large' is not of the kind"):
        check_plain(CropSettings, {"size": "large"})
    with pytest.raises(ValueError, match="names and values are needed"):
        check_plain(CropSettings, [1])
    assert parse_json("[" * 60 + "]" * 60)
    for depth in (70, 900, 100_000):
        with pytest.raises(ValueError, match="nested"):
            parse_json("[" * depth + "]" * depth)
