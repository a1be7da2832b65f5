"""Does the text matter? Measure a run of recipes/landscape_text.yaml: the numbers of docs/results.md.

    python experiments/measure_text.py runs/landscape_text --output measured_text
    python experiments/measure_text.py runs/landscape_text_video --videos --guidance 1 2 4 --count 36
    python experiments/measure_text.py runs/landscape_photos_text --retrieve

A probe, a small network trained on drawn landscapes that no model ever saw, reads the attributes (time of day, colour
of the sky, mountains, water, snow) back from images. Scored: drawn landscapes (what the probe can do at best), the
same after the tokenizer, and images generated from new captions of the twelve combinations that training never saw
("held-out") and of others ("known"), at several guidances. Shuffled: the same images against the captions of the
others, which is what chance gives. Writes ``numbers.json`` and sheets of images. Takes some minutes on two cores.

``--videos``, for a run of recipes/landscape_text_video.yaml: the same of the first and the last frame of videos of 12
frames, and how the camera moves (still, to the left, to the right), read by a second probe from frames that follow one
another; held out are 36 of the 216 combinations.

``--retrieve``, for a run with the default photographs: is a photograph likelier with its own caption than with those of
others? Tells how often its own is the likeliest of all of its half, its mean rank (1 is the likeliest), and how often
captions that are dealt to the photographs at random are as likely in the mean as their own. And are images that are
written from a caption nearer to its photograph, in coarse colours, than to others? (``--patches 3 --guidance 1 1.5``)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from nuwa_lightning.atomic import write_json
from nuwa_lightning.callbacks.sample_sheet import contact_sheet
from nuwa_lightning.canvas.decoding import to_uint8
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.data.landscape_photos import LandscapePhotos
from nuwa_lightning.data.photos import Split
from nuwa_lightning.data.reading import read_image
from nuwa_lightning.data.scenes import MOTIONS, SKIES, TIMES, Scene, all_scenes, caption, draw
from nuwa_lightning.data.synthetic_landscapes import held_out_scenes
from nuwa_lightning.generation.pretrained import Generator, load_generator
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.vqgan import VQGAN
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.tokenizers.pretrained import load_tokenizer
from nuwa_lightning.training.conditioning import Conditions, SampleText
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule

Pixels = NDArray[np.uint8]
ATTRIBUTES: dict[str, tuple[str | bool, ...]] = {
    "time": TIMES,
    "sky": SKIES,
    "mountains": (False, True),
    "water": (False, True),
    "snow": (False, True),
}


def labels(scenes: Sequence[Scene]) -> NDArray[np.int64]:
    """Return the attributes of scenes as numbers ``[scenes, attributes]``."""
    return np.array([[values.index(getattr(s, name)) for name, values in ATTRIBUTES.items()] for s in scenes])


def small(images: Sequence[Pixels]) -> Tensor:
    """Return images ``[B, 3, 32, 32]`` in [-1, 1]: the probe sees what is painted, not how finely."""
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.adaptive_avg_pool2d(images, 32)


class Probe(nn.Module):
    """Three convolutions and one linear head for each attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.GELU(), nn.Flatten()),
            *(nn.Linear(64 * 64, 128), nn.GELU()),
        )
        self.num_heads = nn.ModuleList(nn.Linear(128, len(values)) for values in ATTRIBUTES.values())

    def forward(self, images_B3YX: Tensor) -> list[Tensor]:
        """Return scores, one tensor for each attribute."""
        h = self.body(images_B3YX)
        return [head(h) for head in self.num_heads]

    @torch.no_grad()
    def read(self, images: Sequence[Pixels]) -> NDArray[np.int64]:
        """Return the attributes of images as numbers."""
        return torch.stack([scores.argmax(1) for scores in self(small(images))], dim=1).numpy()


