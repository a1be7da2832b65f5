"""``generate`` is killed, stopped and starved of room wherever it stands, and goes on to the same bits."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nuwa_lightning.commands.making import canvas_folder
from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers import read_metadata

# 7 x 5 patches, the last ones cut; each turned into pixels by itself.
SIZE = ("--size", "112x72", "--seed", "4", "--max_rows", "4", "--tile", "2")
SUFFIXES = (".tif", ".png", ".dzi", ".zarr")
Files = dict[str, bytes]


class Server:
    """Runs commands in forks of a process that has everything imported (see killing.py)."""

    def __init__(self, folder: Path, log: Path, *more: str) -> None:
        self._log = log.open("w+")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killing.py")), *more],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def _ask(self, line: str) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def run(
        self,
        *arguments: object,
        at: int | None = None,
        number: int = signal.SIGKILL,
        kill_after: float | None = None,
        **more: object,
    ) -> int:
        """Return the exit status.

        Args:
            arguments: of the command line.
            at: at which call of fsync, replace or unlink it gets a signal.
            number: which one.
            kill_after: kill it after so many seconds.
            more: see killing.py.
        """
        request = {"arguments": [str(a) for a in arguments], "at": at, "number": int(number), **more}
        pid = self._ask(json.dumps(request))
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self._ask("wait")

    def said(self) -> str:
        """Return what was written to standard error since the last call."""
        self._log.seek(0)
        text = self._log.read()
        self._log.seek(0)
        self._log.truncate()
        return text

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout
        self._process.stdout.close()
        self._log.close()


@pytest.fixture(scope="module")
def server(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "two").symlink_to(finished / "two")
    made = Server(folder, folder / "stderr.log")
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(server._log.name).parent


def command(output: Path | str, *more: str) -> list[str]:
    return ["generate", "--checkpoint", "two", *SIZE, "--record_every", "0", "--output", str(output), *more]


@pytest.fixture(scope="module")
def whole(server: Server, folder: Path) -> dict[str, Files]:
    """What uninterrupted runs make."""
    for suffix in SUFFIXES:
        assert server.run(*command(f"whole{suffix}")) == 0, server.said()
    return {suffix: made(folder, f"whole{suffix}") for suffix in SUFFIXES}


def places(folder: Path, output: str) -> list[Path]:
    """Where an output lies: a file, a folder, or both."""
    stem, _, suffix = output.rpartition(".")
    return [folder / output, *([folder / f"{stem}_files"] if suffix == "dzi" else [])]


def made(folder: Path, output: str) -> Files:
    """Every file of an output; OME-Zarr says its own name, for which NAME stands."""
    stem = output.rpartition(".")[0]
    files = [file for place in places(folder, output) for file in (place, *place.rglob("*")) if file.is_file()]
    name = f'"name": "{stem}"'.encode()
    contents = (file.read_bytes().replace(name, b'"name": "NAME"') for file in files)
    return dict(zip((str(file.relative_to(folder)).removeprefix(stem) for file in files), contents, strict=True))


def remove(folder: Path, output: str) -> None:
    for place in places(folder, output):
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def litter(folder: Path, output: str) -> list[str]:
    stem, own = output.rpartition(".")[0], [place.name for place in places(folder, output)]
    return [p.name for p in folder.iterdir() if p.name.startswith((stem, f".{stem}")) and p.name not in own]


@pytest.mark.parametrize("suffix", [".tif", ".png", *(pytest.param(s, marks=pytest.mark.slow) for s in SUFFIXES[2:])])
def test_sigkill_at_random_points(server: Server, folder: Path, whole: dict[str, Files], suffix: str) -> None:
    """Kill after random times, go on, kill again, until it is finished: the same bytes."""
    rng, output = random.Random(7), f"random_{suffix[1:]}{suffix}"
    kills = 0
    for attempt in range(40):
        status = server.run(
            *command(output, *(["--resume"] if attempt else [])),
            kill_after=rng.uniform(0.0, 0.2) if kills < 6 else None,
        )
        if status == 0:
            break
        assert status == -signal.SIGKILL, server.said()
        kills += 1
    assert status == 0
    assert kills >= 1
    assert made(folder, output) == whole[suffix]
    assert litter(folder, output) == []


def kill_at_call(server: Server, folder: Path, expected: Files, suffix: str, number: int) -> bool:
    """Kill a run at one call, go on, compare; returns whether there was such a call."""
    output = f"call{number}{suffix}"
    status = server.run(*command(output), at=number)
    if status:
        assert status == -signal.SIGKILL, server.said()
        assert server.run(*command(output, "--resume")) == 0, server.said()
    assert made(folder, output) == expected
    assert litter(folder, output) == []
    remove(folder, output)
    return status != 0


@pytest.mark.parametrize(
    ("suffix", "numbers"),
    [(".tif", (0, 2, 5, 11, 37, 80)), (".dzi", (110, 119)), (".zarr", (105,))],
)
def test_killed_at_some_calls_that_touch_the_disk(
    server: Server, folder: Path, whole: dict[str, Files], suffix: str, numbers: tuple[int, ...]
) -> None:
    """TIFF at any time; the others while they are written, and Deep Zoom between its tiles and its file."""
    for number in numbers:
        assert kill_at_call(server, folder, whole[suffix], suffix, number)


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "number"), [(".tif", 0), (".png", 0), (".dzi", 90), (".zarr", 90)])
def test_killed_at_every_call_that_touches_the_disk(
    server: Server, folder: Path, whole: dict[str, Files], suffix: str, number: int
) -> None:
    """Up to the ninetieth the canvas grows, which is the same for each format."""
    while kill_at_call(server, folder, whole[suffix], suffix, number):
        number += 1
    assert number > 95


def test_signals_stop_between_waves(server: Server, folder: Path, whole: dict[str, Files]) -> None:
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # under nohup: then it stays so
    for number in (signal.SIGINT, signal.SIGTERM, *(() if ignored else (signal.SIGHUP,))):
        output = f"stopped{number}.tif"
        assert server.run(*command(output), at=40, number=number) == 128 + number, server.said()
        assert not (folder / output).exists()
        assert "go on with --resume" in server.said()
        assert server.run(*command(output, "--resume")) == 0
        assert made(folder, output) == whole[".tif"]


def test_several_canvases_are_killed_together(server: Server, folder: Path) -> None:
    assert server.run(*command("several.tif", "--count", "3")) == 0, server.said()
    expected = {n: (folder / f"several-{n}.tif").read_bytes() for n in range(3)}
    assert len(set(expected.values())) == 3
    more = ("--count", "3", "--overwrite")
    status = server.run(*command("several.tif", *more), at=30)
    assert status == -signal.SIGKILL
    assert server.run(*command("several.tif", "--count", "3", "--resume")) == 0, server.said()
    for n, content in expected.items():
        assert (folder / f"several-{n}.tif").read_bytes() == content
    assert server.run(*command("several.tif", "--count", "3", "--resume")) == 0
    assert "finished already" in server.said()


def test_a_change_is_refused_and_named(server: Server, folder: Path) -> None:
    output = "changed.tif"
    assert server.run(*command(output), at=30) == -signal.SIGKILL
    assert server.run(*command(output)) == 2
    assert "an unfinished run of it is there" in server.said()
    before = {p.name: p.read_bytes() for p in canvas_folder(folder / output).iterdir()}
    for option, value, words in (
        ("--seed", "5", "seed was 4, now 5"),
        ("--size", "112x80", 'size was "112x72", now "112x80"'),
        ("--temperature", "0.5", "temperature was 1.0, now 0.5"),
        ("--order", "zeta", 'order was not given, now "zeta"'),
        ("--wrap", "x", 'wrap was "", now "x"'),
    ):
        assert server.run(*command(output, "--resume", option, value)) == 2
        assert words in server.said()
    other = folder / "other"
    shutil.copytree(folder / "two", other)
    config = json.loads((other / "model" / "config.json").read_text())
    (other / "model" / "config.json").write_text(json.dumps(config) + " ")
    assert server.run(*command(output, "--resume", "--checkpoint", "other")) == 2
    assert "checkpoint's model was" in server.said()
    shutil.rmtree(other)
    assert {p.name: p.read_bytes() for p in canvas_folder(folder / output).iterdir()} == before
    assert server.run(*command(output, "--overwrite")) == 0
    assert litter(folder, output) == []


def test_a_damaged_canvas_offers_the_last_good_state(server: Server, folder: Path, whole: dict[str, Files]) -> None:
    for number, (place, kept) in enumerate(((0, 1), (40, 1), (-1, 1), (-1, 0))):
        output = f"damaged{number}.tif"
        assert server.run(*command(output), at=50) == -signal.SIGKILL
        # Three where it was killed between making a state and dropping the oldest.
        records = sorted(canvas_folder(folder / output).glob("state-*"))[-2 if kept else 0 :]
        for record in records[kept:]:
            content = bytearray(record.read_bytes())
            content[place] ^= 1
            record.write_bytes(content)
        server.said()
        assert server.run(*command(output, "--resume")) == 2
        said = server.said()
        if kept:
            assert f"{records[1].name}: is damaged; the state before it (" in said
            assert "choose resume earlier" in said
            assert server.run(*command(output, "--resume", "earlier")) == 0, server.said()
        else:
            assert "there is no good one: choose overwrite" in said
            assert server.run(*command(output, "--overwrite")) == 0, server.said()
        assert made(folder, output) == whole[".tif"]
        assert litter(folder, output) == []
    assert server.run(*command("damaged.tif"), at=50) == -signal.SIGKILL
    (canvas_folder(folder / "damaged.tif") / "canvas.json").write_text("{}")
    assert server.run(*command("damaged.tif", "--resume")) == 2
    assert "does not say what is made there" in server.said()


@pytest.mark.parametrize("room", [3, 12])
def test_a_full_disk_stops_cleanly_and_goes_on_with_room(
    shell, workplace, finished, monkeypatch, capfd, room: int
) -> None:
    """What is safe is told, nothing is lost; while tokens are stored, and while pixels are written."""
    from nuwa_lightning.canvas.canvas import Canvas
    from nuwa_lightning.writers.vips import TiffWriter

    (workplace / "two").symlink_to(finished / "two")
    assert shell(*command("expected.tif")).status == 0
    commit, write, left = Canvas.commit, TiffWriter.write, [room]

    def failing(*arguments) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise UsageError("output", "full.tif", "No space left on device")
        commit(*arguments)

    def broken(self, source, path, metadata) -> None:
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Canvas, "commit", failing)
    done = shell(*command("full.tif"))
    assert (done.status, "No space left on device" in done.error) == (2, True)
    assert "of 35 patches are safe, go on with --resume" in done.error
    left[0] = 10**9
    monkeypatch.setattr(TiffWriter, "write", broken)
    done = shell(*command("full.tif", "--resume"))
    assert (done.status, "No space left on device" in done.error) == (2, True)
    assert "35 of 35 patches are safe, go on with --resume" in done.error
    assert not Path("full.tif").exists()
    monkeypatch.setattr(TiffWriter, "write", write)
    assert shell(*command("full.tif", "--resume")).status == 0
    assert Path("full.tif").read_bytes() == Path("expected.tif").read_bytes()
    assert litter(workplace, "full.tif") == []


def test_two_processes_do_not_write_one_image(server: Server, folder: Path, finished: Path, shell) -> None:
    """The second one is told at once, whatever it wants."""
    import fcntl

    canvas = canvas_folder(folder / "twice.tif")
    canvas.mkdir()
    with (canvas / "lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for more in ((), ("--resume",), ("--overwrite",)):
            done = shell("generate", "--checkpoint", finished / "two", "--output", folder / "twice.tif", *more)
            assert (done.status, "another process is writing it" in done.error) == (2, True)


@pytest.mark.parametrize("size", ["x40", "40x"])
def test_an_endless_canvas_goes_on_until_it_is_stopped(server: Server, folder: Path, size: str) -> None:
    """Killed, gone on with, stopped: a valid file, and the same image when it is made again."""
    output = f"endless{size}.tif"
    options = ["generate", "--checkpoint", "two", "--size", size, "--record_every", "0", "--output", output]
    options += ["--preview", "none"]
    assert server.run(*options, at=60) == -signal.SIGKILL
    assert server.run(*options, "--resume", at=60, number=signal.SIGTERM) == 0, server.said()
    image, said = tifffile.imread(folder / output), read_metadata(folder / output)
    long, short = (1, 0) if size[0] == "x" else (0, 1)
    assert (image.shape[short], image.shape[long] % 16) == (40, 0)
    assert image.shape[long] > 40
    assert said["size"] == [image.shape[1], image.shape[0]]
    assert said["options"]["waves"] > 0
    assert server.run("generate", "--from", output, "--output", f"again{size}.tif") == 0, server.said()
    np.testing.assert_array_equal(tifffile.imread(folder / f"again{size}.tif"), image)
    assert server.run(*options, "--resume") == 0
    assert "finished already" in server.said()
    assert litter(folder, output) == []
