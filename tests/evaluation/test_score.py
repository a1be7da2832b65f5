"""The command from end to end on crops of real photographs: order, floor, repeatability, and every bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evaluation.__main__ import main
from evaluation.crops import crops, write_crops
from evaluation.score import score

Photos = dict[str, np.ndarray[Any, Any]]
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, sample_photos: Photos) -> Folders:
    """Two disjoint draws of crops (``real``, ``other``), and the second blurred and noised."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "photos").mkdir()
    for name, photo in sample_photos.items():
        Image.fromarray(photo).save(root / "photos" / name.replace("jpg", "png"))
    write_crops(root / "photos", root / "real", count=20, side=128, short_sides=(160, 240), seed=0)
    write_crops(root / "photos", root / "other", count=10, side=128, short_sides=(160, 240), seed=1)
    rng = np.random.default_rng(0)
    for name in ("blurred", "noised"):
        (root / name).mkdir()
    for path in sorted((root / "other").iterdir()):
        image = Image.open(path)
        image.filter(ImageFilter.GaussianBlur(3)).save(root / "blurred" / path.name)
        noisy = np.asarray(image) + rng.normal(0, 60, (128, 128, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / "noised" / path.name)
    return {path.name: path for path in root.iterdir()}


def values(report: dict[str, Any]) -> dict[str, float]:
    return {f"{row['name']} {row['set']}": row["value"] for row in report["metrics"]}


def test_worse_pictures_score_worse(folders: Folders) -> None:
    found = {name: score(folders["real"], folders[name]) for name in ("other", "blurred", "noised")}
    kids = {name: values(report)["lite0-KID generated"] for name, report in found.items()}
    assert kids["other"] < kids["blurred"]
    assert kids["other"] < kids["noised"]
    row = found["other"]["metrics"][0]
    assert abs(row["value"]) < row["floor"] + 4 * (row["floor_std"] + row["std"])
    assert kids["blurred"] > row["high"]
    # Blur smooths borders and insides alike: the ratio stays that of photographs.
    assert 0.8 < values(found["blurred"])["seam ratio generated"] < 1.2


def test_the_command_writes_the_same_bytes_twice(folders: Folders, tmp_path: Path, capsys: Any) -> None:
    command = ["score", "--real", str(folders["real"]), "--generated", str(folders["blurred"]), "--output"]
    assert main([*command, str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr().out
    assert main([*command, str(tmp_path / "b.json")]) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["sets"]["real"]["pictures"] == 20
    assert {"torch", "numpy", "python"} <= set(report["versions"])
    assert "lite0-KID" in printed
    assert "FID" not in printed
    assert [row["name"] for row in report["metrics"]] == ["lite0-KID", "seam ratio"]  # no 256-px window fits


def test_reconstructions_are_paired_by_name(folders: Folders, tmp_path: Path) -> None:
    partners = tmp_path / "reconstruction"
    partners.mkdir()
    for path in sorted(folders["real"].iterdir())[:10]:
        Image.open(path).filter(ImageFilter.GaussianBlur(1)).save(partners / f"{path.stem}.bmp")
    report = score(folders["real"], folders["other"], reconstruction=partners)
    (row,) = [row for row in report["metrics"] if row["name"] == "PSNR"]
    assert row["n"] == 10
    assert 15 < row["value"] < 45
    assert "lite0-KID reconstruction" in values(report)


def test_windows_let_sizes_mix_and_show_collapse(folders: Folders, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    wide.mkdir()
    photos = [np.asarray(Image.open(path)) for path in sorted(folders["photos"].iterdir())]
    for i in range(2):
        canvas = np.concatenate([photos[i], photos[1 - i][:, : 300 + 60 * i]], axis=1)[:300]
        if i == 1:
            canvas = canvas.copy()
            canvas[:256, :256] = 90
        Image.fromarray(canvas).save(wide / f"{i}.png")
    from evaluation.score import Settings

    report = score(folders["photos"], wide, settings=Settings(window=140))
    assert report["sets"]["generated"]["pictures"] == 26
    (row,) = [row for row in report["metrics"] if row["name"] == "collapsed (256 px)"]
    assert row["n"] == 2
    assert row["collapsed"] >= 1


def error_of(capsys: Any, *arguments: object) -> str:
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return str(captured.err)


def test_bad_input_is_one_line(folders: Folders, tmp_path: Path, capsys: Any) -> None:
    real, other = folders["real"], folders["other"]
    empty, few, mixed, corrupt = (tmp_path / name for name in ("empty", "few", "mixed", "corrupt"))
    empty.mkdir()
    for folder in (few, mixed, corrupt):
        shutil.copytree(other, folder)
    for path in sorted(few.iterdir())[5:]:
        path.unlink()
    Image.new("RGB", (64, 64)).save(mixed / "zz.png")
    (corrupt / "00003.png").write_bytes((other / "00003.png").read_bytes()[:200])

    def refused(*more: object) -> str:
        return error_of(capsys, "score", "--real", real, *more)

    assert "is not a folder" in refused("--generated", tmp_path / "none")
    assert "holds no picture" in refused("--generated", empty)
    assert "holds 5 pictures, at least 10 are needed" in refused("--generated", few)
    assert "mixed sizes (00000.png is 128x128 but zz.png is 64x64)" in refused("--generated", mixed)
    assert "00003.png" in refused("--generated", corrupt)
    assert "holds the same pictures as --real" in refused("--generated", real)
    assert "no picture is 500 pixels" in error_of(
        capsys, "score", "--real", real, "--generated", other, "--window", "500"
    )
    assert "larger than a patch of 128" in refused("--generated", other, "--patch", "128")
    assert "does not exist: make it first" in refused("--generated", other, "--output", tmp_path / "none" / "a.json")
    reconstruction = tmp_path / "reconstruction"
    shutil.copytree(folders["blurred"], reconstruction)
    (reconstruction / "00000.png").rename(reconstruction / "aaaaa.png")
    assert "aaaaa: has no partner" in refused("--generated", other, "--reconstruction", reconstruction)


def test_traceback_on_request(tmp_path: Path) -> None:
    from nuwa_lightning.errors import UsageError

    with pytest.raises(UsageError):
        main(["score", "--real", str(tmp_path / "a"), "--generated", str(tmp_path), "--traceback"])


def test_unknown_options_are_refused_by_the_parser(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["score", "--reel", "a"])
    assert caught.value.code == 2
    assert "--real" in capsys.readouterr().err


def test_crops_are_the_photograph_resized(folders: Folders) -> None:
    """A crop is, up to rounding, a part of the whole photograph resized by Pillow."""
    photos = sorted(folders["photos"].iterdir())
    made = crops(photos, count=6, side=100, short_sides=(150, 200), seed=4)
    np.testing.assert_array_equal(made, crops(photos, count=6, side=100, short_sides=(150, 200), seed=4))
    image = Image.open(photos[0]).convert("RGB")
    whole = np.asarray(image.resize((225, 150), Image.Resampling.LANCZOS)).astype(int)
    best = min(np.abs(whole[y : y + 100, x : x + 100] - made[0]).mean() for y in range(51) for x in range(126))
    assert best < 1.0


def test_crops_refuse_what_cannot_be(folders: Folders, tmp_path: Path, capsys: Any) -> None:
    photos = folders["photos"]
    assert "is not a folder" in error_of(capsys, "crops", "--photos", tmp_path / "none", "--output", tmp_path / "a")
    assert "smaller than the squares" in error_of(
        capsys, "crops", "--photos", photos, "--output", tmp_path / "a", "--short-side", "100"
    )
    assert "exists already" in error_of(capsys, "crops", "--photos", photos, "--output", folders["real"])
    assert not (tmp_path / "a").exists()
