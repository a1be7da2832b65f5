"""The command, killed again and again while a canvas grows: the canvas is whole, and what comes of it the same."""

from __future__ import annotations

import http.client
import multiprocessing
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nuwa_lightning import NuwaInfinityPipeline, UsageError
from nuwa_lightning.canvas.editing import FinishedCanvas
from nuwa_lightning.cli import main
from nuwa_lightning.serve.worker import PRELOADED
from tests.canvas.editable import tiny
from tests.serve.served import Served, serving


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tiny().save_pretrained(folder)
    return folder


@contextmanager
def command(run: Path, canvases: Path, **variables: str) -> Iterator[tuple[Served, subprocess.Popen[str]]]:
    """A server of its own process, killed at the end if it is still there."""
    words = ["serve", "--checkpoint", str(run), "--canvases", str(canvases), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "nuwa_lightning", *words],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
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
                _, job = server.post(f"/api/canvases/{canvas}/grow", {"right": right, "down": 8})
            else:
                _, job = server.post(f"/api/canvases/{canvas}/resume")
            begun(server, job["id"])
            at = time.monotonic() + chance.uniform(0, 1)
            while time.monotonic() < at:
                server.canvas(canvas)
            process.kill()
            process.join()
        (name,) = folder.glob("*/canvas.json")
        opened(pipe, name.parent).close()  # whole: every record is checked
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


def begun(server: Served, number: int) -> None:
    """Wait until a job has made a patch."""
    until = time.monotonic() + 300
    while not any(job["id"] == number and job["patches"][0] for job in server.get("/api/state")["jobs"]):
        assert time.monotonic() < until
        time.sleep(0.02)


def opened(pipe: NuwaInfinityPipeline, canvas: Path) -> FinishedCanvas:
    """The canvas, as soon as the process of the model has seen that its server is gone."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            return pipe.open_canvas(canvas)
        except UsageError as error:
            if "another process" not in str(error):
                raise
        time.sleep(0.01)
    raise AssertionError("it is still held")


def test_a_kill(run: Path, tmp_path: Path) -> None:
    killed_while_it_grows(run, tmp_path, kills=1, right=800)


@pytest.mark.slow
def test_twenty_kills(run: Path, tmp_path: Path) -> None:
    killed_while_it_grows(run, tmp_path, kills=20, right=1600)


def test_the_process_of_the_model_dies_and_the_canvas_goes_on(tmp_path: Path) -> None:
    pipe = tiny()
    with serving(pipe, tmp_path) as server:
        assert server.page is not None
        canvas = server.new()
        events = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        events.request("GET", "/api/events")
        heard = events.getresponse()
        _, job = server.post(f"/api/canvases/{canvas}/grow", {"right": 4000})
        begun(server, job["id"])
        first = kill_worker(server)
        died = server.wait(job["id"], ends="failed")
        assert "killed by signal 9" in died["error"]
        while b"event: worker" not in heard.readline():
            pass
        assert b"killed by signal 9" in heard.readline()
        assert server.pixels(canvas).shape == (24, 4040, 4)  # what is there is seen meanwhile
        assert server.wait(job["id"] + 1)["kind"] == "resume"
        here = pipe(size=(40, 24), seed=3, output_type="tokens").canvases[0].grow(right=4000)
        assert (server.pixels(canvas)[..., :3] == next(here.pixels())).all()
        assert kill_worker(server) != first  # with nothing to do it comes back all the same
        server.do(f"/api/canvases/{canvas}/undo")
        assert server.canvas(canvas)["size"] == [40, 24]
        heard.close()
        events.close()


def kill_worker(server: Served) -> int:
    assert server.page is not None
    process = server.page.worker.process
    assert process is not None
    assert process.pid is not None
    pid = process.pid
    os.kill(pid, signal.SIGKILL)
    while server.page.worker.process is process:
        time.sleep(0.01)
    return pid


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.slow
def test_memory_stays_while_it_grows_on_and_on(run: Path, tmp_path: Path) -> None:
    with command(run, tmp_path) as (server, process):
        canvas, held = server.new(), []
        pids = process.pid, server.get("/api/state")["process"]
        for count in range(1, 76):
            server.do(f"/api/canvases/{canvas}/grow", {"right": 160})
            for level in (0, 1, 3):
                server.ask("GET", f"/api/canvases/{canvas}/tiles/{level}/{(40 + 160 * count - 1) // (256 << level)}/0")
            if count in (15, 45, 75):
                held.append([resident(pid) for pid in pids])
        assert server.canvas(canvas)["size"] == [40 + 75 * 160, 24]
        assert server.get("/api/state")["process"] == pids[1]
        sys.stderr.write(f"megabytes of server and worker after 15, 45, 75 growths: {np.array(held) >> 20}\n")
        for before, after in zip(held[0], held[-1], strict=True):
            assert after - before < 8 << 20, held


def of_the_server(mark: str) -> list[int]:
    """The processes that inherited a variable."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left(run: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A page listens and a canvas grows; of Ctrl-C each process of the terminal is told, as here."""
    mark = secrets.token_hex(8)
    with command(run, tmp_path, NUWA_TEST_MARK=mark) as (server, process):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        connection.request("GET", "/api/events")
        answer = connection.getresponse()
        answer.readline()
        _, job = server.post("/api/canvases", {"width": 4000, "height": 400})
        begun(server, job["id"])
        assert len(of_the_server(mark)) >= 2
        if number == signal.SIGINT:
            for pid in of_the_server(mark):
                os.kill(pid, number)
        else:
            process.send_signal(number)
        assert process.wait(timeout=100) in (0, 130, -number, 128 + number)
        until = time.monotonic() + 60
        while of_the_server(mark):
            assert time.monotonic() < until
            time.sleep(0.05)
        answer.close()
        connection.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    (name,) = tmp_path.glob("*/canvas.json")
    opened(tiny(), name.parent).close()


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
