"""``torchrun ... generate``: the first process keeps and exports what all of them write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nuwa_lightning.cli import main
from nuwa_lightning.commands import generate
from nuwa_lightning.commands.making import canvas_folder
from tests.canvas.editable import tiny
from tests.together import REPOSITORY, run_together

WIDE = ["--size", "96x64", "--seed", "3", "--checkpoint", "run"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    tiny(layers=2).save_pretrained(folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["generate", *WIDE, "--output", "alone.png"]) == 0
        assert main(["generate", *WIDE, "--count", "3", "--max_rows", "2", "--output", "each.png"]) == 0
    return folder


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


@pytest.mark.slow
def test_by_torchrun(place: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "nuwa_lightning", "generate", *WIDE, "--count", "3", "--max_rows", "2", "--output", "both.png"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, env=environment, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for number in range(3):
        assert done.stderr.count(f"both-{number}.png: ") == 1
        assert pixels(place / f"both-{number}.png") == pixels(place / f"each-{number}.png")


def test_a_stopped_one_goes_on_in_one_process(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run_together([__file__, *WIDE, "--output", "stopped.png"], folder=place)
    assert [status for status, _ in ended] == [128 + signal.SIGTERM, 0], ended
    assert "go on with --resume" in ended[0][1]
    assert ended[1][1] == ""
    assert canvas_folder(place / "stopped.png").is_dir()
    monkeypatch.chdir(place)
    assert main(["generate", *WIDE, "--output", "stopped.png", "--resume"]) == 0
    assert pixels(place / "stopped.png") == pixels(place / "alone.png")


@pytest.mark.slow
def test_what_is_refused_is_told_once(place: Path) -> None:
    """The others learn that there is nothing to do, or are stopped by torchrun."""
    ended = run_together(["-m", "nuwa_lightning", "generate", *WIDE, "--output", "alone.png", "--resume"], folder=place)
    assert [status for status, _ in ended] == [0, 0], ended
    assert ended[0][1].count("finished already") == 1
    assert ended[1][1] == ""


if __name__ == "__main__":  # stops itself on the way, as a signal would

    class Bar(generate.GenerationBar):
        def update(self, progress) -> None:
            super().update(progress)
            if progress.patches > 20:
                os.kill(os.getpid(), signal.SIGTERM)

    generate.GenerationBar = Bar  # type: ignore[misc]
    sys.exit(main(["generate", *sys.argv[1:]]))
