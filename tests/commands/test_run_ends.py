"""How a run ends: finished, at a time limit, by a signal, refused; what it leaves, and that it goes on to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from nuwa_lightning.signals import Signals, Stopped
from tests.commands.conftest import write_clips

OWN = """
import os
import signal

from lightning.pytorch import Callback


class StopAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.should_stop = True


class SignalIn(Callback):
    def __init__(self, hook: str, number: int):
        setattr(self, hook, lambda *_, **__: os.kill(os.getpid(), number))


class Watch(Callback):
    def __init__(self, monitor: str):
        self.monitor = monitor


class LogsOwn(Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/own", 1.0)


class EpochsTo(Callback):
    def __init__(self, file: str):
        self.file = file

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        with open(self.file, "a") as file:
            file.write(f"step {trainer.global_step} epoch {trainer.current_epoch} batch {batch_idx}\\n")


class SignalAt(Callback):
    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)
"""

IMPORTING = """
import importlib.abc, os, signal, sys


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGTERM)


sys.meta_path.insert(0, Finder())
from nuwa_lightning.cli import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _own(workplace, monkeypatch):
    (workplace / "my_ends.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(workplace))


def with_callback(name: str, recipe: str, **arguments) -> str:
    content = yaml.safe_load(Path(recipe).read_text())
    content["trainer"]["callbacks"] = {"class_path": f"my_ends.{name}", "init_args": arguments}
    Path(f"with_{recipe}").write_text(yaml.safe_dump(content))
    return f"with_{recipe}"


def checkpoint(run: str) -> dict:
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)


def assert_same(first, second, name="") -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key], f"{name}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second)
        for n, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{name}.{n}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), name
    else:
        assert first == second, name


PARTS = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "epoch", "global_step")


def assert_same_checkpoints(first: dict, second: dict) -> None:
    for part in PARTS:
        assert (part in first) == (part in second)
        if part in first:
            assert_same(first[part], second[part], part)


@pytest.mark.parametrize("recipe", ["one.yaml", "two.yaml", "guided.yaml"])
@pytest.mark.parametrize("stop", [3, 4])  # in the middle of an epoch, and at its end
def test_a_finished_run_is_extended_to_the_bit(shell, recipe, stop, sample_photos):
    if recipe == "guided.yaml":
        write_clips(Path("clips"), sample_photos)
    # a warm-up that lasts keeps the schedule the same for any number of steps
    warm = ("--model.warmup_steps" if recipe == "one.yaml" else "--model.descent.warmup_steps", 100)
    options = ("-c", recipe, *warm, "--trainer.callbacks", "[]")
    assert shell("fit", *options, "--run", "whole", "--trainer.max_steps", 2 * stop).status == 0
    assert shell("fit", *options, "--run", "part", "--trainer.max_steps", stop).status == 0
    part = checkpoint("part")
    if recipe != "two.yaml":
        averages, trained = part["state_dict"], part["current_model_state"]
        assert any(not torch.equal(averages[name], trained[name]) for name in trained)
    more = ("--trainer.max_steps", 2 * stop, "--ckpt_path", "last")
    assert shell("fit", *options, "--run", "part", *more).status == 0
    assert_same_checkpoints(checkpoint("whole"), checkpoint("part"))
    assert checkpoint("part")["global_step"] == 2 * stop


@pytest.mark.parametrize("recipe", ["one.yaml", "two.yaml"])
def test_a_run_that_was_told_to_stop_is_gone_on_with_to_the_bit(shell, recipe):
    plain = with_callback("StopAt", recipe, step=99)
    assert shell("fit", "-c", plain, "--run", "whole").status == 0
    assert shell("fit", "-c", plain, "--run", "part", "--trainer.callbacks.step", 3).status == 0
    assert checkpoint("part")["global_step"] == 3
    assert shell("fit", "-c", plain, "--run", "part", "--ckpt_path", "last").status == 0
    assert_same_checkpoints(checkpoint("whole"), checkpoint("part"))


