"""The commands of README.md and of the start page are run in turn, with recipes of toy size for the shipped ones."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.test_documents import blocks, commands

TOYS = {
    "recipes/landscape_vqgan.yaml": "one.yaml",
    "recipes/landscape_decoder.yaml": "decoder.yaml",
    "recipes/landscape.yaml": "two.yaml",
    "recipes/fine_tune.yaml": "fine.yaml",
}
SMALL = {**TOYS, "2048x512": "128x64", "768x128": "64x64", "40": "2"}


@pytest.fixture
def toys(workplace, repository, monkeypatch):
    """The working directory of somebody who has a folder PHOTOS and a pool of their own, the one of the how-to page."""
    monkeypatch.syspath_prepend(str(workplace))
    Path("PHOTOS").symlink_to("photos")
    # The default run lies where the recipe of toy size would not put it.
    two = yaml.safe_load(Path("two.yaml").read_text()) | {"run": "runs/landscape"}
    two["tokenizer"] |= {"refine": "decoder.yaml", "refined": "refined/tokenizer", "beside": False}
    Path("two.yaml").write_text(yaml.safe_dump(two))
    fine = copy.deepcopy(two) | {"run": "runs/fine_tuned"}
    fine["model"]["init_args"]["start_from"] = "runs/landscape"
    Path("fine.yaml").write_text(yaml.safe_dump(fine))
    decoder = yaml.safe_load(Path("one.yaml").read_text())
    decoder["model"]["init_args"] |= {"start_from": "one/tokenizer", "train_only": "decoder"}
    Path("decoder.yaml").write_text(yaml.safe_dump(decoder))
    page = (repository / "docs" / "how-to" / "context-pool.md").read_text(encoding="utf-8")
    Path("my_pools.py").write_text(blocks(page, "python")[0])
    for folder in ("recipes/context", "recipes/direction"):
        shutil.copytree(repository / folder, folder)
    return workplace


def test_what_the_pages_say_to_type_works(toys, shell, repository):
    pages = [(repository / name).read_text(encoding="utf-8") for name in ("docs/index.md", "README.md")]
    told = [words for page in pages for words in commands(page) if words[:3] == ["python", "-m", "nuwa_lightning"]]
    told = [words for words in told if words[3] != "serve"]  # tests/serve runs it; it does not end
    assert [words[3] for words in told] == [*["fit"] * 4, *["generate"] * 3, *["fit"] * 4]
    for _, _, _, *words in told:
        words = [SMALL.get(word, word) for word in words]
        if words[0] == "fit":
            words += ["--trainer.max_steps", "2"]
        done = shell(*words)
        assert done.status == 0, done.error
    assert np.asarray(Image.open("panorama.png")).shape == (64, 128, 3)
    plain, refined, used = (
        Path(folder).joinpath("model.safetensors").read_bytes()
        for folder in ("runs/mine_vqgan/tokenizer", "runs/mine_decoder/tokenizer", "runs/mine/tokenizer")
    )
    assert used == refined != plain
