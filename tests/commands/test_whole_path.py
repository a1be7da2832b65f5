"""From a folder of photos to an image of any size, by the commands that a user types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from nuwa_lightning.generation.pretrained import load_generator
from nuwa_lightning.tokenizers.pretrained import load_tokenizer
from nuwa_lightning.writers import read_metadata


def test_stage_1_leaves_a_tokenizer(finished):
    tokenizer = load_tokenizer(finished / "one" / "tokenizer")
    assert (tokenizer.codebook_size, tokenizer.codebook_dim) == (16, 4)
    record = json.loads((finished / "one" / "record.json").read_text())
    assert record["data"]["source"] == "folder"
    assert record["data"]["train"] + record["data"]["val"] == 6
    assert yaml.safe_load((finished / "one" / "config.yaml").read_text())["trainer"]["max_steps"] == 6
    with Image.open(finished / "one" / "reconstructions.png") as sheet:
        assert sheet.height == 2 * 32


def test_the_network_of_the_perceptual_loss_is_named(finished, shell, caplog):
    assert json.loads((finished / "one" / "record.json").read_text())["networks"] == {"perceptual": None}
    pytest.importorskip("stlpips_pytorch")
    options = ("--model.loss.perceptual.weight", 0.1, "--model.loss.perceptual.kind", "st-lpips")
    with caplog.at_level("INFO"):
        assert shell("fit", "-c", "one.yaml", "--run", "seen", *options, "--trainer.max_steps", 1).status == 0
    assert "perceptual loss: ST-LPIPS(alex)" in caplog.messages
    assert json.loads(Path("seen/record.json").read_text())["networks"] == {"perceptual": "ST-LPIPS(alex)"}


def test_stage_2_leaves_model_tokenizer_samples_record_and_options(finished):
    run = finished / "two"
    generator = load_generator(run / "model")
    tokenizer = load_tokenizer(run / "tokenizer")
    assert generator.tokenizer_fingerprint == tokenizer.fingerprint()
    assert generator.pool.embedding_extent == (0, 1, 1)
    with Image.open(run / "samples.png") as sheet:
        assert sheet.size == (32, 32 + 4 + 32)  # two images, a gap between them
    assert {p.name for p in (run / "samples").iterdir()} == {f"step_000000{n}.png" for n in (1, 4, 6)}
    assert json.loads((run / "record.json").read_text())["seed"] == 0
    assert not [p for p in run.rglob("*") if ".partial" in p.name]


def test_the_options_that_were_written_repeat_the_run(finished, shell):
    assert shell("fit", "-c", finished / "two" / "config.yaml", "--run", "again").status == 0
    first, second = ((p / "model" / "model.safetensors").read_bytes() for p in (finished / "two", Path("again")))
    assert first == second


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_generate_makes_exactly_the_size_and_the_same_bytes_twice(finished, shell, workplace, name):
    for place in ("first", "second"):
        (workplace / place).mkdir()
        run = finished / "two"
        assert shell("generate", "--checkpoint", run, "--size", "200x136", "--output", f"{place}/{name}").status == 0
    first, second = (workplace / place / name for place in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    if name.endswith(".png"):
        with Image.open(first) as image:
            assert image.size == (200, 136)
    else:
        assert tifffile.imread(first).shape == (136, 200, 3)


def test_another_seed_makes_another_image_and_files_are_not_overwritten(finished, shell, workplace):
    command = ("generate", "--checkpoint", finished / "two", "--size", "64x48")
    assert shell(*command, "--seed", 1, "--output", "1.png").status == 0
    assert shell(*command, "--seed", 2, "--output", "2.png").status == 0
    assert (workplace / "1.png").read_bytes() != (workplace / "2.png").read_bytes()
    before = (workplace / "1.png").read_bytes()
    assert "exists already" in shell(*command, "--seed", 2, "--output", "1.png").error
    assert (workplace / "1.png").read_bytes() == before
    assert shell(*command, "--seed", 2, "--output", "1.png", "--overwrite").status == 0
    assert (workplace / "1.png").read_bytes() == (workplace / "2.png").read_bytes()


def test_a_missing_tokenizer_is_trained_first_in_a_process_of_its_own(workplace):
    command = [sys.executable, "-m", "nuwa_lightning", "fit", "-c", "two.yaml", "--trainer.max_steps", "2"]
    command += ["--tokenizer.path", "new/tokenizer", "--tokenizer.recipe", "one.yaml"]
    done = subprocess.run(
        command, cwd=workplace, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "stage 1 of 2" in done.stderr
    assert "stage 2 of 2" in done.stderr
    assert "generate --checkpoint two --size 4096x512" in done.stderr
    made = load_tokenizer(workplace / "new" / "tokenizer")
    assert load_generator(workplace / "two" / "model").tokenizer_fingerprint == made.fingerprint()


def test_validate_scores_a_checkpoint(finished, shell):
    options = ("-c", finished / "two" / "config.yaml", "--run", finished / "two")
    assert shell("validate", *options, "--ckpt_path", "last").status == 0
    assert (
        "there is no checkpoint below nowhere"
        in shell("validate", "-c", "two.yaml", "--run", "nowhere", "--ckpt_path", "last").error
    )


def test_several_images_of_one_request_and_each_made_again(finished, shell, workplace):
    command = ("generate", "--checkpoint", finished / "two", "--size", "64x48", "--seed", 5)
    assert shell(*command, "--count", 3, "--output", "some.tif").status == 0
    some = [tifffile.imread(workplace / f"some-{n}.tif") for n in range(3)]
    for n, image in enumerate(some):
        assert image.shape == (48, 64, 3)
        assert read_metadata(f"some-{n}.tif")["seed"] == 5 + n
    assert not (some[0] == some[1]).all()
    assert shell("generate", "--from", "some-1.tif", "--output", "again.tif").status == 0
    for n in range(3):
        assert (workplace / f"some-{n}.tif").read_bytes() == (workplace / f"again-{n}.tif").read_bytes()


def test_a_image_says_how_it_was_made_and_is_made_again(finished, shell, workplace):
    (workplace / "two").symlink_to(finished / "two")
    options = ("--size", "70x48", "--seed", 9, "--temperature", 1.5, "--top_k", 7, "--order", "zeta")
    assert shell("generate", "--checkpoint", "two", *options, "--output", "a.png").status == 0
    said = read_metadata("a.png")
    assert said["options"]["temperature"] == 1.5
    assert said["size"] == [70, 48]
    assert said["versions"]["torch"]
    assert len(said["checkpoint"]["model"]) == 64
    assert shell("generate", "--from", "a.png", "--output", "b.png").status == 0
    assert (workplace / "a.png").read_bytes() == (workplace / "b.png").read_bytes()
    # Options beside it win.
    assert shell("generate", "--from", "a.png", "--seed", 8, "--output", "c.png").status == 0
    assert read_metadata("c.png")["seed"] == 8
    Image.new("RGB", (9, 9)).save("photo.png")
    for name, words in (("photo.png", "does not say how it was made"), ("none.png", "no such file")):
        assert words in shell("generate", "--from", name, "--output", "d.png").error
    (workplace / "two").unlink()
    shutil.copytree(finished / "two", "two")
    config = workplace / "two" / "model" / "config.json"
    config.write_text(config.read_text() + " ")
    assert "made by another model" in shell("generate", "--from", "a.png", "--output", "d.png").error


def test_a_closed_image_has_no_seam_of_its_own(finished, shell, workplace):
    command = ("generate", "--checkpoint", finished / "two", "--size", "96x48")
    assert shell(*command, "--output", "open.tif").status == 0
    assert shell(*command, "--wrap", "x", "--output", "closed.tif").status == 0
    opened, closed = (tifffile.imread(workplace / name) for name in ("open.tif", "closed.tif"))
    assert opened.shape == closed.shape
    assert not (opened == closed).all()


def test_a_preview_grows_beside_a_large_image(finished, shell, workplace):
    command = ("generate", "--checkpoint", finished / "two", "--size", "96x48", "--output", "a.tif")
    assert shell(*command, "--preview", "small.png").status == 0
    with Image.open(workplace / "small.png") as image:
        assert image.size == (96, 48)
    assert shell(*command, "--overwrite", "--preview", "small.jpg").status == 2
    assert [p.name for p in workplace.iterdir() if p.name.startswith("a.")] == ["a.tif"]


def test_the_preview_of_a_stopped_endless_canvas_is_whole(finished, shell, workplace):
    command = ("generate", "--checkpoint", finished / "two", "--size", "x32", "--waves", "5", "--output", "b.tif")
    assert shell(*command).status == 0
    with Image.open(workplace / "b.tif.preview.png") as image:
        assert (np.asarray(image) == tifffile.imread(workplace / "b.tif")).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--size", "x"), "WIDTHxHEIGHT"),
        (("--size", "0x"), "WIDTHxHEIGHT"),
        (
            ("--size", "100x48", "--wrap", "x"),
            "a closed side is a multiple of 16 pixels (whole patches): give 96 or 112",
        ),
        (("--size", "5x48", "--wrap", "x"), "give 16"),
        (("--size", "x48", "--wrap", "x"), "the axis x is endless"),
        (("--size", "64x48", "--wrap", "z"), "choose x, y or xy"),
        (("--size", "64x48", "--waves", "3"), "the canvas has an end"),
        (("--size", "x48", "--output", "a.tif", "--order", "zeta"), "cannot fill it: give that side a length"),
        (("--size", "70000x48", "--output", "a.jpg"), "JPEG holds at most 65500 pixels a side"),
        (("--count", "0"), "--count: 0"),
        (("--record_every", "-1"), "--record_every: -1"),
        (("--resume", "sometimes"), "sometimes: choose last, earlier"),
        (("--tile", "0"), "--tile: 0"),
    ],
)
def test_what_generate_cannot_make_is_refused_and_leaves_nothing(finished, shell, workplace, options, words):
    output = () if "--output" in options else ("--output", "a.tif")
    done = shell("generate", "--checkpoint", finished / "two", *options, *output)
    assert (done.status, words in done.error) == (2, True), done.error
    assert not [p for p in workplace.iterdir() if p.name.startswith((".a", "a."))]
