"""The main job's whole path: stage 1 made if missing, its decoder refined beside stage 2; kills and failures inside."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nuwa_lightning.tokenizers.pretrained import load_tokenizer, save_tokenizer
from tests.commands.conftest import STAGE_1, Shell

OWN = """
import os
import signal
import time
from pathlib import Path

from lightning.pytorch import Callback


class KillOnce(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        Path("steps.txt").open("a").write(f"{trainer.global_step}\\n")
        if trainer.global_step == self.step and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class SayWho(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        Path("partial").write_text(str(os.getpid()))
        Path("partial").replace("child.pid")


class KillBesideChild(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for _ in range(600):
            if Path("child.pid").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.1)
"""
REFINE: dict[str, Any] = {
    **STAGE_1,
    "run": "better",
    "model": {
        "class_path": "VQGANModule",
        "init_args": {
            "start_from": "elsewhere",
            "train_only": "decoder",
            "loss": {"perceptual": {"weight": 0}},
            "warmup_steps": 1,
        },
    },
    "trainer": {**STAGE_1["trainer"], "max_steps": 4, "callbacks": []},
}
BESIDE = ("--tokenizer.refine", "better.yaml", "--tokenizer.refined", "better/tokenizer")


@pytest.fixture(autouse=True)
def _place(workplace: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Recipes and callbacks in the working directory, for children too; refining takes threads from this process."""
    (workplace / "better.yaml").write_text(yaml.safe_dump(REFINE), encoding="utf-8")
    (workplace / "my_callbacks.py").write_text(OWN, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), str(workplace)]))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def with_callbacks(recipe: dict[str, Any], path: str, *callbacks: dict[str, Any]) -> None:
    recipe = copy.deepcopy(recipe)
    recipe["trainer"]["callbacks"] = list(callbacks)
    Path(path).write_text(yaml.safe_dump(recipe), encoding="utf-8")


def test_the_run_has_the_decoder_that_was_refined_beside_it(shell: Shell) -> None:
    assert shell("fit", "-c", "two.yaml", *BESIDE).status == 0
    plain, refined, ours = (load_tokenizer(f"{place}/tokenizer") for place in ("one", "better", "two"))
    assert ours.full_fingerprint() == refined.full_fingerprint() != plain.full_fingerprint()
    assert ours.fingerprint() == plain.fingerprint()
    assert "max_steps=4" in Path("two/refinement.log").read_text()
    # The second time it is there already, and taken.
    Path("two/refinement.log").unlink()
    assert shell("fit", "-c", "two.yaml", *BESIDE, "--run", "again").status == 0
    assert load_tokenizer("again/tokenizer").full_fingerprint() == refined.full_fingerprint()
    assert not Path("again/refinement.log").exists()


def test_a_refinement_that_fails_leaves_the_decoder_and_says_so(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    Path("better.yaml").write_text(yaml.safe_dump({**REFINE, "model": {**REFINE["model"], "init_args": {"lr": -1}}}))
    assert shell("fit", "-c", "two.yaml", *BESIDE).status == 0
    plain, ours = (load_tokenizer(f"{place}/tokenizer") for place in ("one", "two"))
    assert ours.full_fingerprint() == plain.full_fingerprint()
    assert "refinement ended with status 2 (see refinement.log); using it unrefined" in caplog.text
    assert "lr: -1" in Path("two/refinement.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_run_that_is_killed_leaves_no_refinement_behind(workplace: Path) -> None:
    with_callbacks({**REFINE, "trainer": {**REFINE["trainer"], "max_steps": 10**6}}, "better.yaml", own("SayWho"))
    with_callbacks(yaml.safe_load(Path("two.yaml").read_text()), "two.yaml", own("KillBesideChild"))
    command = [sys.executable, "-m", "nuwa_lightning", "fit", "-c", "two.yaml", *BESIDE]
    died = subprocess.run(command, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    child = int(Path("child.pid").read_text())
    try:
        end = time.monotonic() + 60
        while runs(child) and time.monotonic() < end:
            time.sleep(0.1)
        assert not runs(child)
    finally:
        if runs(child):
            os.kill(child, signal.SIGKILL)


def own(name: str, **options: int) -> dict[str, Any]:
    return {"class_path": f"my_callbacks.{name}", "init_args": options}


def runs(process: int) -> bool:
    """Say whether it is alive; one that ended and that nobody has asked about is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_stage_1_of_the_main_job_goes_on_after_a_kill(shell: Shell, finished: Path) -> None:
    keep = {"dirpath": "new/checkpoints", "every_n_train_steps": 3, "save_last": True, "filename": "step"}
    saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keep}
    with_callbacks(STAGE_1, "one.yaml", own("KillOnce", step=5), saving)
    main_job = ("fit", "-c", "two.yaml", "--tokenizer.path", "new/tokenizer", "--tokenizer.recipe", "one.yaml")
    done = shell(*main_job)
    assert (done.status, f"ended with status {-signal.SIGKILL}" in done.error) == (2, True), done.error
    assert not Path("new/tokenizer").exists()
    assert shell(*main_job).status == 0
    assert Path("steps.txt").read_text().split() == list("012345345")
    made = load_tokenizer("new/tokenizer")
    # As if it had never been stopped.
    assert made.full_fingerprint() == load_tokenizer(finished / "one" / "tokenizer").full_fingerprint()
    assert load_tokenizer("two/tokenizer").fingerprint() == made.fingerprint()


@pytest.mark.parametrize("beside", ["true", "false"])
def test_the_refined_decoder_of_another_tokenizer_is_refused_before_training(shell: Shell, beside: str) -> None:
    other = load_tokenizer("one/tokenizer")
    other.quantizer.codebook_KD[0] *= -1
    save_tokenizer("better/tokenizer", other)
    done = shell("fit", "-c", "two.yaml", *BESIDE, "--tokenizer.beside", beside)
    assert done.status == 2
    assert done.error.startswith("error: --tokenizer.refined: better/tokenizer: is not one/tokenizer refined, but ")
    assert not Path("two").exists()
    options = ("--tokenizer.refine", "null", "--trainer.max_steps", 1)
    assert shell("fit", "-c", "two.yaml", *BESIDE, *options).error == done.error
    assert shell("fit", "-c", "two.yaml", *BESIDE, *options, "--tokenizer.refined", "null").status == 0
