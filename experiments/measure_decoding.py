"""Measure local decoders and number formats: loss, quality and speed of each, side by side.

    python experiments/measure_decoding.py runs/landscape runs/masked runs/parallel --output measured_decoding

For each run and number format: the cross-entropy of held-out tokens (centre crops of photos that were not trained on,
teacher-forced through the code that writes canvases, not that of training), the lite0-KID of samples (protocol of
experiments/measure_landscape.py: 48 images of 256 pixels for each of 3 seeds, top-k 50), and tokens a second: one
canvas of 1024 x 256 pixels, and 16 of 256 x 256 side by side, taken in turn, medians. The cross-entropy is about what
each
decoder learns: all tokens, each given those before it (autoregressive); those hidden of a share drawn at random, given
the others (masked); all, given the patches around only (parallel). So it compares number formats, not decoders.

Takes about ten minutes on one core for three runs; ``--quick`` leaves the images out. One thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from measure_landscape import crops, to_tensor

from evaluation.features import Lite0Features
from evaluation.features_of import features_of
from evaluation.kid import kid
from evaluation.table import aligned
from nuwa_lightning.atomic import write_json
from nuwa_lightning.canvas.decoding import to_uint8
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local import LocalDecoder
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.pretrained import Generator, load_generator
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.layout import read_tokens
from nuwa_lightning.models.nuwa_infinity import ABSENT
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.planning.schedule import walk
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.pretrained import load_tokenizer

CAUSAL: Final = (
    Precision("float32", "float32"),
    Precision("float32", "bfloat16"),
    Precision("float32", "int8"),
    Precision("bfloat16", "bfloat16"),
    Precision("int8", "float32"),
    Precision("int8", "bfloat16"),
    Precision("int8", "int8"),
)
BOTH_WAYS: Final = (Precision("float32", "float32"), Precision("bfloat16", "bfloat16"), Precision("int8", "bfloat16"))
GRID: Final = PatchGrid(1, 4, 4)
WIDE: Final = PatchGrid(1, 4, 16)


@dataclass(frozen=True)
class Forced(LocalDecoder):
    """Writes what is true instead of what is drawn, and notes how surprising it was.

    Args:
        own: the decoder that the model was trained for.
        truth: the tokens ``[R, N]`` of one patch after another, in writing order.
        generator: draws what is hidden.
    """

    own: LocalDecoder
    truth: Iterator[Tensor]
    generator: torch.Generator
    losses: list[Tensor] = field(default_factory=list)

    @property
    def bidirectional(self) -> bool:
        """As the one it stands for."""
        return self.own.bidirectional

    def draws(self, tokens: int) -> int:
        """Return one random number, which is not used."""
        return 1

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write the true tokens."""
        truth_RN = next(self.truth)
        R, N = truth_RN.shape
        masked_R1N = self.own.training_mask((R, 1, N), self.generator)
        if masked_R1N is None:
            for place in range(N):
                self._note(patches.logits([place])[:, 0], truth_RN[:, place])
                patches.set_tokens([place], truth_RN[:, place : place + 1])
            return
        masked_RN = masked_R1N[:, 0]
        patches.set_tokens(range(N), truth_RN.masked_fill(masked_RN, ABSENT))
        self._note(patches.logits(range(N))[masked_RN], truth_RN[masked_RN])
        patches.set_tokens(range(N), truth_RN)

    def _note(self, logits_MK: Tensor, token_M: Tensor) -> None:
        self.losses.append(torch.nn.functional.cross_entropy(logits_MK.double(), token_M, reduction="none"))

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        """Hide what the one it stands for does."""
        return self.own.training_mask(shape, generator)


