"""Measure the joint of closed canvases: is it seen more than the borders of patches inside the image?

    python experiments/measure_seam.py runs/landscape --output measured_seam [--blend 0] [--panoramas]

Makes 8 canvases of 1024 x 256 pixels closed along x (``--wrap x``), and as many open ones with the same seeds. Each is
rolled by half of its width, so that its two ends meet in the middle. The seam ratio (steps across a border over steps
inside patches, ``evaluation.seams``) is taken of the joint alone, in the two patches beside it, and of all other
vertical borders. The joint of the open ones shows what the measure says where two ends do not fit. Since a blend leaves
no step at the joint by construction, the steps within 32 pixels of it are told as well. About a minute.

``--panoramas`` says the same of real images that are closed: six 360 degree skies of Debian's package
``blender-data`` (fetched by apt without root; their middle 256 rows, at an exposure that makes half of the pixels
darker than middle grey), and of what the tokenizer makes of them on a closed canvas.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation.seams import seam_ratio
from nuwa_lightning.atomic import write_json
from nuwa_lightning.canvas.decoding import Crop, DecodedImage, SingleFrames, TileDecoder
from nuwa_lightning.canvas.image_condition import JointBlend
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.data.packages import Fetcher, Package
from nuwa_lightning.generation.pretrained import load_generator
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.pretrained import load_tokenizer

Pixels = NDArray[np.uint8]
SKIES = ("city", "courtyard", "forest", "night", "sunrise", "sunset")


@torch.inference_mode()
def canvases(
    renderer: InfiniteRenderer, tokenizer: Tokenizer, grid: PatchGrid, *, count: int, blend: int
) -> list[Pixels]:
    """Return images with seeds from 0 up, all written side by side."""
    rows, columns = renderer.model.patch_size
    assert grid.y is not None
    assert grid.x is not None
    size = (grid.y * rows, grid.x * columns)
    f = tokenizer.downsample_factor
    finish = JointBlend((size[0] * f, size[1] * f), grid.wrap, blend, f) if grid.wrap and blend else None
    tokens_BYX = sample_tokens(renderer, grid, seeds=range(count))
    images = []
    for tokens_YX in tokens_BYX:
        read = lambda a, tokens_YX=tokens_YX: tokens_YX[a.top : a.bottom, a.left : a.right]  # noqa: E731
        tiles = TileDecoder(tokenizer, size, read, wrap=grid.wrap, finish=finish)
        image = DecodedImage(tiles, Crop((size[0] * f, size[1] * f)))
        images.append(image.rows(0, image.height))
    return images


def real_panoramas() -> list[Pixels]:
    """Return real skies all around, 1024 x 256 pixels."""
    import av

    names = [f"usr/share/blender/datafiles/studiolights/world/{name}.exr" for name in SKIES]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        source = Fetcher(Path(folder))
        package = Package("blender-data", "apt", "", 0)
        archive, _ = source.fetch(package)
        for _, content in source.members(archive, names):
            with av.open(io.BytesIO(content), format="exr_pipe") as container:
                light_YX3 = next(container.decode(video=0)).to_ndarray()[128:384]
            linear_YX3 = (light_YX3 * 0.2 / np.median(light_YX3)).clip(0, 1)
            found.append((255 * linear_YX3 ** (1 / 2.2)).round().astype(np.uint8))
    return found


@torch.inference_mode()
def rebuilt(tokenizer: Tokenizer, image: Pixels) -> Pixels:
    """Return what the tokenizer makes of an image that is closed along x."""
    f, margin = tokenizer.downsample_factor, 128  # pixels, more than the encoder sees
    x_13YX = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    around_13YX = torch.cat([x_13YX[..., -margin:], x_13YX, x_13YX[..., :margin]], dim=-1)
    tokens_YX = tokenizer.encode(around_13YX)[0, :, margin // f : -margin // f]
    return SingleFrames(tokenizer, wrap="x").decode(tokens_YX, None)


def joint(image: Pixels, patch: int) -> Pixels:
    """Return the patches on both sides of the joint, side by side."""
    return np.concatenate([image[:, -patch:], image[:, :patch]], axis=1)


def around(images: list[Pixels], reach: int) -> float:
    """Return the mean step along x near the joint over that elsewhere: a line that was blurred still shows here."""
    rolled = np.roll(np.stack(images).astype(np.int16), images[0].shape[1] // 2, axis=2)
    steps = np.abs(np.diff(rolled, axis=2)).mean(axis=(0, 1, 3))
    middle = len(steps) // 2
    neighbors = np.abs(np.arange(len(steps)) - middle) < reach
    return float(steps[neighbors].mean() / steps[~neighbors].mean())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=Path("measured_seam"))
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--blend", type=int, default=16, help="as of generate")
    parser.add_argument("--columns", type=int, default=16, help="patches along x")
    parser.add_argument("--panoramas", action="store_true", help="of real ones, too (fetches 31 MB)")
    options = parser.parse_args()
    generator, tokenizer = load_generator(options.run / "model"), load_tokenizer(options.run / "tokenizer")
    renderer = generator.renderer(Sampling(1.0, 50))
    patch = generator.model.patch_size[1] * tokenizer.downsample_factor
    options.output.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, object] = {}
    sets: dict[str, list[Pixels]] = {}
    if options.panoramas:
        sets["real"] = real_panoramas()
        sets["reconstructed"] = [rebuilt(tokenizer, image) for image in sets["real"]]
    for name, wrap in (("closed", "x"), ("open", "")):
        grid = PatchGrid(1, 4, options.columns, wrap=wrap)
        sets[name] = canvases(renderer, tokenizer, grid, count=options.count, blend=options.blend)
    for name, images in sets.items():
        for number, image in enumerate(images):
            rolled = np.roll(image, image.shape[1] // 2, axis=1)
            Image.fromarray(rolled).save(options.output / f"{name}_{number}.png")
        at_joint = seam_ratio([joint(p, patch) for p in images], patch=patch, token=tokenizer.downsample_factor)
        inside = seam_ratio(images, patch=patch, token=tokenizer.downsample_factor)
        numbers[name] = {"joint": at_joint.across_x, "inside": inside.across_x, "std of all borders": inside.std}
        numbers[f"{name}: joint / inside"] = at_joint.across_x / inside.across_x
        numbers[f"{name}: steps within 32 pixels of the joint / elsewhere"] = around(images, 32)
    write_json(options.output / "numbers.json", numbers)
    for name, value in numbers.items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
