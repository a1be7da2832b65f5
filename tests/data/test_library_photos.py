"""Photos of data set libraries: the same samples from each, runs that resume exactly, and nothing that runs code."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from nuwa_lightning.data import (
    FolderPhotos,
    HuggingFacePhotos,
    LitdataPhotos,
    PhotoSource,
    TokenDataModule,
    TokenShardsDataModule,
    WebDatasetPhotos,
)
from nuwa_lightning.data.reading import read_image
from nuwa_lightning.data.shard_making import make_shards
from nuwa_lightning.data.token_data import BankSettings
from nuwa_lightning.errors import UsageError
from nuwa_lightning.testing import check_photo_source
from tests.data.conftest import painted
from tests.data.test_streams import Memory, fit
from tests.data.test_token_data import Means

COUNT = 14
PIXELS = [painted(48, 64, seed=n) for n in range(COUNT)]


def png(number: int) -> bytes:
    made = io.BytesIO()
    Image.fromarray(PIXELS[number]).save(made, "PNG")
    return made.getvalue()


def said(number: int) -> str:
    return f"photo number {number}"


def folder(path: Path) -> PhotoSource:
    for number in range(COUNT):
        (path / f"{number:02}.png").write_bytes(png(number))
        (path / f"{number:02}.txt").write_text(said(number))
    return FolderPhotos(str(path), val_fraction=0.3)


def hugging_face(path: Path, kind: str = "disk") -> PhotoSource:
    datasets = pytest.importorskip("datasets")
    columns = {
        "picture": [{"bytes": png(n), "path": None} for n in range(COUNT)],
        "text": list(map(said, range(COUNT))),
    }
    made = datasets.Dataset.from_dict(
        columns, features=datasets.Features({"picture": datasets.Image(), "text": datasets.Value("string")})
    )
    if kind == "disk":
        made.save_to_disk(str(path))
    else:
        made.to_parquet(str(path / "train.parquet"))
    return HuggingFacePhotos(str(path), image="picture", val_fraction=0.3)


def parquet(path: Path) -> PhotoSource:
    return hugging_face(path, "parquet")


def tars(path: Path) -> PhotoSource:
    pytest.importorskip("webdataset")
    for part in range(3):
        with tarfile.open(path / f"{part:03}.tar", "w") as tar:
            for number in range(COUNT)[part * 5 : part * 5 + 5]:
                for ending, content in (("png", png(number)), ("json", json.dumps({"said": said(number)}).encode())):
                    info = tarfile.TarInfo(f"{number:04}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return WebDatasetPhotos(str(path / "{000..002}.tar"), caption="json:said", val_fraction=0.3)


def litdata(path: Path, image: Callable[[int], Any] = lambda number: PIXELS[number].copy()) -> PhotoSource:
    pytest.importorskip("litdata")
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(path), chunk_bytes="40KB")
    for number in range(COUNT):
        writer[number] = {"image": image(number), "text": said(number)}
    writer.done()
    writer.merge(1)
    return LitdataPhotos(str(path), val_fraction=0.3)


SOURCES = [folder, hugging_face, parquet, tars, litdata]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def both(source: PhotoSource) -> list[Any]:
    source.prepare()
    return [photo for split in ("train", "val") for photo in source.photos(split)]


@pytest.mark.parametrize("make", SOURCES)
def test_the_same_photos_and_captions(photos: Path, make: Callable[[Path], PhotoSource]) -> None:
    source = make(photos)
    check_photo_source(source)
    found = {photo.caption: np.asarray(read_image(photo.path)) for photo in both(source)}
    assert len(found) == COUNT
    assert all(np.array_equal(found[said(number)], PIXELS[number]) for number in range(COUNT))


def tokens(source: PhotoSource, **options: Any) -> TokenDataModule:
    bank = BankSettings((40,))
    return TokenDataModule(source, grid=(4, 4), bank=bank, batch_size=2, steps_per_epoch=5, **options)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("make", SOURCES)
def test_a_resumed_run_sees_the_same_batches(
    photos: Path, tmp_path: Path, make: Callable[[Path], PhotoSource], sharded: bool
) -> None:
    source = make(photos)

    def data() -> Any:
        module: Any = tokens(source)
        if sharded:
            make_shards(tmp_path / "shards", module.shard_parts(Means(), 4), Means(), progress=False)
            shards = str(tmp_path / "shards")
            module = TokenShardsDataModule(shards, grid=(4, 4), batch_size=2, steps_per_epoch=5)
        module.attach_tokenizer(Means())
        return module

    whole, first, rest = Memory(), Memory(), Memory()
    fit(tmp_path, whole, data())
    saver = ModelCheckpoint(tmp_path / "saved", filename="at", every_n_train_steps=7)
    fit(tmp_path, first, data(), max_steps=7, callbacks=[saver])
    again = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=7)
    fit(tmp_path, rest, data(), ckpt=str(tmp_path / "saved" / "at.ckpt"), callbacks=[again])
    assert first.seen + rest.seen == whole.seen
    assert len(set(whole.seen)) == 13


@pytest.mark.parametrize("make", SOURCES)
def test_shards_have_the_samples_of_the_source(
    photos: Path, tmp_path: Path, make: Callable[[Path], PhotoSource]
) -> None:
    source = make(photos)
    parts = tokens(source).shard_parts(Means(), 4)
    assert make_shards(tmp_path / "s", parts, Means(), rank=1, world=2, progress=False) is False
    assert make_shards(tmp_path / "s", parts, Means(), rank=0, world=2, progress=False) is True
    shards = TokenShardsDataModule(str(tmp_path / "s"), grid=(4, 4)).shards
    captions = [shards.text(number)["caption"] for number in range(COUNT)]
    sides = {split: {photo.caption for photo in source.photos(split)} for split in ("train", "val")}
    assert set(captions[: shards.count("train")]) == sides["train"]
    assert set(captions[shards.count("train") :]) == sides["val"]


def test_limits(photos: Path) -> None:
    hugging_face(photos)
    source = HuggingFacePhotos(str(photos), image="picture", limit=3, val_fraction=0)
    assert [photo.caption for photo in both(source)] == [said(n) for n in range(3)]


def test_pickled_values_are_refused(photos: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(UsageError, match="pickled values"):
        litdata(photos, image=lambda number: Evil()).prepare()
    assert not (tmp_path / "ran").exists()


def test_a_tar_runs_nothing(photos: Path, tmp_path: Path) -> None:
    tars(photos)
    with pytest.raises(UsageError, match="no such file"):
        WebDatasetPhotos(f"pipe:touch {tmp_path}/ran").prepare()
    with tarfile.open(photos / "evil.tar", "w") as tar:
        content = pickle.dumps(Path)
        info = tarfile.TarInfo("0.pyd")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(UsageError, match="has no image"):
        WebDatasetPhotos(str(photos / "evil.tar")).prepare()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: HuggingFacePhotos(str(path), image="picture", caption="title"), "name a column of texts"),
        (lambda path: HuggingFacePhotos(str(path), image="image"), "name the column of images"),
        (lambda path: HuggingFacePhotos(str(path / "no")), "cannot be opened"),
        (lambda path: LitdataPhotos(str(path)), "holds no set"),
    ],
)
def test_one_line(photos: Path, make: Callable[[Path], PhotoSource], words: str) -> None:
    hugging_face(photos)
    with pytest.raises(UsageError, match=words) as caught:
        make(photos).prepare()
    assert "\n" not in str(caught.value)


def test_without_the_library(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'nuwa-lightning\[data\]'"):
        HuggingFacePhotos(str(photos)).prepare()
