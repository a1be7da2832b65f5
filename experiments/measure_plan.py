"""Measure what a coarse plan does to a run: composition, adherence, cross-entropy by place.

    python experiments/measure_plan.py runs/landscape_plan --output measured/plan
    python experiments/measure_plan.py runs/landscape --output measured/none

Panoramas: 64 of 1024 x 256 pixels, one a seed, temperature 1, drawn as the run draws; beside each its plan, for the eye
(``sheet.png``). Collapse, seams and lite0-KID of blocks of 256 pixels as in ``measure_landscape.py``. Adherence: PSNR
of a panorama shrunk four times to its own plan, and to that of another seed. Cross-entropy: all held-out windows of
the run's data, with the plan and without: the first token of the first patch, first columns of patches, everything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation.collapse import collapse
from evaluation.features import Lite0Features
from evaluation.features_of import features_of
from evaluation.kid import kid
from evaluation.reconstruction import psnr
from evaluation.seams import seam_ratio
from experiments.measure_landscape import crops, shrunk
from nuwa_lightning import GenerationRequest, NuwaInfinityPipeline
from nuwa_lightning.atomic import write_json
from nuwa_lightning.data.landscape_photos import LandscapePhotos
from nuwa_lightning.data.token_data import TokenDataModule
from nuwa_lightning.generation.coarse_plan import CoarseEncoder
from nuwa_lightning.models.nuwa_infinity import ABSENT
from nuwa_lightning.request_fields import Size
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT, BLOCK = 1024, 256, 256


def plans(pipe: NuwaInfinityPipeline, seeds: range) -> Iterator[Pixels]:
    """Yield the plans of panoramas, a quarter of the size."""
    for seed in seeds:
        order = pipe.builder.order(GenerationRequest(size=Size(WIDTH, HEIGHT), seed=seed))
        assert order.coarse is not None
        image = order.coarse.begin(order.grid, pipe.generator.model.patch_size, (seed,)).image()
        scale = order.coarse.plan.scale
        yield image[: HEIGHT // scale, : WIDTH // scale]


def small(image: Pixels, scale: int) -> Pixels:
    """Return an image shrunk as coarse plans are."""
    size = image.shape[1] // scale, image.shape[0] // scale
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def adherence(images: list[Pixels], drawn: list[Pixels], scale: int) -> dict[str, float]:
    """Return how near images are to their plans, and to those of others."""
    shown = [small(image, scale) for image in images]
    others = drawn[1:] + drawn[:1]
    own, other = ([psnr(a, b) for a, b in zip(shown, some, strict=True)] for some in (drawn, others))
    return {"own plan, dB": float(np.mean(own)), "another's, dB": float(np.mean(other))}


def sheet(images: list[Pixels], drawn: list[Pixels], path: Path) -> None:
    """Write images, each below its plan enlarged, in two columns."""
    tiles = []
    for number, image in enumerate(images):
        parts = [image]
        if drawn:
            parts.insert(
                0, np.asarray(Image.fromarray(drawn[number]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
            )
        tiles.append(np.pad(np.concatenate(parts), ((0, 12), (0, 12), (0, 0)), constant_values=255))
    lines = [np.concatenate(tiles[at : at + 2], axis=1) for at in range(0, len(tiles) // 2 * 2, 2)]
    whole = Image.fromarray(np.concatenate(lines))
    whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.LANCZOS).save(path)


@torch.inference_mode()
def entropies(pipe: NuwaInfinityPipeline, grid: tuple[int, int]) -> dict[str, float]:
    """Return the cross-entropy of held-out windows by place, with the plan and without."""
    generator, model = pipe.generator, pipe.generator.model
    module = NuwaInfinityModule(
        model.codebook_size,
        model.codebook_dim,
        patch_size=model.patch_size,
        transformer=model.size,
        context_pool=generator.pool,
        direction=generator.direction,
        token_order=generator.token_order,
        local_decoder=generator.local_decoder,
        plan=generator.plan,
    )
    module.transformer.load_state_dict(model.state_dict())
    module.eval()
    data = TokenDataModule(LandscapePhotos(), grid=grid, batch_size=4)
    data.attach_tokenizer(pipe.tokenizer)
    if generator.plan is not None:
        data.attach_coarse(CoarseEncoder(generator.plan, pipe.tokenizer))
    found: dict[str, list[Tensor]] = {}
    for batch in data.val_dataloader()[0]:
        coarse_BTYX = batch.get("coarse")
        kinds = {"": coarse_BTYX}
        if coarse_BTYX is not None:
            kinds = {"plan, ": coarse_BTYX, "absent, ": torch.full_like(coarse_BTYX, ABSENT)}
        for kind, plan_BTYX in kinds.items():
            for written in module.draw_plans(batch["tokens"], None, coarse_BTYX=plan_BTYX):
                loss_BPN = module.loss(written)
                parts = {"all": loss_BPN, "first columns": loss_BPN[:, :, : model.patch_size[0]]}
                parts["first token of the first patch"] = loss_BPN[:, :1, :1]
                for name, part in parts.items():
                    found.setdefault(kind + name, []).append(part.flatten())
    return {name: float(torch.cat(parts).mean()) for name, parts in found.items()}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=Path("measured/plan"))
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--grid", type=int, nargs=2, default=(32, 32), help="tokens of a window of the run's data")
    parser.add_argument("--quick", action="store_true", help="panoramas and adherence only")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    pipe = NuwaInfinityPipeline.from_pretrained(options.run)
    seeds = range(options.first, options.first + options.count)
    made = pipe(size=(WIDTH, HEIGHT), seed=options.first, num_images_per_prompt=options.count, max_rows=16)
    images = [np.asarray(image) for image in made.images]
    drawn = list(plans(pipe, seeds)) if pipe.coarse is not None else []
    sheet(images[:16], drawn, options.output / "sheet.png")
    numbers: dict[str, Any] = {"run": str(options.run), "seeds": [seeds.start, seeds.stop]}
    if drawn:
        assert pipe.generator.plan is not None
        numbers["adherence"] = adherence(images, drawn, pipe.generator.plan.scale)
    if not options.quick:
        photos = LandscapePhotos().photos("train")
        fell = collapse([np.asarray(shrunk(p.path, HEIGHT)) for p in photos], images)
        numbers |= {"collapsed": fell.collapsed, "flat windows": [fell.flat, fell.windows]}
        numbers["seam ratio"] = asdict(seam_ratio(images))
        blocks = [image[:, x : x + BLOCK] for image in images for x in range(0, WIDTH, BLOCK)]
        real, extractor = crops("train", (288, 352), 200), Lite0Features()
        features = (features_of(np.stack(some), extractor=extractor) for some in (real, blocks))
        numbers["lite0-KID of blocks"] = kid(*features).value
        numbers["cross-entropy"] = entropies(pipe, tuple(options.grid))
    write_json(options.output / "numbers.json", numbers)
    for name, value in numbers.items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
