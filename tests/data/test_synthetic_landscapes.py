"""Drawn landscapes: their attributes show, captions tell them, and nothing depends on anything but the seed."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning.data import SyntheticLandscapes
from nuwa_lightning.data.scenes import MOTIONS, Scene, all_scenes, caption, draw
from nuwa_lightning.data.synthetic_landscapes import held_out_scenes
from nuwa_lightning.errors import UsageError


def means(scene: Scene, **changes: object) -> list[np.ndarray]:
    """Mean colours of the sky, of the middle and of the foreground, over some seeds."""
    images = np.stack([draw(Scene(**{**vars(scene), **changes}), seed, (48, 48)) for seed in range(6)])  # type: ignore[arg-type]
    return [images[:, rows].mean((0, 1, 2)) for rows in (slice(0, 8), slice(16, 22), slice(40, 48))]


def test_every_attribute_shows_where_it_should() -> None:
    plain = Scene()
    sky, middle, front = means(plain)
    assert sky[2] > sky[0] + 40
    assert np.ptp(means(plain, sky="grey")[0]) < 15
    assert means(plain, sky="red")[0][0] > means(plain, sky="red")[0][2] + 40
    assert means(plain, time="dusk")[2].mean() < 0.75 * front.mean()
    assert means(plain, time="night")[2].mean() < 0.45 * front.mean()
    assert means(plain, water=True)[2][2] > means(plain, water=True)[2][1]
    assert front[1] > front[2] + 30
    assert means(plain, snow=True)[2].min() > 180
    assert means(plain, mountains=True)[1].mean() < middle.mean() - 20


def test_a_image_follows_from_its_seed_at_any_size_and_a_video_moves_on() -> None:
    scene = Scene("dusk", "red", True, True, False, "pan right")
    assert np.array_equal(draw(scene, 5, (40, 60)), draw(scene, 5, (40, 60)))
    assert not np.array_equal(draw(scene, 5, (40, 60)), draw(scene, 6, (40, 60)))
    wide, narrow = draw(scene, 5, (40, 90)).astype(int), draw(scene, 5, (40, 60)).astype(int)
    assert np.abs(wide[:, :60] - narrow).max() <= 24  # grain apart
    later = draw(scene, 5, (90, 100), frame=4).astype(int)
    assert np.abs(later[45:, :80] - draw(scene, 5, (90, 100)).astype(int)[45:, 20:]).mean() < 4
    still = [draw(Scene("dusk", "red", True), 5, (40, 60), frame=frame).astype(int) for frame in (0, 9)]
    assert np.abs(still[0] - still[1]).mean() < 4


@pytest.mark.parametrize(("motion", "sign"), [("pan right", 1), ("pan left", -1), ("still", 0)])
def test_videos_move_as_the_scene_says(motion: str, sign: int) -> None:
    scene = Scene("day", "grey", mountains=True, water=True, motion=motion)
    video = np.stack([draw(scene, 3, (90, 160), frame=n) for n in range(6)]).astype(int)
    assert video.shape == (6, 90, 160, 3)
    assert np.array_equal(video[4], draw(scene, 3, (90, 160), frame=4))
    # The camera moves 5 pixels a frame: what was there is found by as much on the other side.
    for step in (-5, 0, 5):
        moved = video[5, 30:, 40 + 5 * step : 120 + 5 * step]
        away = np.abs(moved - video[0, 30:, 40:120]).mean()
        assert (away < 4) == (step == -5 * sign)


def test_scenes_are_counted_and_captions_name_all_attributes() -> None:
    scenes = all_scenes()
    assert len({scene.name for scene in scenes}) == len(scenes) == 72
    assert len(all_scenes(motions=True)) == 72 * len(MOTIONS)
    texts = {caption(scene, seed) for scene in scenes for seed in range(20)}
    assert len(texts) > 1000
    for seed in range(20):
        text = caption(Scene("night", "grey", True, False, True, "pan left"), seed)
        for words in (
            ("night", "dark", "moon"),
            ("grey",),
            ("mountain", "peaks"),
            ("no ", "dry"),
            ("snow", "wint"),
            ("left",),
        ):
            assert any(word in text for word in words), text
    for wrong in ({"time": "noon"}, {"sky": "green"}, {"motion": "zoom"}):
        with pytest.raises(UsageError, match="scene"):
            Scene(**wrong)  # type: ignore[arg-type]


def test_the_set_is_drawn_once_and_holds_whole_combinations_out(tmp_path: Path) -> None:
    source = SyntheticLandscapes(80, size=(24, 32), cache=str(tmp_path))
    source.prepare()
    train, val = source.photos("train"), source.photos("val")
    assert (len(train) + len(val), len(held_out_scenes())) == (80, 12)
    assert not {photo.scene for photo in train} & {photo.scene for photo in val}
    assert {photo.scene for photo in val} == {scene.name for scene in held_out_scenes()}
    times = {path.path: path.path.stat().st_mtime_ns for path in train}
    source.prepare()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    with Image.open(train[0].path) as image:
        assert image.size == (32, 24)
    assert all(photo.caption for photo in train + val)
    assert source.record()["count"] == 80
    # Each single attribute of what is held out is known from training.
    seen = collections.Counter(value for photo in train for value in photo.scene.split("-"))
    assert all(seen[value] > 10 for photo in val for value in photo.scene.split("-"))
    for wrong in ({"count": 71}, {"size": (8, 99)}):
        with pytest.raises(UsageError, match=r"data\.photos"):
            SyntheticLandscapes(**wrong)  # type: ignore[arg-type]
