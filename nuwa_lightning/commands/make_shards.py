"""``make-shards``: what a recipe of stage 2 learns from, encoded once into shards, by many processes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from lightning.pytorch import LightningDataModule
from torch import nn

from nuwa_lightning.commands.costs import make, read_recipe
from nuwa_lightning.commands.plain_parser import PlainParser
from nuwa_lightning.commands.tokenizer import TokenizerSource, open_tokenizer
from nuwa_lightning.data.shard_making import make_shards as made
from nuwa_lightning.data.token_shards import TokenShards
from nuwa_lightning.data.token_windows import TokenWindowsModule
from nuwa_lightning.errors import UsageError, check_range

_EPILOG: Final = """\
  python -m nuwa_lightning make-shards --config recipes/landscape_base.yaml --output data/lhqc_shards
  torchrun --nproc_per_node 8 -m nuwa_lightning make-shards --config ... --output ...
Any option of fit may follow. Run it again to go on. Then train with --data TokenShardsDataModule --data.shards FOLDER.
"""
_RANKS: Final = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


def make_shards(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    rank, world = _place()
    p = PlainParser(
        prog="python -m nuwa_lightning make-shards",
        description="Encode the data of a recipe of stage 2 into shards.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("-c", "--config", action="append", default=[], metavar="RECIPE", help="as for fit")
    p.add_argument("--output", metavar="FOLDER", required=True, help="of the shards; what is there is gone on with")
    p.add_argument("--photos_per_shard", type=int, default=1000, help="photos or videos of a part; of tars all")
    p.add_argument("--captioned", action="store_true", help="leave out what has no caption")
    p.add_argument("--rank", type=int, default=rank, help="number of this process (torchrun and SLURM say it)")
    p.add_argument("--world", type=int, default=world, help="how many processes there are")
    p.add_argument("--device", default=_device(), help="that encodes")
    options, rest = p.parse_known_args(list(arguments))
    check_range("--photos_per_shard", options.photos_per_shard, 1, 1 << 24)
    check_range("--world", options.world, 1)
    config = read_recipe([*(part for path in options.config for part in ("--config", path)), *rest])
    data = make("data", LightningDataModule, config.data)
    if not isinstance(data, TokenWindowsModule):
        raise UsageError("--data", config.data.class_path, "give a data module of stage 2, such as TokenDataModule")
    source = TokenizerSource(**config.tokenizer.as_dict()) if config.get("tokenizer") else None
    if source is None or not source.is_there:
        hint = "there is no tokenizer yet: train it, or name the folder of one"
        raise UsageError("--tokenizer.path", source and source.path, hint)
    tokenizer = open_tokenizer(source)
    parts = data.shard_parts(tokenizer, options.photos_per_shard)
    tokenizer.fingerprint()  # of the weights as they are on the CPU
    try:
        device = torch.device(options.device)
        if isinstance(tokenizer, nn.Module):
            tokenizer.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError("--device", options.device, " ".join(str(error).split())) from None
    folder = Path(options.output)
    complete = made(
        folder,
        parts,
        tokenizer,
        rank=options.rank,
        world=options.world,
        encode=lambda image_B3YX: tokenizer.encode(image_B3YX.to(device)),
        captioned=options.captioned,
    )
    if complete:
        shards = TokenShards(folder)
        counts = f"{shards.count('train')} for training, {shards.count('val')} for validation, {len(shards)} tokens"
        sys.stdout.write(f"{folder}: {counts}\ntrain: fit ... --data TokenShardsDataModule --data.shards {folder}\n")
    return 0


def _place() -> tuple[int, int]:
    """Return the number of this process and how many there are."""
    for rank, world in _RANKS:
        if os.environ.get(rank, "").isdecimal() and os.environ.get(world, "").isdecimal():
            return int(os.environ[rank]), int(os.environ[world])
    return 0, 1


def _device() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
