"""``python -m evaluation sample``: a folder of images from numbered seeds, to be scored."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    p = commands.add_parser(
        "sample", parents=[common], help="make many images of a trained run, to be scored",
        description="Makes images side by side from numbered seeds; those that are there already are kept.",
    )  # fmt: skip
    p.add_argument("--run", type=Path, required=True, metavar="RUN", dest="trained", help="run folder of stage 2")
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the images")
    p.add_argument("--size", default="256x256", metavar="WxH", help="in pixels (default: %(default)s)")
    p.add_argument("--count", type=int, default=48, help="how many (default: %(default)s)")
    p.add_argument("--first-seed", type=int, default=0, metavar="N", help="seeds N, N + 1, ... (default: %(default)s)")
    p.add_argument(
        "--sampler",
        default="patches",
        metavar="NAME",
        help="import path, such as evaluation.baselines.SlidingWindowSampler; default: patch by patch",
    )
    p.add_argument("--tokenizer", type=Path, metavar="DIR", help="that decodes (default: the run's own)")
    p.add_argument("--temperature", type=float, default=1.0, help="of sampling (default: %(default)s)")
    p.add_argument("--top_k", type=int, default=50, help="of sampling; 0 = all (default: %(default)s)")
    p.add_argument("--batch", type=int, default=16, help="images side by side (default: %(default)s)")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the images."""
    from evaluation.ablation.config import Samples
    from evaluation.sampling import SampleSpec, sample_folder
    from nuwa_lightning.errors import UsageError

    for name in ("count", "batch"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name}", getattr(options, name), "must be at least 1")
    pixels = Samples(options.size, options.count, "").pixels
    seeds = range(options.first_seed, options.first_seed + options.count)
    spec = SampleSpec(pixels, seeds, options.sampler, options.temperature, options.top_k, options.batch)
    told = sample_folder(
        options.trained, options.output, spec, tokenizer=options.tokenizer, progress=sys.stderr.isatty()
    )
    seconds = told["seconds_tokens"] + told["seconds_pixels"]
    rate = told["tokens"] / told["seconds_tokens"] if told["seconds_tokens"] else 0.0
    sys.stdout.write(f"{told['images']} images in {options.output}, {seconds:.1f} s, {rate:.0f} tokens/s\n")
    return 0
