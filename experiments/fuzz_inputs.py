"""Damages every kind of file that is read, hands it to its real reader, and counts what comes of it.

    python experiments/fuzz_inputs.py --trials 2000
    python experiments/fuzz_inputs.py --only canvas,YAML --seed 1 --trials 500
    python experiments/fuzz_inputs.py --again canvas:17      # one trial, with its traceback

A trial copies good files, damages one of them (bytes: cut, flipped, overwritten, doubled; what they say: other types,
huge numbers, NaN, deep nesting, NUL, parts gone, with the right checksum again where there is one) and reads. It ends
accepted (used, or made anew), refused in our words (one line), in another error, or in none within the time limit. Each
target runs in processes of its own, so that one that dies is counted, too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import fuzz_written  # noqa: F401  # its targets are found by their names, too
from fuzz_damage import damaged
from fuzz_targets import TARGETS, Target

from nuwa_lightning.data.reading import ImageReadError
from nuwa_lightning.data.video_reading import VideoReadError
from nuwa_lightning.errors import UsageError

OURS = (UsageError, ImageReadError, VideoReadError)
LIMIT_SECONDS = 20.0
MEMORY = 12 << 30


class TooLate(BaseException):
    """The reader did not come back; no reader catches it."""


@dataclass
class Outcome:
    """What became of the trials of a target: how many of each, and kinds of other errors with a trial of each."""

    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)

    def add(self, trial: int, what: str, kind: str) -> None:
        """Count one."""
        self.counts[what] += 1
        if kind:
            self.kinds[kind] += 1
            self.examples.setdefault(kind, trial)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TooLate in the block after so many seconds."""

    def ring(*_: object) -> None:
        raise TooLate

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def tried(target: Target, good: Path, seed: int, trial: int, *, show: bool = False) -> tuple[str, str]:
    """Return what one trial ends in, and which kind of error it was."""
    rng = random.Random(f"{seed} {target.name} {trial}")
    with tempfile.TemporaryDirectory(dir=good.parent) as name:
        folder = Path(name) / "good"
        shutil.copytree(good, folder, symlinks=True)
        files = sorted(path for pattern in target.files for path in folder.glob(pattern))
        path = rng.choice(files)
        with limited(LIMIT_SECONDS):
            how = damaged(path, rng)
        if show:
            sys.stdout.write(f"{path.relative_to(folder)}: {how}\n")
        try:
            with limited(LIMIT_SECONDS):
                target.read(folder)
        except OURS as error:
            if show:
                sys.stdout.write(f"{type(error).__name__}: {error}\n")
            return ("refused", "") if "\n" not in str(error) else ("other error", f"a refusal of many lines: {how}")
        except SystemExit as error:
            return ("accepted", "") if error.code in (0, None) else ("other error", f"exit {error.code}")
        except TooLate as error:
            if show:
                traceback.print_exc()
            return "hang", f"hang in {where(error)}"
        except BaseException as error:
            if show:
                traceback.print_exc()
            return "other error", f"{type(error).__name__} in {where(error)}"
    return "accepted", ""


def where(error: BaseException) -> str:
    """Return the last of our functions that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f"{os.sep}nuwa_lightning{os.sep}" in f.filename or "evaluation" in f.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.name}"


def run(todo: list[tuple[str, int]], seed: int) -> Iterator[tuple[str, Outcome]]:
    """Yield what became of so many trials of each target, in another process: one that dies or hangs is replaced."""
    with tempfile.TemporaryDirectory() as folder:
        notes, child = Path(folder) / "notes", None
        for place, (name, count) in enumerate(todo):
            found, since = Outcome(), time.monotonic()
            while (done := found.counts.total()) < count:
                if child is None:
                    notes.write_text("")
                    left = [(name, done, count), *((each, 0, number) for each, number in todo[place + 1 :])]
                    arguments = [sys.executable, __file__, "--child", json.dumps([seed, folder, left])]
                    child, lines, since = subprocess.Popen(arguments), notes.open(), time.monotonic()
                status, line = child.poll(), lines.readline()
                if line:
                    found.add(*json.loads(line))
                    since = time.monotonic()
                elif status is not None:
                    if status == 3:
                        sys.exit(
                            f"good files of {name} are not read as they should: {(Path(folder) / 'why').read_text()}"
                        )
                    killed = status == -signal.SIGKILL
                    found.add(
                        done, *(("hang", "killed") if killed else ("other error", f"the process died ({status})"))
                    )
                    child = None
                elif time.monotonic() - since > 20 * LIMIT_SECONDS:
                    child.kill()
                else:
                    time.sleep(0.2)
            yield name, found


def work(seed: int, folder: str, todo: list[tuple[str, int, int]]) -> None:
    """Go through trials, and write a line on each."""
    os.environ |= {"NUWA_LIGHTNING_CACHE": f"{folder}/cache", "TQDM_DISABLE": "1"}
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    told = Path(folder) / "notes"
    for name, first, last in todo:
        try:
            target, good = made(name, folder)
        except Exception:
            (Path(folder) / "why").write_text(traceback.format_exc())
            sys.exit(3)
        quiet()
        with told.open("a", buffering=1) as out:
            for trial in range(first, last):
                out.write(f"{json.dumps([trial, *tried(target, good, seed, trial)])}\n")


def made(name: str, folder: str) -> tuple[Target, Path]:
    """Return a target and its good files, which are read once."""
    good = Path(tempfile.mkdtemp(dir=folder)) / "good"
    good.mkdir()
    target = TARGETS[name](good)
    target.read_copy(good)
    return target, good


def quiet() -> None:
    """Let nothing be told: what a reader says beside its result is not counted."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def main() -> None:
    """Print a line for each target, and one for each kind of error that is not ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="of each target, times its share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of targets with commas")
    parser.add_argument("--again", default="", help="TARGET:TRIAL")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work(*json.loads(options.child))
        return
    if options.again:
        name, _, trial = options.again.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            os.environ["NUWA_LIGHTNING_CACHE"] = f"{folder}/cache"
            tried(*made(name, folder), options.seed, int(trial), show=True)
        return
    wanted = [name for name in options.only.split(",") if name] or list(TARGETS)
    todo = [(name, max(1, round(options.trials * TARGETS[name].share))) for name in wanted]
    total: Counter[str] = Counter()
    for name, outcome in run(todo, options.seed):
        report(name, outcome)
        total += outcome.counts
    sys.stdout.write(f"| all | {row(total)} |\n")


def report(name: str, found: Outcome) -> None:
    """Print a target's line and its kinds of errors."""
    sys.stdout.write(f"| {name} | {row(found.counts)} |\n")
    for kind, count in found.kinds.most_common():
        sys.stdout.write(f"    {count} x {kind} (such as {name}:{found.examples[kind]})\n")
    sys.stdout.flush()


def row(counts: Counter[str]) -> str:
    """Return counts as cells."""
    names: tuple[str, ...] = ("accepted", "refused", "other error", "hang")
    cells: list[Any] = [sum(counts.values()), *(counts[name] for name in names)]
    return " | ".join(map(str, cells))


if __name__ == "__main__":
    main()
