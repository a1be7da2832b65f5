"""What an ablation will cost: every cell's options are read as ``fit`` reads them, and its work is counted.

Times are rough: they come from the finished cells where there are some, else from this machine's matrix product.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evaluation.ablation.config import Ablation, Cell, Samples
from evaluation.ablation.running import Tokenizer, cell_arguments, finished
from evaluation.sampling import ALIASES, sampler_class
from nuwa_lightning.errors import UsageError

_PIXELS_OF_A_TOKEN: Final = 8
_TRAINING_SHARE: Final = 0.35
_PATCH_SHARE: Final = 0.12
_WINDOW_SHARE: Final = 0.5
"""Share of the matrix product's speed that training, patch by patch sampling, and the sliding window reach on a CPU."""


@dataclass(frozen=True)
class Cost:
    """What a cell takes.

    Attributes:
        parameters: of the model.
        training: floating-point operations of training, in units of 1e12.
        sampling: of sampling all of its images.
        minutes: of both, estimated; what it really took where the cell is finished.
        done: whether it is finished.
    """

    parameters: int
    training: float
    sampling: float
    minutes: float
    done: bool


def resolve(cell: Cell, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return all options of the cell's ``fit``, defaults included, without running it.

    Raises:
        UsageError: if ``fit`` refuses them.
    """
    import yaml

    from nuwa_lightning.cli import main

    command = ["fit", "--config", cell.ablation.base, *cell_arguments(cell, tokenizer), "--print_config"]
    printed, refused, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(refused), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that are merely printed
        try:
            status = main(command)
        except SystemExit as ended:
            status = int(ended.code or 0)
    found = yaml.safe_load(printed.getvalue()) if not status else None
    if not isinstance(found, dict):
        reason = (refused.getvalue().strip().splitlines() or ["fit refused it"])[-1]
        option, _, rest = reason.removeprefix("error: ").partition(": ")
        value, _, hint = rest.partition(": ")
        raise UsageError(f"cell {cell.label}, {option}", value, hint)
    return found


def estimate(ablation: Ablation, output: Path, tokenizer: Tokenizer) -> dict[str, Cost]:
    """Return the cost of each cell by its label.

    Raises:
        UsageError: if ``fit`` refuses the options of one.
    """
    counted = {cell.label: (cell, *count(resolve(cell, tokenizer), cell)) for cell in ablation.grid()}
    ours = {label: finished(cell, output) for label, (cell, *_) in counted.items()}
    speed = measured_speed()
    training_speed, sampling_speed = speed * _TRAINING_SHARE, speed * _PATCH_SHARE
    spent = [(counted[label], told) for label, told in ours.items() if told]
    if spent:
        training_speed = sum(c[2] for c, _ in spent) / max(1e-9, sum(t["training_seconds"] for _, t in spent))
    found = {}
    for label, (cell, size, training, sampling) in counted.items():
        told = ours[label]
        share = speed * _WINDOW_SHARE if cell.variant.sampler not in ("patches", ALIASES["patches"]) else sampling_speed
        seconds = training / training_speed + sampling / share
        if told is not None:
            seconds = told["training_seconds"] + sum(
                s["seconds_tokens"] + s["seconds_pixels"] for s in told["sampling"].values()
            )
        found[label] = Cost(size, training, sampling, seconds / 60, told is not None)
    return found


def count(config: dict[str, Any], cell: Cell) -> tuple[int, float, float]:
    """Return parameters, and operations of training and of sampling in units of 1e12."""
    import torch

    from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig

    model, data = config["model"]["init_args"], config["data"]["init_args"]
    size = TransformerConfig(**model["transformer"])
    pool, direction = _made(model["context_pool"]), _made(model["direction"])
    patch = tuple(model["patch_size"])
    with torch.device("meta"):
        network = PatchTransformer(
            model["codebook_size"],
            model["codebook_dim"],
            patch_size=patch,
            embedding_extent=pool.embedding_extent,
            size=size,
        )
    weights = sum(p.numel() for p in network.parameters())
    rows, columns = data["grid"]
    context = _mean_context(pool, direction, (rows // patch[0], columns // patch[1]))
    tokens = data["batch_size"] * rows * columns * config["trainer"]["max_steps"]
    per_token = 2 * weights + 4 * size.num_layers * size.dim * patch[0] * patch[1] * (context + 0.5)
    read = sum(s.count * _tokens_read(s, cell.variant.sampler, patch) for s in cell.ablation.samples.values())
    made = read * _passes(model.get("local_decoder"))
    return weights, 3 * per_token * tokens / 1e12, per_token * made / 1e12


def measured_speed(seconds: float = 0.5) -> float:
    """Return how many operations a second (in units of 1e12) this machine's matrix product makes."""
    import torch

    a, b = torch.randn(512, 768), torch.randn(768, 2048)
    a @ b
    began, products = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        a @ b
        products += 1
    return products * 2 * 512 * 768 * 2048 / (time.monotonic() - began) / 1e12


def plan_table(costs: dict[str, Cost], cells: Sequence[Cell], *, jobs: int = 1) -> list[list[str]]:
    """Return the grid as rows of cells of text, with a sum, and what it comes to with several cells at a time."""
    head = ["cell", "seed", "state", "parameters", "training TFLOP", "sampling TFLOP", "minutes (rough)"]
    lines = [head]
    for cell in cells:
        cost = costs[cell.label]
        state = "done" if cost.done else "to do"
        numbers = [f"{cost.parameters / 1e6:.2f} M", f"{cost.training:.0f}", f"{cost.sampling:.0f}"]
        lines.append([cell.name, str(cell.seed), state, *numbers, f"{cost.minutes:.1f}"])
    left = sum(costs[cell.label].minutes for cell in cells if not costs[cell.label].done)
    lines.append(["left to do", "", "", "", "", "", f"{left:.0f}"])
    if jobs > 1:
        longest = max((costs[cell.label].minutes for cell in cells if not costs[cell.label].done), default=0.0)
        lines.append([f"{jobs} at a time", "", "", "", "", "", f"{max(longest, left / jobs):.0f}"])
    return lines


def _tokens_read(samples: Samples, sampler: str, patch: tuple[int, ...]) -> int:
    """Return how many tokens pass through the model to write one canvas."""
    rows, columns = (-(-side // _PIXELS_OF_A_TOKEN) for side in samples.pixels)
    height, width = patch
    return sampler_class(sampler).tokens_read(rows, columns, (height, width))  # type: ignore[attr-defined,no-any-return]


def _passes(decoder: dict[str, Any] | None) -> int:
    """Return how often a patch passes through the model until it is written and read."""
    name = (decoder or {}).get("class_path", "").rpartition(".")[2]
    if name == "MaskedLocalDecoder":
        from nuwa_lightning.generation.local import MaskedLocalDecoder

        return 1 + int(((decoder or {}).get("init_args") or {}).get("steps", MaskedLocalDecoder.steps))
    return 2 if name == "ParallelLocalDecoder" else 1


def _made(described: dict[str, Any] | str) -> Any:
    path, args = (
        (described, {}) if isinstance(described, str) else (described["class_path"], described.get("init_args"))
    )
    module, _, name = path.rpartition(".")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in (args or {}).items()}
    return getattr(importlib.import_module(module), name)(**values)


def _mean_context(pool: Any, direction: Any, shape: tuple[int, int]) -> float:
    """Return how many patches a patch of a training view sees on average."""
    from nuwa_lightning.planning.geometry import PatchGrid
    from nuwa_lightning.planning.schedule import ContextTable, walk

    grid = PatchGrid(1, *shape)
    means = []
    for weight, plan in direction.training_plans(grid):
        table = ContextTable.from_walk(walk(list(plan), pool, grid))
        means.append(weight * sum(len(step.context) for step in table.steps) / len(table.steps))
    return float(sum(means))
