"""The benchmark measures what it says: its parts, not its figures."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest
import torch

from evaluation.__main__ import main
from evaluation.benchmark import canvas
from evaluation.benchmark.canvas import busy_process, generate, recipe_model, renderer, seconds_a_patch, write_run
from evaluation.benchmark.figure import Figure, Settings
from evaluation.benchmark.figures import local_decoders, report, same_tokens, several_positions, threads
from evaluation.benchmark.measuring import Contender, Reading, Times, interleave, machine, ratio
from evaluation.benchmark.ours import SIZES, Ours, Size, random_model
from evaluation.benchmark.several import several_tokens
from evaluation.benchmark.table import benchmark_table
from evaluation.benchmark.taming import SlidingWindow, WithPast
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.planning.geometry import PatchGrid

TINY = Size("tiny", 1, 24, 3)


class Fake(Contender):
    def __init__(self, name: str, rows: int, log: list[str]) -> None:
        self.name, self.rows, self._log = name, rows, log

    def start(self) -> None:
        pass

    def burst(self, steps: int) -> None:
        self._log.append(f"{self.name}{steps}")


def test_bursts_take_turns_and_the_first_round_does_not_count():
    log: list[str] = []
    ticks = itertools.count()
    times = interleave([Fake("a", 1, log), Fake("b", 4, log)], steps=10, rounds=2, clock=lambda: float(next(ticks)))
    assert log == ["a4", "a10", "b4", "b10"] * 3
    assert times["a"].seconds == [0.1, 0.1]
    assert times["b"].tokens_per_second == pytest.approx(40)
    assert ratio(times["a"], times["b"]) == pytest.approx(4)


def test_a_ratio_is_taken_round_by_round():
    slow, fast = Times(1, [2.0, 20.0, 4.0]), Times(2, [1.0, 10.0, 1.0])
    assert ratio(slow, fast) == 4.0


@pytest.mark.parametrize("size", SIZES.values(), ids=str)
def test_block_parameters_are_those_of_the_name(size):
    blocks = 12 * size.width**2 * size.depth
    assert f"{blocks / 1e6:.0f}M" == size.name
    assert abs(3 * size.inner * size.width + 4 * size.width**2 - 12 * size.width**2) < 3 * size.width


def test_contenders_write():
    ours = Ours("ours", random_model(TINY, num_kv_heads=1), rows=2, precision=Precision("int8", "int8"))
    for contender in (ours, SlidingWindow("window", TINY), WithPast("past", TINY), Reading(3_000_000)):
        times = interleave([contender], steps=2, rounds=1)
        assert times[contender.name].median > 0
    assert ours.tokens(3).shape == (2, 3)
    assert ours.nbytes > 0


@pytest.mark.slow  # the import alone takes long
def test_llama_writes_as_many_tokens_as_it_is_asked_for():
    pytest.importorskip("transformers")
    from evaluation.benchmark.llama import CONTEXT, Llama

    size = Size("tiny", 1, 24, 3)
    for as_users_do in (True, False):
        llama = Llama("llama", size, generate=as_users_do)
        with torch.inference_mode():
            llama.start()
            llama.burst(3)
        lengths = {int(layer.cumulative_length) for layer in llama._cache.layers}
        assert lengths == {CONTEXT + 2}


def test_figures_and_their_table():
    figures = [*same_tokens(TINY, Settings(steps=4)), *local_decoders(TINY, Settings(rounds=1), lambda _: None)]
    figures += [
        Figure("too slow", 1.0, 2.0),
        Figure("small enough", 1.0, 2.0, at_least=False),
        Figure("absent", None, 1.0),
    ]
    assert [f.reached for f in figures[-3:]] == [False, True, None]
    assert figures[0].value == 1.0
    assert all(f.value > 0 for f in several_positions(TINY, Settings(steps=4)) if f.value is not None)
    found = {
        "machine": machine(), "threads": 1, "pinned_to": [0], "steps": 4, "rounds": 1,
        "load_before": [0.0] * 3, "load_after": [0.0] * 3, "quick": True, "seconds": 60.0,
        **report(figures, {"tiny": {"ours": Times(2, [0.5])}}),
    }  # fmt: skip
    table = benchmark_table(found)
    assert "too slow" in table
    assert ">= 2" in table
    assert "4.0" in table  # tokens a second
    assert "quick: this shows that it works, nothing else" in table


def test_several_tokens_a_step_are_held_against_one():
    figures = several_tokens(Settings(rounds=1), lambda _: None, PatchGrid(1, 1, 2))
    assert [f.aim for f in figures] == [2.5, 1.0, 4.0, 1.5, 1.0, 4.0]
    assert all(f.value is not None and f.value > 0 for f in figures)
    assert [f.value for f in figures if "the same" in f.name] == [1.0, 1.0]


def test_a_canvas_is_timed_by_its_waves():
    made = renderer(recipe_model(TINY, num_kv_heads=1, codebook_size=16, codebook_dim=4), precision=Precision())
    assert seconds_a_patch(made, PatchGrid(1, 2, 6)) > 0


def test_a_process_is_busy_only_meanwhile():
    with busy_process() as pid:
        spent = [seconds_of(pid)]
        while spent[-1] < 0.3:  # it does use a core
            time.sleep(0.05)
            spent.append(seconds_of(pid))
    with pytest.raises(FileNotFoundError):
        seconds_of(pid)


def seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def test_default_threads_are_held_against_one(monkeypatch):
    """Median over rounds of default / one, each pair measured by turns."""
    seconds = iter([3.0, 2.0, 2.0, 2.0, 9.0, 3.0])
    asked = []

    def generate(run, output, size, *options):
        asked.append((size, options))
        return next(seconds), 100.0

    monkeypatch.setattr(canvas, "generate", generate)
    monkeypatch.setattr(canvas, "write_run", lambda folder: None)
    figure = threads(Settings(), lambda _: None)
    assert (figure.value, figure.reached) == (1.5, False)
    assert asked == [("1024x512", ()), ("1024x512", ("--threads", "1"))] * 3


@pytest.mark.slow  # two processes of their own
def test_memory_is_that_of_the_process_alone(tmp_path):
    held = bytearray(3 << 30)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])  # this process is larger than the one that is measured
    write_run(tmp_path / "run")
    seconds, megabytes = generate(tmp_path / "run", tmp_path / "a.png", "64x64")
    assert seconds > 0
    assert 100 < megabytes < 2 << 10
    with pytest.raises(RuntimeError, match=r"--size 0x64 failed: error: --size: 0x64"):
        generate(tmp_path / "run", tmp_path / "b.png", "0x64")


@pytest.mark.parametrize(
    ("option", "value"), [("--steps", "0"), ("--steps", "300"), ("--rounds", "0"), ("--threads", "-1")]
)
def test_bad_input_is_one_line(option, value, capsys):
    assert main(["benchmark", option, value]) == 2
    assert option in capsys.readouterr().err
