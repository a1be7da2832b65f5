"""Measure a run of recipes/landscape.yaml: the numbers of docs/results.md.

    python experiments/measure_landscape.py runs/landscape --output measured

Makes folders of images (real crops, reconstructions, samples, panoramas, extensions) with the program's own
interfaces, scores them with ``evaluation``, and writes ``measured/numbers.json``. Takes about six minutes on two cores.

Protocol: 256-pixel images. Real: 200 crops of training photos shrunk to short sides of 288 and 352 pixels. Samples:
48 for each of 3 seeds, drawn as the model says unless ``--top_k`` or ``--top_p`` is given. Held-out: centre crops of
photos that were not trained on, short sides 352 and 512. Panoramas: 16 of 1024 x 256. Extensions: 24 real crops (16
training, 8 held-out), 4 patches outwards; their seam ratio is taken over the new half and its border, and compared
with that of the tokenizer's own reconstructions.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation.collapse import collapse
from evaluation.features import Lite0Features
from evaluation.features_of import features_of
from evaluation.kid import kid, real_floor
from evaluation.reconstruction import psnr
from evaluation.seams import seam_ratio
from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.atomic import write_json
from nuwa_lightning.canvas.decoding import to_uint8
from nuwa_lightning.data.landscape_photos import LandscapePhotos
from nuwa_lightning.data.reading import read_image
from nuwa_lightning.tokenizers.base import Tokenizer

Pixels = NDArray[np.uint8]
SIDES = {"right": "omega", "left": "omega*", "down": "zeta", "up": "zeta*"}


def shrunk(path: Path, side: int) -> Image.Image:
    """Return a photo with its shorter side shrunk to ``side`` pixels."""
    photo = read_image(path, max_pixels=200_000_000)
    scale = side / min(photo.size)
    return photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)


def crops(split: str, sides: tuple[int, ...], count: int | None) -> list[Pixels]:
    """Return random 256-pixel crops (``count`` in all), or the centre of each photo at each size."""
    rng = np.random.default_rng(0)
    photos = LandscapePhotos().photos(split)  # type: ignore[arg-type]
    images = [shrunk(p.path, side) for p in photos for side in sides]
    found = []
    for i in range(count or len(images)):
        image = np.asarray(images[i % len(images)])
        spare = np.array(image.shape[:2]) - 256
        y, x = rng.integers(spare + 1) if count else spare // 2
        found.append(image[y : y + 256, x : x + 256])
    return found


def to_tensor(image: Pixels) -> torch.Tensor:
    """Return ``[1, 3, Y, X]`` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


@torch.inference_mode()
def reconstruct(tokenizer: Tokenizer, images: list[Pixels]) -> list[Pixels]:
    """Return what the tokenizer makes of images."""
    return [to_uint8(tokenizer.decode(tokenizer.encode(to_tensor(p)))[0]) for p in images]


def generated(pipe: NuwaInfinityPipeline, size: tuple[int, int], seeds: range, **ways: Any) -> list[Pixels]:
    """Return an image a seed."""
    made = pipe(size=size, seed=seeds.start, num_images_per_prompt=len(seeds), max_rows=16, **ways)
    return [np.asarray(image) for image in made.images]


@torch.inference_mode()
def extend(pipe: NuwaInfinityPipeline, images: list[Pixels], *, side: str, **ways: Any) -> list[Pixels]:
    """Return each image with 4 patches more on one side, all decoded from tokens."""
    found = []
    for seed, image in enumerate(images):
        options = {side: 256, "seed": seed, "order": SIDES[side], **ways}
        (canvas,) = pipe.outpaint(image, output_type="tokens", **options).canvases
        found.append(to_uint8(pipe.tokenizer.decode(canvas.tokens_TYX)[0]))
    return found


def new_half(image: Pixels, side: str) -> Pixels:
    """Return the new patches and one old patch beside them, so that the border is inside."""
    cut = {
        "right": np.s_[:, 192:],
        "left": np.s_[:, :320],
        "down": np.s_[192:],
        "up": np.s_[:320],
    }
    return image[cut[side]]


def save(images: list[Pixels], folder: Path) -> None:
    """Write PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=Path("measured"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--top_k", type=int)
    parser.add_argument("--top_p", type=float)
    parser.add_argument("--quick", action="store_true", help="samples and reconstructions only")
    options = parser.parse_args()
    ways = {"top_k": options.top_k, "top_p": options.top_p}
    pipe = NuwaInfinityPipeline.from_pretrained(options.run)
    tokenizer = pipe.tokenizer
    extractor = Lite0Features()

    def features(images: list[Pixels]) -> NDArray[np.float64]:
        return features_of(np.stack(images), extractor=extractor)

    real = crops("train", (288, 352), 200)
    held_out = crops("val", (352, 512), None)
    rebuilt = reconstruct(tokenizer, held_out)
    save(held_out, options.output / "held_out")
    save(rebuilt, options.output / "reconstructions")
    f_real, f_held = features(real), features(held_out)
    numbers: dict[str, object] = {
        "held-out PSNR dB": float(np.mean([psnr(a, b) for a, b in zip(held_out, rebuilt, strict=True)])),
        "held-out photos": len(held_out),
        "lite0-KID floor": real_floor(f_real, options.count).value,
        "lite0-KID held-out photos": kid(f_real, f_held).value,
        "lite0-KID held-out reconstructions": kid(f_real, features(rebuilt)).value,
        "lite0-KID training reconstructions": kid(f_real, features(reconstruct(tokenizer, real[:96]))).value,
    }
    scores = []
    for seed in range(options.seeds):
        samples = generated(pipe, (256, 256), range(1000 * seed, 1000 * seed + options.count), **ways)
        save(samples, options.output / f"samples_{seed}")
        scores.append(kid(f_real, features(samples)).value)
    numbers["lite0-KID samples"] = scores
    numbers["lite0-KID samples mean"] = float(np.mean(scores))
    if not options.quick:
        wide = generated(pipe, (1024, 256), range(16), **ways)
        save(wide, options.output / "panoramas")
        photos = LandscapePhotos().photos("train")
        found = collapse([np.asarray(shrunk(p.path, 256)) for p in photos], wide)
        numbers["collapsed panoramas of 16"] = found.collapsed
        numbers["flat windows"] = [found.flat, found.windows]
        numbers["real photos that would count as collapsed"] = [found.real_collapsed, found.real_canvases]
        start = crops("train", (288, 352), 16) + held_out[:: len(held_out) // 8][:8]
        numbers["seam ratio, reconstructions"] = asdict(seam_ratio(reconstruct(tokenizer, start)))
        for side in SIDES:
            wider = extend(pipe, start, side=side, **ways)
            save(wider, options.output / f"extended_{side}")
            numbers[f"seam ratio, {side}"] = asdict(seam_ratio([new_half(p, side) for p in wider]))
    write_json(options.output / "numbers.json", numbers)
    for name, value in numbers.items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
