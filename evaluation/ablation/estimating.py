"""What an ablation will cost: every cell's options are read as ``fit`` reads them, and its work is counted.

Times of training, sampling and scoring are those of finished cells for the same work; before there are some, a few
steps of each are timed here for every variant.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evaluation.ablation.config import Ablation, Cell, Samples
from evaluation.ablation.running import Tokenizer, cell_arguments, finished
from evaluation.blocks import blocks_in
from evaluation.extractors import make_extractor
from evaluation.feature_cache import BATCH
from evaluation.protocol import Blocks, load_protocol
from evaluation.sampling import ALIASES, sampler_class
from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from nuwa_lightning.generation.local import LocalDecoder

_PIXELS_OF_A_TOKEN: Final = 8
_SECONDS_A_START: Final = 12.0
"""Of the process that trains a cell."""
_SECONDS_A_REPORT: Final = 45.0
"""Of what no network does: floors, intervals, colors, seams, neighbors (49 to 68 s for ten images on two cores)."""
_SECONDS_A_MEGAPIXEL: Final = 0.3
"""Of decoding, on a CPU core."""


@dataclass(frozen=True)
class Cost:
    """What a cell takes.

    Attributes:
        parameters: of the model.
        training: floating-point operations of training, in units of 1e12.
        sampling: of sampling all of its images.
        scored: megapixels that are decoded and scored.
        minutes: of all three, estimated; what it really took where the cell is finished.
        done: whether it is finished.
    """

    parameters: int
    training: float
    sampling: float
    scored: float
    minutes: float
    done: bool


def resolve(cell: Cell, tokenizer: Tokenizer) -> Namespace:
    """Return all options of the cell's ``fit``, defaults included, without running it.

    Raises:
        UsageError: if ``fit`` refuses them.
    """
    from nuwa_lightning.commands.costs import read_recipe

    logging.disable(logging.INFO)  # options are merely read: nothing is worth a line
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_recipe(["--config", cell.ablation.base, *cell_arguments(cell, tokenizer)])
    except UsageError as error:
        raise UsageError(f"cell {cell.label}, {error.option}", error.value, error.hint) from None
    finally:
        logging.disable(logging.NOTSET)


def estimate(ablation: Ablation, output: Path, tokenizer: Tokenizer) -> dict[str, Cost]:
    """Return the cost of each cell by its label.

    Raises:
        UsageError: if ``fit`` refuses the options of one.
    """
    cells = {cell.label: cell for cell in ablation.grid()}
    work = {label: count(resolve(cell, tokenizer), cell) for label, cell in cells.items()}
    ours = {label: told for label, cell in cells.items() if (told := finished(cell, output))}
    scored = sum(s.count * s.pixels[0] * s.pixels[1] for s in ablation.samples.values()) / 1e6
    if ours:
        pace = Pace.of([(cells[label].variant.sampler, *work[label][1:], told) for label, told in ours.items()])
    else:
        firsts = {cell.name: cell for cell in reversed(cells.values())}
        trained = {name: timed(cell, tokenizer) for name, cell in firsts.items()}
        after, once = scoring_seconds(ablation)
    found = {}
    for label, (weights, training, sampling) in work.items():
        if label in ours:
            seconds = sum(_spent(ours[label]))
        elif ours:
            seconds = pace.seconds(cells[label].variant.sampler, training, sampling)
        else:
            seconds, once = sum(trained[cells[label].name]) + after + once, 0.0
        found[label] = Cost(weights, training, sampling, scored, seconds / 60, label in ours)
    return found


def timed(cell: Cell, tokenizer: Tokenizer) -> tuple[float, float]:
    """Return the seconds of a cell's training and sampling, by a few steps of each on this CPU."""
    from nuwa_lightning.commands.costs import canvas_cost, model_of
    from nuwa_lightning.commands.measuring import measured_decoding, measured_step
    from nuwa_lightning.planning.geometry import PatchGrid

    config = resolve(cell, tokenizer)
    data = config.data.init_args
    step, _ = measured_step(config, shape=(1, *data.grid), batch=data.batch_size)
    module, _ = model_of(config)
    fixed, row = measured_decoding(module)
    height, width = module.transformer.patch_size
    passes, sampling = _passes(module.local_decoder), 0.0
    for samples in cell.ablation.samples.values():
        rows, columns = (-(-side // _PIXELS_OF_A_TOKEN) for side in samples.pixels)
        if cell.variant.sampler in ("patches", ALIASES["patches"]):
            cost = canvas_cost(module, PatchGrid(1, -(-rows // height), -(-columns // width)))
            batches = -(-samples.count // samples.batch)
            sampling += passes * (batches * fixed * cost.steps + samples.count * row * cost.tokens)
        else:
            sampling += samples.count * row * _tokens_read(samples, cell.variant.sampler, (height, width))
    return _SECONDS_A_START + step * config.trainer.max_steps, sampling


def scoring_seconds(ablation: Ablation) -> tuple[float, float]:
    """Return the seconds of decoding and scoring a cell's images, and those of the real images, which come once."""
    import numpy as np

    extractors: dict[str, float] = {}
    after = once = 0.0
    for samples in ablation.samples.values():
        protocol, (height, width) = load_protocol(samples.protocol), samples.pixels
        name, side = protocol.features.name, protocol.generated.side or min(height, width)
        if name not in extractors:
            crops, extractor = np.zeros((BATCH, side, side, 3), np.uint8), make_extractor(name)
            extractor(crops)
            began = time.perf_counter()
            extractor(crops)
            extractors[name] = (time.perf_counter() - began) / BATCH
        blocks = protocol.metrics.blocks

        def features(rows: int, columns: int, crops: int, blocks: Blocks | None = blocks) -> int:
            return crops + (blocks_in((rows, columns), blocks) if blocks else 0)

        parts = (height // side) * (width // side) if protocol.generated.crop == "windows" else 1
        real = protocol.real.side or side
        after += _SECONDS_A_REPORT + samples.count * height * width / 1e6 * _SECONDS_A_MEGAPIXEL
        after += extractors[name] * samples.count * features(height, width, parts)
        once += extractors[name] * (protocol.real.count or 0) * features(real, real, 1)
    return after, once


@dataclass(frozen=True)
class Pace:
    """How long work takes here.

    Attributes:
        training: seconds for 1e12 operations.
        sampling: the same of a sampler, for those that a finished cell has used.
        after: seconds of decoding and scoring a cell's images.
        others: the same of a sampler that none has used: their mean.
    """

    training: float
    sampling: dict[str, float]
    after: float
    others: float

    @classmethod
    def of(cls, done: Sequence[tuple[str, float, float, dict[str, Any]]]) -> Pace:
        """Return the pace of finished cells: sampler, operations of training and of sampling, and what each says."""
        spent = [_spent(told) for *_, told in done]
        training = sum(seconds[0] for seconds in spent) / sum(work for _, work, *_ in done)
        sampling = {}
        for name in {sampler for sampler, *_ in done}:
            pairs = [(seconds[1], each[2]) for seconds, each in zip(spent, done, strict=True) if each[0] == name]
            sampling[name] = sum(seconds for seconds, _ in pairs) / sum(work for _, work in pairs)
        # Every cell scores as many images of the same sizes; the first one reads the real ones, too.
        after = statistics.median(seconds[2] for seconds in spent)
        return cls(training, sampling, after, statistics.mean(sampling.values()))

    def seconds(self, sampler: str, training: float, sampling: float) -> float:
        """Return what a cell takes."""
        return training * self.training + sampling * self.sampling.get(sampler, self.others) + self.after


def _spent(told: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the seconds that a finished cell trained, sampled tokens, and decoded and scored."""
    sets = told["sampling"].values()
    after = sum(s["seconds_pixels"] for s in sets) + sum(told.get("scoring_seconds", {}).values())
    return float(told["training_seconds"]), float(sum(s["seconds_tokens"] for s in sets)), float(after)


def count(config: Namespace, cell: Cell) -> tuple[int, float, float]:
    """Return parameters, and operations of training and of sampling in units of 1e12."""
    from torch._subclasses import FakeTensorMode

    from nuwa_lightning.commands.costs import model_of

    with FakeTensorMode(allow_non_fake_inputs=True):
        module, _ = model_of(config)
    data, patch, size = config.data.init_args, module.transformer.patch_size, module.transformer.size
    weights = sum(p.numel() for p in module.transformer.parameters())
    rows, columns = data.grid
    context = _mean_context(module.context_pool, module.direction, (rows // patch[0], columns // patch[1]))
    tokens = data.batch_size * rows * columns * config.trainer.max_steps
    per_token = 2 * weights + 4 * size.num_layers * size.dim * patch[0] * patch[1] * (context + 0.5)
    read = sum(s.count * _tokens_read(s, cell.variant.sampler, patch) for s in cell.ablation.samples.values())
    made = read * _passes(module.local_decoder)
    return weights, 3 * per_token * tokens / 1e12, per_token * made / 1e12


def plan_table(costs: dict[str, Cost], cells: Sequence[Cell], *, jobs: int = 1) -> list[list[str]]:
    """Return the grid as rows of cells of text, with a sum, and what it comes to with several cells at a time."""
    how = "as finished cells" if any(cost.done for cost in costs.values()) else "a few steps timed"
    work = ["training TFLOP", "sampling TFLOP", "scoring megapixels"]
    head = ["cell", "seed", "state", "parameters", *work, f"minutes ({how})"]
    lines = [head]
    for cell in cells:
        cost = costs[cell.label]
        state = "done" if cost.done else "to do"
        numbers = [f"{cost.parameters / 1e6:.2f} M", f"{cost.training:.0f}", f"{cost.sampling:.0f}"]
        numbers.append(f"{cost.scored:.0f}")
        lines.append([cell.name, str(cell.seed), state, *numbers, f"{cost.minutes:.1f}"])
    left = sum(costs[cell.label].minutes for cell in cells if not costs[cell.label].done)
    lines.append(["left to do", "", "", "", "", "", "", f"{left:.0f}"])
    if jobs > 1:
        longest = max((costs[cell.label].minutes for cell in cells if not costs[cell.label].done), default=0.0)
        lines.append([f"{jobs} at a time", "", "", "", "", "", "", f"{max(longest, left / jobs):.0f}"])
    return lines


def _tokens_read(samples: Samples, sampler: str, patch: tuple[int, ...]) -> int:
    """Return how many tokens pass through the model to write one canvas."""
    rows, columns = (-(-side // _PIXELS_OF_A_TOKEN) for side in samples.pixels)
    height, width = patch
    return sampler_class(sampler).tokens_read(rows, columns, (height, width))  # type: ignore[attr-defined,no-any-return]


def _passes(decoder: LocalDecoder) -> int:
    """Return how often a patch passes through the model until it is written and read."""
    from nuwa_lightning.generation.local import LocalityLocalDecoder, MaskedLocalDecoder, ParallelLocalDecoder

    if isinstance(decoder, MaskedLocalDecoder):
        return 1 + decoder.steps
    return 2 if isinstance(decoder, ParallelLocalDecoder) else 3 if isinstance(decoder, LocalityLocalDecoder) else 1


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
