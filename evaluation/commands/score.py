"""``python -m evaluation score``: one report on folders of images."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nuwa_lightning.errors import UsageError

ABOUT = """\
Score generated images (or reconstructions) against real ones.
A protocol freezes all that moves a number. Each number is printed with its interval and its floor: what real images get
against other real ones at the same number, if there are twice as many (else `floor_n` of the report)."""
EXAMPLES = """\
  python -m evaluation score --real landscape --generated SAMPLES --protocol landscape --output report.json
  python -m evaluation score --real REAL --generated SAMPLES --protocol fid --weights inception.pth
  python -m evaluation score --real landscape --original PHOTOS --reconstruction RECONSTRUCTIONS"""


@dataclass(frozen=True)
class Options:
    """What to score.

    Args:
        real: folder of real images, or "landscape" for the default photographs
        generated: folder of images to score
        reconstruction: folder of reconstructions, named as their originals
        original: folder of the originals (default: --real)
        protocol: a YAML file, or the name of one in evaluation/protocols
        set: change a setting of the protocol, such as real.count=50: another protocol then, with another hash
        features: lite0, inception (with --weights), or the import path of your own class
        weights: file of the features' weights; torch's hub cache is tried
        lpips: LPIPS itself instead of stlpips, with this trunk
        lpips_weights: file of torchvision's alexnet or vgg16
        clip: folder of a CLIP model; adds the CLIP score of captions
        device: where networks compute
        cache: folder where features are kept (default: the user's cache)
        no_cache: keep no features
        skip_corrupt: leave out files that cannot be read, and count them
        max_pixels: read images of at most so many pixels; raise it for files that you trust
        output: file to write the report to as JSON
    """

    real: str
    generated: Path | None = None
    reconstruction: Path | None = None
    original: Path | None = None
    protocol: str = "landscape"
    set: tuple[str, ...] = ()
    features: str | None = None
    weights: Path | None = None
    lpips: Literal["alex", "vgg"] | None = None
    lpips_weights: Path | None = None
    clip: Path | None = None
    device: str = "cpu"
    cache: Path | None = None
    no_cache: bool = False
    skip_corrupt: bool = False
    max_pixels: int = 200_000_000
    output: Path | None = None


def run(options: Options, command: str) -> int:
    """Score."""
    from evaluation.protocol import load_protocol
    from evaluation.score import Networks, Work, score

    check_output(options.output)
    changes = list(options.set)
    if options.features:
        changes += [f"features.name={options.features}", "features.weights_sha256=null"]
    changes += [f"perceptual=lpips-{options.lpips}"] if options.lpips else []
    changes += ["metrics.clip=true"] if options.clip else []
    report = score(
        load_protocol(options.protocol, changes),
        options.real,
        generated=options.generated,
        reconstruction=options.reconstruction,
        original=options.original,
        networks=Networks(options.weights, options.lpips_weights, options.clip, options.device),
        work=Work(options.cache, not options.no_cache, options.skip_corrupt, sys.stderr.isatty(), options.max_pixels),
    )
    report["run"]["command"] = command
    return tell(report, options.output)


def check_output(output: Path | None) -> None:
    """Refuse a report whose folder is missing, before any work."""
    if output is not None and not output.parent.is_dir():
        raise UsageError("--output", str(output), f"the folder {output.parent} does not exist: make it first")


def tell(report: Mapping[str, Any], output: Path | None) -> int:
    """Write a report where it is wanted, print it, and return the status of the command."""
    from evaluation.record import write_report
    from evaluation.table import text_table

    if output is not None and not write_report(output, report):
        sys.stderr.write(f"{output} says so already and stays as it is\n")
    sys.stdout.write(text_table(report) + "\n")
    return 0
