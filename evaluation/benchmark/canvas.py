"""Whole canvases: time a patch and memory as the canvas gets wider.

Shape legend: P patches.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from evaluation.benchmark.ours import TOP_K, Size, random_model
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, LocalDecoder
from nuwa_lightning.generation.pretrained import Generator, save_generator
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import PatchTransformer
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.signals import die_with_parent
from nuwa_lightning.tokenizers.pretrained import save_tokenizer

RECIPE: Final = Size("recipe", 4, 128, 2)
"""The default recipe's blocks."""

RECIPE_CODES: Final = 4096
PAPER: Final = "38912x2048"
"""The paper's largest canvas, in pixels."""

EXTENT: Final = (0, 1, 1)


def recipe_model(
    size: Size, *, num_kv_heads: int, codebook_size: int = 1024, codebook_dim: int = 16, grouped: bool = False
) -> PatchTransformer:
    """Return a model with random weights and the default recipe's patches of 8 x 8 tokens."""
    return random_model(
        size,
        num_kv_heads=num_kv_heads,
        patch_size=(8, 8),
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        bidirectional=grouped,
        grouped=grouped,
    )


def renderer(
    model: PatchTransformer,
    *,
    precision: Precision = Precision(),  # noqa: B008 - frozen
    max_rows: int = 64,
    decoder: LocalDecoder = AutoregressiveLocalDecoder(),  # noqa: B008 - frozen
) -> InfiniteRenderer:
    """Return the sampler that writes to the right."""
    pool, direction = NearbyContextPool(EXTENT), ArbitraryDirectionController("omega")
    return InfiniteRenderer(model, pool, direction, "mirrored", Sampling(top_k=TOP_K), max_rows, precision, decoder)


def wave_seconds(made: InfiniteRenderer, grid: PatchGrid) -> tuple[float, list[tuple[int, float]]]:
    """Write a canvas of tokens; return the seconds of all of it and, for each wave, its width and seconds."""
    waves: list[tuple[int, float]] = []
    began = last = time.perf_counter()
    count = 0
    for done in made.render(grid, seeds=[0]):
        count += 1
        if count == 1:
            now = time.perf_counter()
            waves.append((done.wave, now - last))
            last = now
        if count == done.wave:
            count = 0
    return time.perf_counter() - began, waves


def seconds_a_patch(made: InfiniteRenderer, grid: PatchGrid) -> float:
    """Return the median over the waves in the middle half of the canvas, where patches have all their context."""
    _, waves = wave_seconds(made, grid)
    middle = waves[len(waves) // 4 : -(len(waves) // 4)]
    return statistics.median(seconds / width for width, seconds in middle)


def write_run(folder: Path) -> None:
    """Write a run as ``generate`` takes it: the default recipe's sizes, random weights."""
    torch.manual_seed(0)
    tokenizer = VQGAN.build(VQGANConfig(codebook_size=RECIPE_CODES))
    codes, width = tokenizer.codebook_KD.shape
    model = recipe_model(RECIPE, num_kv_heads=RECIPE.heads, codebook_size=codes, codebook_dim=width)
    save_tokenizer(folder / "tokenizer", tokenizer)
    pool, direction = NearbyContextPool(EXTENT), ArbitraryDirectionController("omega")
    save_generator(folder / "model", Generator(model, pool, direction, "mirrored", tokenizer.fingerprint()))


_APART: Final = """
import os, resource, subprocess, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, range(os.cpu_count()))
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


_SPIN: Final = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, range(os.cpu_count()))
while True:
    pass
"""


def generate(run: Path, output: Path, size: str, *options: str) -> tuple[float, float]:
    """Run ``generate`` as a process of its own, on all cores; return its seconds and its peak memory in megabytes."""
    command = [sys.executable, "-m", "nuwa_lightning", "generate", "--checkpoint", str(run), "--size", size]
    began = time.perf_counter()
    # A process counts the memory of the one that started it as its own peak, so a small one stands between.
    done = subprocess.run(
        [sys.executable, "-c", _APART, *command, "--unprompted", "--output", str(output), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(f"generate --size {size} failed: {lines[-1] if lines else done.returncode}")
    return time.perf_counter() - began, int(done.stdout) / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def peak_memory(widths: tuple[int, int], *, height: int, rounds: int) -> tuple[float, float]:
    """Return the median peak megabytes of ``generate`` to BigTIFF at two widths in pixels, measured by turns.

    One process's peak differs by up to 4 % from that of the next one doing the same, so one pair says little.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder / "run")

        def peak(width: int, turn: int) -> float:
            return generate(folder / "run", folder / f"{width}-{turn}.tif", f"{width}x{height}")[1]

        pairs = [(peak(widths[0], turn), peak(widths[1], turn)) for turn in range(rounds)]
        return statistics.median(narrow for narrow, _ in pairs), statistics.median(wide for _, wide in pairs)


@contextmanager
def busy_process() -> Iterator[int]:
    """Keep one process busy on any core meanwhile; yields its id."""
    before = None if sys.platform == "win32" else die_with_parent
    with subprocess.Popen([sys.executable, "-c", _SPIN], preexec_fn=before) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def beside_a_busy_process(size: str, *, rounds: int) -> list[tuple[float, float]]:
    """Return the seconds of ``generate`` with its default threads and with one, by turns, beside a busy process."""
    with tempfile.TemporaryDirectory() as name, busy_process():
        folder = Path(name)
        write_run(folder / "run")

        def seconds(turn: int, *options: str) -> float:
            return generate(folder / "run", folder / f"{turn}{len(options)}.png", size, *options)[0]

        return [(seconds(turn), seconds(turn, "--threads", "1")) for turn in range(rounds)]


def paper_canvas(run: Path, size: str = PAPER) -> tuple[float, float]:
    """Return the seconds and the peak megabytes of the paper's canvas by a trained run, written to BigTIFF."""
    with tempfile.TemporaryDirectory() as name:
        return generate(run, Path(name) / "paper.tif", size, "--weights", "int8", "--cache", "bfloat16")
