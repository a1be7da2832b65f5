"""Several cells at a time: each once, each process on its share of the cores, and what fails stops nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.__main__ import main
from evaluation.ablation import running, workers
from evaluation.ablation.workers import check_jobs, cores, environment, work_side_by_side
from nuwa_lightning.errors import UsageError
from tests.commands.conftest import lightning_may_warn
from tests.evaluation.ablation_toys import ABLATION, Calls

OUTPUT = Path("runs/ablations/toy")
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def place(tmp_path: Path, ablated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished ablation of which two cells are not done: one not begun, one not scored."""
    shutil.copytree(ablated, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("NUWA_LIGHTNING_CACHE", str(tmp_path / "place" / "cache"))
    shutil.rmtree(OUTPUT / "cells" / "empty")
    (OUTPUT / "cells" / "nearby" / "seed_1" / "cell.json").unlink()
    return tmp_path / "place"


class Here:
    """Does the work of a process at once, in this one."""

    def __init__(self, command: Sequence[str], settings: dict[str, str]) -> None:
        self.settings = settings
        with lightning_may_warn():
            self.status = main(command[3:])

    def wait(self) -> int:
        return self.status


def told(name: str, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((OUTPUT / "cells" / name / f"seed_{seed}" / "cell.json").read_text())
    return found


def test_two_processes_share_what_is_left(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    started: list[Here] = []

    def start(command: Sequence[str], settings: dict[str, str]) -> Here:
        started.append(Here(command, settings))
        return started[-1]

    calls = Calls()
    monkeypatch.setattr(running, "_call", calls)
    monkeypatch.setattr(workers, "_start", start)
    monkeypatch.setattr(workers, "cores", lambda: 4)
    with lightning_may_warn():
        assert main(["ablate", "--config", "toy.yaml", "--jobs", "2"]) == 0
    assert [process.settings["OMP_NUM_THREADS"] for process in started] == ["2", "2"]
    assert len(calls.commands) == 1  # one was trained already, and none is trained twice
    assert "all cells are done" in capsys.readouterr().err
    assert told("empty", 0)["machine"]["threads"] >= 1
    assert (OUTPUT / "report" / "report.html").is_file()


def test_what_fails_is_told_and_stops_nothing_else(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(running, "_call", Calls())
    monkeypatch.setattr(workers, "_start", Here)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    (OUTPUT / "cells" / "nearby" / "seed_1" / "views" / "samples.json").write_text('{"size": "8x8"}')
    with lightning_may_warn():
        assert main(["ablate", "--config", "toy.yaml", "--jobs", "2", "--no-report"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("error: --output") for line in lines)
    assert lines[-1] == "left to do: nearby:1"


def test_a_stop_waits_for_all() -> None:
    ended = []

    class Stopped:
        def __init__(self, command: Sequence[str], settings: dict[str, str]) -> None:
            self.waits = 0

        def wait(self) -> int:
            ended.append(self)
            return 130

    with pytest.raises(KeyboardInterrupt):
        work_side_by_side(Path("a.yaml"), Path("out"), ["x:0", "x:1", "x:2"], 2, start=Stopped)  # type: ignore[arg-type]
    assert len(ended) == 2


@pytest.mark.parametrize("jobs", [0, -1, cores() + 1])
def test_more_processes_than_cores_are_refused(jobs: int, capsys: Any) -> None:
    with pytest.raises(UsageError, match=rf"jobs: {jobs}: this machine has {cores()} cores"):
        check_jobs(jobs)
    assert main(["ablate", "--config", "toy.yaml", "--jobs", str(jobs)]) == 2
    assert capsys.readouterr().err.startswith("error: --jobs")


def test_threads_of_a_process_are_those_it_was_given() -> None:
    """In a process of its own: the library reads them when it is loaded."""
    command = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    done = subprocess.run(command, env=environment(1), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_killed_process_takes_those_it_started_with_it() -> None:
    code = (
        "import sys, time; from evaluation.ablation.workers import _start, environment; "
        "child = _start([sys.executable, '-c', 'import time; time.sleep(600)'], environment(1)); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    for _ in range(600):
        if not alive(child):
            break
        time.sleep(0.1)
    assert not alive(child)


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.slow
def test_real_processes_finish_an_ablation(place: Path) -> None:
    """Two cells, two processes, each of which trains in a third: nothing is replaced."""
    if cores() < 2:
        pytest.skip("one core")
    small = {**ABLATION, "seeds": [1, 2], "cells": {"nearby": {}}}
    Path("toy.yaml").write_text(yaml.safe_dump(small), encoding="utf-8")
    # In a process without pytest, "tests" may be another package: the features come from the working directory.
    shutil.copy(REPOSITORY / "tests" / "evaluation" / "toys.py", "toy_features.py")
    protocol = yaml.safe_load(Path("protocol.yaml").read_text(encoding="utf-8"))
    protocol["features"]["name"] = "toy_features.ToyFeatures"
    Path("protocol.yaml").write_text(yaml.safe_dump(protocol), encoding="utf-8")
    shutil.rmtree(OUTPUT / "cells" / "nearby" / "seed_1" / "scores")
    settings = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "evaluation", "ablate", "--config", "toy.yaml", "--jobs", "2"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all cells are done" in done.stderr
    assert [told("nearby", seed)["machine"]["threads"] for seed in (1, 2)] == [max(1, cores() // 2)] * 2
