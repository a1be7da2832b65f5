"""Photos that are no files: kept once, the same pixels, and the laws of sources hold and bite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning.data import FolderPhotos, GiantImage, IterablePhotos, PhotosDataModule, TokenDataModule
from nuwa_lightning.data.crops import CropSettings
from nuwa_lightning.data.photos import Photo, PhotoSource, Split
from nuwa_lightning.data.reading import read_image
from nuwa_lightning.data.token_data import BankSettings
from nuwa_lightning.errors import UsageError
from nuwa_lightning.testing import check_photo_source
from tests.data.conftest import Paint, painted
from tests.data.test_token_data import Means


class Painted(IterablePhotos):
    made = 0

    def __init__(self, images: Iterable[Any], name: str = "painted") -> None:
        super().__init__(name, val_fraction=0.3)
        self.images = images

    def samples(self) -> Iterator[tuple[Any, str]]:
        for number, image in enumerate(self.images):
            type(self).made += 1
            yield image, f"number {number}"


PIXELS = [painted(48, 64, seed=n) for n in range(8)]


def test_pixels_and_captions_are_kept_once() -> None:
    Painted.made = 0
    source = Painted([Image.fromarray(p) if n % 2 else p for n, p in enumerate(PIXELS)])
    check_photo_source(source)
    check_photo_source(Painted(PIXELS))
    assert Painted.made == 8
    photos = sorted((p for s in ("train", "val") for p in source.photos(s)), key=lambda photo: photo.key)
    for number, photo in enumerate(photos):
        assert photo.caption == f"number {number}"
        np.testing.assert_array_equal(np.asarray(read_image(photo.path)), PIXELS[number])
    photos[3].path.unlink()
    Painted(PIXELS).prepare()
    assert photos[3].path.is_file()
    check_photo_source(Painted(PIXELS[:3], name="fewer"))


def test_they_train() -> None:
    crops = CropSettings(size=16, short_sides=(32,), val_short_sides=(32,))
    data = PhotosDataModule(Painted(PIXELS), crops=crops, batch_size=2, steps_per_epoch=3)
    data.prepare_data()
    assert [tuple(batch["image"].shape) for batch in data.train_dataloader()] == [(2, 3, 16, 16)] * 3
    tokens = TokenDataModule(Painted(PIXELS), grid=(4, 4), bank=BankSettings((40,)), steps_per_epoch=2)
    tokens.attach_tokenizer(Means())
    assert len(list(tokens.train_dataloader())) == 2


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "it yields no image"),
        ([PIXELS[0], "a.png"], "sample 1 is no image"),
        ([np.zeros((4, 4, 7), np.uint8)], "sample 0 is no image"),
        ([None], "sample 0 is no image"),
    ],
)
def test_one_line(images: list[Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Painted(images).prepare()
    assert "\n" not in str(caught.value)


def test_sources_of_the_package_pass(photo_folder: Path, paint: Paint) -> None:
    check_photo_source(FolderPhotos(str(photo_folder), val_fraction=0.3))
    check_photo_source(GiantImage(str(paint("wide.png", 80, 300)), crop=64, overlap=16))


class Broken(PhotoSource):
    def __init__(self, folder: Path, fault: str) -> None:
        self.fault, self.calls = fault, 0
        self.files = [Photo(path, path.name, "", path.name) for path in sorted(folder.glob("*.png"))]

    def prepare(self) -> None:
        pass

    def photos(self, split: Split) -> list[Photo]:
        self.calls += 1
        train, val = self.files[:4], self.files[4:]
        found = train if split == "train" else val
        if self.fault == "order" and self.calls % 2:
            return found[::-1] if self.calls > 2 else found
        if self.fault == "keys":
            return [Photo(photo.path, "same", "", photo.scene) for photo in found]
        if self.fault == "scenes":
            return [Photo(photo.path, photo.key, "", "hill") for photo in found]
        return [] if self.fault == "empty" and split == "train" else found

    def option(self, split: Split) -> tuple[str, str]:
        return "root", "here"

    def record(self) -> dict[str, object]:
        return {"path": Path("/") if self.fault == "record" else "/"}


FAULTS = {
    "order": "same order each time",
    "keys": "keys are unique",
    "scenes": "a scene lies on one side",
    "empty": "a photo for training",
    "record": "not JSON serializable",
}


@pytest.mark.parametrize("fault", [*FAULTS, "none"])
def test_the_laws_bite(photo_folder: Path, fault: str) -> None:
    source = Broken(photo_folder / "a", fault)
    if fault == "none":
        check_photo_source(source)
        return
    with pytest.raises((AssertionError, TypeError), match=FAULTS[fault]):
        check_photo_source(source)


def test_the_code_of_the_how_to_page(repository: Path) -> None:
    page = (repository / "docs" / "how-to" / "data-source.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 50
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert len(names["MyPhotos"]().photos("val")) >= 1
