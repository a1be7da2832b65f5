"""From recipes to canvases with a coarse plan: chained, generated, painted, gone on with."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from evaluation.sampling import SampleSpec, sample_folder
from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.callbacks.sample_sheet import contact_sheet
from nuwa_lightning.writers import read_metadata
from tests.commands.conftest import STAGE_2, Shell

SHEET = (32, 32)


@pytest.fixture
def recipes(workplace: Path) -> Path:
    """Recipes of a coarse model, and of one that reads its plans and has it trained."""
    coarse: dict[str, Any] = copy.deepcopy(STAGE_2) | {"run": "small"}
    coarse["data"]["init_args"]["bank"] = {"short_sides": [32], "phases": 1}
    coarse["trainer"] |= {"callbacks": [], "max_steps": 2}
    planned: dict[str, Any] = copy.deepcopy(STAGE_2) | {"run": "planned"}
    planned["model"]["init_args"]["plan"] = {"scale": 2}
    planned["coarse"] = {"path": "small/model", "recipe": "coarse.yaml"}
    for name, recipe in (("coarse.yaml", coarse), ("planned.yaml", planned)):
        (workplace / name).write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return workplace


def test_whole_path(recipes: Path, shell: Shell) -> None:
    done = shell("fit", "-c", "planned.yaml")
    assert done.status == 0, done.stderr
    trained = (recipes / "small" / "model" / "config.json").stat().st_mtime_ns
    assert {path.name for path in (recipes / "planned").iterdir()} >= {"model", "tokenizer", "coarse"}
    assert json.loads((recipes / "planned" / "model" / "config.json").read_text())["plan"]["scale"] == 2
    # What is looked at and scored has a plan, too.
    made = NuwaInfinityPipeline.from_pretrained("planned")(size=SHEET, seed=0, num_images_per_prompt=2, top_k=50)
    expected = [np.asarray(image) for image in made.images]
    assert np.array_equal(np.asarray(Image.open("planned/samples.png")), contact_sheet(expected))
    sample_folder(Path("planned"), Path("scored"), SampleSpec(SHEET, range(2)))
    assert all(np.array_equal(np.asarray(Image.open(f"scored/seed_{n:06d}.png")), expected[n]) for n in range(2))
    # From the checkpoint on, with the coarse model there.
    done = shell("fit", "-c", "planned.yaml", "--ckpt_path", "last", "--trainer.max_steps", "7")
    assert done.status == 0, done.stderr
    assert (recipes / "small" / "model" / "config.json").stat().st_mtime_ns == trained
    done = shell("fit", "-c", "planned.yaml", "--ckpt_path", "last", "--model.plan", "null")
    assert done.status == 2
    assert "--model.plan" in done.error

    command = ("generate", "--checkpoint", "planned", "--size", "70x50")
    Image.effect_noise((30, 20), 90).convert("RGB").save("sketch.png")
    for options in (("--output", "a.png"), ("--output", "b.png"), ("--output", "c.png", "--plan", "sketch.png")):
        done = shell(*command, *options)
        assert done.status == 0, done.stderr
    images = [np.asarray(Image.open(f"{name}.png")) for name in "abc"]
    assert images[0].shape == (50, 70, 3)
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    said = read_metadata(Path("c.png"))
    assert said["options"]["plan"] == "sketch.png"
    assert "coarse" not in said["checkpoint"]  # all of the plan is given
    assert "coarse" in read_metadata(Path("a.png"))["checkpoint"]
    assert shell("generate", "--from", "c.png", "--output", "d.png").status == 0
    assert np.array_equal(np.asarray(Image.open("d.png")), images[2])
    Image.effect_noise((30, 20), 10).convert("RGB").save("sketch.png")
    assert "plan: sketch.png" in shell("generate", "--from", "c.png", "--output", "e.png").error

    shutil.rmtree(recipes / "planned" / "coarse")
    done = shell(*command, "--output", "f.png")
    assert done.status == 0
    assert "no model of coarse plans" in done.stderr


def test_what_is_wrong_is_named(recipes: Path, shell: Shell) -> None:
    done = shell("fit", "-c", "planned.yaml", "--coarse.recipe", "null")
    assert done.status == 2
    assert "--coarse.path: small/model" in done.error
    done = shell("fit", "-c", "planned.yaml", "--model.plan.scale", "1")
    assert done.status == 2
    assert "scale" in done.error
    assert not (recipes / "planned").exists()
