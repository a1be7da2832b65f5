"""The decoder of videos by the commands that a user types: trained, taken along by stage 2, refused if it is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("av")

from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder
from nuwa_lightning.models.vqgan import VQGAN
from nuwa_lightning.tokenizers.pretrained import load_pixel_guided, load_tokenizer, save_pixel_guided, save_tokenizer
from nuwa_lightning.writers import write_video
from tests.commands.conftest import STAGE_1, Shell

GUIDED: dict[str, Any] = {
    "run": "videos_run",
    "tokenizer": {"path": "one/tokenizer"},
    "model": {
        "class_path": "PixelGuidedModule",
        "init_args": {"guide_blocks": [0, 1], "loss": {"perceptual": {"weight": 0}}, "descent": {"warmup_steps": 2}},
    },
    "data": {
        "class_path": "VideoFolderDataModule",
        "init_args": {
            "root": "videos",
            "val_fraction": 0.5,
            "clips": {"fps": 10, "frames": 3, "short_side": 48},
            "size": 32,
            "batch_size": 2,
            "steps_per_epoch": 4,
            "cache": "cache",
        },
    },
    "trainer": {**STAGE_1["trainer"], "max_steps": 4, "limit_val_batches": 1},
}


@pytest.fixture
def videos(workplace: Path, sample_photos: dict[str, Any]) -> Path:
    """Two videos, and the recipe."""
    (workplace / "videos").mkdir()
    for number, photo in enumerate(sample_photos.values()):
        frames = (photo[100:148, 100 + 2 * n : 164 + 2 * n] for n in range(8))
        write_video(frames, workplace / "videos" / f"{number}.mp4", width=64, height=48, fps=10)
    (workplace / "guided.yaml").write_text(yaml.safe_dump(GUIDED), encoding="utf-8")
    return workplace


def test_fit_leaves_a_decoder_that_fits_the_tokenizer_and_goes_on(videos: Path, shell: Shell) -> None:
    assert shell("fit", "-c", "guided.yaml").status == 0
    tokenizer = load_tokenizer("one/tokenizer")
    guided = load_pixel_guided("videos_run", tokenizer=tokenizer)
    assert guided.size.guide_blocks == (0, 1)
    # It was trained: the frame before matters now.
    tokens = torch.randint(16, (1, 3, 4), generator=torch.Generator().manual_seed(0))
    black, white = (guided.decode_next(tokens, torch.full((1, 3, 24, 32), value)) for value in (-1.0, 1.0))
    assert not torch.equal(black, white)
    assert (videos / "videos_run" / "reconstructions.png").exists()
    assert yaml.safe_load((videos / "videos_run" / "config.yaml").read_text())["model"]["init_args"]["change"] == 0.5
    assert shell("fit", "-c", "guided.yaml", "--ckpt_path", "last", "--trainer.max_steps", 6).status == 0
    assert shell("validate", "-c", "guided.yaml", "--ckpt_path", "last").status == 0
    done = shell("fit", "-c", "guided.yaml", "--ckpt_path", "last", "--model.guide_blocks", "[1,1]")
    assert (done.status, "--model.guide_blocks" in done.error) == (2, True)


def test_it_begins_as_the_refined_decoder_where_there_is_one(videos: Path, shell: Shell) -> None:
    refined = load_tokenizer("one/tokenizer").deepened((1, 0))
    save_tokenizer("better", refined)
    options = ("--tokenizer.refined", "better", "--trainer.max_steps", 1)
    assert shell("fit", "-c", "guided.yaml", *options).status == 0
    assert load_pixel_guided("videos_run").size.vqgan == refined.size
    other = load_tokenizer("one/tokenizer")
    other.quantizer.codebook_KD[0] *= -1
    save_tokenizer("better", other)
    done = shell("fit", "-c", "guided.yaml", *options)
    assert (done.status, "--tokenizer.refined" in done.error) == (2, True)


def start(folder: str, vqgan: VQGAN) -> PixelGuidedDecoder:
    guided = PixelGuidedDecoder.start(vqgan, (1, 0))
    save_pixel_guided(folder, guided)
    return guided


def test_stage_2_takes_it_along(videos: Path, shell: Shell) -> None:
    guided = start("g/pixel_guided", load_tokenizer("one/tokenizer"))
    options = ("--trainer.max_steps", 1, "--tokenizer.guided", "g/pixel_guided")
    assert shell("fit", "-c", "two.yaml", *options).status == 0
    taken = load_pixel_guided("two", tokenizer=load_tokenizer("two/tokenizer"))
    for name, value in guided.state_dict().items():
        assert torch.equal(taken.state_dict()[name], value), name


def test_one_that_does_not_fit_is_refused_before_anything_is_trained(videos: Path, shell: Shell) -> None:
    other = load_tokenizer("one/tokenizer")
    other.quantizer.codebook_KD[0] *= -1
    start("g/pixel_guided", other)
    for folder, words in (
        ("g/pixel_guided", "was trained with another tokenizer"),
        ("none", "fit --config recipes/landscape_pixel_guided.yaml"),
        ("one/tokenizer", "not a nuwa-lightning pixel-guided decoder"),
    ):
        done = shell("fit", "-c", "two.yaml", "--tokenizer.guided", folder)
        assert (done.status, words in done.error) == (2, True), done.error
        assert done.error.startswith("error: --tokenizer.guided")
    assert not (videos / "two").exists()


def test_data_that_are_no_videos_are_refused(videos: Path, shell: Shell) -> None:
    recipe = {**GUIDED, "data": STAGE_1["data"]}
    (videos / "wrong.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = shell("fit", "-c", "wrong.yaml")
    assert (done.status, "clips of videos are needed" in done.error) == (2, True), done.error


@pytest.mark.slow
def test_a_missing_one_is_trained_after_stage_2(videos: Path) -> None:
    command = [sys.executable, "-m", "nuwa_lightning", "fit", "-c", "two.yaml", "--trainer.max_steps", "1"]
    command += ["--tokenizer.guided", "videos_run/pixel_guided", "--tokenizer.guided_recipe", "guided.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=videos, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads((videos / "videos_run" / "pixel_guided" / "config.json").read_text())
    assert json.loads((videos / "two" / "pixel_guided" / "config.json").read_text()) == made
    # A training that fails leaves the run whole, and says how to try again.
    for folder in ("two", "videos_run", "videos"):
        shutil.rmtree(videos / folder)
    done = subprocess.run(command, cwd=videos, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "to try again: python -m nuwa_lightning fit --config guided.yaml --run videos_run" in done.stderr
    assert (videos / "two" / "model").is_dir()
    assert not (videos / "two" / "pixel_guided").exists()
