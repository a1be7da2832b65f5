"""A model that reads text from training to images, and what a user can get wrong with prompts."""

from __future__ import annotations

import logging
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nuwa_lightning.commands.generate_options import parsed
from nuwa_lightning.commands.resuming import what_next
from nuwa_lightning.data.token_windows import Window
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.regions import Axis
from nuwa_lightning.request_fields import Size, parse_prompts
from nuwa_lightning.writers import read_metadata
from tests.commands.conftest import lightning_may_warn, write_recipes

OVERLAY = """
run: text
model:
  init_args:
    conditions: {text_encoder: {class_path: my_text.Letters}, text_dropout: 0.3, known_prob: 0.5}
data:
  init_args:
    photos: {class_path: FolderPhotos, init_args: {root: said}}
trainer:
  callbacks:
    - {class_path: SampleSheet, init_args: {every_n_steps: 4, first_step: 1, count: 2, size: [2, 2], prompts: [a lake]}}
"""


@pytest.fixture(scope="module")
def taught(finished, tmp_path_factory) -> Path:
    """A folder with a run "text" that read captions with an encoder of somebody's own."""
    from nuwa_lightning.cli import main

    folder = tmp_path_factory.mktemp("taught")
    shutil.copytree(finished / "photos", folder / "said")
    shutil.copytree(finished / "cache", folder / "cache")
    shutil.copytree(finished / "one" / "tokenizer", folder / "one" / "tokenizer")
    for photo in (folder / "said").iterdir():
        photo.with_suffix(".txt").write_text(f"a {photo.stem}")
    shutil.copy(Path(__file__).parents[1] / "text" / "letters.py", folder / "my_text.py")
    write_recipes(folder)
    (folder / "text.yaml").write_text(OVERLAY)
    told = logging.FileHandler(folder / "told.txt", encoding="utf-8")
    log = logging.getLogger("nuwa_lightning.commands.training")
    log.addHandler(told)
    log.setLevel(logging.INFO)
    with pytest.MonkeyPatch.context() as patch, lightning_may_warn():
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        assert main(["fit", "-c", "two.yaml", "-c", "text.yaml"]) == 0
    log.removeHandler(told)
    log.setLevel(logging.NOTSET)
    told.close()
    return folder


@pytest.fixture
def place(workplace, finished, taught, monkeypatch) -> Path:
    (workplace / "two").symlink_to(finished / "two")
    (workplace / "text").symlink_to(taught / "text")
    (workplace / "my_text.py").symlink_to(taught / "my_text.py")
    monkeypatch.syspath_prepend(str(workplace))
    return workplace


OWN = ("--checkpoint", "text", "--own", "my_text.Letters", "--size", "48x32")


def image(name: str) -> np.ndarray:
    return np.asarray(Image.open(name)).astype(int)


def test_texts_make_images(place, shell, taught):
    assert (taught / "text" / "samples.png").is_file()
    assert shell("generate", *OWN, "--prompt", "a lake", "--output", "a.png").status == 0
    assert shell("generate", *OWN, "--prompt", "  a\tlake ", "--task", "text-to-image", "--output", "b.png").status == 0
    assert np.array_equal(image("a.png"), image("b.png"))
    said = read_metadata("a.png")
    assert (said["task"], said["prompt"], said["guidance"]) == ("text-to-image", ["a lake"], 2.0)
    assert shell("generate", *OWN, "--prompt", "a lake", "--guidance", 0, "--output", "c.png").status == 0
    assert shell("generate", *OWN, "--task", "unconditional", "--output", "d.png").status == 0
    assert np.array_equal(image("c.png"), image("d.png"))
    assert shell("generate", *OWN, "--unprompted", "--output", "e.png").status == 0
    assert np.array_equal(image("d.png"), image("e.png"))
    own = OWN[2:4]
    for name in ("d.png", "e.png"):
        assert shell("generate", *own, "--from", name, "--output", f"again_{name}").status == 0
        assert np.array_equal(image(f"again_{name}"), image("d.png"))
    assert shell("generate", *own, "--from", "e.png", "--prompt", "a lake", "--output", "f.png").status == 2
    said = ("--task", "text-to-image", "--prompt", "a lake")
    assert shell("generate", *own, "--from", "e.png", *said, "--output", "f.png").status == 0
    assert np.array_equal(image("f.png"), image("a.png"))


def test_the_command_that_training_ends_with_makes_a_image(place, shell, taught):
    (line,) = (s for s in (taught / "told.txt").read_text().splitlines() if s.startswith("  python -m "))
    words = shlex.split(line)[3:]
    assert shell(*words, *OWN[2:4]).status == 0
    said = read_metadata("panorama.png")
    # The text of the recipe's own sheet, on a canvas as high as the crops of training.
    assert (said["prompt"], said["size"]) == (["a lake"], [192, 32])


def test_the_command_fits_what_was_trained():
    for frames, text, size in (
        (1, None, "4096x512"),
        (4, None, "256x256"),
        (1, "a lake", "768x128"),
        (4, "a lake", "256x128"),
    ):
        what, command = what_next(Path("runs/some"), Window(frames, 16, 24), 8, text)
        request, _ = parsed(shlex.split(command)[4:])
        assert (what == "a video", request.prompt) == (frames > 1, (text,) if text else ())
        assert (request.size, request.frames == 40) == (Size.parse(size), frames > 1)


