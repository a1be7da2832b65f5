"""A run that is killed and started again goes on as if nothing had happened, unless the user says otherwise."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from nuwa_lightning.commands.resuming import find_checkpoint
from nuwa_lightning.errors import UsageError

OWN = """
import os
import signal

from lightning.pytorch import Callback

class Kill(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


class KillForGood(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)
"""
OVERLAY = """
trainer:
  logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: LOG, name: "", version: ""}}
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: RUN/checkpoints, every_n_train_steps: 3, save_last: true, filename: step}
"""
KILL = "    - {class_path: my_kill.Kill, init_args: {step: 5}}\n"


@pytest.fixture(autouse=True)
def _own_class(workplace, monkeypatch):
    (workplace / "my_kill.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(workplace))


def overlay(name: str, run: str, log: str, kill: bool = False) -> Path:
    path = Path(name)
    path.write_text(OVERLAY.replace("LOG", log).replace("RUN", run) + (KILL if kill else ""))
    return path


def losses(log: str) -> dict[int, str]:
    with Path(log, "metrics.csv").open() as file:
        return {int(row["step"]): row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}


def rates(log: str) -> dict[int, float]:
    with Path(log, "metrics.csv").open() as file:
        return {int(row["step"]): float(row["train/lr"]) for row in csv.DictReader(file) if row["train/lr"]}


@pytest.mark.parametrize("recipe", ["one.yaml", "two.yaml"])
@pytest.mark.parametrize("steps_per_epoch", [4, 100])
def test_a_killed_run_goes_on_with_the_same_losses(shell, recipe, steps_per_epoch):
    options = ("--trainer.max_steps", 8, "--data.steps_per_epoch", steps_per_epoch)
    assert shell("fit", "-c", recipe, "--run", "w", "-c", overlay("w.yaml", "w", "lw"), *options).status == 0
    with pytest.raises(RuntimeError, match="killed"):
        shell("fit", "-c", recipe, "--run", "k", "-c", overlay("k.yaml", "k", "lk", kill=True), *options)
    resumed = shell(
        "fit", "-c", recipe, "--run", "k", "-c", overlay("r.yaml", "k", "lr"), *options, "--ckpt_path", "last"
    )
    assert resumed.status == 0
    whole, rest = losses("lw"), losses("lr")
    assert list(whole) == list(range(8))
    assert list(rest) == list(range(3, 8))
    assert rest == {step: whole[step] for step in rest}
    first, second = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in "wk")
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name


@pytest.mark.parametrize("optimize", ["accumulated", "per_patch"])
def test_a_process_that_is_killed_goes_on_with_the_same_losses(shell, workplace, optimize):
    # per_patch takes several optimizer steps a batch, of which global_step counts one: positions must not drift
    options = ("--trainer.max_steps", "8", "--model.optimize", optimize)
    assert shell("fit", "-c", "two.yaml", "--run", "w", "-c", overlay("w.yaml", "w", "lw"), *options).status == 0
    kill = overlay("k.yaml", "k", "lk")
    kill.write_text(kill.read_text() + KILL.replace("Kill", "KillForGood"))
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(workplace)])
    command = [sys.executable, "-m", "nuwa_lightning", "fit", "-c", "two.yaml", "--run", "k", "-c", str(kill), *options]
    died = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    again = overlay("r.yaml", "k", "lr")
    assert shell("fit", "-c", "two.yaml", "--run", "k", "-c", again, *options, "--ckpt_path", "last").status == 0
    whole, rest = losses("lw"), losses("lr")
    assert 0 < len(rest) < len(whole)
    assert rest == {step: whole[step] for step in rest}


@pytest.mark.parametrize(("recipe", "decay"), [("one.yaml", "weight_decay"), ("two.yaml", "descent.weight_decay")])
def test_options_of_the_command_line_win_over_the_checkpoint(shell, recipe, decay):
    options = ("--trainer.max_steps", 8)
    with pytest.raises(RuntimeError, match="killed"):
        shell("fit", "-c", recipe, "--run", "k", "-c", overlay("k.yaml", "k", "lk", kill=True), *options)
    for place, chosen in (("a", ()), ("b", ("--model.lr", 1e-3, f"--model.{decay}", 0.5))):
        again = overlay("r.yaml", place, place)
        assert (
            shell("fit", "-c", recipe, "-c", again, *options, *chosen, "--ckpt_path", "k/checkpoints/last.ckpt").status
            == 0
        )
        ends = torch.load(f"{place}/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
        if chosen:
            assert max(group["weight_decay"] for group in ends) == 0.5
    assert rates("a").keys() == rates("b").keys()
    for step, rate in rates("a").items():
        assert rates("b")[step] == pytest.approx(rate / 2)  # the recipe's is 2e-3


def test_last_without_a_checkpoint_starts_from_the_beginning(shell):
    assert shell("fit", "-c", "one.yaml", "--ckpt_path", "last", "--run", "new").status == 0
    assert Path("new/tokenizer/config.json").is_file()


def test_a_checkpoint_of_the_other_stage_is_refused(shell, finished):
    for recipe, run in (("one.yaml", "two"), ("two.yaml", "one")):
        done = shell("fit", "-c", recipe, "--run", "new", "--ckpt_path", finished / run / "checkpoints" / "last.ckpt")
        assert done.status == 2
        assert done.error.startswith("error: --ckpt_path:")
        assert "name one of this stage" in done.error
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model.transformer.dim", 24), "--model.transformer: "),
        (("--model.patch_size", "[4, 4]"), "patch_size: [4, 4]"),
        (("--model.context_pool", "EmptyContextPool"), "--model.context_pool: "),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(shell, finished, options, words):
    checkpoint = finished / "two" / "checkpoints" / "last.ckpt"
    done = shell("fit", "-c", "two.yaml", "--ckpt_path", checkpoint, *options)
    assert done.status == 2
    assert words in done.error
    assert "the checkpoint" in done.error


def test_files_that_are_no_checkpoint_are_refused(shell, finished):
    Path("text.ckpt").write_text("text")
    torch.save({"weights": torch.zeros(2)}, "other.ckpt")
    torch.save(Callback(), "code.ckpt")
    cut = (finished / "one" / "checkpoints" / "last.ckpt").read_bytes()
    Path("cut.ckpt").write_bytes(cut[: len(cut) // 2])
    cases = {"missing.ckpt": "there is no such file", "text.ckpt": "is no checkpoint", "other.ckpt": "is no checkpoint"}
    for name, words in {**cases, "code.ckpt": "is no checkpoint", "cut.ckpt": "is no checkpoint"}.items():
        done = shell("fit", "-c", "one.yaml", "--ckpt_path", name)
        assert (done.status, words in done.error) == (2, True), done.error
        assert f"--ckpt_path: {name}" in done.error


def lose(*way):
    def change(content):
        for key in way[:-1]:
            content = content[key]
        del content[way[-1]]

    return change


DAMAGED = {
    "no loops": (lose("loops"), "has no loops, without which a training cannot go on"),
    "no optimizers": (lose("optimizer_states"), "has no optimizer_states"),
    "no schedules": (lose("lr_schedulers"), "has no lr_schedulers"),
    "no progress": (lose("loops", "fit_loop", "epoch_loop.batch_progress"), "KeyError: 'epoch_loop.batch_progress'"),
    "no size": (lose("patch_transformer", "size"), "KeyError: 'size'"),
    "a weight less": (lose("state_dict", "transformer.bos"), "does not fit this run, or is damaged"),
    "a weight of text": (lambda c: c["state_dict"].update({"transformer.bos": "ones"}), "does not fit this run"),
    "a weight of another shape": (
        lambda c: c["state_dict"].update({"transformer.bos": torch.ones(3)}),
        "size mismatch",
    ),
    "a state of another shape": (
        lambda c: c["optimizer_states"][0]["state"][0].update(mean=torch.ones(1), momentum=torch.ones(1)),
        "of its optimizer does not have the shape of its weights",
    ),
    "a number for a state": (
        lambda c: c["optimizer_states"][0]["state"].update({0: 7}),
        "its optimizer says 7 of a weight: name an earlier one",
    ),
    "text in a state": (
        lambda c: c["optimizer_states"][0]["state"][0].update(step="three"),
        "step in its optimizer_states is 'three', no number",
    ),
    "groups of another number": (lambda c: c["optimizer_states"][0]["param_groups"].pop(), "does not fit this run"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_checkpoint_that_lacks_a_part_is_one_line(shell, finished, kind):
    content = torch.load(finished / "two" / "checkpoints" / "last.ckpt", weights_only=True)
    change, words = DAMAGED[kind]
    change(content)
    torch.save(content, "damaged.ckpt")
    done = shell("fit", "-c", "two.yaml", "--ckpt_path", "damaged.ckpt", "--trainer.max_steps", 8)
    assert (done.status, words in done.error) == (2, True), done.error
    assert "ckpt_path" in done.error


def test_last_is_the_newest_below_the_run(tmp_path):
    assert find_checkpoint(None, tmp_path, needed=True) is None
    assert find_checkpoint("last", tmp_path, needed=False) is None
    with pytest.raises(UsageError, match="there is no checkpoint below"):
        find_checkpoint("last", tmp_path, needed=True)
    for age, name in enumerate(("last-v1.ckpt", "last.ckpt", "step.ckpt")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (100 - age, 100 - age))
    assert find_checkpoint("last", tmp_path, needed=True) == str(tmp_path / "last-v1.ckpt")
