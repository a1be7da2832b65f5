"""SIGTERM, SIGHUP and Ctrl-C to all processes of a run, wherever it is: one line, a record, nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nuwa_lightning.signals import ONE_STOP, Signals, Stopped
from tests.commands.conftest import STAGE_1, Shell
from tests.commands.test_refinement import BESIDE, REFINE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

OWN = """
import time
from pathlib import Path

from lightning.pytorch import Callback


class Here(Callback):
    def __init__(self, hook: str, step: int = 0):
        setattr(self, hook, self.wait)
        self.step = step

    def wait(self, trainer, *_, **__):
        if trainer.global_step == self.step and not Path("sent").exists():
            Path("here").touch()
            while not Path("sent").exists():
                time.sleep(0.01)
"""
NEW = ("--tokenizer.path", "new/tokenizer", "--tokenizer.recipe", "one.yaml")
LOOP = {"hook": "on_train_batch_start", "step": 2}
WHERE: dict[str, tuple[tuple[str, ...], str, dict[str, Any], str]] = {  # flags, which recipe waits, where, its folder
    "stage 1": (NEW, "one.yaml", LOOP, "new"),
    "between the stages": (NEW, "two.yaml", {"hook": "setup"}, "two"),
    "refinement before stage 2": ((*BESIDE, "--tokenizer.beside", "false"), "better.yaml", LOOP, "better"),
    "stage 2, refinement beside it": (BESIDE, "two.yaml", LOOP, "two"),
}
NAMES = ("SIGTERM", "SIGHUP", "SIGINT")
QUICK = {("stage 1", "SIGTERM")}
CASES = [
    pytest.param(where, name, marks=() if (where, name) in QUICK else pytest.mark.slow)
    for where in WHERE
    for name in NAMES
]


@pytest.fixture
def place(workplace: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Recipes with two loading processes, of which one waits for a signal; signals as they are in a terminal."""
    (workplace / "my_signals.py").write_text(OWN, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), str(workplace)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(workplace))
    long = {**REFINE, "trainer": {**REFINE["trainer"], "max_steps": 60}}
    for name, recipe in (("one", STAGE_1), ("two", yaml.safe_load(Path("two.yaml").read_text())), ("better", long)):
        recipe["data"]["init_args"]["num_workers"] = 2
        Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    obeyed = {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in obeyed.items()}
    yield workplace
    for number, handler in before.items():
        signal.signal(number, handler)


def group(number: int) -> list[str]:
    """The processes of a group that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == number and state != "Z":
            found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
    return found


@pytest.mark.parametrize(("where", "name"), CASES)
def test_a_signal_to_all_processes_of_a_run(place: Path, shell: Shell, where: str, name: str) -> None:
    flags, recipe, hook, folder = WHERE[where]
    number = int(getattr(signal, name))
    content = yaml.safe_load(Path(recipe).read_text())
    content["trainer"]["callbacks"] = [{"class_path": "my_signals.Here", "init_args": hook}]
    Path(recipe).write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [sys.executable, "-m", "nuwa_lightning", "fit", "-c", "two.yaml", *flags]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while not Path("here").exists() and run.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        running = group(run.pid)
        # as ``timeout`` does: to the process, and to all of its group
        for send in (os.kill, os.killpg):
            send(run.pid, number)
        Path("sent").touch()
        told = run.communicate(timeout=120)[1]
        left = group(run.pid)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 128 + number, told
    in_loop = hook is LOOP
    assert len(running) >= (1 if not in_loop else 3 if recipe == "two.yaml" else 4), running
    assert left == []
    assert "Traceback" not in told
    (line,) = (line for line in told.splitlines() if "stopped by" in line)
    where_to = "at step 3: go on with" if in_loop else "outside of the training loop: start it again with"
    assert line == f"stopped by {name} {where_to} --ckpt_path last"
    step = 3 if in_loop else 0
    for each in {folder, "two"}:
        ended = json.loads(Path(each, "record.json").read_text())["ended"]
        assert ended == {"by": name, "step": step if each == folder else 0}
    assert Path(folder, "checkpoints", "last.ckpt").exists() == in_loop
    assert not Path("two", "model").exists()
    assert shell("fit", "-c", "two.yaml", *flags, "--ckpt_path", "last").status == 0
    for each in {folder, "two"}:
        assert json.loads(Path(each, "record.json").read_text())["ended"]["by"] == "finished"


def test_one_stop_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("nuwa_lightning.signals.time.monotonic", lambda: now[0])
    with Signals(waiting=True) as signals:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert signals.number == signal.SIGTERM
        now[0] += ONE_STOP
        with pytest.raises(Stopped):  # a second one
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
