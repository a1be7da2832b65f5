"""What compute buys: three sizes of the default recipe, three lengths of training each; loss and lite0-KID.

    nice -n 10 python experiments/study_scaling.py --tokenizer runs/landscape/tokenizer --output study/scaling

It may be stopped at any time; the same command goes on. Compute is 6 x parameters x tokens trained on, parameters
without tables of codes and places. Loss: cross-entropy of held-out windows at the end. KID: as
``measure_locality.py`` draws and scores, from all codes that reach 0.9. Of both it fits L = floor + a C^-b over the
best size at each compute (least squares of the logarithm, the floor by trial), and says which size that is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from measure_landscape import crops
from measure_locality import samples
from study_plan import FINE, fit

from evaluation.features import Lite0Features
from evaluation.features_of import features_of
from evaluation.kid import kid
from nuwa_lightning.atomic import write_json
from nuwa_lightning.generation.pretrained import load_generator
from nuwa_lightning.tokenizers.pretrained import load_tokenizer

SIZES: Final = {"64 wide, 4 layers": (64, 4, 1), "128 wide, 4 layers": (128, 4, 2), "192 wide, 6 layers": (192, 6, 3)}
TOKENS: Final = 4 * 32 * 32
"""A step."""


def trained(run: Path, tokenizer: str, size: tuple[int, int, int], steps: int) -> None:
    """Train one."""
    dim, layers, heads = size
    given = {"dim": dim, "num_layers": layers, "num_heads": heads, "num_kv_heads": heads}
    options = [text for name, value in given.items() for text in (f"--model.transformer.{name}", str(value))]
    fit(run, FINE, tokenizer, steps, 0, "--data.steps_per_epoch", str(steps), *options)


def last_loss(run: Path) -> float:
    """Return the last cross-entropy of held-out windows that the run logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: list[Any] = []
    for folder in sorted({path.parent for path in run.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(folder)).Reload()
        found += events.Scalars("val/loss") if "val/loss" in events.Tags()["scalars"] else []
    return float(max(found, key=lambda event: event.step).value)


@torch.inference_mode()
def scored(run: Path, tokenizer: Path, real: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters, loss and KIDs of a run."""
    generator, extractor = load_generator(run / "model"), Lite0Features()
    opened = load_tokenizer(tokenizer)
    kids = []
    for seed in range(options.seeds):
        images = np.stack(samples(generator, opened, seed, options))
        kids.append(float(kid(real, features_of(images, extractor=extractor)).value))
    tables = ("embed", "position", "codebook")
    weights = sum(p.numel() for n, p in generator.model.named_parameters() if not any(t in n for t in tables))
    return {"parameters": weights, "loss": last_loss(run), "lite0-KID": kids}


def fitted(compute: list[float], values: list[float]) -> dict[str, float]:
    """Return floor, a and b of values = floor + a compute^-b, compute in units of the smallest."""
    x, best = np.log(np.array(compute) / min(compute)), {"error": float("inf")}
    for floor in np.linspace(0, 0.995 * min(values), 200):
        y = np.log(np.array(values) - floor)
        slope, start = np.polyfit(x, y, 1)
        error = float(np.square(floor + np.exp(start + slope * x) - np.array(values)).sum())
        if error < best["error"]:
            best = {"floor": float(floor), "a": float(np.exp(start)), "b": float(-slope), "error": error}
    return best


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("study/scaling"))
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 300, 600])
    parser.add_argument("--seeds", type=int, default=3, help="of sampling")
    parser.add_argument("--count", type=int, default=48, help="images of each")
    parser.add_argument("--top_k", type=int, default=0)
    parser.add_argument("--top_p", type=float, default=0.9)
    options = parser.parse_args()
    output, tokenizer = options.output.resolve(), options.tokenizer.resolve()
    output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows, path = {}, output / "results.json"
    if path.exists():
        rows = json.loads(path.read_text())["rows"]
    real = None
    for steps in options.steps:
        for name, size in SIZES.items():
            label = f"{name}, {steps} steps"
            if label in rows:
                continue
            run = output / label.replace(", ", "_").replace(" ", "_")
            trained(run, str(tokenizer), size, steps)
            if real is None:
                real = features_of(np.stack(crops("train", (288, 352), 200)), extractor=Lite0Features())
            found = scored(run, tokenizer, real, options)
            compute = 6.0 * found["parameters"] * TOKENS * steps
            rows[label] = {"size": name, "steps": steps, "compute": compute, **found}
            write_json(path, {"rows": rows})
    best = [
        min((r for r in rows.values() if r["compute"] <= c["compute"]), key=lambda r: r["loss"]) for c in rows.values()
    ]
    front = {row["compute"]: row for row in best}
    curve = {
        "loss": fitted(list(front), [row["loss"] for row in front.values()]),
        "lite0-KID": fitted(list(front), [statistics.fmean(row["lite0-KID"]) for row in front.values()]),
    }
    write_json(
        path, {"rows": rows, "best": [f"{r['size']}, {r['steps']} steps" for r in front.values()], "curve": curve}
    )
    sys.stdout.write(path.read_text())


if __name__ == "__main__":
    main()
