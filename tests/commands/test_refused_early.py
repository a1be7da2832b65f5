"""What a format or the memory cannot hold is refused in one line, before the model is loaded; notes come after that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from nuwa_lightning.cli import main
from nuwa_lightning.commands import generate
from tests.commands.conftest import lightning_may_warn
from tests.inputs.making import gray_profile, png


@pytest.fixture
def run(workplace, finished, sample_photos) -> Path:
    (workplace / "two").symlink_to(finished / "two")
    Image.fromarray(sample_photos["flower.jpg"][200:231, 300:345]).save("in.png")
    Image.fromarray(sample_photos["flower.jpg"][:200, :300]).convert("RGBA").save("torn.png")
    Path("torn.png").write_bytes(Path("torn.png").read_bytes()[:-20_000])
    Path("unfinished").mkdir()
    Path("unfinished/model").symlink_to(finished / "two" / "model")
    return workplace


def said(capfd, *arguments: object) -> tuple[int, list[str]]:
    capfd.readouterr()
    with lightning_may_warn():
        status = main(["generate", *(str(a) for a in arguments)])
    return status, capfd.readouterr().err.replace("\r", "\n").splitlines()


GIVEN = ("--image", "in.png")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--frames", 4, "--size", "33x33", "--output", "f.mp4"),
            "--size: 33x33: MP4 needs sides that are multiples of 2",
        ),
        (("--frames", 4, "--size", "1x32", "--output", "f.mp4"), "such as 2x32"),
        (("--frames", 4, "--size", "64x64", "--fps", 99, "--output", "f.gif"), "--fps: 99.0: GIF holds more than 0"),
        (("--frames", 4, *GIVEN, "--output", "f.mp4"), "--output: f.mp4: cannot hold the 45x31 pixels of the image"),
        (("--frames", 4, *GIVEN, "--fps", 99, "--output", "f.gif"), "--fps: 99.0: GIF holds"),
        (("--frames", 4, *GIVEN, "--size", "9x9"), "--size: 9x9: the size follows from the image: leave it out"),
        (("--frames", 4, *GIVEN, "--expand", "up=9"), "--expand: up=9: a video goes on from a whole image"),
        (("--frames", 4, *GIVEN, "--mask", "in.png"), "--mask: in.png: a video goes on from a whole image"),
        (("--size", "65536x16", "--output", "c.jpg"), "JPEG holds at most 65500 pixels a side: use .tif"),
        ((*GIVEN, "--expand", "right=65500", "--output", "c.jpg"), "JPEG holds at most 65500 pixels a side: use .tif"),
        (("--blend", 1025), "--blend: 1025: give a number of pixels from 0 to 1024"),
        (("--wrap", "x", "--size", "256x64", "--blend", -4), "--blend: -4: give a number of pixels from 0"),
        (
            ("--wrap", "x", "--size", "256x64", "--blend", 65),
            "a quarter of the closed side of 256 pixels: give 64 or less",
        ),
        ((*GIVEN, "--expand", "left=20", "--blend", 66), "further than the canvas of 65x31: give 65 or less"),
        ((*GIVEN, "--expand", "", "--output", "c.png"), "--expand: '': write pixels for left"),
        (
            (*GIVEN, "--expand", "left=9", "--max_pixels", 1394),
            "more than max_pixels=1394: raise --max_pixels if you trust",
        ),
        ((*GIVEN, "--expand", "left=9", "--max_pixels", 0), "--max_pixels: 0: must be at least 1"),
        (("--image", "torn.png", "--expand", "left=9"), "--image: torn.png: image file is truncated: name an image"),
        (("--image", "photos", "--expand", "left=9"), "--image: photos: is a folder: name an image"),
        (
            ("--checkpoint", "unfinished"),
            "--checkpoint: unfinished: holds no tokenizer, which comes at the end of training",
        ),
    ],
)
def test_it_is_one_line_and_nothing_is_loaded(run, capfd, monkeypatch, options, words):
    def load(*_: object) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(generate, "_load", load)
    before = {p.name for p in run.iterdir()}
    status, lines = said(capfd, "--checkpoint", "two", *options)
    assert (status, len(lines)) == (2, 1), lines
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert {p.name for p in run.iterdir()} == before


def test_notes_come_after_all_checks(run, capfd):
    options = ("--checkpoint", "two", "--size", "33x32", "--output", "c.png")
    status, lines = said(capfd, *options, "--prompt", "a lake")
    assert (status, len(lines)) == (2, 1)
    assert "reads no text" in lines[0]
    status, lines = said(capfd, *options)
    assert status == 0
    assert lines[0].startswith("note: 33 pixels along x are no multiple of ")
    assert lines[-1].startswith("c.png: 33x32 pixels")
    # Refused by the canvas, the last of all checks.
    status, lines = said(capfd, *options, "--resume", "--seed", 3)
    assert (status, [line for line in lines if not line.startswith("error: ")]) == (2, [])


def test_more_pixels_are_read_where_they_are_trusted(run, capfd):
    options = ("--checkpoint", "two", *GIVEN, "--expand", "left=9", "--max_pixels", 1395)
    assert said(capfd, *options, "--output", "c.png")[0] == 0
    assert "max_pixels" not in generate.image_metadata("c.png")["options"]


def test_what_is_kept_only_nearly_is_said(run, capfd):
    pixels = np.asarray(Image.open("in.png"))
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[4:9, 4:9] = 0
    Image.fromarray(np.dstack([pixels, alpha])).save("clear.png")
    Image.fromarray(np.dstack([pixels, alpha | 255])).save("opaque.png")
    ramp = np.linspace(0, 65535, pixels.size // 3).astype(np.uint16).reshape(alpha.shape)
    tifffile.imwrite("deep.tif", pixels.astype(np.uint16) * 257, photometric="rgb")
    Path("deep.png").write_bytes(png(np.dstack([pixels, alpha]).astype(np.uint16) * 257))
    tifffile.imwrite("gray.tif", ramp, iccprofile=gray_profile(1.8))
    Image.fromarray(ramp).save("gray.jp2")
    options = ("--checkpoint", "two", "--expand", "left=9")
    deep = "samples of more than 8 bits become 8"
    for given, output, notes in (
        ("in.png", "a.jpg", ["JPEG keeps given pixels only nearly as they are: .png or .tif do exactly"]),
        ("clear.png", "b.png", ["clear.png is transparent in places: these are taken as white"]),
        ("opaque.png", "c.png", []),
        ("deep.tif", "d.png", [f"deep.tif: {deep}"]),
        ("deep.png", "e.png", [f"deep.png: {deep}", "deep.png is transparent in places: these are taken as white"]),
        ("gray.tif", "f.png", [f"gray.tif: {deep}", "gray.tif: its color profile is turned into sRGB"]),
        ("gray.jp2", "g.png", [f"gray.jp2: {deep}"]),
    ):
        status, lines = said(capfd, *options, "--image", given, "--output", output)
        assert (status, [n for n in lines if "pixels along" not in n and n.startswith("note")]) == (
            0,
            [f"note: {n}" for n in notes],
        )
    made = np.asarray(Image.open("b.png"))[:, 9:]
    assert (made[4:9, 4:9] == 255).all()
    assert np.array_equal(made[alpha == 255], pixels[alpha == 255])
