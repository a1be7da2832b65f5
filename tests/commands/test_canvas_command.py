"""``generate --canvas`` and ``canvas``: kept, exported, grown and redone, through kills and beside other processes."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from nuwa_lightning.writers import read_metadata
from tests.canvas.editable import tiny
from tests.commands.test_going_on import Server, litter

GENERATE = ("generate", "--checkpoint", "two", "--size", "32x24", "--seed", "4", "--max_rows", "4", "--tile", "2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("edited")
    tiny().save_pretrained(folder / "two")
    made = Server(folder, folder / "stderr.log")
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(server: Server) -> Path:
    return Path(server._log.name).parent


@pytest.fixture(scope="module")
def kept(server: Server, folder: Path) -> Path:
    """A canvas; to be copied."""
    assert server.run(*GENERATE, "--output", "a.tif", "--canvas", "kept") == 0, server.said()
    return folder / "kept"


def pixels(server: Server, canvas: Path) -> np.ndarray:
    assert server.run("canvas", "export", canvas, "export.tif", "--overwrite") == 0, server.said()
    return tifffile.imread(canvas.parent / "export.tif")


def copied(kept: Path, name: str) -> Path:
    return Path(shutil.copytree(kept, kept.with_name(name)))


def test_a_canvas_is_kept_only_if_wished(server: Server, folder: Path, kept: Path) -> None:
    assert litter(folder, "a.tif") == []
    assert {path.name for path in kept.iterdir()} == {"canvas.json", "tokens.log", "lock"}
    for suffix in (".tif", ".png", ".webp", ".dzi"):
        assert server.run("canvas", "export", "kept", f"b{suffix}") == 0, server.said()
    assert (folder / "b.tif").read_bytes() == (folder / "a.tif").read_bytes()
    assert np.array_equal(np.asarray(Image.open(folder / "b.png")), tifffile.imread(folder / "a.tif"))
    assert server.run("canvas", "export", "kept", "b.png") == 2
    assert "b.png: exists" in server.said()
    assert server.run(*GENERATE, "--output", "c.tif", "--canvas", "kept") == 2
    assert "holds a canvas already: `canvas export` makes files of it" in server.said()
    assert server.run(*GENERATE, "--output", "a.tif", "--canvas", "kept", "--resume") == 0
    assert "finished already" in server.said()


@pytest.mark.parametrize("at", [2, 11, 40, 70])
def test_killed_while_it_is_generated(server: Server, folder: Path, kept: Path, at: int) -> None:
    command = (*GENERATE, "--output", f"k{at}.tif", "--canvas", f"k{at}", "--record_every", "0")
    if server.run(*command, at=at):
        assert server.run("canvas", "export", f"k{at}", "no.tif") == 2
        assert server.run(*command, "--resume") == 0, server.said()
    assert (folder / f"k{at}.tif").read_bytes() == (folder / "a.tif").read_bytes()
    assert np.array_equal(pixels(server, folder / f"k{at}"), pixels(server, kept))


def test_growing_is_killed_anywhere(server: Server, folder: Path, kept: Path) -> None:
    grow = ("grow", "--left", "10", "--down", "9", "--record_every", "0")
    whole = copied(kept, "whole")
    assert server.run("canvas", grow[0], whole, *grow[1:]) == 0, server.said()
    before, after = pixels(server, kept), pixels(server, whole)
    assert after.shape == (33, 42, 3)
    outcomes = set()
    for at in (0, 1, 2, 3, 4, 5, 8, 21, 55, 70):
        canvas = copied(kept, f"g{at}")
        status = server.run("canvas", grow[0], canvas, *grow[1:], at=at)
        server.said()
        if server.run("canvas", "grow", canvas, "--resume"):
            assert "there is no growth to go on with" in server.said()
            found = pixels(server, canvas)
            assert np.array_equal(found, before) or np.array_equal(found, after)
            outcomes.add("before" if found.shape == before.shape else "after")
        else:
            assert status == -signal.SIGKILL
            assert np.array_equal(pixels(server, canvas), after)
            outcomes.add("resumed")
    assert outcomes >= {"before", "resumed"}


def test_growing_is_stopped_or_undone(server: Server, folder: Path, kept: Path) -> None:
    canvas = copied(kept, "stopped")
    before = pixels(server, kept)
    grow = ("canvas", "grow", canvas, "--left", "10", "--record_every", "0")
    assert server.run(*grow, at=6, number=signal.SIGTERM) == 128 + signal.SIGTERM
    assert "--resume" in server.said()
    assert server.run("canvas", "export", canvas, "no.tif") == 2
    assert "is not finished" in server.said()
    assert server.run("canvas", "undo", canvas) == 0, server.said()
    assert np.array_equal(pixels(server, canvas), before)
    assert server.run("canvas", "undo", canvas) == 2
    for at in range(4):
        assert server.run(*grow, at=5) == -signal.SIGKILL
        server.run("canvas", "undo", canvas, at=at)
        server.run("canvas", "undo", canvas)
        assert np.array_equal(pixels(server, canvas), before)


def test_redo_is_killed_anywhere(server: Server, folder: Path, kept: Path) -> None:
    redo = ("--box", "0,8,10,15", "--seed", "9")
    whole = copied(kept, "redone")
    assert server.run("canvas", "redo", whole, *redo, "--count") == 0
    assert "of 12 patches would be made again" in server.said()
    assert server.run("canvas", "redo", whole, *redo) == 0, server.said()
    before, after = pixels(server, kept), pixels(server, whole)
    assert not np.array_equal(before, after)
    found = []
    for at in range(5):
        canvas = copied(kept, f"r{at}")
        server.run("canvas", "redo", canvas, *redo, at=at)
        found.append(np.array_equal(pixels(server, canvas), after))
        assert found[-1] or np.array_equal(pixels(server, canvas), before)
    assert found == sorted(found)
    assert found[0] is False
    said = read_metadata(folder / "export.tif")
    assert said["size"] == [32, 24]
    assert server.run("canvas", "export", whole, "edited.tif") == 0
    assert server.run("generate", "--from", "edited.tif", "--output", "no.tif") == 2
    assert "was edited on a canvas" in server.said()


def test_one_process_at_a_time(server: Server, folder: Path, kept: Path) -> None:
    with (kept / "lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for more in (
            ("undo",),
            ("export", "x.tif"),
            ("grow", "--up", "8"),
            ("redo", "--box", "0,0,8,8", "--seed", "1"),
        ):
            assert server.run("canvas", more[0], kept, *more[1:]) == 2
            assert "another process is writing it" in server.said()


def test_given_pixels_are_kept(server: Server, folder: Path, sample_photos) -> None:
    given = sample_photos["flower.jpg"][200:231, 300:345]
    Image.fromarray(given).save(folder / "in.png")
    options = ("--checkpoint", "two", "--image", "in.png", "--expand", "left=10,down=7", "--output", "wide.jpg")
    assert server.run("generate", *options, "--canvas", "given") == 0, server.said()
    (folder / "in.png").unlink()
    assert np.array_equal(pixels(server, folder / "given")[:31, 10:], given)
    assert server.run("canvas", "grow", "given", "--up", "9", "--right", "30") == 0, server.said()
    assert np.array_equal(pixels(server, folder / "given")[9:40, 10:55], given)


@pytest.mark.parametrize("size", ["x40", "40x"])
def test_an_endless_canvas_is_kept_and_grown(server: Server, folder: Path, size: str) -> None:
    name = f"endless{size}"
    options = ("--checkpoint", "two", "--size", size, "--waves", "20", "--preview", "none", "--output", f"{name}.tif")
    assert server.run("generate", *options, "--canvas", name) == 0, server.said()
    before = tifffile.imread(folder / f"{name}.tif")
    assert np.array_equal(pixels(server, folder / name), before)
    assert server.run("canvas", "grow", name, "--right" if size == "x40" else "--down", "32") == 0, server.said()
    after = pixels(server, folder / name)
    long = 1 if size == "x40" else 0
    assert after.shape[long] == before.shape[long] + 32
    kept = after[:, : before.shape[1] - 16] if long else after[: before.shape[0] - 16]
    assert np.array_equal(kept, before[:, :-16] if long else before[:-16]), "but what the decoder sees of new tokens"
    assert server.run("canvas", "redo", name, "--box", "0,0,8,8", "--seed", "8") == 0, server.said()
    assert pixels(server, folder / name).shape == after.shape


def test_several_images_lie_in_one_canvas(server: Server, folder: Path) -> None:
    options = (*GENERATE, "--count", "2", "--output", "two.tif", "--canvas", "both")
    assert server.run(*options) == 0, server.said()
    assert server.run("canvas", "export", "both", "again.tif") == 0, server.said()
    for n in range(2):
        assert (folder / f"again-{n}.tif").read_bytes() == (folder / f"two-{n}.tif").read_bytes()
    assert server.run("canvas", "grow", "both", "--right", "8") == 0, server.said()
    assert server.run("canvas", "export", "both", "second.png", "--number", "1") == 0, server.said()
    with Image.open(folder / "second.png") as image:
        assert image.size == (40, 24)
    assert server.run(*GENERATE, "--count", "5", "--canvas", "many", "--output", "five.tif") == 2
    assert "raise --max_rows" in server.said()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("canvas",), "see canvas --help"),
        (("canvas", "shrink", "c"), "ACTION: shrink: give info, export, grow, redo, undo"),
        (("canvas", "info"), "--folder: missing: there is no default"),
        (("canvas", "info", "CANVAS", "more"), "more: belongs to no option"),
        (("canvas", "grow", "CANVAS", "--rigth", "8"), "did you mean --right?"),
        (("canvas", "grow", "CANVAS", "--config", "gone.yaml"), "--config: gone.yaml: there is no such file"),
        (("canvas", "undo", "gone"), "canvas: gone: holds no canvas"),
        (("canvas", "grow", "CANVAS"), "grow: nothing: say how many pixels"),
        (("canvas", "grow", "CANVAS", "--right", "x"), "--right: x: Expected int"),
        (("canvas", "grow", "CANVAS", "--right", "-8"), "--right: -8: give how many more"),
        (("canvas", "grow", "CANVAS", "--right", "8", "--resume"), "goes on with what was wished before"),
        (("canvas", "redo", "CANVAS", "--box", "1,2,3"), "--box: 1,2,3: give 4 whole numbers"),
        (("canvas", "redo", "CANVAS", "--box", "0,0,99,9", "--seed", "1"), "inside the 32x24 of the canvas"),
        (("canvas", "redo", "CANVAS", "--box", "0,0,9,9"), "--seed: nothing: give another one than 4"),
        (("canvas", "export", "CANVAS", "a.xyz"), "a.xyz"),
        (("canvas", "export", "CANVAS", "gone/a.png"), "the folder gone is missing"),
        (("canvas", "export", "CANVAS", "z.png", "--number", "3"), "--number: 3: the canvas holds 1 images"),
        (("canvas", "undo", "CANVAS", "--checkpoint", "nowhere"), "nowhere"),
        ((*GENERATE, "--canvas", "no/such"), "--canvas: no/such: the folder no is missing: make it first"),
        ((*GENERATE, "--canvas", "same.tif", "--output", "same.tif"), "is the output: give them two names"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    server: Server, folder: Path, kept: Path, arguments: tuple[str, ...], words: str
) -> None:
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    server.said()
    assert server.run(*(str(kept) if a == "CANVAS" else a for a in arguments)) == 2
    said = [line for line in server.said().splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert words in said[0]
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_info_is_json(kept: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from nuwa_lightning.cli import main

    monkeypatch.chdir(kept.parent)
    assert main(["canvas", "info", "kept"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["size"], said["seeds"], said["edits"]) == ([32, 24], [4], [])
    assert said["request"]["size"] == "32x24"
    assert main(["canvas", "--help"]) == 0
    assert "made by looking at" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        main(["canvas", "grow", "--help"])
    assert "pixels more, left (type: int, default: 0)" in capfd.readouterr().out


def test_options_come_from_a_file(server: Server, kept: Path, tmp_path: Path) -> None:
    """What follows ``--config`` wins."""
    canvases = [copied(kept, name) for name in ("by_file", "by_flags")]
    file = tmp_path / "more.yaml"
    file.write_text("right: 16\nseed: 3\ntemperature: 0.5\n")
    assert server.run("canvas", "grow", canvases[0], "-c", file, "--right", "8") == 0, server.said()
    flags = ("--right", "8", "--seed", "3", "--temperature", "0.5")
    assert server.run("canvas", "grow", canvases[1], *flags) == 0, server.said()
    assert np.array_equal(*(pixels(server, canvas) for canvas in canvases))


def test_edits_are_steered_and_taken_back_in_turn(server: Server, kept: Path) -> None:
    canvas = copied(kept, "steered")
    looks = [pixels(server, canvas)]
    grow = ("canvas", "grow", canvas, "--right", "16", "--seed", "9", "--temperature", "0.5", "--top_k", "3")
    assert server.run(*grow) == 0, server.said()
    looks.append(pixels(server, canvas))
    assert server.run("canvas", "redo", canvas, "--box", "0,0,8,8", "--seed", "5", "--top_p", "0.5") == 0
    here = tiny()(size=(32, 24), seed=4, max_rows=4, output_type="tokens").canvases[0]
    here.grow(right=16, seed=9, options={"temperature": 0.5, "top_k": 3})
    assert np.array_equal(looks[1], next(here.pixels()))
    assert np.array_equal(
        pixels(server, canvas), next(here.redo((0, 0, 8, 8), seed=5, options={"top_p": 0.5}).pixels())
    )
    for look in reversed(looks):
        assert server.run("canvas", "undo", canvas) == 0, server.said()
        assert np.array_equal(pixels(server, canvas), look)
    assert server.run("canvas", "undo", canvas) == 2
    assert "nothing to undo" in server.said()
    assert server.run("canvas", "grow", canvas, "--right", "8", "--prompt", "a lake") == 2
    assert "reads no text" in server.said()
    assert np.array_equal(pixels(server, canvas), looks[0])  # and nothing is under way
