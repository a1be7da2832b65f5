"""``generate --frames``: videos of every task, the given image as their first frame; one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning.commands.generate_options import VIDEO_SUFFIXES as SUFFIXES
from nuwa_lightning.writers import VIDEO_WRITERS, read_metadata

pytest.importorskip("av")


@pytest.fixture
def run(workplace, filmed, sample_photos) -> Path:
    for name in ("two", "videos"):
        (workplace / name).symlink_to(filmed / name)
    Image.fromarray(sample_photos["flower.jpg"][200:231, 300:345]).save("in.png")
    Image.new("RGB", (5, 31)).save("small.png")
    return workplace


def frames(folder: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("*.png"))]


def test_the_model_says_that_it_was_trained_on_videos(run):
    for name, frames in (("videos", 3), ("two", 1)):
        assert json.loads(Path(name, "model", "config.json").read_text())["frames"] == frames


def test_suffixes_are_those_of_the_writers() -> None:
    assert tuple(VIDEO_WRITERS) == SUFFIXES


def test_a_image_begins_to_move(run, shell):
    options = ("--checkpoint", "videos", "--image", "in.png", "--frames", "5", "--seed", 3)
    assert shell("generate", *options, "--output", "out.frames").status == 0
    made, given = frames("out.frames"), np.asarray(Image.open("in.png"))
    assert len(made) == 5
    assert np.array_equal(made[0], given)
    assert all(frame.shape == given.shape for frame in made)
    assert not np.array_equal(made[1], made[2])
    said = read_metadata("out.frames")
    assert (said["task"], said["image"], said["frames"], said["fps"]) == ("animate", "in.png", 5, 8.0)
    assert shell("generate", "--from", "out.frames", "--output", "again.frames").status == 0
    for a, b in zip(made, frames("again.frames"), strict=True):
        assert np.array_equal(a, b)
    # A longer video begins alike.
    assert shell("generate", *options, "--frames", "7", "--output", "longer.frames").status == 0
    for a, b in zip(made, frames("longer.frames"), strict=False):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_video_from_nothing(run, shell, suffix):
    output = f"video{suffix}"
    options = ("--checkpoint", "videos", "--size", "48x38", "--frames", "4", "--fps", "10")
    assert shell("generate", *options, "--output", output).status == 0
    said = read_metadata(output)
    assert (said["task"], said["size"], said["frames"], said["fps"]) == ("unconditional", [48, 38], 4, 10.0)
    assert not [p.name for p in run.iterdir() if "journal" in p.name]


def test_several_videos_and_a_closed_one(run, shell):
    options = ("--checkpoint", "videos", "--size", "48x32", "--frames", "3")
    assert shell("generate", *options, "--count", "2", "--output", "some.frames").status == 0
    one, two = frames("some-0.frames"), frames("some-1.frames")
    assert not np.array_equal(one[0], two[0])
    assert shell("generate", *options, "--wrap", "x", "--output", "around.frames").status == 0
    assert len(frames("around.frames")) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--frames", "0", "--output", "out.mp4"), "--frames: 0: give 1 or more"),
        (("--frames", "3", "--output", "out.png"), "must end in one of .mp4, .gif, .webp, .frames"),
        (("--task", "text-to-image", "--prompt", "x", "--output", "out.mp4"), "must end in one of .png"),
        (
            ("--task", "outpaint", "--image", "in.png", "--expand", "left=9", "--frames", "3"),
            "--frames: 3: --task outp",
        ),
        (("--image", "in.png", "--frames", "1", "--output", "out.gif"), "--frames: 1: the image is the first one"),
        (("--image", "in.png", "--frames", "3", "--output", "out.mp4"), "45x31 pixels of the image, only even sides"),
        (("--image", "small.png", "--frames", "3", "--output", "out.gif"), "smaller than one patch of"),
        (("--image", "gone.png", "--frames", "3", "--output", "out.gif"), "--image: gone.png: no such file"),
        (("--image", "in.png", "--frames", "3", "--size", "64x64"), "--size: 64x64: the size follows"),
        (("--task", "animate", "--frames", "3"), "--task: animate: it needs an image"),
        (
            ("--task", "animate", "--image", "in.png", "--expand", "left=9"),
            "--expand: left=9: a video goes on from a whole",
        ),
        (("--task", "text-to-video", "--frames", "3"), "--task: text-to-video: it needs a text"),
        (("--task", "text-to-video", "--prompt", " ", "--frames", "3"), "is empty: say what is to be seen"),
        (("--prompt", "a lake", "--frames", "3"), "reads no text: train one that does by recipes/landscape_text_video"),
        (("--frames", "3", "--size", "x64", "--output", "out.mp4"), "--size: x64: a video has a width and a height"),
        (("--frames", "3", "--fps", "0"), "--fps: 0.0: give frames a second"),
        (("--frames", "3", "--preview", "p.png"), "--preview: p.png: it is of an image"),
        (("--frames", "3", "--waves", "3"), "--waves: 3"),
        (("--frames", "3", "--size", "45x31", "--output", "out.mp4"), "--size: 45x31: MP4 needs sides"),
        (
            ("--frames", "3", "--checkpoint", "two"),
            "trained on images, not on videos: take landscape_v",
        ),
        (("--task", "animat", "--frames", "3"), "--task: animat: did you mean animate?"),
    ],
)
def test_what_does_not_fit_is_refused(run, shell, options, words):
    before = {p.name for p in run.iterdir()}
    more = () if "--checkpoint" in options else ("--checkpoint", "videos")
    done = shell("generate", *more, *options)
    assert (done.status, words in done.error) == (2, True), done.error
    assert {p.name for p in run.iterdir()} == before


def test_what_is_there_is_kept(run, shell):
    Path("out.gif").write_text("mine")
    options = ("--checkpoint", "videos", "--size", "32x32", "--frames", "2", "--output", "out.gif")
    assert "exists already" in shell("generate", *options).error
    assert Path("out.gif").read_text() == "mine"
    assert "is never replaced" in shell("generate", *options, "--overwrite").error
    assert Path("out.gif").read_text() == "mine"
    Path("out.gif").unlink()
    for more in ((), ("--overwrite",)):
        assert shell("generate", *options, *more).status == 0
        assert read_metadata("out.gif")["frames"] == 2
