"""The disk is full at any place where something is written: one line, nothing half made, and it goes on with room."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from nuwa_lightning.callbacks.checkpoint_io import read_checkpoint
from nuwa_lightning.generation.pretrained import load_generator
from nuwa_lightning.tokenizers.pretrained import load_tokenizer
from tests.commands.conftest import write_recipes
from tests.commands.test_going_on import Server
from tests.evaluation import toys
from tests.evaluation.ablation_toys import TOY

VIDEOS = (".mp4", ".gif", ".webp", ".frames")


@pytest.fixture(scope="module")
def place(filmed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    for name in ("photos", "clips", "two", "videos"):
        (folder / name).symlink_to(filmed / name)
    shutil.copytree(filmed / "one" / "tokenizer", folder / "one" / "tokenizer")
    write_recipes(folder)
    shutil.copy(Path(toys.__file__), folder / "my_toys.py")
    toy = {**TOY, "features": {"name": "my_toys.ToyFeatures"}}
    (folder / "protocol.yaml").write_text(yaml.safe_dump(toy))
    options = {"protocol": "protocol.yaml", "real": "photos", "count": 10, "size": "64x64", "cache": "cache"}
    scores = [{"class_path": "evaluation.callbacks.Scores", "init_args": options}]
    (folder / "scores.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": scores}}))
    (folder / "made").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
    for number, pixels_YX3 in enumerate(pixels):
        Image.fromarray(pixels_YX3).save(folder / "made" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    made = Server(place, place / "stderr.log", "train")
    program, command = commands("report")["score"]
    assert made.run(*command, program=program) == 0, made.said()
    yield made
    made.close()


def commands(run: str) -> dict[str, tuple[str, list[str]]]:
    """What writes: the program, and its command line, by its kind."""
    ours, fit = "nuwa_lightning", ["--run", run, "--data.cache", f"{run}.cache"]
    size, toy = ["--size", "48x40"], ["--protocol", "protocol.yaml"]
    films = ["generate", "--checkpoint", "videos", "--frames", "3", *size, "--canvas", run]
    return {
        "stage 1": (ours, ["fit", "-c", "one.yaml", *fit]),
        "stage 2": (ours, ["fit", "-c", "two.yaml", *fit]),
        "stage 2 of videos": (ours, ["fit", "-c", "videos.yaml", *fit]),
        "test": (ours, ["test", "-c", "two.yaml", "-c", "scores.yaml", *fit, "--ckpt_path", "last"]),
        "generate": (ours, ["generate", "--checkpoint", "two", *size, "--canvas", run, "--output", f"{run}.tif",
                            "--preview", f"{run}.small.png"]),
        **{suffix: (ours, [*films, "--output", f"{run}{suffix}"]) for suffix in VIDEOS},
        "score": ("evaluation", ["score", "--real", "photos", "--generated", "made", *toy, "--cache", f"{run}.cache",
                                 "--output", f"{run}.json"]),
        "report": ("evaluation", ["report", "report.json", "--output", run]),
        "sample": ("evaluation", ["sample", "--run", "two", "--output", run, "--size", "32x32", "--count", "3"]),
        "crops": ("evaluation", ["crops", "--photos", "photos", *toy, "--output", run]),
    }  # fmt: skip


LIGHT = [*VIDEOS, "score", "report", "sample", "crops"]
KINDS = list(commands(""))


def started(server: Server, place: Path, kind: str, run: str, **full: Any) -> int:
    """Return the status of a run with too little room, and look at what it told and left."""
    if kind == "test":
        shutil.copytree(place / "two", place / run)
    program, command = commands(run)[kind]
    server.said()
    status, said = server.run(*command, program=program, **full), server.said()
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert status in (0, 2), said
    assert len(errors) == (status != 0), said
    assert "Traceback" not in said
    folder = place / run
    assert not [path for path in place.rglob(".*") if "partial" in path.name or ".old" in path.name]
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if checkpoint.exists():
        read_checkpoint(checkpoint)
    if (folder / "tokenizer").exists():
        load_tokenizer(folder / "tokenizer")
    if (folder / "model").exists():
        load_generator(folder / "model")
    for image in (path for path in folder.rglob("*.png") if path.is_file()):
        with Image.open(image) as opened:
            opened.load()
    if kind in ("report", "crops") and status:
        assert not folder.exists()
    return status


def ended(server: Server, place: Path, kind: str, run: str, status: int) -> None:
    """Go on with room, and clear away."""
    program, command = commands(run)[kind]
    more = []
    if command[0] == "fit":
        more = ["--ckpt_path", "last"]
    if command[0] == "generate":
        more = ["--resume"] if status else ["--overwrite"]
    if status or kind != "crops":
        assert server.run(*command, *more, program=program) == 0, server.said()
    for made in place.joinpath(run).parent.glob(f"{Path(run).name}*"):
        shutil.rmtree(made) if made.is_dir() else made.unlink()


def check(server: Server, place: Path, kind: str, run: str, **full: Any) -> bool:
    """Run with a full disk, and with room; returns whether it was full at all."""
    status = started(server, place, kind, run, **full)
    ended(server, place, kind, run, status)
    return status != 0


SOME = [("stage 1", 3), ("stage 1", 9), ("stage 2", 2), ("stage 2", 12), ("stage 2 of videos", 1), ("generate", 2)]


@pytest.mark.parametrize(("kind", "at"), [*SOME, *((kind, 1) for kind in VIDEOS), ("report", 0), ("sample", 1)])
def test_full_from_some_call_on(server: Server, place: Path, kind: str, at: int) -> None:
    assert check(server, place, kind, f"at{at}", at=at, full=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_full_from_every_call_on(server: Server, place: Path, kind: str) -> None:
    at = 0
    while check(server, place, kind, f"every{at}", at=at, full=True):
        at += 1
    assert at > 1


ROOMS = [
    *(("stage 1", room) for room in (300, 9_000, 60_000)),
    *(("stage 2", room) for room in (300, 4_000)),
    ("stage 2 of videos", 5_000),
    ("test", 2_000),
    ("generate", 500),
    *((kind, 900) for kind in LIGHT),
]


@pytest.mark.parametrize(("kind", "room"), ROOMS)
def test_no_file_grows_beyond(server: Server, place: Path, kind: str, room: int) -> None:
    """Each size stops another writer: of JSON, images, videos, arrays, TensorBoard, weights, checkpoints."""
    assert check(server, place, kind, f"room{room}", room=room)


@pytest.fixture
def disk(place: Path) -> Iterator[Path]:
    """A file system of its own, whose size is set with ``resize``; for root alone."""
    folder = place / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)
    folder.rmdir()


def resize(disk: Path, kibibytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_of_some_size(server: Server, place: Path, disk: Path, kind: str) -> None:
    """Each write is one that may not find room, those of libraries in C, too."""
    resize(disk, 1 << 18)
    assert started(server, place, kind, "disk/whole") == 0
    used = sum(path.stat().st_blocks for path in disk.rglob("*")) // 2
    ended(server, place, kind, "disk/whole", 0)
    full = 0
    for number, share in enumerate((0.02, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1, 1.2)):
        run = f"disk/r{number}"
        more = sum(path.stat().st_blocks for path in (place / "two").rglob("*")) // 2 if kind == "test" else 0
        resize(disk, max(4, more + int((used - more) * share)))
        status = started(server, place, kind, run)
        resize(disk, 1 << 18)
        ended(server, place, kind, run, status)
        full += status != 0
    assert full > 1
