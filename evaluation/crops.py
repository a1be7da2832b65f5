"""The crops of a protocol as files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from evaluation.images import ImageSet
from nuwa_lightning.atomic import atomic_folder
from nuwa_lightning.errors import UsageError


def write_crops(images: ImageSet, output: Path) -> int:
    """Write the crops of a set as PNG files into a new folder; return their number."""
    if not output.parent.is_dir():
        raise UsageError("--output", str(output), f"the folder {output.parent} does not exist: make it first")
    made = 0
    try:
        with atomic_folder(output) as partial:
            for crop in images.crops():
                Image.fromarray(crop).save(partial / f"{made:05d}.png")
                made += 1
    except FileExistsError as error:
        raise UsageError("--output", str(output), "exists already: give another name") from error
    return made
