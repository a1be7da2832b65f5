"""Views of photos: what a batch holds, what it depends on, and options that cannot work."""

from __future__ import annotations

import functools
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nuwa_lightning.data import (
    CropSettings,
    FolderPhotos,
    ImageFolderDataModule,
    LandscapeDataModule,
    Photo,
    PhotosDataModule,
    PhotoSource,
    image_folder,
    preparing,
)
from nuwa_lightning.data.crops import jitter_colours
from nuwa_lightning.data.sources import Split
from nuwa_lightning.data.streams import BatchStream, photo_of_sample
from nuwa_lightning.errors import UsageError
from tests.data.conftest import Paint

SMALL = CropSettings(size=16, short_sides=(24, 40), val_short_sides=(24, 40))


def module(folder: Path, crops: CropSettings = SMALL, **options: Any) -> ImageFolderDataModule:
    made = ImageFolderDataModule(str(folder), crops=crops, **{"steps_per_epoch": 5, "batch_size": 4, **options})
    made.prepare_data()
    made.setup("fit")
    return made


def batches(data: PhotosDataModule) -> list[dict[str, torch.Tensor]]:
    return list(data.train_dataloader())


def test_training_batches(photo_folder: Path) -> None:
    made = batches(module(photo_folder))
    assert len(made) == 5
    for batch in made:
        assert batch["image"].shape == (4, 3, 16, 16)
        assert batch["image"].dtype == torch.float32
        assert -1 <= batch["image"].min() < batch["image"].max() <= 1
        assert batch["index"].dtype == torch.int64


