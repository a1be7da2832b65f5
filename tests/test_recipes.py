"""Every recipe and overlay is understood and takes a step of training."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from nuwa_lightning.cli import main
from nuwa_lightning.hub import DEFAULT, SHIPPED
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.tokenizers.pretrained import save_tokenizer
from nuwa_lightning.writers import write_video

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
# Ablations are no recipes but lists of them: tests/evaluation/ablation/test_shipped.py.
NAMES = sorted(
    path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*.yaml") if path.parent.name != "ablations"
)


def content(name: str) -> dict[str, Any]:
    found = yaml.safe_load((RECIPES / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def is_whole(name: str) -> bool:
    return "class_path" in content(name).get("model", {})


def is_large(name: str) -> bool:
    """Say whether a step of it is too much for a test: see tests/test_paper_recipes.py."""
    return name.startswith(("paper/", "landscape_base", "landscape_large"))


def under(name: str) -> list[str]:
    """Return what an overlay is laid over, as options; nothing for a recipe that is whole."""
    if is_whole(name):
        return []
    if is_large(name):
        return ["-c", str(RECIPES / "landscape_base.yaml")]
    return ["-c", str(RECIPES / ("landscape_text.yaml" if name.startswith("photos/") else "landscape.yaml"))]


@pytest.fixture(autouse=True)
def _as_outside_of_pytest():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_understands_it(name, capsys):
    with pytest.raises(SystemExit) as done:
        main(["fit", *under(name), "-c", str(RECIPES / name), "--print_config"])
    assert done.value.code == 0
    known = yaml.safe_load(capsys.readouterr().out)
    for option, value in content(name).get("trainer", {}).items():
        if option != "callbacks":
            assert known["trainer"][option] == value


@pytest.mark.parametrize("name", NAMES)
def test_its_head_says_how_to_run_it(name):
    lines = (RECIPES / name).read_text(encoding="utf-8").splitlines()
    head = " ".join(line for line in lines if line.startswith("#"))
    assert f"recipes/{name}" in head


def video(path: Path, pixels: Any) -> None:
    """Write a video of a window that moves over a photograph."""
    path.parent.mkdir(exist_ok=True)
    frames = (pixels[:144, 4 * n : 4 * n + 192] for n in range(6))
    write_video(frames, path, width=192, height=144, fps=8)


@pytest.fixture(scope="module")
def place(tmp_path_factory, sample_photos) -> Path:
    """Photos, and an untrained tokenizer of the size that the recipes agree on."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "photos").mkdir()
    for name, pixels in sample_photos.items():
        Image.fromarray(pixels).save(folder / "photos" / f"{name}.png")
        (folder / "photos" / f"{name}.txt").write_text("an image")
        video(folder / "videos" / f"{name}.mp4", pixels)
        (folder / "videos" / f"{name}.txt").write_text("a video")
    torch.manual_seed(0)
    chosen = content("landscape_vqgan.yaml")["model"]["init_args"].get("vqgan", {})
    save_tokenizer(folder / "tokenizer", VQGAN.build(VQGANConfig.from_dict({**VQGANConfig().as_dict(), **chosen})))
    return folder


@pytest.mark.parametrize("name", [name for name in NAMES if not is_large(name)])
def test_it_takes_a_step(name, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    stage = content(name)["model"].get("class_path") if is_whole(name) else None
    if stage == "VQGANModule":
        options = ["--data", "ImageFolderDataModule", "--data.root", "photos", "--data.val_fraction", "0.4"]
        if "start_from" in content(name)["model"]["init_args"]:
            options += ["--model.start_from", "tokenizer"]
    elif stage == "PixelGuidedModule":
        options = ["--data", "VideoFolderDataModule", "--data.root", "videos", "--data.val_fraction", "0.5"]
        options += ["--tokenizer.path", "tokenizer"]
    elif stage and content(name)["data"]["class_path"] == "TokenClipsDataModule":
        options = ["--data.videos", "FolderVideos", "--data.videos.root", "videos", "--data.videos.val_fraction", "0.5"]
        options += ["--tokenizer.path", "tokenizer"]
    else:
        options = ["--data.photos", "FolderPhotos", "--data.photos.root", "photos", "--data.bank.phases", "1"]
        options += ["--data.bank.short_sides", "[272]"]
        if name != "fine_tune.yaml":  # it goes on from a model, whose tokenizer it needs
            options += ["--tokenizer.path", "tokenizer"]
        if name == "plan/coarse_model.yaml":
            options += ["--data.whole_height", "false"]
    options += ["--data.cache", "cache", "--data.batch_size", "1", "--trainer.enable_progress_bar", "false"]
    options += ["--trainer.fast_dev_run", "true", "--run", "run"]
    status = main(["fit", *under(name), "-c", str(RECIPES / name), *options])
    assert status == 0, capfd.readouterr().err
    assert not (place / "run").exists()


def test_the_stages_fit_together():
    landscape, vqgan = content("landscape.yaml"), content("landscape_vqgan.yaml")
    decoder = content("landscape_decoder.yaml")
    assert landscape["tokenizer"] == {"path": DEFAULT}
    source = content("from_scratch.yaml")["tokenizer"]
    assert source["path"] == f"{vqgan['run']}/tokenizer"
    assert source["recipe"] == "recipes/landscape_vqgan.yaml"
    if source.get("refine"):
        assert source["refine"] == "recipes/landscape_decoder.yaml"
        assert source["refined"] == f"{decoder['run']}/tokenizer"
    assert decoder["model"]["init_args"]["start_from"] == source["path"]
    guided = content("landscape_pixel_guided.yaml")
    assert content("landscape_video.yaml")["tokenizer"] == {
        "path": DEFAULT,
        "guided": f"{guided['run']}/pixel_guided",
        "guided_recipe": "recipes/landscape_pixel_guided.yaml",
    }
    for each in (guided, content("landscape_text.yaml"), content("landscape_text_video.yaml")):
        assert each["tokenizer"] == {"path": DEFAULT}
    size = VQGANConfig.from_dict({**VQGANConfig().as_dict(), **vqgan["model"]["init_args"].get("vqgan", {})})
    assert json.loads((SHIPPED / DEFAULT / "tokenizer" / "config.json").read_text())["size"] == size.as_dict()
    model = landscape["model"]["init_args"]
    assert (model["codebook_size"], model["codebook_dim"]) == (size.codebook_size, size.codebook_dim)
    grid, patch = landscape["data"]["init_args"]["grid"], model["patch_size"]
    assert all(side % cells == 0 for side, cells in zip(grid, patch, strict=True))
