"""The command, killed again and again while a canvas grows: the canvas is whole, and what comes of it the same."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nuwa_lightning.cli import main
from nuwa_lightning.serve.worker import PRELOADED
from tests.canvas.editable import tiny
from tests.serve.served import Served


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tiny().save_pretrained(folder)
    return folder


@contextmanager
def command(run: Path, canvases: Path) -> Iterator[tuple[Served, subprocess.Popen[str]]]:
    """A server of its own process, killed at the end if it is still there."""
    words = ["serve", "--checkpoint", str(run), "--canvases", str(canvases), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "nuwa_lightning", *words],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    with process:
        try:
            line = process.stderr.readline()
            found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", line)
            assert found, line
            yield answering(int(found[1])), process
        finally:
            process.kill()


def answering(port: int) -> Served:
    server, until = Served(port), time.monotonic() + 300
    while True:
        try:
            server.get("/api/state")
            return server
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.02)


@contextmanager
def forked(run: Path, canvases: Path) -> Iterator[tuple[Served, Any]]:
    """The same command in a process that has imported everything already, so that many can be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nuwa_lightning.commands.serve", "nuwa_lightning.serve.app", *PRELOADED])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", "--checkpoint", str(run), "--canvases", str(canvases), "--port", str(port)]
    process = context.Process(target=main, args=(words,))
    process.start()
    try:
        yield answering(port), process
    finally:
        process.kill()
        process.join()
        process.close()


def killed_while_it_grows(run: Path, folder: Path, *, kills: int, right: int) -> None:
    pipe, chance, canvas = tiny(), random.Random(kills), ""
    for _ in range(kills):
        with forked(run, folder) as (server, process):
            canvas = canvas or server.new()
            if server.canvas(canvas)["finished"]:
                server.post(f"/api/canvases/{canvas}/grow", {"right": right, "down": 8})
            else:
                server.post(f"/api/canvases/{canvas}/resume")
            at = time.monotonic() + chance.uniform(0.1, 1.2)
            while time.monotonic() < at:
                server.canvas(canvas)
            process.kill()
            process.join()
        (name,) = folder.glob("*/canvas.json")
        pipe.open_canvas(name.parent).close()  # whole: every record is checked
    with forked(run, folder) as (server, _):
        found = server.canvas(canvas)
        steps = round((found["size"][0] - 40) / right)
        if not found["finished"]:
            server.do(f"/api/canvases/{canvas}/resume")
        pixels = server.pixels(canvas)
    here = pipe(size=(40, 24), seed=3, output_type="tokens").canvases[0]
    for _ in range(steps):
        here.grow(right=right, down=8)
    assert steps
    assert (pixels[..., :3] == next(here.pixels())).all()


def test_a_kill(run: Path, tmp_path: Path) -> None:
    killed_while_it_grows(run, tmp_path, kills=1, right=800)


@pytest.mark.slow
def test_twenty_kills(run: Path, tmp_path: Path) -> None:
    killed_while_it_grows(run, tmp_path, kills=20, right=1600)


def test_it_ends_at_once_though_a_page_listens(run: Path, tmp_path: Path) -> None:
    import http.client

    with command(run, tmp_path) as (server, process):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/api/events")
        answer = connection.getresponse()
        answer.readline()
        server.post("/api/canvases", {"width": 4000, "height": 400})
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) in (0, 130)
        answer.close()
        connection.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--checkpoint", "nowhere"], "checkpoint"),
        (["--checkpoint", "{run}", "--port", "70000"], "--port"),
        (["--checkpoint", "{run}", "--port", "x"], "--port"),
        (["--checkpoint", "{run}", "--host", "203.0.113.1"], "--port"),
        (["--checkpoint", "{run}", "--canvases", "{run}/model/config.json"], "--canvases"),
        (["--checkpoint", "{run}", "--canvases", "{run}/a/b"], "--canvases"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *(word.format(run=run) for word in more)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {named}: ")
    assert error.count("\n") == 1
