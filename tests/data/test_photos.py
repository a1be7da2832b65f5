"""Sources of photos: folders, hashes, and the split by whole photos."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuwa_lightning.data.folders import cache_folder, content_key, locked
from nuwa_lightning.data.photos import FolderPhotos, held_out
from nuwa_lightning.errors import UsageError
from tests.data.conftest import Paint


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder("~/x") == Path.home() / "x"
    monkeypatch.setenv("NUWA_LIGHTNING_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("NUWA_LIGHTNING_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "nuwa_lightning"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "nuwa_lightning"


@pytest.mark.parametrize("size", [1, 2, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_content_key_tells_contents_apart(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    keys = set()
    for content in (b"\0" * size, b"\0" * (size + 1), b"\1" + b"\0" * size, b"\0" * size + b"\1"):
        path.write_bytes(content)
        keys.add(content_key(path))
        shutil.copy(path, tmp_path / "b")
        assert content_key(tmp_path / "b") == content_key(path)
    assert len(keys) == 4


def test_lock_is_free_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "deep" / "er"):
            assert (tmp_path / "deep" / "er").is_dir()


@given(st.sets(st.text(min_size=1), max_size=40), st.floats(0, 0.99))
def test_held_out_is_a_proper_share(scenes: set[str], fraction: float) -> None:
    out = held_out(scenes, fraction=fraction)
    assert out <= scenes
    assert out == held_out(sorted(scenes, reverse=True), fraction=fraction)
    if fraction > 0 and len(scenes) >= 2:
        assert 1 <= len(out) < len(scenes)
    else:
        assert not out


def test_held_out_keeps_sides_when_scenes_come(tmp_path: Path) -> None:
    first, more = {str(n) for n in range(200)}, {str(n) for n in range(300)}
    assert held_out(more, fraction=0.2) & first == held_out(first, fraction=0.2)
    assert 25 <= len(held_out(first, fraction=0.2)) <= 55


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_held_out_refuses(fraction: float) -> None:
    with pytest.raises(UsageError, match="val_fraction"):
        held_out(["a"], fraction=fraction)


def test_folder_split_is_of_whole_photos(photo_folder: Path) -> None:
    source = FolderPhotos(str(photo_folder), val_fraction=0.3)
    source.prepare()
    train, val = source.photos("train"), source.photos("val")
    assert len(train) + len(val) == 12
    assert val
    assert not {photo.path for photo in train} & {photo.path for photo in val}
    assert [photo.key for photo in train] == sorted(photo.key for photo in train)
    assert source.record()["train"] == len(train)


def test_equal_files_stay_on_one_side(photo_folder: Path) -> None:
    for path in list(photo_folder.rglob("*.png")):
        shutil.copy(path, path.with_name("copy-" + path.name))
    source = FolderPhotos(str(photo_folder), val_fraction=0.4)
    train, val = ({content_key(photo.path) for photo in source.photos(split)} for split in ("train", "val"))
    assert not train & val
    assert len(train) + len(val) == 12


def test_renaming_changes_no_side(photo_folder: Path) -> None:
    before = {content_key(photo.path) for photo in FolderPhotos(str(photo_folder)).photos("val")}
    shutil.move(photo_folder / "a", photo_folder / "z")
    assert {content_key(photo.path) for photo in FolderPhotos(str(photo_folder)).photos("val")} == before


def test_several_roots_and_a_validation_folder(photo_folder: Path) -> None:
    source = FolderPhotos([str(photo_folder / "a"), str(photo_folder / "b")], val_root=str(photo_folder / "a"))
    assert len(source.photos("train")) == 6  # those of a are for validation
    assert {photo.key[:2] for photo in source.photos("train")} == {"1/"}
    assert len(source.photos("val")) == 6
    assert source.option("val") == ("val_root", str(photo_folder / "a"))
    assert source.option("train")[0] == "root"


def test_captions_lie_beside(paint: Paint, tmp_path: Path) -> None:
    paint("p/1.png", seed=1)
    paint("p/2.png", seed=2)
    (tmp_path / "p" / "1.txt").write_text("a green\nhill \n")
    captions = {photo.key: photo.caption for photo in FolderPhotos(str(tmp_path / "p"), val_fraction=0).photos("train")}
    assert captions == {"1.png": "a green hill", "2.png": ""}


def test_bad_folders(tmp_path: Path, paint: Paint) -> None:
    with pytest.raises(UsageError, match=r"^root: .*none: no such folder"):
        FolderPhotos(str(tmp_path / "none")).prepare()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"^root: .*empty: no image"):
        FolderPhotos(str(tmp_path / "empty")).prepare()
    path = paint("photos/1.png")
    with pytest.raises(UsageError, match=r"^root: .*1\.png: not a folder"):
        FolderPhotos(str(path)).prepare()
    with pytest.raises(UsageError, match=r"^val_root: .*none"):
        FolderPhotos(str(path.parent), val_root=str(tmp_path / "none")).prepare()
