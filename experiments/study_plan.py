"""Train with and without a coarse plan for equally long, three seeds each, and measure (``measure_plan.py``).

    nice -n 10 python experiments/study_plan.py --tokenizer runs/landscape_vqgan/tokenizer --output study/plan

It may be stopped at any time; the same command goes on. The minutes of an arm are those of all that it trains: the
arm with a plan spends ``--share`` of them on the coarse model. Steps follow from how long one takes on this machine,
which is measured once, before anything else is trained (``times.json``): leave the machine alone meanwhile. The banks
of tokens, of plans too, are made before that and count in neither arm; their seconds are in ``times.json`` as well.
``results.json`` holds what was measured, a row for each arm and seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from nuwa_lightning.atomic import write_json

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
FINE = ["--config", str(RECIPES / "landscape.yaml")]
PLANNED = [*FINE, "-c", str(RECIPES / "plan" / "coarse.yaml")]
COARSE = ["--config", str(RECIPES / "plan" / "coarse_model.yaml")]
TIMED = 60


def fit(run: Path, recipe: list[str], tokenizer: str, steps: int, seed: int, *more: str) -> None:
    """Train a run to its end, going on from where it stands."""
    if (run / "model" / "config.json").exists() and (run / "tokenizer" / "config.json").exists():
        return
    command = [
        sys.executable,
        "-m",
        "nuwa_lightning",
        "fit",
        *recipe,
        "--run",
        str(run),
        "--seed_everything",
        str(seed),
    ]
    command += ["--data.seed", str(seed), "--tokenizer.path", tokenizer, "--tokenizer.refine", "null"]
    command += ["--tokenizer.refined", "null", "--trainer.max_steps", str(steps), "--trainer.callbacks", "[]"]
    command += ["--trainer.val_check_interval", str(max(1, min(steps // 2, 200))), *more]
    if (run / "checkpoints" / "last.ckpt").exists():
        command += ["--ckpt_path", "last"]
    subprocess.run(command, check=True, cwd=ROOT)


def timed(output: Path, tokenizer: str) -> dict[str, float]:
    """Return the seconds of a step of each training, and of making its banks; measured once."""
    path = output / "times.json"
    if path.exists():
        found: dict[str, float] = json.loads(path.read_text())
        return found
    seconds: dict[str, float] = {}
    for name, recipe in (("coarse", COARSE), ("fine", FINE), ("planned", PLANNED)):
        took = []
        for number, steps in enumerate((1, 1 + TIMED, 1 + 2 * TIMED)):  # the first one makes the banks
            run = output / "timing" / f"{name}_{number}"
            started = time.monotonic()
            fit(run, recipe, tokenizer, steps, 0, *(["--coarse", "null"] if name == "planned" else []))
            took.append(time.monotonic() - started)
        seconds |= {name: (took[2] - took[1]) / TIMED, f"{name}, first": took[0]}
    write_json(path, seconds)
    return seconds


def measured(run: Path, folder: Path, count: int) -> dict[str, Any]:
    """Return the numbers of a run, measured if they are not there."""
    if not (folder / "numbers.json").exists():
        script = str(ROOT / "experiments" / "measure_plan.py")
        command = [sys.executable, script, str(run), "--output", str(folder), "--count", str(count), "--first", "1000"]
        subprocess.run(command, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads((folder / "numbers.json").read_text())
    return found


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("study/plan"))
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, of each run")
    parser.add_argument("--share", type=float, default=0.25, help="of the minutes, for the coarse model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=64, help="panoramas of each run")
    options = parser.parse_args()
    output, tokenizer = options.output.resolve(), str(options.tokenizer.resolve())
    output.mkdir(parents=True, exist_ok=True)
    times = timed(output, tokenizer)
    rows = []
    for seed in range(options.seeds):
        coarse, seconds = output / f"coarse_{seed}", 60 * options.minutes
        steps = {
            "coarse": round(options.share * seconds / times["coarse"]),
            "none": round(seconds / times["fine"]),
            "plan": round((1 - options.share) * seconds / times["planned"]),
        }
        fit(output / f"none_{seed}", FINE, tokenizer, steps["none"], seed)
        fit(coarse, COARSE, tokenizer, steps["coarse"], seed)
        given = ["--coarse.path", str(coarse / "model"), "--coarse.recipe", "null"]
        fit(output / f"plan_{seed}", PLANNED, tokenizer, steps["plan"], seed, *given)
        for arm in ("none", "plan"):
            run = output / f"{arm}_{seed}"
            numbers = measured(run, output / "measured" / run.name, options.count)
            rows.append({"arm": arm, "seed": seed, "steps": steps, **numbers})
            write_json(output / "results.json", {"minutes": options.minutes, "seconds a step": times, "rows": rows})
    sys.stdout.write(f"{output / 'results.json'}\n")


if __name__ == "__main__":
    main()
