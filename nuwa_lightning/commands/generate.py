"""``generate``: images of any size and videos of any length from a trained run."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nuwa_lightning.commands import filming, outpaint, prompting
from nuwa_lightning.commands.generate_options import (
    SIZE,
    VIDEO_SIZE,
    image_metadata,
    of_the_image,
    parse_size,
    parsed,
)
from nuwa_lightning.commands.progress import GenerationBar
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

if TYPE_CHECKING:
    from nuwa_lightning.canvas.job import Order
    from nuwa_lightning.commands.making import Job
    from nuwa_lightning.generation.pretrained import Generator
    from nuwa_lightning.generation.prompts import Prompts
    from nuwa_lightning.generation.renderer import InfiniteRenderer
    from nuwa_lightning.tokenizers.base import Tokenizer
    from nuwa_lightning.writers.preview import GrowingPreview

_LARGE = 16 << 20
"""From so many pixels on a preview is made unasked."""


def generate(arguments: Sequence[str]) -> int:
    """Run ``generate``; returns the exit status."""
    options = parsed(arguments)
    try:
        return _generate(options)
    except UsageError as error:
        if error.option in vars(options):  # an object knows its own part of the name only
            error.option = f"--{error.option}"
        raise


def _generate(options: argparse.Namespace) -> int:
    outputs = _outputs(options)
    notes = _Notes()
    _check_formats(options, outputs, notes)
    run = Path(options.checkpoint)
    _check_run(run)

    # Only now what takes time to import.
    from nuwa_lightning.commands.making import make

    generator, tokenizer = _load(options, run)
    if filming.is_video(options, options.task):
        filming.check_trained(options, generator)
    renderer = _renderer(options, generator)
    order = _order(options, generator, tokenizer, notes)
    order = dataclasses.replace(order, prompts=_prompts(options, generator, tokenizer, order))
    how = _how(options, run, generator, order)
    if options.from_file is not None:
        _check_same_model(options, how, notes)
    for first in range(0, options.count, options.max_rows):
        picks = range(first, min(first + options.max_rows, options.count))
        job = _job(options, order, how, {number: outputs[number] for number in picks}, notes)
        started = time.monotonic()
        patch = generator.model.patch_size[0] * generator.model.patch_size[1] * tokenizer.downsample_factor**2
        total = None if order.grid.endless else order.grid.size * len(picks)
        with GenerationBar(total, patch, canvases=len(picks)) as bar:

            def begun(patches: int, bar: GenerationBar = bar) -> None:
                notes.tell()
                bar.begin(patches)

            outcome = make(job, renderer, tokenizer, watch=bar.update, begun=begun)
        notes.tell()
        seconds = time.monotonic() - started
        if outcome.status:
            return outcome.status
        width, height = outcome.size
        for output in job.outputs:
            frames = f"{options.frames} frames, " if order.video else ""
            _say(f"{output}: {width}x{height} pixels, {frames}{outcome.patches} patches, {seconds:.1f} s")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


class _Notes:
    """Lines for the user, held back until everything is checked: what is refused is told in one line."""

    def __init__(self) -> None:
        self._held: list[str] | None = []

    def __call__(self, line: str) -> None:
        """Hold a line back, or say it once the others are said."""
        if self._held is None:
            _say(line)
        else:
            self._held.append(line)

    def tell(self) -> None:
        """Say what was held back."""
        for line in self._held or ():
            _say(line)
        self._held = None


def _outputs(options: argparse.Namespace) -> list[Path]:
    """Return the files to be made, after a look at whether that is possible."""
    from nuwa_lightning.writers import check_output

    output = Path(options.output)
    if not output.parent.is_dir():
        raise UsageError("--output", output, f"the folder {output.parent} is missing: make it first")
    outputs = [output]
    if options.count > 1:
        digits = len(str(options.count - 1))
        outputs = [output.with_name(f"{output.stem}-{n:0{digits}}{output.suffix}") for n in range(options.count)]
    for each in outputs:
        for name in ("image", "mask"):
            given = getattr(options, name)
            if given is not None and each.exists() and Path(given).exists() and each.samefile(given):
                raise UsageError("--output", each, f"is the file of --{name} itself: give another name")
        check_output(
            each,
            overwrite=options.overwrite or options.resume is not None,
            video=filming.is_video(options, options.task),
        )
    return outputs


def _check_formats(options: argparse.Namespace, outputs: Sequence[Path], notes: _Notes) -> None:
    """Refuse what the format cannot hold, and a ``--blend`` that is too wide, before the model is loaded."""
    from nuwa_lightning.writers import check_format

    video = filming.is_video(options, options.task)
    width, height = parse_size(options.size or (VIDEO_SIZE if video else SIZE))
    if options.image is not None:
        width, height = sides = outpaint.canvas_size(options)
        if video:
            filming.check_sides(options, *sides)
        for note in outpaint.notes(options):
            notes(note)
    closed = [side for name, side in (("x", width), ("y", height)) if side is not None and name in options.wrap]
    if closed and options.blend > max(min(closed) // 4, outpaint.BLEND):
        hint = f"reaches over a quarter of the closed side of {min(closed)} pixels: give {min(closed) // 4} or less"
        raise UsageError("--blend", options.blend, hint)
    for output in outputs:
        check_format(output, width, height, fps=options.fps if video else None)


def _check_run(run: Path) -> None:
    if not run.is_dir():
        raise UsageError("--checkpoint", run, "is no folder: name the run folder of stage 2, such as runs/landscape")
    if not (run / "model").is_dir() and (run / "tokenizer").is_dir():
        raise UsageError("--checkpoint", run, "holds a tokenizer only (stage 1): name the run folder of stage 2")
    if (run / "model").is_dir() and not (run / "tokenizer").is_dir():
        hint = "holds no tokenizer, which comes at the end of training: let fit come to its end (--ckpt_path last)"
        raise UsageError("--checkpoint", run, hint)


def import_own(path: str) -> type[Any]:
    """Return the strategy or text encoder at an import path such as ``my_pools.MyPool``.

    Raises:
        UsageError: if there is none.
    """
    from nuwa_lightning.generation.local import LocalDecoder
    from nuwa_lightning.planning.context import ContextPool
    from nuwa_lightning.planning.direction import DirectionController
    from nuwa_lightning.text.base import TextEncoder
    from nuwa_lightning.tokenizers.base import is_tokenizer_class

    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError("--own", path, f"{error}: name a class in a file of the working directory") from None
    kinds = (ContextPool, DirectionController, LocalDecoder, TextEncoder)
    if not (is_tokenizer_class(found) or (isinstance(found, type) and issubclass(found, kinds))):
        hint = "is no ContextPool, DirectionController, LocalDecoder, TextEncoder or Tokenizer: derive it from one"
        raise UsageError("--own", path, hint)
    return cast("type[Any]", found)


def _load(options: argparse.Namespace, run: Path) -> tuple[Generator, Tokenizer]:
    from nuwa_lightning.generation.pretrained import load_generator
    from nuwa_lightning.planning.direction import ArbitraryDirectionController
    from nuwa_lightning.tokenizers.pretrained import load_tokenizer

    direction = None if options.order is None else ArbitraryDirectionController(options.order)
    own = [import_own(path) for path in options.own]
    generator = load_generator(run / "model", direction=direction, own=own)
    tokenizer = load_tokenizer(run / "tokenizer", option="--checkpoint", own=own)
    if tokenizer.fingerprint() != generator.tokenizer_fingerprint:
        raise UsageError(
            "--checkpoint", run, "its tokenizer is not the one that the model was trained with: copy that one there"
        )
    return generator, tokenizer


def _renderer(options: argparse.Namespace, generator: Generator) -> InfiniteRenderer:
    from nuwa_lightning.generation.fast_transformer import Precision
    from nuwa_lightning.generation.sampling import Sampling

    return generator.renderer(
        Sampling(options.temperature, options.top_k, options.top_p),
        max_rows=options.max_rows,
        precision=Precision(options.weights, options.cache),
    )


def _order(options: argparse.Namespace, generator: Generator, tokenizer: Tokenizer, notes: _Notes) -> Order:
    """Return what is to be made, as if there were one canvas."""
    from nuwa_lightning.canvas.job import Order
    from nuwa_lightning.canvas.joint import JointBlend
    from nuwa_lightning.planning.geometry import PatchGrid

    if options.task == "outpaint":
        given = outpaint.given_image(options, tokenizer, generator.model.patch_size)
        return Order(
            given.grid,
            (options.seed,),
            given.size,
            origin=given.origin,
            known=given.known,
            finish=given,
            tile=options.tile,
        )
    if options.task == "animate":
        return filming.animation(options, tokenizer, generator.model.patch_size)
    video = filming.video(options, tokenizer) if filming.is_video(options, options.task) else None
    size = options.size or (VIDEO_SIZE if video else SIZE)
    width, height = parse_size(size)
    rows, columns = (n * tokenizer.downsample_factor for n in generator.model.patch_size)
    down, across = (
        None if length is None else -(-length // side) for length, side in ((height, rows), (width, columns))
    )
    for name, length, side, patches in (("x", width, columns, across), ("y", height, rows, down)):
        if length is None or patches is None:
            continue
        if name in options.wrap:
            whole = math.lcm(side, tokenizer.step * tokenizer.downsample_factor)
            if length % whole:
                near = f"{length // whole * whole} or {-(-length // whole) * whole}" if length > whole else f"{whole}"
                hint = f"a closed side is a multiple of {whole} pixels (whole patches): give {near}"
                raise UsageError("--size", size, hint)
        elif length != patches * side:
            made = patches * side
            notes(f"note: {length} pixels along {name} are no multiple of {side}: {made} are made, and cropped")
    grid = PatchGrid(options.frames if video else 1, down, across, wrap=options.wrap)
    if grid.endless and not generator.direction.supports_endless(grid):
        hint = f"{generator.direction!r} cannot fill it: give that side a length, or choose another --order"
        raise UsageError("--size", options.size, hint)
    joint = JointBlend((height, width), options.wrap, options.blend, tokenizer.downsample_factor)
    finish = joint if options.wrap and options.blend and video is None else None
    return Order(grid, (options.seed,), (height, width), tile=options.tile, video=video, finish=finish)


def _prompts(options: argparse.Namespace, generator: Generator, tokenizer: Tokenizer, order: Order) -> Prompts | None:
    """Return what the patches of one canvas read."""
    height, width = (sys.maxsize if length is None else length for length in order.size)
    rows, columns = (cells * tokenizer.downsample_factor for cells in generator.model.patch_size)
    return prompting.prompts_for(options, generator, size=(height, width), patch=(rows, columns), origin=order.origin)


def _how(options: argparse.Namespace, run: Path, generator: Generator, order: Order) -> dict[str, Any]:
    """Return how the image is made, for its metadata; what ``--from`` needs stands under options and checkpoint."""
    from nuwa_lightning import __version__
    from nuwa_lightning.commands.record import versions

    parts = ["model", "tokenizer"]
    if order.video is not None and filming.guided_folder(options) is not None:
        parts.append("pixel_guided")
    checkpoint = {name: _hash_of(run / name) for name in parts}
    return {
        "program": "nuwa_lightning",
        "version": __version__,
        "task": options.task,
        **outpaint.describe(options),
        **prompting.describe(options),
        **filming.describe(options),
        "size": [order.size[1], order.size[0]],
        "seed": options.seed,
        "options": of_the_image(options),
        "checkpoint": {"path": str(run), **checkpoint},
        "files": {name: file_sha256(path) for name in ("image", "mask") if (path := getattr(options, name))},
        "tokenizer": generator.tokenizer_fingerprint,
        "context_pool": repr(generator.pool),
        "direction": repr(generator.direction),
        "token_order": generator.token_order,
        "versions": {**versions(), **_loops(options)},
    }


def _loops(options: argparse.Namespace) -> dict[str, str]:
    """Return whose loops work in int8: with others, last bits may differ."""
    if options.weights != "int8":
        return {}
    from nuwa_lightning.generation.cpu_kernels import kernels

    return {"int8": "torch" if kernels() is None else "compiled"}


def _identity(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has to stay as it is when a run goes on, under the names that the user knows."""
    said = {name: how[name] for name in ("context_pool", "direction", "token_order")}
    hashes = {f"checkpoint's {name}": known[:16] for name, known in how["checkpoint"].items() if name != "path"}
    files = {f"content of {name}": content[:16] for name, content in how["files"].items()}
    return {**how["options"], **hashes, **files, **said}


