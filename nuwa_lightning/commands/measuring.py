"""What training and generation take, measured on this machine: ``estimate`` tells it."""

import logging
import re
import tempfile
import time
import warnings
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from nuwa_lightning.callbacks.sample_sheet import SampleSheet
from nuwa_lightning.commands.costs import canvas_cost, model_of
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule


def process_bytes(name: str = "VmHWM") -> int | None:
    """Return how much memory this process has taken at most, or has now (``VmRSS``); None where that is not told."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s*(\d+) kB$", status, re.MULTILINE)
    return None if found is None else 1024 * int(found[1])


class _Clock(Callback):
    """Notes when each batch has ended, and when a sheet has been drawn after the last one."""

    def __init__(self, sheet: SampleSheet | None) -> None:
        self.ends: list[float] = []
        self._sheet = sheet

    def on_train_batch_end(self, *_: object) -> None:
        self.ends.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        begun = time.perf_counter()
        if self._sheet is not None:
            self._sheet.draw(trainer, pl_module)
        self.drawing = time.perf_counter() - begun


def measured_step(
    config: Namespace,
    *,
    shape: tuple[int, int, int],
    batch: int,
    steps: int = 4,
    tokenizer: Tokenizer | None = None,
    sheet: SampleSheet | None = None,
) -> tuple[float, float]:
    """Return the seconds of a batch of training on this CPU, as Lightning runs it, and of a sheet of samples.

    Tokens are random, and always the same; the time is the mean of ``steps`` after a first one.

    Args:
        config: the recipe.
        shape: ``(t, y, x)`` tokens of a sample.
        batch: samples of a batch.
        steps: how many batches are timed.
        tokenizer: decodes the sheet.
        sheet: what is to be drawn, if anything is.
    """
    module, texts = model_of(config)
    codebook_KE, generator = module.transformer.codebook_KE, torch.Generator().manual_seed(0)
    module.transformer.set_codes(torch.randn(codebook_KE.shape, generator=generator))
    if tokenizer is not None:
        module.attach_tokenizer(tokenizer)
    sample = {"tokens": torch.randint(len(codebook_KE), (batch, *shape), generator=generator)}
    if module.plan is not None:
        sample["coarse"] = sample["tokens"]
    if texts:
        sample["text"] = torch.randn(batch, texts, module.transformer.text_dim)
        sample["text_mask"] = torch.ones(batch, texts, dtype=torch.bool)
    clock, half = _Clock(sheet), str(config.trainer.precision).startswith("bf16")
    logging.disable(logging.INFO)  # what Lightning says of a run
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            Trainer(
                accelerator="cpu",
                devices=1,
                precision="bf16-mixed" if half else "32-true",
                max_epochs=1,
                limit_val_batches=0,
                callbacks=[clock],
                default_root_dir=folder,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ).fit(module, DataLoader([sample] * (1 + steps), batch_size=None))  # type: ignore[arg-type]
    finally:
        logging.disable(logging.NOTSET)
    return (clock.ends[-1] - clock.ends[0]) / steps, clock.drawing


def measured_decoding(module: NuwaInfinityModule) -> tuple[float, float]:
    """Return the seconds that a step of decoding takes by itself, and for each row, by two small canvases."""
    renderer = InfiniteRenderer(module.transformer.eval(), module.context_pool, module.direction, module.token_order)
    found = []
    for height in (1, 6):
        grid = PatchGrid(1, height, 4)
        cost = canvas_cost(module, grid)
        begin = time.perf_counter()
        for _ in renderer.render(grid, seeds=[0]):
            pass
        found.append((cost.steps, cost.tokens, time.perf_counter() - begin))
    (s1, t1, y1), (s2, t2, y2) = found
    row = max(0.0, (y2 * s1 - y1 * s2) / (t2 * s1 - t1 * s2))
    return max(0.0, (y1 - row * t1) / s1), row
