"""Samples to score are the images that the pipeline makes: whatever order they are asked for in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.sampling import SampleSpec, sample_folder
from nuwa_lightning import NuwaInfinityPipeline
from tests.commands.conftest import finished as finished


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_equals_the_pipeline(finished: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    told = sample_folder(finished / "two", made, SampleSpec((32, 64), range(3, 7), temperature=0.9, top_k=7, batch=4))
    pipe = NuwaInfinityPipeline.from_pretrained(finished / "two")
    images = pipe(size=(64, 32), seed=3, num_images_per_prompt=4, temperature=0.9, top_k=7).images
    for seed, image in zip(range(3, 7), images, strict=True):
        assert np.array_equal(pixels(made / f"seed_{seed:06d}.png"), np.asarray(image))
    assert told["images"] == 4


def test_gaps_are_filled(finished: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    spec = SampleSpec((32, 32), range(5), batch=1)
    sample_folder(finished / "two", whole, spec)
    sample_folder(finished / "two", part, spec)
    for seed in (1, 3):
        (part / f"seed_{seed:06d}.png").unlink()
    sample_folder(finished / "two", part, SampleSpec((32, 32), range(5), batch=4))
    for seed in range(5):
        assert np.array_equal(pixels(whole / f"seed_{seed:06d}.png"), pixels(part / f"seed_{seed:06d}.png"))
