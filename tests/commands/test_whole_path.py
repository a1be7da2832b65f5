"""From a folder of photos to a picture of any size, by the commands that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
import yaml
from PIL import Image

from nuwa_lightning.generation.export import load_generator
from nuwa_lightning.tokenizers.export import load_tokenizer


def test_stage_1_leaves_a_tokenizer(finished):
    tokenizer = load_tokenizer(finished / "one" / "tokenizer")
    assert (tokenizer.num_codes, tokenizer.code_dim) == (16, 4)
    record = json.loads((finished / "one" / "record.json").read_text())
    assert record["data"]["source"] == "folder"
    assert record["data"]["train"] + record["data"]["val"] == 6
    assert yaml.safe_load((finished / "one" / "config.yaml").read_text())["trainer"]["max_steps"] == 6
    with Image.open(finished / "one" / "reconstructions.png") as sheet:
        assert sheet.height == 2 * 32


def test_stage_2_leaves_model_tokenizer_samples_record_and_options(finished):
    run = finished / "two"
    generator = load_generator(run / "model")
    tokenizer = load_tokenizer(run / "tokenizer")
    assert generator.tokenizer_fingerprint == tokenizer.fingerprint()
    assert generator.pool.embedding_extent == (0, 1, 1)
    with Image.open(run / "samples.png") as sheet:
        assert sheet.size == (32, 32 + 4 + 32)  # two pictures, a gap between them
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
        with Image.open(first) as picture:
            assert picture.size == (200, 136)
    else:
        assert tifffile.imread(first).shape == (136, 200, 3)


def test_another_seed_makes_another_picture_and_files_are_not_overwritten(finished, shell, workplace):
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
