"""``python -m evaluation sample``: a folder of images from numbered seeds, to be scored."""

import sys
from dataclasses import dataclass
from pathlib import Path

ABOUT = "Make images of a trained run side by side from numbered seeds, to be scored; those that are there are kept."
EXAMPLES = "  python -m evaluation sample --run runs/landscape --output SAMPLES --size 256x256 --count 48"


@dataclass(frozen=True)
class Options:
    """Which images.

    Args:
        run: run folder of stage 2
        output: folder of the images
        size: width and height in pixels, as 256x256
        count: how many
        first_seed: seeds N, N + 1, ...
        sampler: import path, such as evaluation.baselines.SlidingWindowSampler; patches: as generate does
        tokenizer: folder of the one that decodes (default: the run's own)
        temperature: below 1 calmer, above 1 wilder; 0 takes the best token
        top_k: draw from the k best tokens; 0 = all
        batch: images side by side
    """

    run: Path
    output: Path
    size: str = "256x256"
    count: int = 48
    first_seed: int = 0
    sampler: str = "patches"
    tokenizer: Path | None = None
    temperature: float = 1.0
    top_k: int = 50
    batch: int = 16


def run(options: Options, command: str) -> int:
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
    told = sample_folder(options.run, options.output, spec, tokenizer=options.tokenizer, progress=sys.stderr.isatty())
    seconds = told["seconds_tokens"] + told["seconds_pixels"]
    rate = told["tokens"] / told["seconds_tokens"] if told["seconds_tokens"] else 0.0
    sys.stdout.write(f"{told['images']} images in {options.output}, {seconds:.1f} s, {rate:.0f} tokens/s\n")
    return 0