def test_every_view_is_cut_from_its_photo(photo_folder: Path) -> None:
    """Brute force: each crop, or its mirror image, is found in one of the sizes of the photo it names."""
    data = module(photo_folder)
    prepared = data.prepared("train")
    mirrored = []
    for batch in batches(data):
        for crop, index in zip(batch["image"], batch["index"].tolist(), strict=True):
            pixels = ((crop + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
            found = [
                flip
                for size, flip in itertools.product(range(2), (False, True))
                if _contains(prepared.array(index, size), pixels[:, ::-1] if flip else pixels)
            ]
            assert found
            mirrored.append(found[0])
    assert 0 < sum(mirrored) < len(mirrored)


def _contains(array: np.ndarray, crop: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(array, crop.shape)[:, :, 0]
    return bool((windows == crop).all((2, 3, 4)).any())


def test_a_batch_depends_on_seed_and_step_only(photo_folder: Path) -> None:
    first, again, other = (module(photo_folder, seed=seed) for seed in (3, 3, 4))
    for one, two, three in zip(batches(first), batches(again), batches(other), strict=True):
        assert torch.equal(one["image"], two["image"])
        assert not torch.equal(one["image"], three["image"])


def test_workers_change_nothing(photo_folder: Path) -> None:
    alone, helped = batches(module(photo_folder)), batches(module(photo_folder, num_workers=2))
    assert all(torch.equal(one["image"], two["image"]) for one, two in zip(alone, helped, strict=True))


def test_ranks_share_the_samples(photo_folder: Path) -> None:
    """Two processes with batches of 2 see what one sees with batches of 4."""
    data = module(photo_folder)
    whole = data.training_batches(0, 1).batch(7)["image"]
    data.batch_size = 2
    parts = [data.training_batches(rank, 2).batch(7)["image"] for rank in range(2)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_photo_in_turn(count: int) -> None:
    rounds = [[photo_of_sample(5, number * count + place, count) for place in range(count)] for number in range(6)]
    assert all(sorted(order) == list(range(count)) for order in rounds)
    if count == 7:
        assert len({tuple(order) for order in rounds}) > 1


def test_validation_is_fixed_and_central(photo_folder: Path) -> None:
    data = module(photo_folder, crops=CropSettings(size=16, short_sides=(24,), val_size=20, val_short_sides=(30,)))
    (loader,) = data.val_dataloader()
    seen = torch.cat([batch["image"] for batch in loader])
    assert seen.shape == (len(data.photos.photos("val")), 3, 20, 20)
    array = data.prepared("val").array(0, 0)
    assert array.shape == (30, 40, 3)
    expected = torch.from_numpy(array[5:25, 10:30].astype(np.float32) / 127.5 - 1).permute(2, 0, 1)
    torch.testing.assert_close(seen[0], expected)
    assert torch.equal(seen, torch.cat([batch["image"] for batch in data.test_dataloader()[0]]))


def test_no_photo_is_on_both_sides(photo_folder: Path) -> None:
    data = module(photo_folder)
    train, val = ({photo.path for photo in data.photos.photos(split)} for split in ("train", "val"))
    assert train
    assert val
    assert not train & val


def test_a_single_photo_trains_without_validation(paint: Paint, tmp_path: Path) -> None:
    paint("photos/1.png")
    data = module(tmp_path / "photos")
    assert data.val_dataloader() == []
    assert len(batches(data)) == 5


def test_jitter() -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8)).astype(np.float32)
    still = jitter_colours(image, 0.0, np.random.default_rng(1))
    np.testing.assert_allclose(still, image, atol=1e-6)
    moved = jitter_colours(image, 0.15, np.random.default_rng(1))
    assert moved.dtype == np.float32
    assert np.abs(moved).max() <= 1
    assert 0.005 < np.abs(moved - image).mean() < 0.3
    np.testing.assert_array_equal(moved, jitter_colours(image, 0.15, np.random.default_rng(1)))


def test_damaged_photos_are_counted(photo_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photo_folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    data = module(photo_folder, val_fraction=0.0)
    assert [entry.path.name for entry in data.skipped] == ["bad.jpg"]
    assert data.record()["skipped"] == [str(photo_folder / "bad.jpg")]
    assert sum("bad.jpg" in message for message in caplog.messages) == 1
    assert len(data.prepared("train")) == 12


def test_damaged_photos_are_passed_over_when_nothing_is_kept(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header is whole, so the damage is noticed at the first access only; the order must not change."""
    monkeypatch.setattr(image_folder, "prepare_photos", functools.partial(preparing.prepare_photos, limit_bytes=0))
    torn = photo_folder / "a" / "00.png"
    torn.write_bytes(torn.read_bytes()[:-400])
    one, two = (batches(module(photo_folder, val_fraction=0.0)) for _ in range(2))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(one, two, strict=True))
    assert 0 not in torch.cat([batch["index"] for batch in one])


def test_too_small_photos(paint: Paint, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        paint(f"photos/{number}.png", 12 + number, 30, seed=number)
    with pytest.raises(
        UsageError, match=r"data\.crops\.size: 16: .*shorter side of 14 px; use photos of at least 16 px"
    ):
        module(tmp_path / "photos", val_fraction=0.0)
    paint("photos/large.png", seed=9)
    caplog.clear()
    data = module(tmp_path / "photos", val_fraction=0.0)
    assert len(data.record()["too_small"]) == 3
    assert any(message.startswith("3 photo(s) below 16 px left out") for message in caplog.messages)


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.jpg"):
        (tmp_path / "photos" / name).write_text("no image")
    with pytest.raises(UsageError, match=r"^root: .*photos: none of the 2 images for training can be read.*a\.png"):
        module(tmp_path / "photos", val_fraction=0.0)


def test_nothing_readable_for_validation(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.png").write_text("no image")
    with pytest.raises(UsageError, match=r"^val_root"):
        module(photo_folder, val_root=str(tmp_path / "val"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "data.batch_size"),
        ({"steps_per_epoch": 0}, "data.steps_per_epoch"),
        ({"num_workers": -1}, "data.num_workers"),
        ({"num_workers": 10_000}, "data.num_workers"),
        ({"batch_size": 10**12}, "data.batch_size"),
        ({"val_root": []}, "root"),
        ({"crops": CropSettings(size=0)}, "data.crops.size"),
        ({"crops": CropSettings(size=600)}, "data.crops.short_sides"),
        ({"crops": CropSettings(short_sides=())}, "data.crops.short_sides"),
        ({"crops": CropSettings(val_size=513)}, "data.crops.val_short_sides"),
        ({"crops": CropSettings(flip=1.5)}, "data.crops.flip"),
        ({"crops": CropSettings(colour_jitter=-0.1)}, "data.crops.colour_jitter"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        ImageFolderDataModule("anywhere", **options)
    assert caught.value.option == said
    assert "\n" not in str(caught.value)


def test_too_many_pixels_names_the_option(photo_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"3072 pixels, more than max_pixels=100: raise `max_pixels`"):
        module(photo_folder, max_pixels=100)


def test_the_default_photos_have_that_option_too(photo_folder: Path) -> None:
    data = LandscapeDataModule(crops=SMALL, max_pixels=100)
    data.photos = data.source = FolderPhotos(str(photo_folder))
    with pytest.raises(UsageError, match="more than max_pixels=100"):
        data.prepare_data()


def test_bad_option_leaves_nothing_behind(tmp_path: Path, own_cache: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        module(tmp_path / "none")
    assert not own_cache.exists()


def test_landscapes_fall_back_to_the_sample_photos() -> None:
    data = LandscapeDataModule(sources=(), crops=CropSettings(size=64, short_sides=(96,), val_short_sides=(96,)))
    data.prepare_data()
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["image"].shape == (8, 3, 64, 64)
    assert len(data.val_dataloader()[0]) == 1
    assert data.record()["train"] == ["china"]


def test_command_line_and_yaml(photo_folder: Path, tmp_path: Path) -> None:
    """Every option can be given as text."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_subclass_arguments(PhotosDataModule, "data")
    config = parser.parse_args(
        [
            "--data=ImageFolderDataModule",
            f"--data.root={photo_folder}",
            "--data.crops.size=16",
            "--data.crops.short_sides=[24]",
            "--data.crops.val_short_sides=[24]",
            "--data.val_fraction=0.25",
        ]
    )
    data = parser.instantiate(config).data
    assert isinstance(data, ImageFolderDataModule)
    data.prepare_data()
    assert data.crops == CropSettings(size=16, short_sides=(24,), val_short_sides=(24,))
    config = parser.parse_args(["--data=LandscapeDataModule", "--data.kinds=[landscape]", "--data.sources=[apt]"])
    assert parser.instantiate(config).data.photos.kinds == ("landscape",)


def test_a_source_of_ones_own(photo_folder: Path) -> None:
    """The core takes any source: here the photos of one sub-folder for training, of the other for validation."""
    shutil.rmtree(photo_folder / "b")

    class Own(PhotoSource):
        def prepare(self) -> None:
            """Nothing is to be fetched."""

        def photos(self, split: Split) -> list[Photo]:
            paths = sorted((photo_folder / "a").iterdir())
            return [Photo(path, path.name) for path in (paths[2:] if split == "train" else paths[:2])]

        def option(self, split: Split) -> tuple[str, str]:
            return "data.photos", "Own"

        def record(self) -> dict[str, object]:
            return {"source": "own"}

    data = PhotosDataModule(
        Own(), crops=SMALL, batch_size=2, steps_per_epoch=3, num_workers=0, seed=0, max_pixels=10**6, cache=None
    )
    data.prepare_data()
    stream = data.train_dataloader()
    assert isinstance(stream, BatchStream)
    assert len(list(stream)) == len(stream) == 3
    assert len(data.prepared("val")) == 2
    assert data.record() == {"source": "own", "skipped": [], "too_small": []}


def test_sixteen_bit_and_turned_photos_train(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    deep = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    Image.fromarray(deep).save(tmp_path / "photos" / "deep.png")
    data = module(tmp_path / "photos", val_fraction=0.0)
    image = torch.cat([batch["image"] for batch in batches(data)])
    assert image.max() - image.min() > 1.2  # clipping would have left white only
