"""Images of a trained run as a folder, from numbered seeds: the one place where models become images to score.

A sampler draws tokens, ours through the pipeline; what turns them into pixels, the pipeline's decoder, is the same for
all.

Shape legend: B canvases, Y/X rows and columns of tokens.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from evaluation.record import SAMPLES, samples_of
from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from nuwa_lightning.generation.pretrained import Generator
    from nuwa_lightning.generation.sampling import Sampling
    from nuwa_lightning.pipeline import NuwaInfinityPipeline
    from nuwa_lightning.request import GenerationRequest

ALIASES: Final = {
    "patches": "evaluation.sampling.PatchSampler",
    "sliding_window": "evaluation.baselines.SlidingWindowSampler",
    "masked_view": "evaluation.baselines.MaskedViewSampler",
}
"""Short names of the first version; any other sampler is named by its import path."""


class TokenSampler(Protocol):
    """Writes the tokens of canvases."""

    def tokens(self, rows: int, columns: int, seeds: Sequence[int]) -> Tensor:
        """Return ``[B, Y, X]``, one canvas a seed, at least that large."""

    @staticmethod
    def tokens_read(rows: int, columns: int, patch: tuple[int, int]) -> int:
        """Return how many tokens pass through the model for one canvas: its cost, for ``ablate --dry-run``."""


@dataclass(frozen=True)
class PatchSampler:
    """The package's own way: patch by patch through the pipeline, as ``generate`` does."""

    pipe: NuwaInfinityPipeline
    sampling: Sampling

    def tokens(self, rows: int, columns: int, seeds: Sequence[int]) -> Tensor:
        """Return ``[B, Y, X]``."""
        import torch

        factor = self.pipe.tokenizer.downsample_factor
        made = []
        for first, count in _runs(seeds):
            request = _request((rows * factor, columns * factor), first, count, self.sampling)
            made += [canvas.tokens_TYX[0] for canvas in self.pipe.generate(request, output_type="tokens").canvases]
        return torch.stack(made)

    @staticmethod
    def tokens_read(rows: int, columns: int, patch: tuple[int, int]) -> int:
        """Return the tokens of the canvas: each is read once."""
        return rows * columns


def _request(pixels: tuple[int, int], seed: int, count: int, sampling: Sampling) -> GenerationRequest:
    """Return the request for images of so many pixels, decoded in one piece."""
    from nuwa_lightning.request import GenerationRequest
    from nuwa_lightning.request_fields import Size

    height, width = pixels
    return GenerationRequest(
        size=Size(width, height), seed=seed, count=count, temperature=sampling.temperature, top_k=sampling.top_k,
        top_p=sampling.top_p, tile=max(pixels), unprompted=True,
    )  # fmt: skip


def _runs(seeds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and number of each run of seeds that follow one another.

    >>> list(_runs([3, 4, 5, 9]))
    [(3, 3), (9, 1)]
    """
    first = 0
    for end in range(1, len(seeds) + 1):
        if end == len(seeds) or seeds[end] != seeds[end - 1] + 1:
            yield seeds[first], end - first
            first = end


def sampler_class(name: str) -> Callable[[Generator, Sampling], TokenSampler]:
    """Return the class of a sampler, which is called with a generator and how tokens are drawn.

    Args:
        name: its import path, such as ``evaluation.baselines.SlidingWindowSampler``, or one of `ALIASES`.
    """
    module, _, cls = ALIASES.get(name, name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError, ValueError) as error:
        hint = f"{error}: give an import path, such as {ALIASES['sliding_window']}"
        raise UsageError("sampler", name, hint) from None
    if not callable(getattr(found, "tokens", None)) or not callable(getattr(found, "tokens_read", None)):
        raise UsageError("sampler", name, "has no tokens or tokens_read: see evaluation.sampling.TokenSampler")
    return cast("Callable[[Generator, Sampling], TokenSampler]", found)


@dataclass(frozen=True)
class SampleSpec:
    """Which images to make.

    Attributes:
        pixels: height and width.
        seeds: one for each image.
        sampler: see :func:`sampler_class`.
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
    run: Path, output: Path, spec: SampleSpec, *, tokenizer: Path | None = None, progress: bool = False
) -> dict[str, Any]:
    """Make the images that are not there yet; return what ``samples.json`` says.

    Args:
        run: folder of a finished stage-2 run.
        output: folder of the images, ``seed_000000.png`` and so on.
        spec: which images.
        tokenizer: folder of the tokenizer that decodes; by default the run's own.
        progress: show a bar on standard error.

    Raises:
        UsageError: if the run or the tokenizer is missing, they do not fit, or the folder holds images that were
            made in another way.
    """
    from nuwa_lightning.pipeline import NuwaInfinityPipeline

    if not (run / "model" / "config.json").is_file():
        raise UsageError("run", str(run), "is no folder of a finished run of stage 2: it holds no model")
    pipe = NuwaInfinityPipeline.from_folder(run, tokenizer_folder=tokenizer)
    return make_images(pipe, output, spec, progress=progress)


