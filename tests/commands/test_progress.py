"""The bar of ``generate`` says what it is asked to, whatever the number of canvases, from where a run goes on."""

from __future__ import annotations

import mmap
import re
import resource
from contextlib import contextmanager

import pytest

from nuwa_lightning.canvas.job import Progress
from nuwa_lightning.cli import main
from nuwa_lightning.commands.progress import GenerationBar, memory_in_use


@pytest.mark.parametrize(("total", "canvases"), [(40, 1), (80, 2), (None, 1)])
def test_the_bar_tells_everything(total, canvases, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    with GenerationBar(total, 64 * 64, canvases=canvases) as bar:
        assert not capsys.readouterr().err  # until everything is checked
        bar.begin(10)
        bar.update(Progress(patches=20, wave=4, live=9))
        bar._bar.refresh()
        line = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    done = 20 * canvases
    assert f"{done * 4096 / 1e6:.2f} Mpx, 4 at once, 9 alive" in line
    assert (f"{done}/{total}" if total else f"{done}patch") in line
    assert re.search(r"patch/s|s/patch", line)
    assert total is None or "<" in line  # time gone < time left
    said = re.search(r"(\d+) MB", line)
    assert said
    assert 0 < int(said.group(1)) <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + 1


def test_memory_is_what_is_used_now():
    before = memory_in_use()
    held = mmap.mmap(-1, 64 << 20)  # not from what the process keeps of freed memory
    held.write(b"x" * (64 << 20))
    assert memory_in_use() - before > 48 << 20


def test_writing_the_files_is_shown(finished, tmp_path, monkeypatch):
    seen = []

    @contextmanager
    def bar(count, *, unit):
        told = []
        yield told.append
        seen.append((count, unit, sum(told)))

    monkeypatch.setattr("nuwa_lightning.commands.generate.export_bar", bar)
    options = ["--checkpoint", str(finished / "two"), "--size", "112x72", "--output", str(tmp_path / "a.png")]
    assert main(["generate", *options, "--count", "2"]) == 0
    assert seen == [(72, "row", 72)] * 2
