"""Folders: every file is one sample, is named, or is counted; nothing is on both sides; nothing odd stops a run."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from evaluation.images import ImageSet
from nuwa_lightning.atomic import write_json
from nuwa_lightning.data import FolderPhotos, FolderVideos, ImageFolderDataModule, TokenDataModule
from nuwa_lightning.data.crops import CropSettings
from nuwa_lightning.data.folders import content_key, content_keys, list_files
from nuwa_lightning.data.reading import list_images
from nuwa_lightning.data.token_data import BankSettings
from nuwa_lightning.errors import UsageError
from tests.data.conftest import Paint, painted
from tests.data.test_token_data import Means

CROPS = CropSettings(size=16, short_sides=(32,), val_short_sides=(32,))


def module(root: Path | str, **options: object) -> ImageFolderDataModule:
    data = ImageFolderDataModule(str(root), crops=CROPS, batch_size=2, steps_per_epoch=4, **options)
    data.prepare_data()
    return data


@pytest.mark.parametrize("place", [0, 1, 600_000, 1_300_000, 2_999_999])
def test_one_byte_anywhere_tells_files_apart(tmp_path: Path, place: int) -> None:
    content = bytearray(3_000_000)
    (tmp_path / "a").write_bytes(content)
    content[place] = 1
    (tmp_path / "b").write_bytes(content)
    assert content_key(tmp_path / "a") != content_key(tmp_path / "b")


def test_scans_with_equal_margins_are_different(tmp_path: Path) -> None:
    """Large, uncompressed, and equal in length, beginning and end."""
    (tmp_path / "scans").mkdir()
    for number in range(4):
        scan = np.full((700, 1000, 3), 255, np.uint8)
        scan[300:400, 300:700] = painted(100, 400, seed=number)
        tifffile.imwrite(tmp_path / "scans" / f"{number}.tif", scan, photometric="rgb")
    source = FolderPhotos(str(tmp_path / "scans"), val_fraction=0.3)
    assert len({photo.scene for split in ("train", "val") for photo in source.photos(split)}) == 4
    prepared = module(tmp_path / "scans", val_fraction=0.0).prepared("train")
    arrays = [prepared.array(index, 0).tobytes() for index in range(4)]
    assert len(set(arrays)) == 4


def test_a_change_in_the_middle_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(3 << 20))
    os.utime(path, ns=(10**18, 10**18))
    before = path.stat()
    key = content_key(path)
    with path.open("r+b") as file:
        file.seek(3 << 19)
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync -t leaves it
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert content_key(path) != key


def test_keys_of_large_files_are_remembered(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nuwa_lightning.data import folders

    path = tmp_path / "a.bin"
    path.write_bytes(bytes(2 << 20))
    monkeypatch.setattr(folders, "_SETTLED_NS", -(10**12))  # as if it had been written long ago
    key = content_key(path)
    hashed = []
    real = folders._hashed
    monkeypatch.setattr(folders, "_hashed", lambda *a: hashed.append(a) or real(*a))
    assert content_keys([path, path]) == [key, key]
    assert hashed == []
    store = own_cache / "content-keys.sqlite"
    store.write_bytes(b"SQLite format 3\0" + os.urandom(5000))  # damaged
    assert content_key(path) == key
    assert len(hashed) == 1


def test_shared_files_leave_training(photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photo_folder / "val").mkdir()
    for number in (0, 2, 4):
        shutil.move(photo_folder / "a" / f"{number:02}.png", photo_folder / "val" / f"moved{number}.png")
    with caplog.at_level(logging.WARNING):
        source = FolderPhotos(str(photo_folder), val_root=str(photo_folder / "val"))
        train, val = source.photos("train"), source.photos("val")
    assert (len(train), len(val)) == (9, 3)
    assert not {content_key(p.path) for p in train} & {content_key(p.path) for p in val}
    assert "3 images lie in val_root as well and are taken out of training: val/moved0.png" in caplog.text
    assert len(source.record()["shared_with_val_root"]) == 3


def test_shared_videos_leave_training(tmp_path: Path) -> None:
    for name in ("d/1.mp4", "d/2.mp4", "d/val/1.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(f"video {name[-5]}".encode())
    source = FolderVideos(str(tmp_path / "d"), val_root=str(tmp_path / "d" / "val"))
    assert [video.key for video in source.videos("train")] == ["2.mp4"]


def test_what_is_left_out_is_counted(photo_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a/raw.psd", "a/raw2.PSD", "b/IMG_0001", "notes.txt", "captions.md", ".hidden"):
        (photo_folder / name).write_bytes(b"x")
    os.mkfifo(photo_folder / "pipe.png")
    shutil.copy(photo_folder / "a" / "00.png", photo_folder / "a" / "wide.png.preview.png")
    (photo_folder / "zoom.dzi").write_text("<Image/>")
    (photo_folder / "zoom_files" / "9").mkdir(parents=True)
    (photo_folder / "wide.zarr" / "0").mkdir(parents=True)
    for name in ("ZOOM.DZI", "kept/canvas.json"):
        (photo_folder / name).parent.mkdir(exist_ok=True)
        (photo_folder / name).write_text("{}")
    (photo_folder / "a" / "c.Preview.PNG").write_bytes((photo_folder / "a" / "00.png").read_bytes())
    within = ("zoom_files/9/0_0.png", "wide.zarr/0/0.png", "ZOOM_files/9/0_0.png", "b.OME.ZARR/0/0.png")
    for tile in (*within, "run.canvas/image.png", "Run.Canvas/image.png", "kept/image.png", "clip.frames/000.png"):
        (photo_folder / tile).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(photo_folder / "a" / "00.png", photo_folder / tile)
    with caplog.at_level(logging.WARNING):
        source = FolderPhotos(str(photo_folder))
        source.prepare()
    kinds = {".psd": 2, "no suffix": 1, "pipe, socket or device": 1, "preview": 2, "Deep Zoom": 2, ".zarr": 2}
    assert source.record()["left_out"] == {**kinds, ".canvas": 3, ".frames": 1}
    told = "files that are no image: 3 .canvas, 2 .psd, 2 .zarr, 2 Deep Zoom, 2 preview, 1 .frames, 1 no suffix, 1 pipe"
    assert told in caplog.text
    assert len(source.photos("train")) + len(source.photos("val")) == 12
    caplog.clear()
    assert len(ImageSet(photo_folder).files) == 12  # those that are scored
    assert told in caplog.text


def test_an_empty_folder_tells_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "a.cr2").touch()
    with pytest.raises(UsageError, match=r"no image in it or below \(1 \.cr2\); put PNG"):
        FolderPhotos(str(tmp_path)).prepare()


def held_out_alone(folder: Path) -> Path:
    """The one photo of four that is held out."""
    source = FolderPhotos(str(folder), val_fraction=0.01)
    (photo,) = source.photos("val")
    return photo.path


ODD = {
    "a page of a server": lambda path: path.write_text("<html>404</html>"),
    "a thumbnail": lambda path: tifffile.imwrite(path, painted(8, 8, seed=77), photometric="rgb"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:300]),
}


@pytest.mark.parametrize("kind", ODD)
def test_one_odd_file_does_not_stop_training(paint: Paint, tmp_path: Path, kind: str, caplog) -> None:
    for number in range(4):
        paint(f"photos/{number}.png", seed=number)
    folder = tmp_path / "photos"
    # Its content decides which is held out: put odd ones in until one is, alone.
    for attempt in range(60):
        odd = folder / "odd.png"
        shutil.copy(folder / "0.png", odd)
        ODD[kind](odd)
        with odd.open("ab") as file:
            file.write(b" " * attempt)
        if held_out_alone(folder) == odd:
            break
    else:
        pytest.fail("none was held out")
    with caplog.at_level(logging.WARNING):
        data = module(folder, val_fraction=0.01)
    assert len(data.prepared("val")) == 1
    assert len(data.prepared("train")) == 3
    record = data.record()
    assert str(odd) in [*record["skipped"], *record["too_small"]]
    assert "splitting the others anew" in caplog.text
    tokens = TokenDataModule(
        FolderPhotos(str(folder), val_fraction=0.01), grid=(4, 4), bank=BankSettings((40,)), steps_per_epoch=2
    )
    tokens.attach_tokenizer(Means())
    assert len(list(tokens.train_dataloader())) == 2
    if kind != "cut short":  # its header is whole
        assert tokens.val_dataloader()


def test_all_odd_says_what_each_is(paint: Paint, tmp_path: Path) -> None:
    paint("p/small.png", 8, 9)
    (tmp_path / "p" / "page.jpg").write_text("<html>")
    with pytest.raises(UsageError) as caught:
        module(tmp_path / "p", val_fraction=0.0)
    assert "1 too small, the largest has a shorter side of 8 px; 1 cannot be read" in str(caught.value)


NAMES = [
    b"caf\xe9.png",
    b"\xff\xfe.png",
    b"a b.png",
    b"new\nline.png",
    "éü".encode() + b".png",
    b"-rf.png",
    b"%s{}.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_trains(paint: Paint, tmp_path: Path, name: bytes, caplog) -> None:
    for number in range(3):
        paint(f"p/{number}.png", seed=number)
    shutil.move(tmp_path / "p" / "0.png", os.path.join(os.fsencode(tmp_path / "p"), name))
    folder = os.path.join(os.fsencode(tmp_path), b"p\xe9")
    shutil.move(tmp_path / "p", folder)
    root = os.fsdecode(folder)
    data = module(root, val_fraction=0.0)
    assert len(list(data.train_dataloader())) == 4
    write_json(tmp_path / "record.json", data.record())
    assert json.loads((tmp_path / "record.json").read_text())["train"] == 3
    assert torch.is_tensor(next(iter(data.train_dataloader()))["image"])
    assert isinstance(data.state_dict()["photos"], str)
    tokens = TokenDataModule(FolderPhotos(root), grid=(4, 4), bank=BankSettings((40,)), steps_per_epoch=2)
    tokens.attach_tokenizer(Means())
    assert len(list(tokens.train_dataloader())) == 2
    assert os.fsdecode(name) in tokens.bank.keys


def test_pipes_and_devices_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    assert list_images(tmp_path) == []
    for path in tmp_path.iterdir():
        with pytest.raises(OSError, match="a pipe, a socket or a device"):
            content_key(path)


def test_frames_are_sorted_as_people_count(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "1.png", "b/1.png", "a10/3.png", "a9/12.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, natural=True)]
    assert found == ["1.png", "2.png", "10.png", "a9/12.png", "a10/3.png", "b/1.png"]
    assert [p.name for p in list_files(tmp_path, {".png"}).files][:3] == ["1.png", "10.png", "2.png"]