def spotted(batch: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Return images with noise, each with its own share of ``most``."""
    share = torch.rand(len(batch), 1, 1, 1, generator=generator)
    return batch + most * share * torch.randn(batch.shape, generator=generator)


def descend(
    probe: nn.Module, loss: Callable[[Tensor, torch.Generator], Tensor], *, steps: int, count: int, batch: int
) -> None:
    """Train a probe on random ones of ``count`` examples, the learning rate falling to 0."""
    optimizer = torch.optim.AdamW(probe.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(count, (batch,), generator=generator), generator).backward()
        optimizer.step()
        schedule.step()


def train_probe(count: int, *, seed: int = 1_000_000_000, steps: int = 600) -> Probe:
    """Train the probe on ``count`` drawn landscapes of seeds that no training set has."""
    torch.manual_seed(0)
    scenes = all_scenes()
    drawn = [scenes[n % len(scenes)] for n in range(count)]
    images = small([draw(scene, seed + n, (128, 128)) for n, scene in enumerate(drawn)])
    targets = torch.from_numpy(labels(drawn))
    probe = Probe()

    def loss(chosen: Tensor, generator: torch.Generator) -> Tensor:
        batch = images[chosen]
        # Blurred and spotted at random, so that it reads colours and shapes and not the drawing's own fineness.
        blur = F.avg_pool2d(F.pad(batch, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
        batch = torch.lerp(batch, blur, torch.rand(64, 1, 1, 1, generator=generator))
        batch = spotted(batch, 0.15, generator)
        losses = [F.cross_entropy(s, targets[chosen, a]) for a, s in enumerate(probe(batch))]
        return sum(losses, torch.zeros(()))

    descend(probe, loss, steps=steps, count=len(images), batch=64)
    return probe.eval()


@dataclass(frozen=True)
class Found:
    """What was read from images or videos, or asked for.

    Attributes:
        attributes: as numbers ``[images, attributes]``.
        motion: of videos, as numbers.
    """

    attributes: NDArray[np.int64]
    motion: NDArray[np.int64] | None = None

    def rows(self, some: slice) -> Found:
        """Return that of some images."""
        return Found(self.attributes[some], None if self.motion is None else self.motion[some])

    def accuracy(self, wanted: Found) -> dict[str, float]:
        """Return the share of right answers, for each attribute and over all."""
        right = self.attributes == wanted.attributes
        if self.motion is not None and wanted.motion is not None:
            right = np.concatenate([right, (self.motion == wanted.motion)[:, None]], axis=1)
        names = [*ATTRIBUTES, "motion"][: right.shape[1]]
        each = {name: float(share) for name, share in zip(names, right.mean(0), strict=True)}
        return {**each, "mean": float(right.mean()), "all right": float(right.all(1).mean())}

    def shuffled(self, wanted: Found) -> dict[str, float]:
        """Return the same against the captions of all other images."""
        shifts = range(1, len(self.attributes))
        order = np.concatenate([np.roll(np.arange(len(self.attributes)), shift) for shift in shifts])
        other = Found(wanted.attributes[order], None if wanted.motion is None else wanted.motion[order])
        motion = None if self.motion is None else np.tile(self.motion, len(shifts))
        return Found(np.tile(self.attributes, (len(shifts), 1)), motion).accuracy(other)


class MotionProbe(nn.Module):
    """Four convolutions over two frames that follow one another, and what they see anywhere, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(2, 32, 7, padding=3), nn.GELU(), nn.Conv2d(32, 32, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.GELU(), nn.Conv2d(64, 64, 3, padding=1), nn.GELU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(MOTIONS))),
        )

    def forward(self, pairs_B2YX: Tensor) -> Tensor:
        """Return scores ``[B, motions]``."""
        scores: Tensor = self.body(pairs_B2YX)
        return scores

    @torch.no_grad()
    def read(self, videos: Sequence[Sequence[Pixels]]) -> NDArray[np.int64]:
        """Return the motion of each video as a number: what its pairs of frames say in the mean."""
        return np.array([int(self(pairs(video)).log_softmax(1).mean(0).argmax()) for video in videos])


def pairs(video: Sequence[Pixels]) -> Tensor:
    """Return the grey images ``[frames - 1, 2, 64, 64]`` of a video two by two, without mean, of deviation 1."""
    grey = F.adaptive_avg_pool2d(torch.from_numpy(np.stack(video)).float().mean(3), 64)
    two = torch.stack([grey[:-1], grey[1:]], dim=1)
    return (two - two.mean((1, 2, 3), keepdim=True)) / (two.std((1, 2, 3), keepdim=True) + 1)


def drawn_video(scene: Scene, seed: int, side: int, frames: int) -> list[Pixels]:
    """Return a video as training sees them: the middle of an image that is a little larger."""
    larger = side * 9 // 8
    rim = (larger - side) // 2
    whole = (draw(scene, seed, (larger, larger), frame=frame) for frame in range(frames))
    return [frame[rim : rim + side, rim : rim + side] for frame in whole]


