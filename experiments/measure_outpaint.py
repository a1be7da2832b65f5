"""Does the border of a given photograph show? Measure all sides that a canvas can grow to: numbers of docs/results.md.

    python experiments/measure_outpaint.py runs/landscape --output measured_outpaint

Given: the middle 192 x 192 pixels of every photograph that was not trained on, shrunk to a short side of 384. Each of
the 15 combinations of sides is written 96 pixels outwards (one patch and a half, so that borders of patches and of the
image differ). Border ratio: the mean step across the given image's border over the mean step within 16 pixels of
it. The same photograph's own pixels at the same place are what it is compared with. Prints, for each combination, the
ratio of the photographs, and of what was written without and with the blend of 16 pixels, whether any given pixel
changed, and writes ``numbers.json`` and images. Three canvases of each photograph; takes about ten minutes.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from nuwa_lightning.atomic import write_json
from nuwa_lightning.canvas.decoding import to_uint8
from nuwa_lightning.canvas.image_condition import Expansion, ImageCondition
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.data.landscape_photos import LandscapePhotos
from nuwa_lightning.data.reading import read_image
from nuwa_lightning.generation.pretrained import load_generator
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.vqgan import VQGAN
from nuwa_lightning.tokenizers.pretrained import load_tokenizer

Pixels = NDArray[np.uint8]
SIDES = ("left", "right", "up", "down")
COMBINATIONS = [sides for n in range(1, 5) for sides in itertools.combinations(SIDES, n)]
WHOLE, GIVEN = 384, 192
GROWN = (WHOLE - GIVEN) // 2


def border_ratio(images: Iterable[Pixels], *, box: tuple[int, int, int, int], token: int = 8, reach: int = 16) -> float:
    """Return the mean step across the borders of a box over the mean step near them, on both sides alike.

    For what is written around a given image: the box is the image. Near 1 for photographs.

    Args:
        images: uint8 RGB images (Y, X, 3) of one size.
        box: ``(top, left, bottom, right)`` in pixels, the last two excluded. A side that is one of the image's is no
            border.
        token: side of a token in pixels; steps on the token grid outwards and inwards from a border are left out.
        reach: how many pixels on either side of a border count as near it.

    Raises:
        ValueError: if no border lies in the images, or there is no image.
    """
    top, left, bottom, right = box
    on, near_by, borders = 0.0, 0.0, 0
    for image in images:
        for axis, pair, along in ((0, (top, bottom), np.s_[:, left:right]), (1, (left, right), np.s_[top:bottom])):
            part = image[along].astype(np.int16)
            profile = np.abs(np.diff(part, axis=axis)).mean((1 - axis, 2))
            for border in (border for border in pair if 0 < border < part.shape[axis]):
                away = np.arange(1, len(profile) + 1) - border
                length = part.shape[1 - axis]
                on += length * profile[border - 1]
                near_by += length * profile[(np.abs(away) <= reach) & (away % token != 0)].mean()
                borders += 1
    if not borders:
        raise ValueError(f"no border of {box} lies in the images")
    return float(on / near_by) if near_by else (float("inf") if on else 1.0)


def photographs(count: int | None) -> list[Pixels]:
    """Return the centre squares of photographs that were not trained on."""
    found = []
    for photo in LandscapePhotos().photos("val")[:count]:
        image = read_image(photo.path, max_pixels=200_000_000)
        scale = WHOLE / min(image.size)
        image = image.resize(
            (max(WHOLE, round(image.width * scale)), max(WHOLE, round(image.height * scale))),
            Image.Resampling.BICUBIC,
        )
        left, top = ((length - WHOLE) // 2 for length in image.size)
        found.append(np.asarray(image.crop((left, top, left + WHOLE, top + WHOLE))))
    return found


@torch.inference_mode()
def grow(
    renderer: InfiniteRenderer, tokenizer: VQGAN, images: list[Pixels], grown: Expansion
) -> dict[int, list[Pixels]]:
    """Return each image on its larger canvas, by the width of the blend."""
    given = {
        blend: [
            ImageCondition(
                image, expansion=grown, tokenizer=tokenizer, patch_size=renderer.model.patch_size, blend=blend
            )
            for image in images
        ]
        for blend in (0, 16)
    }
    first = given[0][0]
    known = {patch: torch.cat([each.known[patch] for each in given[0]]) for patch in first.known}
    tokens = sample_tokens(renderer, first.grid, seeds=range(len(images)), known=known)
    decoded = [to_uint8(tokenizer.decode(each[None])[0]) for each in tokens]
    (top, left), (height, width) = first.origin, first.size
    return {
        blend: [
            each.finish(pixels, y=0, x=0)[top : top + height, left : left + width]
            for each, pixels in zip(some, decoded, strict=True)
        ]
        for blend, some in given.items()
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=Path("measured_outpaint"))
    parser.add_argument("--count", type=int, help="photographs (default: all that were held out)")
    parser.add_argument("--seeds", type=int, default=3, help="canvases a photograph")
    parser.add_argument("--top_k", type=int, default=50)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(options.run / "tokenizer")
    renderer = load_generator(options.run / "model").renderer(Sampling(1.0, options.top_k))
    photos = photographs(options.count) * options.seeds
    inner = np.s_[GROWN : GROWN + GIVEN]
    images = [np.ascontiguousarray(photo[inner, inner]) for photo in photos]
    numbers: dict[str, dict[str, float | bool]] = {}
    for sides in COMBINATIONS:
        grown = Expansion(**{side: GROWN for side in sides})
        rows = slice(GROWN - grown.up, GROWN + GIVEN + grown.down)
        columns = slice(GROWN - grown.left, GROWN + GIVEN + grown.right)
        box = (grown.up, grown.left, grown.up + GIVEN, grown.left + GIVEN)
        made = grow(renderer, tokenizer, images, grown)
        kept = all(
            np.array_equal(each[box[0] : box[2], box[1] : box[3]], image)
            for some in made.values()
            for each, image in zip(some, images, strict=True)
        )
        real = border_ratio([photo[rows, columns] for photo in photos], box=box)
        plain, blended = (border_ratio(some, box=box) for some in made.values())
        name = "+".join(sides)
        numbers[name] = {
            "photographs": real,
            "no blend": plain,
            "blend 16": blended,
            "no blend / photographs": plain / real,
            "blend 16 / photographs": blended / real,
            "given pixels unchanged": kept,
        }
        sys.stdout.write(f"{name}: {numbers[name]}\n")
        sys.stdout.flush()
        for number, each in enumerate(made[16]):
            Image.fromarray(each).save(options.output / f"{name}_{number:02d}.png")
    write_json(options.output / "numbers.json", {"canvases": len(photos), "combinations": numbers})


if __name__ == "__main__":
    main()
