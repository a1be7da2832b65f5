"""Measure ways to multiply a few rows by a model's matrices in float32: time, and share of the memory's speed.

    python experiments/measure_products.py --output measured_products

All matrices of the 19M model (77 MB), or of the default recipe's (``--recipe``: they fit into the last cache), one
after another as a step has them, for 1, 4, 8, 12, 16 and 64 rows, by each way in turn round by round beside a loop that
only reads as many bytes; ratios are medians over rounds. Seconds of this thread, unless ``--threads`` are several or
``--wall`` is given, on an idle machine: of the clock.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation.benchmark.measuring import pin
from evaluation.benchmark.ours import SIZES, Size
from evaluation.table import aligned
from nuwa_lightning.atomic import write_json
from nuwa_lightning.generation.cpu_kernels import float_kernels

ROWS: Final = (1, 4, 8, 12, 16, 64)
Way = Callable[[Tensor], Tensor]

clock: Callable[[], float] = time.thread_time


def shapes(size: Size, codes: int) -> list[tuple[int, int]]:
    """Return outputs and inputs of all matrices."""
    W, inner = size.width, size.inner
    return [*[(3 * W, W), (W, W), (2 * inner, W), (W, inner)] * size.depth, (codes, W)]


def ways(weight_OI: Tensor, rows: int) -> dict[str, Way]:
    """Return the ways to multiply."""
    weight_IO, W = weight_OI.t().contiguous(), weight_OI.numpy()
    found: dict[str, Way] = {
        "linear": lambda h: F.linear(h, weight_OI),
        "mm, matrix input by output": lambda h: torch.mm(h, weight_IO),
    }
    if rows == 1:
        found["mv"] = lambda h: torch.mv(weight_OI, h[0])
        found["mv, matrix input by output"] = lambda h: torch.mv(weight_IO.t(), h[0])
    found["numpy (OpenBLAS)"] = lambda h: torch.from_numpy(W @ h.numpy().T)
    mkl = torch.ops.mkl
    if torch.backends.mkl.is_available() and hasattr(mkl, "_mkl_linear"):
        packed = mkl._mkl_reorder_linear_weight(weight_OI, rows)
        found["MKL, packed (as inductor freezes)"] = lambda h: mkl._mkl_linear(h, packed, weight_OI, None, rows)
    if torch.backends.mkldnn.is_available():
        packed_dnn = torch.ops.mkldnn._reorder_linear_weight(weight_OI, rows)
        found["oneDNN, packed (as inductor freezes)"] = lambda h: torch.ops.mkldnn._linear_pointwise(
            h, packed_dnn, None, "none", [], ""
        )
    loops = float_kernels()
    if loops is not None:
        own, outputs = loops.packed(weight_OI), len(weight_OI)
        found["our loop"] = lambda h: loops.product(h, own, None, h.new_empty(len(h), outputs), add=False)
    return found


@torch.inference_mode()
def measured(size: Size, codes: int, rows: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each way."""
    torch.manual_seed(0)
    weights = [torch.randn(o, i) / i**0.5 for o, i in shapes(size, codes)]
    inputs = [torch.randn(rows, w.shape[1]) for w in weights]
    each = [ways(w, rows) for w in weights]
    seconds: dict[str, list[float]] = {name: [] for name in ("reading", *each[0])}
    for _ in range(rounds):
        began = clock()
        for weight in weights:
            weight.view(-1).max()
        seconds["reading"].append(clock() - began)
        for name in each[0]:
            began = clock()
            for way, h in zip(each, inputs, strict=True):
                way[name](h)
            seconds[name].append(clock() - began)
    total, found = sum(w.numel() for w in weights), []
    for name, took in seconds.items():
        pairs, median = list(zip(seconds["reading"], took, strict=True)), statistics.median(took)
        error = 0.0
        if name != "reading":
            exact = inputs[0].double() @ weights[0].double().t()
            error = float((each[0][name](inputs[0]).view(-1).double().sum() - exact.sum()).abs() / exact.abs().sum())
        found.append(
            {"rows": rows, "way": name, "ms": 1e3 * median, "GB/s": 4e-9 * total / median}
            | {"GFLOP/s": 2e-9 * rows * total / median, "share": statistics.median(r / t for r, t in pairs)}
            | {"error": error}
        )
        sys.stderr.write(f"{found[-1]}\n")
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the lines of a Markdown table."""
    lines = [[f"| {name}" for name in rows[0]] + ["|"], ["|---"] * len(rows[0]) + ["|"]]
    for row in rows:
        lines.append([f"| {v:.3g}" if isinstance(v, float) else f"| {v}" for v in row.values()] + ["|"])
    return "\n".join(aligned(lines))


def main() -> None:
    """Measure, write and print."""
    global clock
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("measured_products"))
    parser.add_argument("--recipe", action="store_true", help="matrices of the default recipe's model")
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="seconds of the clock: on an idle machine")
    options = parser.parse_args()
    if options.wall or options.threads > 1:
        clock = time.perf_counter
    pin(options.threads)
    size, codes = (Size("recipe", 4, 128, 2), 4096) if options.recipe else (SIZES["19M"], 1024)
    before = os.getloadavg()[0]
    rows = [row for count in options.rows for row in measured(size, codes, count, options.rounds)]
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "numbers.json", {"load": [before, os.getloadavg()[0]], "rows": rows})
    sys.stdout.write(f"{table(rows)}\n\nload before {before:.2f}, after {os.getloadavg()[0]:.2f}\n")


if __name__ == "__main__":
    main()
