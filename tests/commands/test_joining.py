"""A machine whose others never come: it says whom it waits for, and a signal ends it at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
import yaml

from nuwa_lightning.commands.joining import watch_joining
from nuwa_lightning.errors import UsageError
from tests.canvas.editable import tiny
from tests.commands.conftest import STAGE_1, write_photos
from tests.together import REPOSITORY, environment, free_port


def _as_in_a_terminal() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def waiting(command: list[str], folder: Path, rank: int, port: int) -> subprocess.Popen[str]:
    """Start the process of one machine of two, and return it once it waits."""
    told = {**os.environ, **environment(rank, 2, port), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    told |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": str(rank)}
    full = [sys.executable, "-m", "nuwa_lightning", *command]
    with (folder / "said").open("w") as said:
        run = subprocess.Popen(full, cwd=folder, env=told, stderr=said, text=True, preexec_fn=_as_in_a_terminal)
    end = time.monotonic() + 120
    while "waiting for" not in (folder / "said").read_text() and run.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    return run


@pytest.mark.parametrize(
    ("rank", "name"),
    [
        (0, "SIGTERM"),
        pytest.param(1, "SIGINT", marks=pytest.mark.slow),
        pytest.param(0, "SIGHUP", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_wait(tmp_path: Path, sample_photos: dict[str, Any], rank: int, name: str) -> None:
    number, port = int(getattr(signal, name)), free_port()
    write_photos(tmp_path / "photos", sample_photos)
    trainer = {**STAGE_1["trainer"], "devices": 1, "num_nodes": 2, "strategy": "ddp"}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({**STAGE_1, "trainer": trainer}))
    run = waiting(["fit", "-c", "one.yaml"], tmp_path, rank, port)
    try:
        assert run.poll() is None, (tmp_path / "said").read_text()
        sent = time.monotonic()
        run.send_signal(number)
        assert run.wait(20) == 128 + number
        assert time.monotonic() - sent < 2
    finally:
        run.kill()
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    line = f"stopped by {name} outside of the training loop: start it again with --ckpt_path last"
    assert said.splitlines().count(line) == (rank == 0)
    assert f"waiting for 2 processes at 127.0.0.1:{port}" in said.splitlines()
    if rank == 0:
        assert json.loads((tmp_path / "one" / "record.json").read_text())["ended"] == {"by": name, "step": 0}
        assert [path.name for path in (tmp_path / "one").iterdir()] == ["record.json"]


@pytest.mark.slow
def test_ctrl_c_ends_the_wait_of_generate(tmp_path: Path) -> None:
    tiny(layers=2).save_pretrained(tmp_path / "run")
    port = free_port()
    run = waiting(["generate", "--size", "96x64", "--checkpoint", "run", "--output", "a.png"], tmp_path, 0, port)
    try:
        sent = time.monotonic()
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 128 + signal.SIGINT
        assert time.monotonic() - sent < 2
    finally:
        run.kill()
    said = (tmp_path / "said").read_text().splitlines()
    assert said == [f"waiting for 2 processes at 127.0.0.1:{port}", "stopped"]
    assert not list(tmp_path.glob("a.png*"))


def test_what_the_library_refuses_is_one_line() -> None:
    """Such as a port that is taken, a name that nobody knows, and half an hour of waiting."""

    def refuse() -> None:
        raise dist.DistNetworkError("The server could not be initialized\nException raised from init at Socket.cpp:1")

    told = SimpleNamespace(main_address="127.0.0.1", main_port=1, local_rank=lambda: 0)
    strategy = SimpleNamespace(cluster_environment=told, setup_environment=refuse)
    watch_joining(SimpleNamespace(strategy=strategy, num_nodes=2, num_devices=4), lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(UsageError) as caught:
        strategy.setup_environment()
    words = (
        "--trainer.num_nodes: 2: 8 processes do not come together at 127.0.0.1:1 (The server could not be initialized)"
    )
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
    assert signal.set_wakeup_fd(-1) == -1