def train_motion_probe(count: int, *, seed: int = 1_500_000_000, steps: int = 500) -> MotionProbe:
    """Train the probe of motion on ``count`` drawn videos of seeds that no training set has."""
    torch.manual_seed(0)
    scenes = all_scenes(motions=True)
    drawn = [scenes[n * 7 % len(scenes)] for n in range(count)]
    seen = torch.cat([pairs(drawn_video(scene, seed + n, 128, 2)) for n, scene in enumerate(drawn)])
    targets = torch.tensor([MOTIONS.index(scene.motion) for scene in drawn])
    probe = MotionProbe()

    def loss(chosen: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(probe(spotted(seen[chosen], 0.3, generator)), targets[chosen])

    descend(probe, loss, steps=steps, count=len(seen), batch=32)
    return probe.eval()


@torch.inference_mode()
def reconstruct(tokenizer: VQGAN, images: Sequence[Pixels]) -> list[Pixels]:
    """Return what the tokenizer makes of images."""
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return [to_uint8(tokenizer.decode(tokenizer.encode(image[None]))[0]) for image in images]


def generate(
    generator: Generator, tokenizer: VQGAN, texts: Sequence[str], *, guidance: float, options: argparse.Namespace
) -> list[list[Pixels]]:
    """Return the frames of a square image or video for each text; its number is its seed."""
    assert generator.text_encoder is not None
    renderer = InfiniteRenderer(
        generator.model,
        generator.pool,
        generator.direction,
        generator.token_order,
        Sampling(options.temperature, options.top_k),
    )
    made: list[list[Pixels]] = []
    grid = PatchGrid(options.frames if options.videos else 1, options.patches, options.patches)
    for start in range(0, len(texts), 24):
        some = texts[start : start + 24]
        prompts = Prompts.for_canvases(generator.model, generator.text_encoder.states, some, guidance=guidance)
        seeds = range(start, start + len(some))
        with torch.inference_mode():
            tokens = sample_tokens(renderer, grid, seeds=seeds, prompts=prompts)
            for tokens_TYX in tokens.transpose(0, 1) if options.videos else tokens[:, None]:
                made.append([to_uint8(tokenizer.decode(tokens_YX[None])[0]) for tokens_YX in tokens_TYX])
        sys.stderr.write(f"\rguidance {guidance}: {len(made)} of {len(texts)}")
    sys.stderr.write("\n")
    return made


def coarse(images: Sequence[Pixels]) -> NDArray[np.float64]:
    """Return the colours of an image's 4 x 4 parts, each number compared with its mean over images."""
    grid = F.adaptive_avg_pool2d(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).double(), 4).flatten(1).numpy()
    return np.asarray((grid - grid.mean(0)) / (grid.std(0) + 1))


def dealt_as_well(cost: NDArray[np.float64], times: int = 20_000) -> float:
    """Return how often a random assignment of columns to rows costs as little as that of each row to its own."""
    random, rows = np.random.default_rng(0), np.arange(len(cost))
    drawn = [cost[rows, random.permutation(len(cost))].mean() for _ in range(times)]
    return float(np.mean(np.array(drawn) <= np.diagonal(cost).mean()))


def match(generator: Generator, tokenizer: VQGAN, split: Split, options: argparse.Namespace) -> dict[str, float]:
    """Return how near, in coarse colours, images come to the photograph whose caption they were written from."""
    photos = LandscapePhotos().photos(split)[:12]
    seen = [np.asarray(ImageOps.fit(read_image(photo.path), (192, 192), Image.Resampling.BICUBIC)) for photo in photos]
    texts = [photo.caption for photo in photos] * options.each
    found: dict[str, float] = {}
    for guidance in options.guidance:
        made = [video[0] for video in generate(generator, tokenizer, texts, guidance=guidance, options=options)]
        Image.fromarray(contact_sheet(made[:12])).save(options.output / f"{split}_{guidance:g}.png")
        written = coarse(made).reshape(options.each, len(photos), -1).mean(0)
        cost = np.square(written[:, None] - coarse(seen)[None]).mean(2)
        ranks = 1 + (np.diagonal(cost)[:, None] > cost.T).sum(1)
        found[f"guidance {guidance:g}: mean rank of the own caption's images"] = float(ranks.mean())
        found[f"guidance {guidance:g}: captions dealt at random come as near in"] = dealt_as_well(cost)
    return found


