"""Draw the curve of the locality decoder: steps a patch against quality, seams inside patches and speed.

    python experiments/measure_locality.py runs/landscape runs/locality --output measured_locality

The first run is of the autoregressive decoder; each other one is of `LocalityLocalDecoder`, sampled in 64, 32, 16, 10
and 8 steps (``--steps``). Of each: the lite0-KID of 48 images of 256 pixels for each of 3 seeds (protocol of
experiments/measure_landscape.py: temperature 1, top-k 50 or ``--top_k``, ``--top_p``); steps across patch borders
and, inside patches, across the borders of tokens, both over steps inside tokens (``evaluation.seams``); tokens a
second at a front of 1 and of 4, taken in turn round by round, ratios to the autoregressive one, medians. ``--wall``:
seconds of the clock, on an idle machine; else of this thread. ``--images`` writes the samples, too. About 15 minutes
on one core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from measure_landscape import crops

from evaluation.features import Lite0Features
from evaluation.features_of import features_of
from evaluation.kid import kid
from evaluation.seams import seam_ratio
from evaluation.table import aligned
from nuwa_lightning.atomic import write_json
from nuwa_lightning.canvas.decoding import to_uint8
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.generation.local import LocalityLocalDecoder
from nuwa_lightning.generation.pretrained import Generator, load_generator
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.pretrained import load_tokenizer

GRID: Final = PatchGrid(1, 4, 4)
FRONTS: Final = (1, 4)
Pixels = NDArray[np.uint8]


def samples(generator: Generator, tokenizer: Tokenizer, seed: int, options: argparse.Namespace) -> list[Pixels]:
    """Return images."""
    count = options.count
    sampling = Sampling(1.0, options.top_k, options.top_p)
    renderer, seeds = generator.renderer(sampling), range(1000 * seed, 1000 * seed + count)
    parts = [seeds[start : start + 16] for start in range(0, count, 16)]
    with torch.inference_mode():
        tokens = [tokens_YX for part in parts for tokens_YX in sample_tokens(renderer, GRID, seeds=part)]
        return [to_uint8(tokenizer.decode(tokens_YX[None])[0]) for tokens_YX in tokens]


def speeds(generators: dict[str, Generator], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return tokens a second, and how many times those of the first one."""
    clock = time.perf_counter if options.wall else time.thread_time
    found: dict[str, dict[str, float]] = {name: {} for name in generators}
    for front in FRONTS:
        took: dict[str, list[float]] = {name: [] for name in generators}
        for number in range(options.rounds):
            for name, generator in generators.items():
                renderer = generator.renderer(Sampling(1.0, 50), max_rows=front)
                began = clock()
                sample_tokens(renderer, GRID, seeds=range(front * number, front * number + front))
                took[name].append(clock() - began)
        first = next(iter(took.values()))
        for name, generator in generators.items():
            tokens = GRID.size * front * generator.model.patch_tokens
            found[name][f"front {front}, tokens/s"] = tokens / statistics.median(took[name])
            found[name][f"front {front}, ratio"] = statistics.median(
                a / b for a, b in zip(first, took[name], strict=True)
            )
    return found


def quality(generator: Generator, tokenizer: Tokenizer, real: Any, name: str, options: argparse.Namespace) -> Any:
    """Return the scores of samples."""
    extractor, kids, images = Lite0Features(), list[float](), list[Pixels]()
    for seed in range(options.seeds):
        some = samples(generator, tokenizer, seed, options)
        kids.append(kid(real, features_of(np.stack(some), extractor=extractor)).value)
        images += some
    if options.images:
        folder = options.output / name.replace(", ", "_").replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{number}.png")
    f = tokenizer.downsample_factor
    seams = seam_ratio(images, patch=generator.model.patch_size[1] * f, token=f)
    assert seams.lattice is not None
    return {"lite0-KID": kids, "patch borders": seams.value, "token borders inside": seams.lattice.value}


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines: list[list[str]] = []
    for name, row in rows.items():
        cells = {"run": name}
        if "lite0-KID" in row:
            cells["lite0-KID"] = ", ".join(f"{value:.3f}" for value in row["lite0-KID"])
            cells["mean"] = f"{statistics.fmean(row['lite0-KID']):.3f}"
        cells |= {key: f"{value:.4g}" for key, value in row.items() if isinstance(value, float)}
        lines += [] if lines else [[f"| {key}" for key in cells] + ["|"], ["|---"] * len(cells) + ["|"]]
        lines.append([f"| {cell}" for cell in cells.values()] + ["|"])
    return aligned(lines)


def decoders(runs: Sequence[Path], steps: Sequence[int]) -> dict[str, Generator]:
    """Return what is compared."""
    found = {runs[0].name: load_generator(runs[0] / "model")}
    for run in runs[1:]:
        generator = load_generator(run / "model")
        for count in steps:
            chosen = replace(generator, local_decoder=LocalityLocalDecoder(count))
            found[f"{run.name}, {count} steps"] = chosen
    return found


@torch.inference_mode()
def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of stage 2; the autoregressive one first")
    parser.add_argument("--output", type=Path, default=Path("measured_locality"))
    parser.add_argument("--steps", type=int, nargs="+", default=[64, 32, 16, 10, 8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--top_k", type=int, default=50)
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5, help="of the speeds; 0: quality only")
    parser.add_argument("--images", action="store_true")
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--quick", action="store_true", help="speed only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    before, generators = os.getloadavg()[0], decoders(options.runs, options.steps)
    tokenizer = load_tokenizer(options.runs[0] / "tokenizer")
    rows: dict[str, dict[str, Any]] = {name: {} for name in generators}
    if not options.quick:
        real = features_of(np.stack(crops("train", (288, 352), 200)), extractor=Lite0Features())
        for name, generator in generators.items():
            rows[name] |= quality(generator, tokenizer, real, name, options)
            sys.stderr.write(f"{name}: {rows[name]}\n")
    if options.rounds:
        for name, found in speeds(generators, options).items():
            rows[name] |= found
    options.output.mkdir(parents=True, exist_ok=True)
    load = [before, os.getloadavg()[0]]
    write_json(options.output / "numbers.json", {"load": load, "wall": options.wall, "rows": rows})
    sys.stdout.write("\n".join(table(rows)) + f"\nload before {load[0]:.2f}, after {load[1]:.2f}\n")


if __name__ == "__main__":
    main()
