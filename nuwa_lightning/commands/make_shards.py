"""``make-shards``: what a recipe of stage 2 learns from, encoded once into shards, by many processes."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nuwa_lightning.commands.options import completed, parser_of
from nuwa_lightning.errors import UsageError, check_range

_EPILOG: Final = """\
  python -m nuwa_lightning make-shards --config recipes/landscape_base.yaml --output data/lhqc_shards
  torchrun --nproc_per_node 8 -m nuwa_lightning make-shards --config ... --output ...
Any option of fit may be given, too, and --config is that of fit. Run it again to go on. Then train with
--data TokenShardsDataModule --data.shards FOLDER.
"""
_RANKS: Final = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True)
class Options:
    """What is made of the data of the recipe.

    Args:
        output: folder of the shards; what is there is gone on with
        photos_per_shard: photos or videos of a part; of tars all
        captioned: leave out what has no caption
        rank: number of this process (torchrun and SLURM say it)
        world: how many processes there are
        device: that encodes (default: a GPU if there is one)
    """

    output: str | None = None
    photos_per_shard: int = 1000
    captioned: bool = False
    rank: int | None = None
    world: int | None = None
    device: str | None = None


def make_shards(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    if "-h" in arguments or "--help" in arguments:
        about = "Encode the data of a recipe of stage 2 into shards."
        parser_of("python -m nuwa_lightning make-shards", Options, about=about, epilog=_EPILOG).print_help()
        return 0
    try:
        return _make_shards(arguments)
    except UsageError as error:
        raise completed(error, Options) from error.__cause__


def _make_shards(arguments: Sequence[str]) -> int:
    # Only now what takes time to import.
    import torch
    from lightning.pytorch import LightningDataModule
    from torch import nn

    from nuwa_lightning.commands.costs import make, read_recipe
    from nuwa_lightning.commands.tokenizer import TokenizerSource, open_tokenizer
    from nuwa_lightning.data.shard_making import make_shards as made
    from nuwa_lightning.data.token_shards import TokenShards
    from nuwa_lightning.data.token_windows import TokenWindowsModule

    config = read_recipe(arguments, Options)
    options = Options(**{name: config[name] for name in Options.__dataclass_fields__})
    rank, world = (
        said if said is not None else here for said, here in zip((options.rank, options.world), _place(), strict=True)
    )
    if not options.output:
        raise UsageError("output", "missing", "there is no default: name the folder of the shards")
    check_range("photos_per_shard", options.photos_per_shard, 1, 1 << 24)
    check_range("world", world, 1)
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
        device = torch.device(options.device or _device())
        if isinstance(tokenizer, nn.Module):
            tokenizer.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError("--device", options.device, " ".join(str(error).split())) from None
    folder = Path(options.output)
    complete = made(
        folder,
        parts,
        tokenizer,
        rank=rank,
        world=world,
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
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
