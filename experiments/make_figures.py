"""Make the images of docs/results.md from fixed seeds, into ``docs/``: all are generated, none is a photograph.

python experiments/make_figures.py runs/landscape
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from nuwa_lightning import NuwaInfinityPipeline

DOCS: Final = Path(__file__).parents[1] / "docs"
GAP: Final = 8
PROMPTS: Final = (
    "snowy mountains and a lake at dusk, under a red sky",
    "flat ground by day, under a blue sky",
    "mountains at night",
    "snow-covered flat ground and a lake by day",
)


def sheet(images: list[Image.Image], columns: int, name: str) -> None:
    """Write images of one size side by side."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    made = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for number, image in enumerate(images):
        made.paste(image, (number % columns * (width + GAP), number // columns * (height + GAP)))
    made.save(DOCS / name, quality=85)


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="of recipes/landscape.yaml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = NuwaInfinityPipeline.from_pretrained(options.run)
    panoramas = pipe(size=(1024, 256), seed=1000, num_images_per_prompt=8).images
    sheet([image.resize((512, 128), Image.Resampling.LANCZOS) for image in panoramas], 2, "results_panoramas.jpg")

    package = NuwaInfinityPipeline.from_pretrained("landscape")
    given = package(size=(256, 256), seed=3).images[0]
    around = package.outpaint(given, left=256, right=256, up=128, down=128, seed=3).images[0]
    ImageDraw.Draw(around).rectangle((255, 127, 512, 384), outline="white")
    around.save(DOCS / "results_outpainting.jpg", quality=85)

    texts = NuwaInfinityPipeline.from_pretrained("landscape_text")
    read = [texts(prompt=prompt, size=(128, 128), guidance_scale=4, seed=seed) for prompt in PROMPTS for seed in (0, 1)]
    sheet([one.images[0] for one in read], 4, "results_text.jpg")

    moving, dusk = NuwaInfinityPipeline.from_pretrained("landscape_video"), package(size=(256, 256), seed=10).images[0]
    frames = np.asarray(moving.animate(dusk.resize((128, 128)), frames=33, seed=0).frames[0])
    sheet([Image.fromarray(frames[at]) for at in (0, 4, 8, 16, 32)], 5, "results_video.jpg")


if __name__ == "__main__":
    main()