def _check_same_model(options: argparse.Namespace, how: Mapping[str, Any], notes: _Notes) -> None:
    before = image_metadata(options.from_file)
    for name in ("model", "tokenizer", "pixel_guided"):
        if before["checkpoint"].get(name) != how["checkpoint"].get(name):
            hint = f"made by another {name} than that in {options.checkpoint}: name its run, --checkpoint RUN"
            raise UsageError("--from", options.from_file, hint)
    for name, content in how["files"].items():
        if before.get("files", {}).get(name, content) != content:
            raise UsageError(f"--{name}", getattr(options, name), "is not the file that it was made with")
    for name in ("nuwa-lightning", "torch"):
        was, now = before.get("versions", {}).get(name), how["versions"][name]
        if was != now:
            notes(f"note: made with {name} {was}, this is {now}: the image may differ")


def _job(
    options: argparse.Namespace, order: Order, how: Mapping[str, Any], outputs: Mapping[int, Path], notes: _Notes
) -> Job:
    from nuwa_lightning.commands.making import Job

    seeds = tuple(options.seed + number for number in outputs)
    known = {patch: tokens.expand(len(seeds), -1, -1) for patch, tokens in order.known.items()}
    prompts = order.prompts
    if prompts is not None:  # what one canvas reads, all of them do
        choose, copies = prompts.choose, len(seeds)
        prompts = dataclasses.replace(prompts, choose=lambda patch: tuple(choose(patch)) * copies)
    extra: tuple[Mapping[str, Any], ...] = ({},) * len(seeds)
    if options.count > 1:
        extra = tuple({"number": number, "seed": options.seed + number} for number in outputs)
    return Job(
        dataclasses.replace(order, seeds=seeds, known=known, prompts=prompts),
        tuple(outputs.values()),
        tuple({**how, **more} for more in extra),
        {**_identity(how), "numbers": [min(outputs), max(outputs)]},
        how["versions"],
        overwrite=options.overwrite,
        resume=options.resume,
        record_every=options.record_every,
        waves=options.waves,
        preview=_preview(options, order, next(iter(outputs.values()))),
        note=notes,
    )


def _preview(options: argparse.Namespace, order: Order, output: Path) -> GrowingPreview | None:
    from nuwa_lightning.writers.preview import GrowingPreview

    if options.preview == "none" or order.video is not None:
        return None
    height, width = order.size
    if options.preview is None and height is not None and width is not None and height * width < _LARGE:
        return None
    path = output.with_name(f"{output.name}.preview.png") if options.preview is None else Path(options.preview)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise UsageError("--preview", path, "name a .png file in a folder that is there, or none")
    return GrowingPreview(path, found=options.resume is not None)


def _hash_of(folder: Path) -> str:
    """Return a hash (sha256, hex) of a saved model or tokenizer."""
    return hashlib.sha256(
        "".join(file_sha256(folder / n) for n in ("config.json", "model.safetensors")).encode()
    ).hexdigest()
