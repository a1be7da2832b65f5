"""``python -m evaluation score-videos``: one report on folders of clips."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from nuwa_lightning.errors import UsageError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    p = commands.add_parser(
        "score-videos", parents=[common], help="score generated clips against real ones",
        description="Clips are video files, animations, or sub-folders of frames. Scored by a protocol, like images.",
    )  # fmt: skip
    p.add_argument("--real", type=Path, required=True, metavar="DIR", help="real clips")
    p.add_argument("--generated", type=Path, required=True, metavar="DIR", help="clips to score")
    p.add_argument("--protocol", default="video", metavar="FILE", help="the protocol (default: %(default)s)")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    p.add_argument("--features", metavar="CLASS", help="import path of your own network, such as my_features.I3D")
    p.add_argument("--weights", type=Path, metavar="FILE", help="its weights")
    p.add_argument("--device", default="cpu", help="where it computes (default: %(default)s)")
    p.add_argument("--skip-corrupt", action="store_true", help="leave out clips that cannot be read, and count them")
    p.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score."""
    from tqdm import tqdm

    from evaluation.record import write_report
    from evaluation.table import text_table
    from evaluation.video.clips import ClipSet
    from evaluation.video.extractors import make_clip_extractor
    from evaluation.video.score import load_video_protocol, score_videos

    if options.output is not None and not options.output.parent.is_dir():
        hint = f"the folder {options.output.parent} does not exist: make it first"
        raise UsageError("--output", str(options.output), hint)
    changes = [*options.set, *([f"features={options.features}"] if options.features else [])]
    protocol = load_video_protocol(options.protocol, changes)
    sets = [
        ClipSet(getattr(options, name), spec, option=f"--{name}", skip_corrupt=options.skip_corrupt)
        for name, spec in (("real", protocol.real), ("generated", protocol.generated))
    ]
    extractor = make_clip_extractor(protocol.features, weights=options.weights, device=options.device)
    with tqdm(desc="clips", unit="clip", disable=not sys.stderr.isatty(), leave=False) as bar:
        report = score_videos(protocol, sets[0], sets[1], extractor, progress=lambda clip: bar.update())
    if options.output is not None and not write_report(options.output, report):
        sys.stderr.write(f"{options.output} says so already and stays as it is\n")
    sys.stdout.write(text_table(report) + "\n")
    return 0
