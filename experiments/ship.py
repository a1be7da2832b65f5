"""Export a run as the model that comes with the package: float16 weights, the coarse model with it.

    python experiments/ship.py runs/landscape_pretrained

What decides the tokens (a tokenizer's encoder and codebook) stays in float32. The card beside it is written by hand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.hub import DEFAULT, SHIPPED


def main() -> None:
    """Export it and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=SHIPPED / DEFAULT)
    options = parser.parse_args()
    NuwaInfinityPipeline.from_pretrained(options.run).save_pretrained(options.output, dtype=torch.float16)
    for path in sorted(options.output.rglob("*")):
        if path.is_file():
            sys.stdout.write(f"{path.stat().st_size / 1e6:8.2f} MB  {path}\n")


if __name__ == "__main__":
    main()
