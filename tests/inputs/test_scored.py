"""Folders that are scored: what is no sample stays out, pairs are told apart, large images are a matter of trust."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import rows
from evaluation.__main__ import main
from evaluation.feature_cache import FeatureCache
from evaluation.images import ImageSet, image_files
from evaluation.looking import Wanted, look
from evaluation.protocol import Seams
from evaluation.reconstruction import Pairs
from evaluation.record import read_report
from evaluation.video.clips import Clips, ClipSet
from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers import write_video
from tests.evaluation.toys import ToyFeatures


def paint(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 10, 3), np.uint8)).save(path)
    return path


def test_zarr_among_scored_images_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = paint(tmp_path / "a.png")
    paint(tmp_path / "wide.zarr" / "0" / "b.png", 1)
    with caplog.at_level(logging.WARNING):
        assert image_files(tmp_path, option="real") == [image]
    assert "files that are no image: 1 .zarr" in caplog.text
    image.unlink()
    with pytest.raises(UsageError, match=r"holds no image \(1 .zarr\)"):
        image_files(tmp_path, option="real")


@pytest.mark.parametrize("option", ["original", "reconstruction"])
@pytest.mark.parametrize("place", ["", "below"])
def test_two_files_of_one_name_make_no_pair(tmp_path: Path, option: str, place: str) -> None:
    folders = {name: tmp_path / name for name in ("original", "reconstruction")}
    for seed, folder in enumerate(folders.values()):
        paint(folder / place / "a.png", seed)
    assert len(Pairs(*folders.values()).files) == 1
    paint(folders[option] / place / "a.bmp", 2)
    with pytest.raises(UsageError) as caught:
        Pairs(*folders.values())
    assert caught.value.option == option
    assert "a.bmp" in str(caught.value)
    assert "a.png" in str(caught.value)


def test_equal_names_in_two_folders_are_two_pairs(tmp_path: Path) -> None:
    for seed, name in enumerate(("a/x.png", "b/x.png")):
        paint(tmp_path / "originals" / name, seed)
        paint(tmp_path / "made" / name, 2 + seed)
    assert [a.relative_to(tmp_path / "originals") == b.relative_to(tmp_path / "made")
            for a, b in Pairs(tmp_path / "originals", tmp_path / "made").files] == [True, True]  # fmt: skip


def test_how_many_pixels_are_trusted(tmp_path: Path) -> None:
    paint(tmp_path / "real" / "a.png")
    paint(tmp_path / "made" / "a.png", 1)
    assert len(list(ImageSet(tmp_path / "real", max_pixels=80).crops())) == 1
    assert len(list(Pairs(tmp_path / "real", tmp_path / "made", max_pixels=80))) == 1
    with pytest.raises(UsageError, match=r"10x8 is 80 pixels, .* give a larger `max_pixels` if you trust it"):
        _ = ImageSet(tmp_path / "real", max_pixels=79).plan
    with pytest.raises(UsageError, match="give a larger `max_pixels` if you trust it"):
        list(Pairs(tmp_path / "real", tmp_path / "made", max_pixels=79))


@pytest.mark.parametrize(("limit", "words"), [("79", "give a larger --max_pixels"), ("0", "must be at least 1")])
def test_the_option_reaches_the_reader(tmp_path: Path, capsys, limit: str, words: str) -> None:
    paint(tmp_path / "real" / "a.png")
    paint(tmp_path / "made" / "a.png", 1)
    flags = ("--real", str(tmp_path / "real"), "--generated", str(tmp_path / "made"), "--max-pixels", limit)
    assert main(["score", *flags]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert len([line for line in told.splitlines() if line.startswith("error:")]) == 1


def film(folder: Path, kind: str) -> None:
    """A clip of three frames of 10x8 pixels."""
    frames = np.random.default_rng(3).integers(0, 256, (3, 8, 10, 3), np.uint8)
    if kind == "frames":
        for number in range(3):
            paint(folder / "clip" / f"{number}.png", number)
        return
    folder.mkdir()
    write_video(iter(frames), folder / f"clip.{kind}", width=10, height=8, fps=8)


@pytest.mark.parametrize("kind", ["frames", "gif", "webp", "mp4"])
def test_how_many_pixels_of_a_frame_are_trusted(tmp_path: Path, kind: str) -> None:
    film(tmp_path / "made", kind)
    ((_, clip_TYX3),) = ClipSet(tmp_path / "made", Clips(frames=3), max_pixels=80)
    assert clip_TYX3.shape == (3, 8, 10, 3)
    with pytest.raises(UsageError) as caught:
        list(ClipSet(tmp_path / "made", Clips(frames=3), option="generated", max_pixels=79))
    assert caught.value.option == "generated"
    assert "10x8 is 80 pixels, more than max_pixels=79: give a larger `max_pixels`" in str(caught.value)
    skipping = ClipSet(tmp_path / "made", Clips(frames=3), skip_corrupt=True, max_pixels=79)
    assert list(skipping) == []
    assert len(skipping.skipped) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max-pixels", "79"), "give a larger --max_pixels"),
        (("--max-pixels", "0"), "--max-pixels: 0: give a number from 1 up"),
        (("--device", "cuda:99"), "--device: cuda:99: cannot compute here"),
    ],
)
def test_options_of_score_videos(tmp_path: Path, capsys, flags: tuple[str, ...], words: str) -> None:
    film(tmp_path / "real", "frames")
    film(tmp_path / "made", "gif")
    sets = ("--real", str(tmp_path / "real"), "--generated", str(tmp_path / "made"))
    toy = ("--features", "tests.evaluation.toys.ToyClips", "--set", "real.frames=3", "--set", "generated.frames=3")
    assert main(["score-videos", *sets, *toy, *flags]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert len([line for line in told.splitlines() if line.startswith("error:")]) == 1


def test_flat_patches_have_no_seam_ratio_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (2, 2, 3), np.uint8)
    Image.fromarray(colors.repeat(8, 0).repeat(8, 1)).save(tmp_path / "flat.png")
    real = ImageSet([paint(tmp_path / f"{number}.png", number) for number in range(2)], option="real")
    sets = {"real": real, "flat": ImageSet([tmp_path / "flat.png"], option="generated")}
    wanted = Seams(patch=8, token=2)
    cache = FeatureCache(ToyFeatures(), enabled=False)
    looks = {name: look(images, cache, Wanted(seams=wanted)) for name, images in sets.items()}
    assert rows.seams(looks, "real", wanted)[0]["name"] == "seam ratio"
    assert caplog.text == ""
    assert rows.seams(looks, "flat", wanted) == []
    (record,) = caplog.records
    assert record.getMessage().startswith("generated: no seam ratio: patches of 8 px are flat inside")


def test_names_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score over folders and files whose names are no UTF-8 is written, printed and reported on."""
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        paint(Path("real") / f"{number}.png", number)
        paint(Path("m\udce9") / f"{number}\udcff.png", 20 + number)
    settings = {
        "name": "test",
        "version": 1,
        "metrics": {"kid": {}},
        "features": {"name": "tests.evaluation.toys.ToyFeatures"},
    }
    Path("p\udce9.yaml").write_text(json.dumps({**settings, "resamples": 20}))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))  # strict, as a terminal's
    sets = ("--real", "real", "--generated", "m\udce9", "--protocol", "p\udce9.yaml", "--output", "r\udce9.json")
    assert main(["score", *sets, "--no-cache"]) == 0
    report = read_report(Path("r\udce9.json"))
    assert report["sets"]["generated"]["folder"] == "m\udce9"
    assert main(["report", "r\udce9.json", "--output", "o\udce9"]) == 0
    assert main(["score", *sets, "--no-cache", "--set", "real.count=99"]) == 2
    folder = Path("o\udce9")
    assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".md", ".html", ".json", ".csv", ".tex"}
    assert "m\\udce9" in (folder / "report.json").read_text("utf-8")
