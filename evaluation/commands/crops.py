"""``python -m evaluation crops``: crops of photographs as files, the same ones every time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command and its options."""
    p = commands.add_parser(
        "crops", parents=[common], help="write the real crops of a protocol as files",
        description="Writes the crops that a protocol takes of real images, to look at or to score elsewhere.",
    )  # fmt: skip
    p.add_argument("--photos", required=True, metavar="DIR", help="photographs, or 'landscape' for the default ones")
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    p.add_argument("--protocol", default="landscape", metavar="FILE", help="the protocol (default: %(default)s)")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting, such as real.count=50"
    )
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Cut and write."""
    from evaluation.crops import write_crops
    from evaluation.protocol import load_protocol
    from evaluation.real_images import real_images

    spec = load_protocol(options.protocol, options.set).real
    made = write_crops(real_images(options.photos, spec, option="--photos"), options.output)
    sys.stdout.write(f"{made} crops in {options.output}\n")
    return 0
