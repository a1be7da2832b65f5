"""A million images as shards: how soon a run starts, whether its memory grows, and what the data cost a step.

    python experiments/measure_shards.py                     (one to three minutes on an idle machine, 0.6 GB of disk)
    python experiments/measure_shards.py --images 20000      (a trial)

The grids are 16 x 16 random tokens. A second process trains a model of the default recipe's size on them: its start is
counted from its launch, imports and the tokenizer's fingerprint included, to its first batch. Its memory is read before
and after reading samples, an eighth as many as there are images. Steps on shards and on one synthetic batch that is
there already take turns, 20 each; the first two of each turn are not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

GRID, BATCH, TURN = 16, 8, 20


def write(folder: Path, images: int) -> None:
    """Write shards of 10,000 images each, as ``make-shards`` does, and the index."""
    from nuwa_lightning.commands.tokenizer import TokenizerSource, open_tokenizer
    from nuwa_lightning.data.token_bank import BankEntry
    from nuwa_lightning.data.token_shards import ShardBuilder

    tokenizer = open_tokenizer(TokenizerSource("landscape"))
    fingerprint, size = tokenizer.fingerprint(), tokenizer.codebook_size
    random = np.random.default_rng(0)
    entry = BankEntry(0, 128, False, 0, 0, GRID, GRID)
    shards: dict[str, list[Any]] = {"train": [], "val": []}
    for start in range(0, images + 100, 10_000):
        split = "train" if start < images else "val"
        builder = ShardBuilder(fingerprint, size)
        count = min(10_000, (images if split == "train" else images + 100) - start)
        for number, tokens_YX in enumerate(random.integers(0, size, (count, GRID, GRID), dtype=np.uint16), start):
            builder.add(str(number), "", [(entry, tokens_YX[None])])
        shards[split].append(builder.write(folder / f"{split}-{start // 10_000:06d}.safetensors"))
    about = {"fingerprint": fingerprint, "codebook_size": size, "smallest": [1, GRID, GRID], "name": f"{images} random"}
    (folder / "index.json").write_text(json.dumps({**about, "shards": shards}))


def memory() -> dict[str, float]:
    """Return the MB that this process has in memory, and those of them that are no pages of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")}


def train(folder: Path, images: int, turns: int, launched: float) -> None:
    """Measure, in a process of its own, and write what was found as JSON."""
    import lightning.pytorch as pl
    import torch

    from nuwa_lightning.commands.tokenizer import TokenizerSource, open_tokenizer
    from nuwa_lightning.data import TokenShardsDataModule
    from nuwa_lightning.models.nuwa_infinity import TransformerConfig
    from nuwa_lightning.planning.context import NearbyContextPool
    from nuwa_lightning.training.nuwa_module import NuwaInfinityModule

    found: dict[str, Any] = {"import_seconds": time.time() - launched}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = open_tokenizer(TokenizerSource("landscape"))
    data = TokenShardsDataModule(str(folder), grid=(GRID, GRID), batch_size=BATCH, steps_per_epoch=1_000_000)
    data.attach_tokenizer(tokenizer)
    data.prepare_data()
    stream = data.train_dataloader()
    synthetic = next(iter(stream))
    found["start_seconds"] = time.time() - launched
    batches = iter(stream)
    for _ in range(200):
        next(batches)
    before = memory()
    began = time.perf_counter()
    count = max(1, images // 8 // BATCH)
    for _ in range(count):
        next(batches)
    found["milliseconds_a_batch"] = 1e3 * (time.perf_counter() - began) / count
    found["samples_read"] = count * BATCH
    found["memory_before"], found["memory_after"] = before, memory()
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sys.stdout.flush()
    found = {}

    class Turns:
        """Batches of the shards and the synthetic one, in turns; the time of each step is noted."""

        def __init__(self) -> None:
            self.seconds: dict[str, list[float]] = {"shards": [], "synthetic": []}

        def __len__(self) -> int:
            return 2 * turns * TURN

        def __iter__(self) -> Iterator[Any]:
            for turn in range(2 * turns):
                kind = ("shards", "synthetic")[turn % 2]
                for step in range(TURN):
                    began = time.perf_counter()
                    yield next(batches) if kind == "shards" else {k: v.clone() for k, v in synthetic.items()}
                    if step >= 2:
                        self.seconds[kind].append(time.perf_counter() - began)

    made = NuwaInfinityModule(
        tokenizer.codebook_size,
        tokenizer.codebook_KD.shape[1],
        patch_size=(8, 8),
        transformer=TransformerConfig(dim=128, num_layers=4, num_heads=2, num_kv_heads=2, mlp_ratio=2.67),
        context_pool=NearbyContextPool((0, 1, 1)),
    )
    made.attach_tokenizer(tokenizer)
    loader = Turns()
    pl.Trainer(
        max_steps=len(loader),
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    ).fit(made, loader)
    for kind, seconds in loader.seconds.items():
        found[f"{kind}_steps"], found[f"{kind}_median_seconds"] = len(seconds), statistics.median(seconds)
    found["rate_over_synthetic"] = sum(loader.seconds["synthetic"]) / sum(loader.seconds["shards"])
    found["memory_after_training"] = memory()
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Write shards, unless they are there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=10, help="of each kind of step")
    parser.add_argument("--folder", type=Path, help="keep the shards there (default: a temporary folder)")
    parser.add_argument("--launched", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.launched is not None:
        train(options.folder, options.images, options.turns, options.launched)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "index.json").exists():
            began = time.perf_counter()
            write(folder, options.images)
            sys.stdout.write(f"{options.images} images written in {time.perf_counter() - began:.1f} s\n")
            sys.stdout.flush()
        command = [sys.executable, __file__, "--images", str(options.images), "--turns", str(options.turns)]
        subprocess.run([*command, "--folder", str(folder), "--launched", str(time.time())], check=True)


if __name__ == "__main__":
    main()
