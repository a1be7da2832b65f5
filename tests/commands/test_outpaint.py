"""``generate --image``: known pixels stay, and what does not fit together is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning.errors import UsageError
from nuwa_lightning.request_fields import Expansion
from nuwa_lightning.writers import read_metadata


@pytest.fixture
def run(workplace, finished, sample_photos) -> Path:
    (workplace / "two").symlink_to(finished / "two")
    Image.fromarray(sample_photos["flower.jpg"][200:231, 300:345]).save("in.png")
    Image.new("L", (45, 31)).save("black.png")
    half = Image.new("L", (45, 31))
    half.paste(255, (0, 0, 20, 31))
    half.save("half.png")
    Image.new("L", (45, 31), 255).save("white.png")
    Image.new("L", (40, 31), 255).save("other.png")
    Image.new("RGB", (5, 31)).save("small.png")
    Image.new("RGBA", (45, 31), (255, 255, 255, 0)).save("clear.png")
    Path("torn.png").write_bytes(b"no image")
    return workplace


def test_a_image_on_a_larger_canvas(run, shell):
    options = ("--checkpoint", "two", "--image", "in.png", "--expand", "left=10,down=7", "--seed", 3)
    assert shell("generate", *options, "--output", "out.png").status == 0
    given, made = np.asarray(Image.open("in.png")), np.asarray(Image.open("out.png"))
    assert made.shape == (38, 55, 3)
    assert np.array_equal(made[:31, 10:], given)
    said = read_metadata("out.png")
    assert (said["task"], said["image"], said["expand"]) == ("outpaint", "in.png", "left=10,down=7")
    assert shell("generate", *options, "--task", "outpaint", "--output", "again.png").status == 0
    assert np.array_equal(np.asarray(Image.open("again.png")), made)


def test_a_hole_is_written_anew(run, shell):
    mask = np.zeros((31, 45), np.uint8)
    mask[5:20, 12:30] = 255
    Image.fromarray(mask).save("mask.png")
    assert shell("generate", "--checkpoint", "two", "--image", "in.png", "--mask", "mask.png").status == 0
    given, made = np.asarray(Image.open("in.png")), np.asarray(Image.open("image.png"))
    assert np.array_equal(made[mask == 0], given[mask == 0])
    assert not np.array_equal(made, given)
    assert read_metadata("image.png")["mask"] == "mask.png"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--image", "in.png"), "--image: in.png: nothing to expand"),
        (("--image", "in.png", "--expand", "left=0"), "--expand: left=0: nothing to expand"),
        (("--image", "in.png", "--mask", "black.png"), "--mask: black.png: nothing to expand"),
        (("--image", "in.png", "--mask", "white.png"), "white all over"),
        (("--image", "in.png", "--mask", "other.png"), "is 40x31, the image 45x31"),
        (("--image", "in.png", "--mask", "torn.png"), "--mask: torn.png: not an image"),
        (("--image", "in.png", "--mask", "clear.png"), "--mask: clear.png: has transparent areas"),
        (("--image", "small.png", "--expand", "left=9"), "is 5x31, smaller than one patch of"),
        (("--image", "torn.png", "--expand", "left=9"), "--image: torn.png: not an image"),
        (("--image", "gone.png", "--expand", "left=9"), "--image: gone.png: no such file"),
        (("--image", "in.png", "--expand", "left=9", "--size", "64x64"), "--size: 64x64: the size follows"),
        (("--image", "in.png", "--expand", "left=9", "--blend", "-1"), "--blend: -1"),
        (("--image", "in.png", "--expand", "left=9", "--task", "unconditional"), "--task: unconditional"),
        (("--expand", "left=9"), "--expand: left=9: there is no image"),
        (("--mask", "black.png"), "--mask: black.png: there is no image"),
        (
            ("--image", "in.png", "--expand", "left=9", "--output", "./in.png", "--overwrite"),
            "--output: in.png: is the file of --image itself",
        ),
        (
            ("--image", "in.png", "--mask", "half.png", "--output", "half.png", "--overwrite"),
            "--output: half.png: is the file of --mask itself",
        ),
        (("--task", "outpaint"), "--task: outpaint: it needs an image"),
        (("--task", "outpant"), "--task: outpant: did you mean outpaint?"),
    ],
)
def test_what_does_not_fit_is_refused(run, shell, options, words):
    before = {path: path.read_bytes() for path in Path().glob("*.png")}
    done = shell("generate", "--checkpoint", "two", "--output", "out.png", *options)
    assert done.status == 2
    assert words in done.error, done.error
    assert {path: path.read_bytes() for path in Path().glob("*.png")} == before
    assert not [p for p in Path().iterdir() if p.name.startswith((".out", "out"))]


def test_sides_are_read_in_any_order():
    assert Expansion.parse("down=7, left=512") == Expansion.parse("left=512,up=0,down=7,right=0")
    for wrong in (
        "",
        "left",
        "left=",
        "left=-1",
        "left=1,left=2",
        "top=3",
        "left=1.5",
        "left=1;up=2",
        "left=9999999999",
    ):
        with pytest.raises(UsageError, match="expand"):
            Expansion.parse(wrong)