def cross_entropy(renderer: InfiniteRenderer, tokens_BYX: Tensor) -> float:
    """Return nats a token; patch by patch in the order of the plan, all canvases side by side."""
    rows, columns = renderer.model.patch_size
    grid = PatchGrid(1, tokens_BYX.shape[1] // rows, tokens_BYX.shape[2] // columns)
    cells_BPPYX = tokens_BYX.unfold(1, rows, rows).unfold(2, columns, columns)
    steps = walk(renderer.direction.plan(grid, frozenset()), renderer.pool, grid, token_order=renderer.token_order)
    truth = (
        read_tokens(cells_BPPYX[:, s.patch.y, s.patch.x], s.step.symmetry, token_order=renderer.token_order)
        for s in steps
    )
    forced = Forced(renderer.local_decoder, truth, torch.Generator().manual_seed(0))
    # No more rows than canvases: each wave is one step, so truth comes in the order of the plan.
    alone = replace(renderer, local_decoder=forced, max_rows=len(tokens_BYX))
    deque(alone.render(grid, seeds=[0] * len(tokens_BYX)), maxlen=0)
    return float(torch.cat(forced.losses).mean())


def kids(renderer: InfiniteRenderer, tokenizer: Tokenizer, real: Any, options: argparse.Namespace) -> list[float]:
    """Return the lite0-KID for each seed."""
    extractor, found = Lite0Features(), []
    for seed in range(options.seeds):
        images = []
        for start in range(0, options.count, 16):
            seeds = range(1000 * seed + start, 1000 * seed + min(start + 16, options.count))
            with torch.inference_mode():
                for tokens_YX in sample_tokens(renderer, GRID, seeds=seeds):
                    images.append(to_uint8(tokenizer.decode(tokens_YX[None])[0]))
        found.append(kid(real, features_of(np.stack(images), extractor=extractor)).value)
    return found


def seconds(renderer: InfiniteRenderer, grid: PatchGrid, canvases: int) -> float:
    """Return the seconds that the tokens of some canvases take."""
    began = time.perf_counter()
    sample_tokens(renderer, grid, seeds=range(canvases))
    return time.perf_counter() - began


def speeds(renderers: dict[str, InfiniteRenderer], rounds: int) -> dict[str, dict[str, float]]:
    """Return tokens a second, and how many times those of the first one, taken round by round."""
    found: dict[str, dict[str, float]] = {name: {} for name in renderers}
    for what, grid, canvases in (("one canvas", WIDE, 1), ("16 canvases", GRID, 16)):
        took: dict[str, list[float]] = {name: [] for name in renderers}
        for _ in range(rounds):
            for name, renderer in renderers.items():
                took[name].append(seconds(renderer, grid, canvases))
        first = next(iter(took.values()))
        for name, renderer in renderers.items():
            tokens = grid.size * canvases * renderer.model.patch_tokens
            found[name][f"{what}, tokens/s"] = tokens / statistics.median(took[name])
            found[name][f"{what}, ratio"] = statistics.median(a / b for a, b in zip(first, took[name], strict=True))
    return found


def formats(generator: Generator, options: argparse.Namespace) -> dict[str, InfiniteRenderer]:
    """Return the sampler of a run in each number format."""
    chosen = BOTH_WAYS if generator.model.bidirectional else CAUSAL
    if options.numbers:
        chosen = tuple(Precision(*name.split("/", 1)) for name in options.numbers)
    return {f"{p.weights} / {p.cache}": generator.renderer(Sampling(1.0, options.top_k), precision=p) for p in chosen}


@torch.inference_mode()
def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of stage 2")
    parser.add_argument("--output", type=Path, default=Path("measured_decoding"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--top_k", type=int, default=50)
    parser.add_argument("--numbers", nargs="+", metavar="MATRICES/CACHE", help="only these, such as int8/bfloat16")
    parser.add_argument("--quick", action="store_true", help="no images, no lite0-KID")
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    held_out = torch.cat([to_tensor(p) for p in crops("val", (352, 512), None)])
    real = None if options.quick else features_of(np.stack(crops("train", (288, 352), 200)), extractor=Lite0Features())
    renderers: dict[str, InfiniteRenderer] = {}
    rows: dict[str, dict[str, Any]] = {}
    for run in options.runs:
        generator, tokenizer = load_generator(run / "model"), load_tokenizer(run / "tokenizer")
        tokens_BYX = torch.cat([tokenizer.encode(image[None]) for image in held_out])
        for name, renderer in formats(generator, options).items():
            key = f"{run.name}, {name}"
            renderers[key] = renderer
            rows[key] = {"run": str(run), "decoder": repr(generator.local_decoder), "numbers": name}
            rows[key]["cross-entropy"] = cross_entropy(renderer, tokens_BYX)
            if real is not None:
                rows[key]["lite0-KID"] = kids(renderer, tokenizer, real, options)
            sys.stderr.write(f"{key}: {rows[key]}\n")
    for key, found in speeds(renderers, options.rounds).items():
        rows[key] |= found
    options.output.mkdir(parents=True, exist_ok=True)
    about = {"load": [before, os.getloadavg()[0]], "threads": 1, "held-out images": len(held_out)}
    write_json(options.output / "numbers.json", {"about": about, "rows": rows})
    sys.stdout.write("\n".join(table(rows)) + f"\nload before {before:.2f}, after {os.getloadavg()[0]:.2f}\n")


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [["| run", "| matrices / cache", "| cross-entropy", "| lite0-KID, each seed", "| mean"]]
    speeds_of = [name for name in next(iter(rows.values())) if "tokens/s" in name or "ratio" in name]
    lines[0] += [f"| {name}" for name in speeds_of] + ["|"]
    lines.append(["|---"] * (len(lines[0]) - 1) + ["|"])
    for row in rows.values():
        found = row.get("lite0-KID", [])
        cells = [Path(row["run"]).name, row["numbers"], f"{row['cross-entropy']:.4f}"]
        cells += [", ".join(f"{k:.3f}" for k in found), f"{statistics.fmean(found):.3f}" if found else ""]
        cells += [f"{row[name]:.0f}" if "tokens/s" in name else f"{row[name]:.2f}" for name in speeds_of]
        lines.append([f"| {cell}" for cell in cells] + ["|"])
    return aligned(lines)


if __name__ == "__main__":
    main()
