"""The disk is full at any place where training or generation writes: one line, nothing half made, and it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nuwa_lightning.callbacks.checkpoint_io import read_checkpoint
from nuwa_lightning.generation.pretrained import load_generator
from nuwa_lightning.tokenizers.pretrained import load_tokenizer
from tests.commands.conftest import write_recipes
from tests.commands.test_going_on import Server


@pytest.fixture(scope="module")
def place(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    (folder / "photos").symlink_to(finished / "photos")
    (folder / "two").symlink_to(finished / "two")
    shutil.copytree(finished / "one" / "tokenizer", folder / "one" / "tokenizer")
    write_recipes(folder)
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    made = Server(place, place / "stderr.log", "train")
    yield made
    made.close()


def commands(run: str) -> dict[str, list[str]]:
    cache = ["--data.cache", f"cache_{run}"]
    return {
        "stage 1": ["fit", "-c", "one.yaml", "--run", run, *cache],
        "stage 2": ["fit", "-c", "two.yaml", "--run", run, *cache],
        "generate": ["generate", "--checkpoint", "two", "--size", "48x40", "--output", f"{run}.tif", "--canvas", run],
    }


def check(server: Server, place: Path, kind: str, run: str, **full: object) -> bool:
    """Run with a full disk, look at what is left, run with room; returns whether it was full at all."""
    command = commands(run)[kind]
    server.said()
    status, said = server.run(*command, **full), server.said()
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert status in (0, 2), said
    assert len(errors) == (status != 0), said
    assert "Traceback" not in said
    folder = place / run
    left = [path for path in place.rglob(".*") if "partial" in path.name or ".old" in path.name]
    assert left == []
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if checkpoint.exists():
        read_checkpoint(checkpoint)
    if (folder / "tokenizer").exists():
        load_tokenizer(folder / "tokenizer")
    if (folder / "model").exists():
        load_generator(folder / "model")
    more = ["--ckpt_path", "last"] if kind != "generate" else ["--resume"] if status else ["--overwrite"]
    assert server.run(*command, *more) == 0, server.said()
    for made in (folder, place / f"cache_{run}"):
        shutil.rmtree(made, ignore_errors=True)
    (place / f"{run}.tif").unlink(missing_ok=True)
    return status != 0


@pytest.mark.parametrize(
    ("kind", "at"), [("stage 1", 3), ("stage 1", 9), ("stage 2", 2), ("stage 2", 12), ("generate", 2)]
)
def test_full_from_some_call_on(server: Server, place: Path, kind: str, at: int) -> None:
    check(server, place, kind, f"at{at}", at=at, full=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stage 1", "stage 2", "generate"])
def test_full_from_every_call_on(server: Server, place: Path, kind: str) -> None:
    at = 0
    while check(server, place, kind, f"every{at}", at=at, full=True):
        at += 1
    assert at > 5


@pytest.mark.parametrize(
    ("kind", "room"),
    [
        ("stage 1", 300),
        ("stage 1", 9_000),
        ("stage 1", 60_000),
        ("stage 2", 300),
        ("stage 2", 4_000),
        ("generate", 500),
    ],
)
def test_no_file_grows_beyond(server: Server, place: Path, kind: str, room: int) -> None:
    """Each size stops another writer: of JSON, images, arrays, TensorBoard, weights, checkpoints."""
    check(server, place, kind, f"room{room}", room=room)
