"""Time and peak memory of writing an image of any size, one format a process (docs/formats.md shows the table).

Usage: python experiments/measure_export.py .tif 100000 8192
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from nuwa_lightning.writers import write_image
from nuwa_lightning.writers.base import Pixels


class SoftNoise:
    """Slopes with three bits of noise: packs about as well as a photograph."""

    band = 64

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._noise_X3 = np.random.default_rng(0).integers(0, 8, (width + 997, 3), np.uint8)

    def rows(self, start: int, stop: int) -> Pixels:
        """Return a band of rows."""
        y, x = np.arange(start, stop)[:, None], np.arange(self.width)
        slope_YX = ((x // 7 + y // 5) % 256).astype(np.uint8)
        band_YX3 = np.stack([slope_YX, slope_YX[:, ::-1], 255 - slope_YX], axis=-1)
        for row, at in enumerate(range(start, stop)):
            band_YX3[row] += self._noise_X3[at * 31 % 997 :][: self.width]
        return band_YX3


def main() -> None:
    """Write once and print a row of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suffix")
    parser.add_argument("width", type=int)
    parser.add_argument("height", type=int)
    options = parser.parse_args()
    source = SoftNoise(options.width, options.height)
    source.rows(0, source.band)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image{options.suffix}"
        start = time.monotonic()
        write_image(source, path)
        seconds = time.monotonic() - start
        size = sum(found.stat().st_size for found in Path(folder).rglob("*") if found.is_file()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    figures = [options.suffix, f"{options.width}x{options.height}", f"{seconds:.0f} s", f"{size:.0f} MB", before, peak]
    sys.stdout.write(f"| {' | '.join(map(str, figures))} |\n")


if __name__ == "__main__":
    main()