@pytest.fixture
def obeyed() -> Iterator[None]:
    """Signals as they are in a terminal: what nohup and the like ignore would stay ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    for number in before:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_that_is_ignored_stays_ignored(obeyed):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with pytest.raises(Stopped, match="stopped by SIGTERM"), Signals():
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_leaves_a_checkpoint_a_record_and_one_line(shell, name, obeyed):
    number = int(getattr(signal, name))
    before = signal.getsignal(number)
    recipe = with_callback("SignalAt", "one.yaml", step=2, number=number)
    done = shell("fit", "-c", recipe, "--run", "s")
    assert done.status == 128 + number
    assert f"stopped by {name} at step 3: go on with --ckpt_path last" in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert json.loads(Path("s/record.json").read_text())["ended"] == {"by": name, "step": 3}
    assert not Path("s/tokenizer").exists()
    assert signal.getsignal(number) is before
    again = with_callback("SignalAt", "one.yaml", step=99, number=number)
    assert shell("fit", "-c", again, "--run", "s", "--ckpt_path", "last").status == 0
    assert json.loads(Path("s/record.json").read_text())["ended"] == {"by": "finished", "step": 6}
    assert shell("fit", "-c", again, "--run", "whole").status == 0
    assert_same_checkpoints(checkpoint("whole"), checkpoint("s"))


@pytest.mark.parametrize("hook", ["setup", "on_sanity_check_start", "on_fit_start", "on_train_end", "teardown"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_before_or_after_the_loop(shell, hook, name, obeyed):
    number = int(getattr(signal, name))
    done = shell("fit", "-c", with_callback("SignalIn", "one.yaml", hook=hook, number=number), "--run", "s")
    assert done.status == 128 + number
    assert f"stopped by {name}" in done.stderr
    assert "Traceback" not in done.stderr
    step = 6 if hook in ("on_train_end", "teardown") else 0
    assert json.loads(Path("s/record.json").read_text())["ended"] == {"by": name, "step": step}
    assert not Path("s/tokenizer").exists()
    assert shell("fit", "-c", "one.yaml", "--run", "s", "--ckpt_path", "last").status == 0
    assert Path("s/tokenizer/config.json").exists()


def test_a_signal_before_the_first_step_leaves_the_record_of_an_earlier_run(shell, finished, obeyed):
    kept = (finished / "one" / "record.json").read_bytes()
    Path("one/record.json").write_bytes(kept)
    recipe = with_callback("SignalIn", "one.yaml", hook="setup", number=int(signal.SIGTERM))
    assert shell("fit", "-c", recipe).status == 143
    assert Path("one/record.json").read_bytes() == kept


def test_a_signal_while_libraries_are_imported(workplace):
    command = [sys.executable, "-c", IMPORTING, "fit", "-c", "one.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 143, done.stderr
    assert done.stderr.splitlines() == [
        "stopped by SIGTERM outside of the training loop: start it again with --ckpt_path last"
    ]


def test_what_is_refused_late_leaves_the_folder_as_it_is(shell, finished):
    kept = {n: (finished / "one" / n).read_bytes() for n in ("config.yaml", "record.json")}
    for name, content in kept.items():
        Path("one", name).write_bytes(content)
    done = shell("fit", "-c", "one.yaml", "--trainer.val_check_interval", 5)
    assert done.status == 2
    assert "val_check_interval" in done.error
    assert {n: Path("one", n).read_bytes() for n in kept} == kept


@pytest.mark.parametrize(
    ("recipe", "option", "words"),
    [
        ("one.yaml", "accumulate_grad_batches", "give --model.accumulate_grad_batches"),
        ("one.yaml", "gradient_clip_val", "give --model.gradient_clip_val"),
        ("two.yaml", "accumulate_grad_batches", "give --model.scaling.accumulate_grad_batches"),
        ("two.yaml", "gradient_clip_val", "give --model.descent.gradient_clip_val"),
    ],
)
def test_options_that_need_automatic_optimization(shell, recipe, option, words):
    done = shell("fit", "-c", recipe, "--run", "new", f"--trainer.{option}", 2)
    assert done.status == 2
    assert done.error.startswith(f"error: --trainer.{option}: 2")
    assert words in done.error
    assert not Path("new").exists()


def watching(name: str, recipe: str, monitor: str, **options: object) -> str:
    """Write a recipe whose tokenizer would have to be trained first, with one more callback."""
    content = yaml.safe_load(Path(recipe).read_text())
    if recipe == "two.yaml":
        content["tokenizer"] = {"path": "none/tokenizer", "recipe": "one.yaml"}
    path = name if "." in name else f"lightning.pytorch.callbacks.{name}"
    content["trainer"]["callbacks"] = [{"class_path": path, "init_args": {"monitor": monitor, **options}}]
    Path("watching.yaml").write_text(yaml.safe_dump(content))
    return "watching.yaml"


NOT_THERE = [  # callback, recipe, metric, its options, flags, what is told
    ("EarlyStopping", "two.yaml", "val/los", {}, {}, "watches what is not there: give one of train/loss"),
    ("ModelCheckpoint", "two.yaml", "val/los", {}, {}, "ModelCheckpoint watches what is not there"),
    ("my_ends.Watch", "two.yaml", "val/los", {}, {}, "Watch watches what is not there"),
    ("EarlyStopping", "two.yaml", "epoch", {}, {}, "watches what is not there"),
    # at train steps, before the first validation
    ("EarlyStopping", "two.yaml", "val/loss", {"check_on_train_epoch_end": True},
     {"trainer.check_val_every_n_epoch": 2, "trainer.max_steps": 9},
     "is there from batch 8 on, but EarlyStopping looks after batch 4"),
    ("EarlyStopping", "two.yaml", "val/loss", {"check_on_train_epoch_end": True},
     {"trainer.check_val_every_n_epoch": "null", "trainer.val_check_interval": 6},
     "is there from batch 6 on, but EarlyStopping looks after batch 4"),
    # the training ends in the middle of the first epoch
    ("EarlyStopping", "two.yaml", "val/loss", {}, {"trainer.max_steps": 3}, "nothing is validated"),
    ("EarlyStopping", "two.yaml", "val/loss", {}, {"trainer.limit_val_batches": 0}, "nothing is validated"),
    ("EarlyStopping", "two.yaml", "val/loss", {}, {"data.photos.val_fraction": 0}, "nothing is validated"),
    ("EarlyStopping", "two.yaml", "train/loss", {"check_on_train_epoch_end": False},
     {"trainer.limit_val_batches": 0}, "looks after each validation, and nothing is validated"),
    ("ModelCheckpoint", "two.yaml", "val/loss", {}, {"trainer.max_steps": 3}, "nothing is validated"),
    # what this run does not log, or not yet
    ("EarlyStopping", "one.yaml", "train/perceptual", {}, {}, "does not log, since it is off"),
    ("EarlyStopping", "one.yaml", "val/LPIPS(vgg)", {}, {}, "does not log, since it is off"),
    ("EarlyStopping", "one.yaml", "train/adversarial", {}, {}, "does not log, since it is off"),
    ("EarlyStopping", "one.yaml", "codebook/usage", {}, {"trainer.val_check_interval": 2},
     "is there from batch 3 on, but EarlyStopping looks after batch 2"),
]  # fmt: skip


@pytest.mark.parametrize(("callback", "recipe", "metric", "options", "flags", "words"), NOT_THERE)
def test_a_metric_that_is_not_there_is_told_before_stage_1(shell, callback, recipe, metric, options, flags, words):
    if "val_check_interval" in str(flags) and "every_n_epoch" not in str(flags):
        options = {**options, "check_on_train_epoch_end": False}
    given = [word for name, value in flags.items() for word in (f"--{name}", value)]
    done = shell("fit", "-c", watching(callback, recipe, metric, **options), "--run", "new", *given)
    assert done.status == 2
    assert done.error.startswith(f"error: --trainer.callbacks.monitor: {metric}: ")
    assert words in done.error
    assert not Path("none").exists()
    assert not Path("new").exists()


THERE = [
    ("EarlyStopping", "two.yaml", "train/loss", {}, {}),
    ("EarlyStopping", "two.yaml", "train/loss", {"check_on_train_epoch_end": False}, {"val_check_interval": 2}),
    ("EarlyStopping", "two.yaml", "val/loss", {}, {"max_steps": 4}),
    ("EarlyStopping", "two.yaml", "val/loss", {}, {"val_check_interval": 1}),
    ("EarlyStopping", "two.yaml", "val/loss", {"check_on_train_epoch_end": True}, {"val_check_interval": 2}),
    ("EarlyStopping", "two.yaml", "val/loss", {"strict": False, "check_on_train_epoch_end": True},
     {"check_val_every_n_epoch": 2, "max_steps": 9}),
    ("EarlyStopping", "one.yaml", "codebook/usage", {}, {}),
    ("ModelCheckpoint", "two.yaml", "val/loss", {"every_n_train_steps": 1}, {}),
    ("ModelCheckpoint", "two.yaml", "epoch", {"mode": "max"}, {}),
    ("my_ends.Watch", "two.yaml", "val/loss", {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("callback", "recipe", "metric", "options", "flags"), THERE)
def test_a_metric_that_is_there_in_time_is_taken(shell, callback, recipe, metric, options, flags):
    given = [word for name, value in flags.items() for word in (f"--trainer.{name}", value)]
    tokenizer = ("--tokenizer.path", "one/tokenizer") if recipe == "two.yaml" else ()
    done = shell("fit", "-c", watching(callback, recipe, metric, **options), "--run", "new", *tokenizer, *given)
    assert done.status == 0, done.stderr
    assert "watch" not in done.stderr


def test_what_callbacks_of_ones_own_log_may_be_watched(shell):
    content = yaml.safe_load(Path(watching("EarlyStopping", "two.yaml", "val/own")).read_text())
    content["tokenizer"]["path"] = "one/tokenizer"
    content["trainer"]["callbacks"].append({"class_path": "my_ends.LogsOwn"})
    Path("watching.yaml").write_text(yaml.safe_dump(content))
    done = shell("fit", "-c", "watching.yaml", "--run", "new")
    assert done.status == 0, done.stderr


@pytest.mark.parametrize("recipe", ["one.yaml", "two.yaml"])
@pytest.mark.parametrize("how", ["max_steps", "max_epochs", "early", "signal"])
def test_epochs_go_on_counting_where_they_were(shell, recipe, how, obeyed):
    """Stopped in four ways, all but one at the end of an epoch: each later batch has the epoch that it has without."""
    logged, number = "my_ends.EpochsTo", int(signal.SIGTERM)

    def run(folder: str, log: str, *more: object, stop: int = 99) -> int:
        content = yaml.safe_load(Path(recipe).read_text())
        own = [{"class_path": logged, "init_args": {"file": log}}]
        own.append({"class_path": "my_ends.SignalAt", "init_args": {"step": stop, "number": number}})
        if stop < 0:
            init = {"monitor": "train/loss", "stopping_threshold": 1e9, "check_on_train_epoch_end": False}
            own.append({"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": init})
        content["trainer"] |= {"callbacks": own, "max_steps": 10, "val_check_interval": 2}
        Path("epochs.yaml").write_text(yaml.safe_dump(content))
        return shell("fit", "-c", "epochs.yaml", "--run", folder, *more).status

    assert run("whole", "whole.txt") == 0
    first = {
        "max_steps": lambda: run("part", "part.txt", "--trainer.max_steps", 4) == 0,
        "max_epochs": lambda: run("part", "part.txt", "--trainer.max_steps", -1, "--trainer.max_epochs", 1) == 0,
        "early": lambda: run("part", "part.txt", stop=-1) == 0,
        "signal": lambda: run("part", "part.txt", stop=3) == 128 + number,
    }
    assert first[how]()
    assert run("part", "part.txt", "--ckpt_path", "last") == 0
    whole, part = (Path(name).read_text().splitlines() for name in ("whole.txt", "part.txt"))
    assert len(whole) == 10
    assert part == whole
    assert whole[4] == "step 4 epoch 1 batch 0"


def test_the_metrics_that_modules_name_are_those_that_they_log(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from nuwa_lightning.commands.watching import METRICS
    from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
    from nuwa_lightning.training.vqgan_module import VQGANModule

    for run, cls in (("one", VQGANModule), ("two", NuwaInfinityModule)):
        events = EventAccumulator(str(finished / run / "tensorboard"))
        events.Reload()
        logged = {name for name in events.Tags()["scalars"] if name != "epoch"}
        assert logged <= set(METRICS[cls])
        assert {"train/loss", "train/lr"} <= logged


def test_a_single_callback_is_taken(shell):
    done = shell("fit", "-c", "one.yaml", "--run", "f", "--trainer.callbacks", "LearningRateMonitor")
    assert done.status == 0, done.error
    assert "LearningRateMonitor" in Path("f/config.yaml").read_text()