@given(
    length=st.integers(1, 200),
    patch=st.integers(1, 40),
    origin=st.integers(0, 39),
    start=st.integers(0, 199),
    size=st.integers(1, 60),
)
def test_a_region_is_refused_where_no_patch_would_read_it(length, patch, origin, start, size):
    origin, start = origin % patch, start % length
    size = min(size, length - start)
    axis = Axis(length, patch, origin)
    centers = [axis.center(number) for number in range(-(-(origin + length) // patch))]
    assert axis.meets(start, size) == any(start <= center < start + size for center in centers)


def test_regions_and_a_given_image(place, shell):
    parts = ("--prompt", "0,0,24,32: a lake", "--prompt", "24,0,24,32:dunes")
    assert shell("generate", *OWN, *parts, "--output", "a.png").status == 0
    assert read_metadata("a.png")["prompt"] == ["0,0,24,32: a lake", "24,0,24,32:dunes"]
    rest = ("--prompt", "dunes", "--prompt", "0,0,24,32: a lake")
    assert shell("generate", *OWN, *rest, "--output", "b.png").status == 0
    assert np.array_equal(image("a.png"), image("b.png"))
    Image.open("a.png").crop((0, 0, 20, 20)).save("in.png")
    options = ("--checkpoint", "text", "--own", "my_text.Letters", "--image", "in.png", "--expand", "right=20")
    assert shell("generate", *options, "--prompt", "dunes", "--output", "c.png").status == 0
    assert np.array_equal(image("c.png")[:, :20], image("in.png"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--checkpoint", "two", "--prompt", "a lake"), "reads no text: take landscape_text, which comes"),
        ((*OWN, "--task", "text-to-image"), "--task: text-to-image: it needs a text"),
        ((*OWN, "--prompt", ""), "--prompt: '': is empty"),
        ((*OWN, "--prompt", " \t"), "is empty"),
        ((*OWN, "--prompt", "0,0,9,9: "), "is empty"),
        (OWN, "--prompt: nothing: the model of text reads a text: say what is to be seen, or give --unprompted"),
        ((*OWN, "--prompt", "a", "--unprompted"), "--prompt: a: --unprompted says that there is none"),
        (
            (*OWN, "--prompt", "0,0,9,9 a lake"),
            "--prompt: 0,0,9,9 a lake: write a region as LEFT,TOP,WIDTH,HEIGHT: TEXT",
        ),
        (
            (*OWN, "--prompt", "0,0,24,2:a", "--prompt", "b"),
            "--prompt: 0,0,24,2: a: holds no center of a patch of 16x16",
        ),
        (
            (*OWN, "--prompt", "5,0,2,32:a", "--prompt", "b"),
            "--prompt: 5,0,2,32: a: holds no center of a patch of 16x16",
        ),
        (
            (*OWN[:4], "--size", "x32", "--prompt", "0,30,9,9:a", "--prompt", "b", "--output", "out.tif"),
            "lies outside the canvas of endlessx32",
        ),
        (
            (*OWN, "--prompt", "0,0,9,9:a", "--prompt", "8,8,9,9:b"),
            "--prompt: 8,8,9,9:b: overlaps the region 0,0,9,9: a",
        ),
        ((*OWN, "--prompt", "40,0,9,9:a", "--prompt", "b"), "lies outside the canvas of 48x32"),
        ((*OWN, "--prompt", "0,0,9,9:a"), "without a text: add a --prompt for the rest"),
        ((*OWN, "--prompt", "0,0,0,9:a"), "the region is empty"),
        ((*OWN, "--prompt", "0,0,9:a"), "write a region as LEFT,TOP,WIDTH,HEIGHT: TEXT"),
        ((*OWN, "--prompt=-1,0,9,9:a"), "write a region as"),
        ((*OWN, "--prompt", "a", "--prompt", "b"), "is the second one for the whole canvas"),
        ((*OWN, "--guidance", "3"), "--guidance: 3.0: there is no text"),
        ((*OWN, "--prompt", "a", "--guidance", "-1"), "--guidance: -1.0"),
        ((*OWN, "--prompt", "a", "--guidance", "nan"), "--guidance: nan"),
        ((*OWN, "--prompt", "a", "--guidance", "1e39"), "--guidance: 1e+39: give a number from 0 to 1000"),
        ((*OWN, "--prompt", "a", "--task", "unconditional"), "it reads no text: leave --prompt out"),
        ((*OWN[:2], "--prompt", "a"), "--own my_text.Letters"),
    ],
)
def test_what_does_not_fit_is_refused(place, shell, options, words):
    done = shell("generate", "--output", "out.png", *options)
    assert done.status == 2
    assert words in done.error, done.error
    assert not [p for p in Path().iterdir() if p.name.startswith((".out", "out"))]


def test_photos_without_captions_are_refused(place, shell):
    recipe = ("-c", "two.yaml", "--model.conditions.text_encoder", "my_text.Letters", "--run", "new")
    done = shell("fit", *recipe)
    assert (done.status, "no photo has a caption" in done.error) == (2, True), done.error
    assert "--data.photos.root: photos" in done.error
    assert not Path("new/model").exists()


def test_prompts_are_told_from_regions():
    regions, rest = parse_prompts(["a lake: calm, 3 boats", "1,2,3,4:  two\n hills "])
    assert rest == "a lake: calm, 3 boats"
    assert [str(region) for region in regions] == ["1,2,3,4: two hills"]
    assert parse_prompts([]) == ((), None)
    with pytest.raises(UsageError, match="overlaps"):
        parse_prompts(["0,0,5,5:a", "9,9,1,1:b", "4,4,9,9:c"])
    assert len(parse_prompts(["0,0,5,5:a", "5,0,5,5:b", "0,5,9,1:c"])[0]) == 3
