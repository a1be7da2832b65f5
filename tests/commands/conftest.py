"""Runs of toy size: photos, recipes of both stages, and a command line that returns what it wrote."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from nuwa_lightning.cli import main
from nuwa_lightning.writers import write_video

STAGE_1: dict[str, Any] = {
    "run": "one",
    "model": {
        "class_path": "VQGANModule",
        "init_args": {
            "vqgan": {
                "codebook_size": 16,
                "codebook_dim": 4,
                "encoder_channels": [8, 12],
                "encoder_blocks": [1, 1],
                "decoder_channels": [12, 8],
                "decoder_blocks": [1, 1],
            },
            "loss": {"perceptual": {"weight": 0}},
            "unquantized_steps": 2,
            "warmup_steps": 2,
        },
    },
    "data": {
        "class_path": "ImageFolderDataModule",
        "init_args": {
            "root": "photos",
            "cache": "cache",
            "batch_size": 2,
            "steps_per_epoch": 4,
            "crops": {"size": 32, "short_sides": [64], "val_short_sides": [64]},
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 6,
        "max_epochs": -1,
        "log_every_n_steps": 1,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "callbacks": [{"class_path": "ReconstructionSheet"}],
    },
}
STAGE_2: dict[str, Any] = {
    "run": "two",
    "tokenizer": {"path": "one/tokenizer"},
    "model": {
        "class_path": "NuwaInfinityModule",
        "init_args": {
            "codebook_size": 16,
            "codebook_dim": 4,
            "patch_size": [2, 2],
            "transformer": {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1},
            "context_pool": {"class_path": "NearbyContextPool", "init_args": {"extent": [0, 1, 1]}},
            "descent": {"warmup_steps": 2},
        },
    },
    "data": {
        "class_path": "TokenDataModule",
        "init_args": {
            "photos": {"class_path": "FolderPhotos", "init_args": {"root": "photos"}},
            "cache": "cache",
            "grid": [4, 4],
            "bank": {"short_sides": [64], "phases": 1},
            "batch_size": 2,
            "steps_per_epoch": 4,
        },
    },
    "trainer": {
        **STAGE_1["trainer"],
        "callbacks": [
            {
                "class_path": "SampleSheet",
                "init_args": {"every_n_steps": 4, "first_step": 1, "count": 2, "size": [2, 2]},
            }
        ],
    },
}
STAGE_2_VIDEOS: dict[str, Any] = {
    **STAGE_2,
    "run": "videos",
    "model": {
        "class_path": "NuwaInfinityModule",
        "init_args": {
            **STAGE_2["model"]["init_args"],
            "context_pool": {"class_path": "NearbyContextPool", "init_args": {"extent": [2, 1, 1]}},
            "conditions": {"known_prob": 0.5},
        },
    },
    "data": {
        "class_path": "TokenClipsDataModule",
        "init_args": {
            "videos": {"class_path": "FolderVideos", "init_args": {"root": "clips"}},
            "cache": "cache",
            "clips": {"fps": 8, "frames": 3, "short_side": 48},
            "grid": [4, 4],
            "batch_size": 2,
            "steps_per_epoch": 4,
        },
    },
    "trainer": STAGE_1["trainer"] | {"callbacks": []},
}
GUIDED: dict[str, Any] = {
    "run": "guided",
    "tokenizer": {"path": "one/tokenizer"},
    "model": {
        "class_path": "PixelGuidedModule",
        "init_args": {"guide_blocks": [1, 1], "loss": {"perceptual": {"weight": 0}}, "descent": {"warmup_steps": 2}},
    },
    "data": {
        "class_path": "VideoFolderDataModule",
        "init_args": {
            "root": "clips",
            "cache": "cache",
            "clips": {"fps": 8, "frames": 3, "short_side": 48},
            "size": 32,
            "batch_size": 2,
            "steps_per_epoch": 4,
        },
    },
    "trainer": STAGE_1["trainer"] | {"callbacks": []},
}
QUICK = ("--trainer.fast_dev_run", "true")


@dataclass(frozen=True)
class Done:
    """What a command came to: its status, its line, and all that it wrote and warned of."""

    status: int
    error: str
    stderr: str = ""


Shell = Callable[..., Done]


@contextmanager
def lightning_may_warn() -> Iterator[None]:
    """As outside of pytest: the command line itself says which warnings of Lightning are hidden."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def write_recipes(folder: Path) -> None:
    for name, recipe in (
        ("one.yaml", STAGE_1),
        ("two.yaml", STAGE_2),
        ("videos.yaml", STAGE_2_VIDEOS),
        ("guided.yaml", GUIDED),
    ):
        (folder / name).write_text(yaml.safe_dump(recipe), encoding="utf-8")


def write_photos(folder: Path, photos: dict[str, Any]) -> None:
    folder.mkdir()
    for name, pixels in photos.items():
        for n, (y, x) in enumerate(((0, 0), (200, 100), (120, 400))):
            Image.fromarray(pixels[y : y + 150, x : x + 180]).save(folder / f"{Path(name).stem}_{n}.png")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, sample_photos) -> Path:
    """A folder with photos, recipes, and the runs "one" (stage 1) and "two" (stage 2); not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_photos(folder / "photos", sample_photos)
    write_recipes(folder)
    with pytest.MonkeyPatch.context() as patch, lightning_may_warn():
        patch.chdir(folder)
        assert main(["fit", "-c", "one.yaml"]) == 0
        assert main(["fit", "-c", "two.yaml"]) == 0
    return folder


def write_clips(folder: Path, photos: dict[str, Any]) -> None:
    """A window that moves over each photograph."""
    folder.mkdir()
    for name, pixels in photos.items():
        frames = (pixels[40 : 40 + 48, 9 * n : 9 * n + 64] for n in range(7))
        write_video(frames, folder / f"{Path(name).stem}.mp4", width=64, height=48, fps=8)


@pytest.fixture(scope="session")
def filmed(finished: Path, sample_photos) -> Path:
    """The same folder, with videos and a run "videos" of stage 2 trained on them; not to be changed."""
    write_clips(finished / "clips", sample_photos)
    with pytest.MonkeyPatch.context() as patch, lightning_may_warn():
        patch.chdir(finished)
        assert main(["fit", "-c", "videos.yaml"]) == 0
    return finished


@pytest.fixture
def workplace(tmp_path, finished, monkeypatch) -> Path:
    """A working directory with the photos, both recipes and the finished tokenizer in "one/tokenizer"."""
    (tmp_path / "photos").symlink_to(finished / "photos")
    shutil.copytree(finished / "cache", tmp_path / "cache")
    # Copies: runs here may write to them.
    shutil.copytree(finished / "one" / "tokenizer", tmp_path / "one" / "tokenizer")
    write_recipes(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shell(workplace, capfd) -> Shell:
    """Run a command in the workplace; returns its status and the last line that begins with "error:"."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        with lightning_may_warn(), warnings.catch_warnings(record=True) as told:
            status = main([str(a) for a in arguments])
        stderr = capfd.readouterr().err + "".join(f"{each.category.__name__}: {each.message}\n" for each in told)
        lines = [line for line in stderr.splitlines() if line.startswith("error:")]
        assert len(lines) <= 1
        return Done(status, lines[0] if lines else "", stderr)

    return run
