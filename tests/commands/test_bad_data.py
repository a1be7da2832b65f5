"""Data that cannot be used comes back as one line, before anything is trained or written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image


def test_data_of_the_other_stage_is_refused_by_every_command(shell):
    data = ("--data", "TokenDataModule", "--data.photos", "FolderPhotos", "--data.photos.root", "photos")
    for command in ("fit", "validate"):
        done = shell(command, "-c", "one.yaml", *data)
        assert (done.status, done.error.startswith("error: --data: TokenDataModule: ")) == (2, True)
        assert "give ImageFolderDataModule" in done.error


def test_photos_that_cannot_be_used_are_refused(shell):
    for name in ("empty", "broken", "small"):
        Path(name).mkdir()
    Path("broken/a.png").write_bytes(b"no image")
    Image.new("RGB", (40, 30)).save("small/a.png")
    cases = {
        "missing": "no such folder",
        "empty": "no image in it",
        "broken": "none of the 1 images for training can be read",
    }
    for name, words in cases.items():
        done = shell("fit", "-c", "one.yaml", "--data.root", name, "--run", "new")
        assert (done.status, words in done.error, f"--data.root: {name}: " in done.error) == (2, True, True), done.error
    done = shell("fit", "-c", "one.yaml", "--data.root", "small", "--run", "new", "--data.crops.size", 33)
    assert done.status == 2
    assert "at least 33 px" in done.error
    assert not Path("new").exists()


def test_photos_that_stage_2_cannot_use_are_refused_before_anything_is_written(shell, finished):
    shutil.copytree(finished / "two", "two")
    told = {name: Path("two", name).read_bytes() for name in ("config.yaml", "record.json")}
    for name in ("broken", "torn"):
        Path(name).mkdir()
    for number in range(2):
        Path(f"broken/{number}.png").write_bytes(f"no image {number}".encode())
    Image.effect_noise((90, 90), 50).save("torn/a.png")
    Path("torn/a.png").write_bytes(Path("torn/a.png").read_bytes()[:-999])  # its header is whole
    for name, words in {"broken": "none of the 2 images", "torn": "none of the 1 images"}.items():
        done = shell("fit", "-c", "two.yaml", "--data.photos.root", name)
        assert done.error.startswith(f"error: --data.photos.root: {name}: {words} can be read, the first is {name}/")
        assert (done.status, "Warning" in done.stderr) == (2, False)
        assert told == {name: Path("two", name).read_bytes() for name in told}


def test_photos_too_small_for_stage_2_are_refused_before_stage_1_is_trained(shell, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("nothing is to be trained"))
    Path("small").mkdir()
    Image.new("RGB", (40, 30)).save("small/a.png")
    Path("small/b.png").write_bytes(b"no image")
    stage_1 = ("--tokenizer.path", "new/tokenizer", "--tokenizer.recipe", "one.yaml")
    for tokenizer in (stage_1, ()):
        done = shell("fit", "-c", "two.yaml", *tokenizer, "--data.photos.root", "small")
        assert done.error.startswith("error: --data.grid: [4, 4]: no photo is that large: a window needs 32x32 px")
        assert done.status == 2
        assert "Warning" not in done.stderr
    done = shell("fit", "-c", "two.yaml", *stage_1, "--tokenizer.recipe", "nope.yaml")
    assert done.error.startswith("error: --tokenizer.recipe: nope.yaml: there is no such file")
    assert not Path("two").exists()
    assert not Path("new").exists()
