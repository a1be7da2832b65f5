"""Clips that are real ones, again and again the same, or chosen by name or size: counted, told, or without effect."""

from __future__ import annotations

import base64
import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.record import check_comparable
from evaluation.table import text_table
from evaluation.video.clips import Clips, ClipSet
from evaluation.video.copies import Frames, copies
from evaluation.video.score import VideoProtocol, score_videos
from nuwa_lightning.errors import UsageError
from tests.evaluation.test_faults import rows_of
from tests.evaluation.toys import ToyClips

SIX = Clips(frames=6)
PROTOCOL = VideoProtocol("test", 1, SIX, SIX, features="toy", curves=False, splits=10)


def made(number: int) -> Any:
    """Six frames of 48 x 48 pixels of a soft picture that moves to the side."""
    rough = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(rough).resize((48, 48), Image.Resampling.BICUBIC))
    return np.stack([np.roll(image, t * (1 + number % 3), 1) for t in range(6)])


def save(folder: Path, clip: Any) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"{number:02d}.png")


@pytest.fixture
def real(tmp_path: Path) -> Path:
    for number in range(16):
        save(tmp_path / "real" / f"{number:02d}", made(number))
    return tmp_path / "real"


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    for number in range(12):
        save(tmp_path / "fresh" / f"{number:02d}", made(100 + number))
    return tmp_path / "fresh"


def score(real: Path, generated: Path, protocol: VideoProtocol = PROTOCOL, **reading: Any) -> dict[str, Any]:
    sets = ClipSet(real, protocol.real, **reading), ClipSet(generated, protocol.generated)
    return score_videos(protocol, *sets, ToyClips())


def test_real_clips_but_one(real: Path, fresh: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    for number, path in enumerate(sorted(real.iterdir())[1:]):
        clip = np.stack([np.asarray(Image.open(frame)) for frame in sorted(path.iterdir())])
        save(copied / f"{number:02d}", clip[:, :, ::-1] if number % 2 else clip)
    report = score(real, copied)
    rows, others = rows_of(report), rows_of(score(real, fresh))
    assert rows["toy-FVD"]["value"] < others["toy-FVD"]["value"]
    assert (rows["copies of real frames"]["value"], others["copies of real frames"]["value"]) == (1, 0)
    assert others["copies of real frames"]["high"] > 0.2  # of twelve
    assert rows["toy-nearest real"]["high"] < rows["toy-nearest real"]["floor"]
    assert rows["toy-authenticity"]["value"] < others["toy-authenticity"]["low"]
    shown = report["nearest"]
    assert (copied / shown["generated"][0] / "03.png").read_bytes() == (real / shown["real"][0] / "03.png").read_bytes()
    with Image.open(io.BytesIO(base64.b64decode(shown["jpeg"]))) as sheet:
        upper, lower = np.asarray(sheet)[:128, :128].astype(int), np.asarray(sheet)[132:, :128].astype(int)
    assert np.abs(upper - lower).mean() < 8


def test_a_given_first_frame_is_one_of_six_and_black_ones_are_nobodys() -> None:
    sides = Frames(), Frames()
    for number in range(8):
        sides[0].add(np.concatenate([np.zeros((1, 48, 48, 3), np.uint8), made(number)]), number)
        sides[1].add(np.concatenate([made(number)[:1], made(100 + number)[1:]]), number)
    assert copies(*sides)["value"] == pytest.approx(1 / 6)
    sides[1].add(np.zeros((6, 48, 48, 3), np.uint8), 8)
    assert copies(*sides)["value"] == pytest.approx(8 / 54)


def test_names_of_clips_move_nothing(real: Path, fresh: Path, tmp_path: Path) -> None:
    few = dataclasses.replace(PROTOCOL, generated=Clips(frames=6, count=6))
    found = []
    for seed in range(3):
        names = np.random.default_rng(seed).permutation(20)
        for source in (real, fresh):
            for number, path in enumerate(sorted(source.iterdir())):
                shutil.copytree(path, tmp_path / str(seed) / source.name / f"{names[number]:02d}")
        found.append(score(tmp_path / str(seed) / "real", tmp_path / str(seed) / "fresh", few))
    assert found[0]["metrics"] == found[1]["metrics"] == found[2]["metrics"]
    assert found[0]["sets"] == found[1]["sets"] == found[2]["sets"]


def test_one_clip_under_many_names(real: Path, fresh: Path) -> None:
    save(fresh / "mirrored", made(100)[:, :, ::-1])
    again = [Image.fromarray(frame) for frame in made(101)]
    again[0].save(fresh / "again.webp", save_all=True, append_images=again[1:], lossless=True)
    told = "14 crops of 14 files (1 WebP, 13 folders of PNG) of 48x48 pixels, 2 of them repeat another one\n"
    assert told in text_table(score(real, fresh))


def test_real_clips_chosen_by_their_size(real: Path, fresh: Path) -> None:
    sized = dataclasses.replace(PROTOCOL, real=Clips(frames=6, side=48), generated=Clips(frames=6, side=48))
    for number in range(4):
        save(real / f"large{number}", made(200 + number).repeat(2, 1).repeat(2, 2))
    reports = {
        str(most): score(real, fresh, sized, skip_corrupt=True, max_pixels=most) for most in (96 * 96, 48 * 48)
    }  # fmt: skip
    assert "of 48x48 to 96x96 pixels\n" in text_table(reports["9216"])
    assert ", 4 skipped as larger than `max_pixels`" in text_table(reports["2304"])
    with pytest.raises(UsageError, match="real images differ"):
        check_comparable(reports)


def test_parts_of_few_files_are_refused(fresh: Path, tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "long" / str(number), np.concatenate([made(number + 10 * i) for i in range(4)]))
    parts = dataclasses.replace(PROTOCOL, real=Clips(frames=6, all_parts=True))
    with pytest.raises(UsageError, match="its clips come from 3 files, at least 4"):
        score(tmp_path / "long", fresh, parts)
