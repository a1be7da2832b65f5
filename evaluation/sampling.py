"""Pictures of a trained run as a folder, from numbered seeds: the one place where models become pictures to score.

A sampler writes tokens; what turns them into pixels is the same for all.

Shape legend: B canvases, Y/X rows and columns of tokens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from nuwa_lightning.generation.pretrained import Generator
    from nuwa_lightning.generation.sampling import Sampling

TABLE = "samples.json"
"""Beside the pictures: how they were made, and how long it took."""

SAMPLERS: Final = ("patches", "sliding_window", "masked_view")
"""Names that :func:`make_sampler` knows."""


class TokenSampler(Protocol):
    """Writes the tokens of canvases."""

    def tokens(self, rows: int, columns: int, seeds: Sequence[int]) -> Tensor:
        """Return ``[B, Y, X]``, one canvas a seed, at least that large."""


@dataclass(frozen=True)
class PatchSampler:
    """The package's own sampler: patch by patch, as the model was trained."""

    generator: Generator
    sampling: Sampling

    def tokens(self, rows: int, columns: int, seeds: Sequence[int]) -> Tensor:
        """Return ``[B, Y, X]``."""
        from nuwa_lightning.canvas.sample import sample_tokens
        from nuwa_lightning.planning.geometry import PatchGrid

        renderer = self.generator.renderer(self.sampling)
        height, width = renderer.model.patch_size
        return sample_tokens(renderer, PatchGrid(1, -(-rows // height), -(-columns // width)), seeds=seeds)


def make_sampler(name: str, generator: Generator, sampling: Sampling) -> TokenSampler:
    """Return the sampler of a name.

    Raises:
        UsageError: if there is none of that name, or the model is not one that it can write with.
    """
    if name == "patches":
        return PatchSampler(generator, sampling)
    if name == "sliding_window":
        from evaluation.rivals.sliding_window import SlidingWindowSampler

        return SlidingWindowSampler(generator, sampling)
    if name == "masked_view":
        from evaluation.rivals.masked_view import MaskedViewSampler

        return MaskedViewSampler(generator, sampling)
    raise UsageError("--sampler", name, f"choose one of {', '.join(SAMPLERS)}")


@dataclass(frozen=True)
class Order:
    """Which pictures to make.

    Attributes:
        pixels: height and width.
        seeds: one for each picture.
        sampler: see :func:`make_sampler`.
        temperature: of sampling.
        top_k: of sampling.
        batch: how many are made side by side.
    """

    pixels: tuple[int, int]
    seeds: Sequence[int]
    sampler: str = "patches"
    temperature: float = 1.0
    top_k: int = 50
    batch: int = 16


def sample_folder(
    run: Path, output: Path, order: Order, *, tokenizer: Path | None = None, progress: bool = False
) -> dict[str, Any]:
    """Make the pictures that are not there yet; return what ``samples.json`` says.

    Args:
        run: folder of a finished stage-2 run.
        output: folder of the pictures, ``seed_00000.png`` and so on.
        order: which pictures.
        tokenizer: folder of the tokenizer that decodes; by default the run's own.
        progress: show a bar on standard error.

    Raises:
        UsageError: if the run or the tokenizer is missing, they do not fit, or the folder holds pictures that were
            made in another way.
    """
    from nuwa_lightning.generation.pretrained import load_generator
    from nuwa_lightning.generation.sampling import Sampling
    from nuwa_lightning.tokenizers.pretrained import load_tokenizer

    if not (run / "model" / "config.json").is_file():
        raise UsageError("--run", str(run), "is no folder of a finished run of stage 2: it holds no model")
    generator = load_generator(run / "model")
    decoder = load_tokenizer(tokenizer or run / "tokenizer")
    if decoder.fingerprint() != generator.tokenizer_fingerprint:
        hint = "its tokens are not those that the model was trained on: name the tokenizer of the run"
        raise UsageError("--tokenizer", str(tokenizer), hint)
    sampler = make_sampler(order.sampler, generator, Sampling(order.temperature, order.top_k))
    return make_pictures(sampler, decoder, output, order, progress=progress)


def make_pictures(
    sampler: TokenSampler, decoder: Any, output: Path, order: Order, *, progress: bool = False
) -> dict[str, Any]:
    """Make the pictures that are not there yet with a loaded sampler and tokenizer; see :func:`sample_folder`."""
    from tqdm import tqdm

    table = _table(output, order, decoder.fingerprint())
    wanted = [seed for seed in order.seeds if not _file(output, seed).is_file()]
    output.mkdir(parents=True, exist_ok=True)
    with tqdm(
        total=len(wanted), desc=f"sampling {output.name}", unit="picture", disable=not progress, leave=False
    ) as bar:
        for seeds in _batches(wanted, order.batch):
            _make(sampler, decoder, output, order, seeds, table)
            bar.update(len(seeds))
    return table


def _make(
    sampler: TokenSampler, decoder: Any, output: Path, order: Order, seeds: Sequence[int], table: dict[str, Any]
) -> None:
    import torch
    from PIL import Image

    from nuwa_lightning.atomic import atomic_write, write_json
    from nuwa_lightning.canvas.decoding import to_uint8

    height, width = order.pixels
    rows, columns = (-(-side // decoder.downsample_factor) for side in order.pixels)
    started = time.monotonic()
    with torch.inference_mode():
        tokens_BYX = sampler.tokens(rows, columns, seeds)[:, :rows, :columns]
        written = time.monotonic()
        for seed, tokens_YX in zip(seeds, tokens_BYX, strict=True):
            pixels = to_uint8(decoder.decode(tokens_YX[None])[0])[:height, :width]
            with atomic_write(_file(output, seed)) as partial:
                Image.fromarray(pixels).save(partial)
    table["pictures"] += len(seeds)
    table["tokens"] += int(tokens_BYX.numel())
    table["seconds_tokens"] = round(table["seconds_tokens"] + written - started, 3)
    table["seconds_pixels"] = round(table["seconds_pixels"] + time.monotonic() - written, 3)
    write_json(output / TABLE, table)


def _table(output: Path, order: Order, fingerprint: str) -> dict[str, Any]:
    made = {
        "size": f"{order.pixels[1]}x{order.pixels[0]}", "sampler": order.sampler, "temperature": order.temperature,
        "top_k": order.top_k, "tokenizer": fingerprint,
    }  # fmt: skip
    path = output / TABLE
    if not path.is_file():
        return {**made, "pictures": 0, "tokens": 0, "seconds_tokens": 0.0, "seconds_pixels": 0.0}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key, value in made.items():
        if found.get(key) != value:
            hint = f"holds pictures of {key} {found.get(key)}, not {value}: give another folder or remove it"
            raise UsageError("--output", str(output), hint)
    return found


def _file(output: Path, seed: int) -> Path:
    return output / f"seed_{seed:06d}.png"


def _batches(seeds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for i in range(0, len(seeds), size):
        yield seeds[i : i + size]