def make_images(
    pipe: NuwaInfinityPipeline, output: Path, spec: SampleSpec, *, progress: bool = False
) -> dict[str, Any]:
    """Make the images that are not there yet with a loaded model; see :func:`sample_folder`."""
    from tqdm import tqdm

    from nuwa_lightning.generation.sampling import Sampling

    sampling = Sampling(spec.temperature, spec.top_k)
    ours = ALIASES["patches"] in (spec.sampler, ALIASES.get(spec.sampler))
    sampler = PatchSampler(pipe, sampling) if ours else sampler_class(spec.sampler)(pipe.generator, sampling)
    table = _table(output, spec, pipe.tokenizer.fingerprint())
    wanted = [seed for seed in spec.seeds if not _file(output, seed).is_file()]
    output.mkdir(parents=True, exist_ok=True)
    with tqdm(
        total=len(wanted), desc=f"sampling {output.name}", unit="image", disable=not progress, leave=False
    ) as bar:
        for seeds in _batches(wanted, spec.batch):
            _make(pipe, sampler, output, spec, seeds, table)
            bar.update(len(seeds))
    return table


def _make(
    pipe: NuwaInfinityPipeline,
    sampler: TokenSampler,
    output: Path,
    spec: SampleSpec,
    seeds: Sequence[int],
    table: dict[str, Any],
) -> None:
    import torch
    from PIL import Image

    from nuwa_lightning.atomic import atomic_write, write_json
    from nuwa_lightning.generation.sampling import Sampling

    rows, columns = (-(-side // pipe.tokenizer.downsample_factor) for side in spec.pixels)
    started = time.monotonic()
    with torch.inference_mode():
        tokens_BYX = sampler.tokens(rows, columns, seeds)[:, :rows, :columns]
        written = time.monotonic()
        for seed, tokens_YX in zip(seeds, tokens_BYX, strict=True):
            request = _request(spec.pixels, seed, 1, Sampling(spec.temperature, spec.top_k))
            (pixels_YX3,) = pipe.decode(tokens_YX[None], request)
            with atomic_write(_file(output, seed)) as partial:
                Image.fromarray(pixels_YX3).save(partial)
    table["images"] += len(seeds)
    table["tokens"] += int(tokens_BYX.numel())
    table["seconds_tokens"] = round(table["seconds_tokens"] + written - started, 3)
    table["seconds_pixels"] = round(table["seconds_pixels"] + time.monotonic() - written, 3)
    write_json(output / SAMPLES, table)


def _table(output: Path, spec: SampleSpec, fingerprint: str) -> dict[str, Any]:
    made = {
        "size": f"{spec.pixels[1]}x{spec.pixels[0]}", "sampler": spec.sampler, "temperature": spec.temperature,
        "top_k": spec.top_k, "tokenizer": fingerprint,
    }  # fmt: skip
    if not (output / SAMPLES).is_file():
        return {**made, "images": 0, "tokens": 0, "seconds_tokens": 0.0, "seconds_pixels": 0.0}
    found = samples_of(output, option="output")
    for key, kind in (("images", int), ("tokens", int), ("seconds_tokens", float), ("seconds_pixels", float)):
        number = found.get("pictures" if key == "images" and "pictures" in found else key)
        if not isinstance(number, kind | int) or isinstance(number, bool) or not 0 <= number < 1e15:
            hint = f"is damaged ({key} is {number!r}): make the images again in another folder"
            raise UsageError("output", output / SAMPLES, hint)
    if "pictures" in found:  # the first version's word
        found["images"] = found.pop("pictures")
    for key, value in made.items():
        if found.get(key) != value:
            hint = f"holds images of {key} {found.get(key)}, not {value}: give another folder or remove it"
            raise UsageError("output", str(output), hint)
    return found


def _file(output: Path, seed: int) -> Path:
    return output / f"seed_{seed:06d}.png"


def _batches(seeds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for i in range(0, len(seeds), size):
        yield seeds[i : i + size]