@torch.inference_mode()
def retrieve(generator: Generator, tokenizer: VQGAN, split: Split, count: int) -> dict[str, float]:
    """Return how well captions are found by their photographs' likelihood."""
    assert generator.text_encoder is not None
    module = NuwaInfinityModule(
        generator.model.codebook_size,
        generator.model.codebook_dim,
        patch_size=generator.model.patch_size,
        transformer=generator.model.size,
        context_pool=generator.pool,
        direction=generator.direction,
        token_order=generator.token_order,
        conditions=Conditions(generator.text_encoder),
    )
    module.transformer.load_state_dict(generator.model.state_dict())
    module.eval()
    photos = LandscapePhotos().photos(split)[:count]
    texts = [
        SampleText(states[None], torch.ones(1, len(states), dtype=torch.bool))
        for states in generator.text_encoder.states([photo.caption for photo in photos])
    ]
    nll = np.zeros((len(photos), len(texts)))
    for number, photo in enumerate(photos):
        image = ImageOps.fit(read_image(photo.path), (256, 256), Image.Resampling.BICUBIC)
        image = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        tokens = tokenizer.encode(image)[:, None]
        for other, text in enumerate(texts):
            (written,) = module.draw_plans(tokens, None, text=text)
            nll[number, other] = float(module.loss(written).mean())
    own = np.diagonal(nll)
    ranks = 1 + (nll < own[:, None]).sum(1)
    return {
        "photographs": len(photos),
        "own caption is the likeliest": float((ranks == 1).mean()),
        "chance": 1 / len(photos),
        "mean rank": float(ranks.mean()),
        "mean rank by chance": (len(photos) + 1) / 2,
        "captions dealt at random are as likely in": dealt_as_well(nll),
        "nats a token with the own caption": float(own.mean()),
        "with those of others": float((nll.sum() - own.sum()) / (nll.size - len(own))),
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=Path("measured_text"))
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--count", type=int, default=96, help="of held-out combinations, and as many of others")
    parser.add_argument("--patches", type=int, default=2, help="of an image, down and across")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top_k", type=int, default=50)
    parser.add_argument("--probe_images", type=int, default=1440)
    parser.add_argument("--videos", action="store_true", help="videos, and how the camera moves")
    parser.add_argument("--frames", type=int, default=12, help="of a video")
    parser.add_argument("--each", type=int, default=4, help="images from a caption, with --retrieve")
    parser.add_argument("--retrieve", action="store_true", help="captions of photographs instead")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    generator, tokenizer = load_generator(options.run / "model"), load_tokenizer(options.run / "tokenizer")
    numbers: dict[str, object] = {}

    def tell(name: str, value: object) -> None:
        numbers[name] = value
        sys.stdout.write(f"{name}: {value}\n")
        sys.stdout.flush()

    if options.retrieve:
        for split in ("train", "val"):
            tell(f"photographs of {split}", retrieve(generator, tokenizer, split, 12))  # type: ignore[arg-type]
            tell(f"images from captions of {split}", match(generator, tokenizer, split, options))  # type: ignore[arg-type]
        write_json(options.output / "numbers.json", numbers)
        return
    probe, size = train_probe(options.probe_images), 64 * options.patches
    motion = train_motion_probe(options.probe_images // 2) if options.videos else None

    def read(videos: Sequence[Sequence[Pixels]]) -> dict[str, Found]:
        if motion is None:
            return {"": Found(probe.read([video[0] for video in videos]))}
        moved = motion.read(videos)
        return {f", frame {n + 1}": Found(probe.read([f[n] for f in videos]), moved) for n in (0, options.frames - 1)}

    out = held_out_scenes(motions=options.videos)
    known = [scene for scene in all_scenes(motions=options.videos) if scene not in out]
    # Not one after the other, so that few images show all values of every attribute.
    asked = [out[n * (7 if options.videos else 1) % len(out)] for n in range(options.count)]
    asked += [known[n * 7 % len(known)] for n in range(options.count)]
    groups = {"held-out": slice(0, options.count), "known": slice(options.count, None), "all": slice(None)}
    wanted = Found(
        labels(asked), np.array([MOTIONS.index(scene.motion) for scene in asked]) if options.videos else None
    )
    first = 2_000_000_000
    if options.videos:
        drawn = [drawn_video(scene, first + n, size, options.frames) for n, scene in enumerate(asked)]
    else:
        drawn = [[draw(scene, first + n, (size, size))] for n, scene in enumerate(asked)]
    for where, found in read(drawn).items():
        tell(f"drawn landscapes{where}", found.accuracy(wanted))
    for where, found in read([reconstruct(tokenizer, video) for video in drawn]).items():
        tell(f"drawn landscapes after the tokenizer{where}", found.accuracy(wanted))
    texts = [caption(scene, first + n) for n, scene in enumerate(asked)]
    (options.output / "prompts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    for guidance in options.guidance:
        made = generate(generator, tokenizer, texts, guidance=guidance, options=options)
        for where, found in read(made).items():
            for name, some in groups.items():
                tell(f"guidance {guidance:g}{where}, {name}", found.rows(some).accuracy(wanted.rows(some)))
            tell(f"guidance {guidance:g}{where}, shuffled", found.shuffled(wanted))
        shown = [video[:: max(1, len(video) // 6)] for video in [*made[:12], *made[options.count : options.count + 12]]]
        sheet = contact_sheet([np.concatenate(video, axis=1) for video in shown])
        Image.fromarray(sheet).save(options.output / f"guidance_{guidance:g}.png")
    write_json(options.output / "numbers.json", numbers)


if __name__ == "__main__":
    main()
