"""``generate``: images of any size and videos of any length from a trained run."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nuwa_lightning.atomic import short_name
from nuwa_lightning.commands.generate_options import RunOptions, image_metadata, parsed
from nuwa_lightning.commands.options import ModelOptions, completed
from nuwa_lightning.commands.progress import GenerationBar, export_bar
from nuwa_lightning.environment import is_first, started_together
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256
from nuwa_lightning.hub import find_run
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.signals import beside_python

if TYPE_CHECKING:
    import torch

    from nuwa_lightning.canvas.job import Order
    from nuwa_lightning.commands.making import Job
    from nuwa_lightning.generation.renderer import InfiniteRenderer
    from nuwa_lightning.pipeline import NuwaInfinityPipeline
    from nuwa_lightning.writers.preview import GrowingPreview

_LARGE = 16 << 20
"""From so many pixels on a preview is made unasked."""
_MANY_PATCHES = 1_000_000
"""From so many patches on it is said what they take: a wide panorama has some thousands."""


def generate(arguments: Sequence[str]) -> int:
    """Run ``generate``; returns the exit status."""
    try:
        return _generate(*parsed(arguments))
    except UsageError as error:
        raise completed(error, GenerationRequest, RunOptions) from error.__cause__


def _generate(request: GenerationRequest, where: RunOptions) -> int:
    if started_together() and os.environ["RANK"] != "0":
        return _follow(request, where)
    outputs, notes = _outputs(request, where), _Notes()
    _check_formats(request, outputs, notes)
    _check_canvas(request, where, outputs)
    _check_preview(request, where, outputs)
    run = find_run(where.checkpoint)

    # Only now what takes time to import.
    from nuwa_lightning.canvas.keeping import hashes
    from nuwa_lightning.canvas.order_builder import batched
    from nuwa_lightning.commands.making import make

    pipe = _load(where, run)
    request = pipe.filled(request)
    renderer = pipe.renderer(request)
    order = pipe.builder.order(request, direction=renderer.direction, note=notes)
    how = _how(request, where, pipe, renderer, order)
    if where.from_file is not None:
        _check_same_model(where, request, how, notes)
    _check_cost(order, request, renderer, outputs[0].parent, notes)
    for seeds in pipe.batches(request):
        first = seeds[0] - request.seed
        picks = {number: outputs[number] for number in range(first, first + len(seeds))}
        job = _job(request, where, batched(order, seeds, first=first), how, picks, notes)
        if where.canvas is not None:
            kept = {"request": request.to_options(), **hashes(pipe.builder)}
            job = dataclasses.replace(job, canvas=Path(where.canvas), kept=kept, request=request)
        started = time.monotonic()
        height, width = renderer.model.patch_size
        total = None if order.grid.endless else order.grid.size * len(seeds)
        patch = height * width * pipe.tokenizer.downsample_factor**2
        with GenerationBar(total, patch, canvases=len(seeds)) as bar:

            def begun(patches: int, bar: GenerationBar = bar) -> None:
                notes.tell()
                bar.begin(patches)

            def exporting(
                count: int, unit: str, bar: GenerationBar = bar
            ) -> AbstractContextManager[Callable[[int], None]]:
                bar.close()
                return export_bar(count, unit=unit)

            outcome = make(job, renderer, pipe.tokenizer, watch=bar.update, begun=begun, export_bar=exporting)
        notes.tell()
        seconds = time.monotonic() - started
        if outcome.status:
            return outcome.status
        made = "{}x{} pixels".format(*outcome.size) + (f", {request.frames} frames" if request.video else "")
        for output in job.outputs:
            _say(f"{output}: {made}, {outcome.patches} patches, {seconds:.1f} s")
    return 0


def _follow(request: GenerationRequest, where: RunOptions) -> int:
    """Write a part of every wave, as one of several processes of which the first does all else."""
    from nuwa_lightning.canvas.job import follow
    from nuwa_lightning.canvas.order_builder import batched
    from nuwa_lightning.commands.making import signals

    pipe = _load(where, find_run(where.checkpoint))
    renderer = pipe.renderer(request)
    order = pipe.builder.order(request, direction=renderer.direction)
    with signals():  # the first process gets them, too, and says when to stop
        for seeds in pipe.batches(request):
            follow(batched(order, seeds, first=seeds[0] - request.seed), renderer)
    return 0


def _check_cost(
    order: Order, request: GenerationRequest, renderer: InfiniteRenderer, folder: Path, notes: _Notes
) -> None:
    """Of very much work say what it takes, and refuse what the machine has no room for.

    Of each patch a canvas keeps its tokens on the disk, and where they lie in memory.
    """
    patches = 0 if order.grid.endless else order.grid.size * request.count
    if patches < _MANY_PATCHES:
        return
    model = renderer.model
    height, width = model.patch_size
    room = patches * (16 + height * width * (2 if model.codebook_size <= 1 << 16 else 4))
    memory = 4 * patches // request.count
    free, owned = shutil.disk_usage(folder).free, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    takes = f"{patches:,} patches take {room / 1e9:,.1f} GB of disk for tokens and {memory / 1e9:,.1f} GB of memory"
    if room > free or memory > owned:
        hint = f"{takes}; {free / 1e9:,.1f} GB and {owned / 1e9:,.1f} GB are there: make it smaller"
        raise UsageError("size", request.canvas_size, hint)
    notes(f"note: {takes}, the output not counted; the bar says how long, and --resume goes on after a stop")


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


def _outputs(request: GenerationRequest, where: RunOptions) -> list[Path]:
    """Return the files to be made, after a look at whether that is possible."""
    from nuwa_lightning.writers import check_output

    output = Path(str(where.output))
    if not output.parent.is_dir():
        raise UsageError("output", output, f"the folder {output.parent} is missing: make it first")
    outputs = [output]
    if request.count > 1:
        digits = len(str(request.count - 1))
        outputs = [output.with_name(f"{output.stem}-{n:0{digits}}{output.suffix}") for n in range(request.count)]
    for each in outputs:
        for name, given in _files(request).items():
            if each.exists() and each.samefile(given):
                raise UsageError("output", each, f"is the file of --{name} itself: give another name")
        check_output(each, overwrite=where.overwrite or where.resume is not None, video=request.video)
    return outputs


def _check_canvas(request: GenerationRequest, where: RunOptions, outputs: Sequence[Path]) -> None:
    """Refuse a canvas that cannot be kept where it shall be."""
    if where.canvas is None:
        return
    folder = Path(where.canvas)
    if not where.canvas:
        raise UsageError("canvas", "''", "is empty: name a folder, such as wide.canvas")
    if not folder.absolute().parent.is_dir():
        raise UsageError("canvas", folder, f"the folder {folder.parent} is missing: make it first")
    if folder.absolute() in [output.absolute() for output in outputs]:
        raise UsageError("canvas", folder, "is the output: give them two names")
    if request.count > request.max_rows:
        hint = (
            f"holds what is generated side by side, here {request.max_rows} images: raise `max_rows`, or ask for fewer"
        )
        raise UsageError("canvas", folder, hint)


def _check_preview(request: GenerationRequest, where: RunOptions, outputs: Sequence[Path]) -> None:
    """Refuse a preview that cannot be written, or that would take the place of something else."""
    if where.preview in (None, "none"):
        return
    path = Path(where.preview)
    if path.suffix.lower() != ".png" or "\0" in where.preview or not path.parent.is_dir():
        raise UsageError("preview", path, "name a .png file in a folder that is there, or none")
    taken = [*outputs, *map(Path, _files(request).values())]
    if os.path.realpath(path) in [os.path.realpath(each) for each in taken]:
        raise UsageError("preview", path, "is the output, or a given file: give it a name of its own")


def _files(request: GenerationRequest) -> dict[str, str]:
    """Return the files of the request's image, mask and plan, by option."""
    image, plan = request.image, request.plan
    named = {"image": image and image.source, "mask": image and image.mask_source, "plan": plan and plan.source}
    return {name: path for name, path in named.items() if path}


def _check_formats(request: GenerationRequest, outputs: Sequence[Path], notes: _Notes) -> None:
    """Refuse what the format cannot hold before the model is loaded; note how it keeps the pixels of an image."""
    from nuwa_lightning.writers import IMAGE_WRITERS, VIDEO_WRITERS, check_format

    size, suffix = request.canvas_size, outputs[0].suffix.lower()
    for line in request.notes:
        notes(f"note: {line}")
    if request.image is not None:
        multiple = VIDEO_WRITERS[suffix].multiple if request.video else 1
        if (size.height or 0) % multiple or (size.width or 0) % multiple:
            hint = f"cannot hold the {size} pixels of the image, only even sides: use .webp, .gif or .frames"
            raise UsageError("output", outputs[0], hint)
        if request.image.transparent:
            notes(f"note: {request.image.source} is transparent in places: these are taken as white")
        if not request.video and not IMAGE_WRITERS[suffix].lossless:
            kept = "keeps given pixels only nearly as they are: .png or .tif do exactly"
            notes(f"note: {IMAGE_WRITERS[suffix].format_name} {kept}")
    for output in outputs:
        check_format(output, size.width, size.height, fps=request.fps if request.video else None)


def import_own(path: str) -> type[Any]:
    """Return the strategy or text encoder at an import path such as ``my_pools.MyPool``."""
    from nuwa_lightning.generation.local import LocalDecoder
    from nuwa_lightning.planning.context import ContextPool
    from nuwa_lightning.planning.direction import DirectionController
    from nuwa_lightning.text.base import TextEncoder
    from nuwa_lightning.tokenizers.base import is_tokenizer_class

    module, _, name = path.rpartition(".")
    try:
        inside = importlib.import_module(module)
        found = getattr(inside, name, None)
    except Exception as error:  # the file is the user's, and may do anything
        hint = f"{type(error).__name__}: {error}: name a class in a file of the working directory or of PYTHONPATH"
        raise UsageError("own", path, hint) from error
    if found is None:
        classes = sorted(key for key, value in vars(inside).items() if isinstance(value, type))
        near = difflib.get_close_matches(name, classes, 1, 0.5)
        way_out = f"did you mean {module}.{near[0]}?" if near else "name one that is there"
        raise UsageError("own", path, f"there is no class {name} in {module}; {way_out}")
    kinds = (ContextPool, DirectionController, LocalDecoder, TextEncoder)
    if not (is_tokenizer_class(found) or (isinstance(found, type) and issubclass(found, kinds))):
        hint = "is no ContextPool, DirectionController, LocalDecoder, TextEncoder or Tokenizer: derive it from one"
        raise UsageError("own", path, hint)
    return cast("type[Any]", found)


def load(options: ModelOptions, run: Path) -> NuwaInfinityPipeline:
    """Return the pipeline of a run that was found."""
    from nuwa_lightning.pipeline import NuwaInfinityPipeline

    own = [import_own(path.strip()) for paths in options.own for path in paths.split(",")]
    pipe = NuwaInfinityPipeline.from_folder(run, own=own, name=options.checkpoint)
    pipe.threads = options.threads
    return pipe


def _load(where: RunOptions, run: Path) -> NuwaInfinityPipeline:
    pipe = load(where, run)
    if started_together():
        from nuwa_lightning.generation.processes import Processes

        told = os.environ
        if is_first():
            _say(f"waiting for {told['WORLD_SIZE']} processes at {told['MASTER_ADDR']}:{told['MASTER_PORT']}")
        with beside_python(_stop_waiting):
            pipe.processes = Processes.join()
    return pipe


def _stop_waiting(number: int) -> None:
    if is_first():
        _say("stopped")
    os._exit(128 + number)


def _how(
    request: GenerationRequest, where: RunOptions, pipe: NuwaInfinityPipeline, renderer: InfiniteRenderer, order: Order
) -> dict[str, Any]:
    """Return how the image is made, for its metadata; what ``--from`` needs stands under options and checkpoint."""
    from nuwa_lightning import __version__
    from nuwa_lightning.commands.record import versions

    assert pipe.folder is not None
    written = order.coarse is not None and order.coarse.renderer is not None
    used = {"pixel_guided": request.video and pipe.pixel_guided is not None, "coarse": written}
    parts = ["model", "tokenizer", *(name for name, is_used in used.items() if is_used)]
    files = _files(request)
    said: dict[str, Any] = {name: Path(path).name for name, path in files.items()}
    if request.task == "outpaint":
        said |= {"expand": request.expand and str(request.expand), "blend": request.blend}
    if request.prompt:
        said |= {"prompt": list(request.prompt), "guidance": request.guidance_scale}
    if request.video:
        said |= {"frames": request.frames, "fps": request.fps}
    return {
        "program": "nuwa_lightning",
        "version": __version__,
        "task": request.task,
        **said,
        "size": [order.size[1], order.size[0]],
        "seed": request.seed,
        "options": request.to_options(),
        "checkpoint": {"path": where.checkpoint, **{name: _hash_of(pipe.folder / name) for name in parts}},
        "files": {name: file_sha256(path) for name, path in files.items()},
        "tokenizer": pipe.generator.tokenizer_fingerprint,
        "context_pool": repr(renderer.pool),
        "direction": repr(renderer.direction),
        "token_order": renderer.token_order,
        "versions": {**versions(), **_loops(request, renderer.model.bos.device)},
    }


def _loops(request: GenerationRequest, device: torch.device) -> dict[str, str]:
    """Return whose loops do the products: with others, last bits may differ."""
    if request.weights == "bfloat16" or device.type != "cpu":
        return {}
    from nuwa_lightning.generation.cpu_kernels import float_kernels, kernels

    found = kernels() if request.weights == "int8" else float_kernels()
    return {request.weights: "torch" if found is None else "compiled"}


def _identity(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has to stay as it is when a run goes on, under the names that the user knows."""
    said = {name: how[name] for name in ("context_pool", "direction", "token_order")}
    hashes = {f"checkpoint's {name}": known[:16] for name, known in how["checkpoint"].items() if name != "path"}
    files = {f"content of {name}": content[:16] for name, content in how["files"].items()}
    return {**how["options"], **hashes, **files, **said}


def _check_same_model(where: RunOptions, request: GenerationRequest, how: Mapping[str, Any], notes: _Notes) -> None:
    before = image_metadata(str(where.from_file))
    for name in ("model", "tokenizer", "pixel_guided", "coarse"):
        if before["checkpoint"].get(name) != how["checkpoint"].get(name):
            hint = f"made by another {name} than that in {where.checkpoint}: name its run, --checkpoint RUN"
            raise UsageError("from_file", where.from_file, hint)
    for name, path in _files(request).items():
        if before.get("files", {}).get(name, how["files"][name]) != how["files"][name]:
            raise UsageError(name, path, "is not the file that it was made with")
    for name in ("nuwa-lightning", "torch"):
        was, now = before.get("versions", {}).get(name), how["versions"][name]
        if was != now:
            notes(f"note: made with {name} {was}, this is {now}: the image may differ")


def _job(
    request: GenerationRequest,
    where: RunOptions,
    order: Order,
    how: Mapping[str, Any],
    outputs: Mapping[int, Path],
    notes: _Notes,
) -> Job:
    from nuwa_lightning.commands.making import Job

    extra: tuple[Mapping[str, Any], ...] = ({},) * len(outputs)
    if request.count > 1:
        extra = tuple({"number": number, "seed": request.seed + number} for number in outputs)
    return Job(
        order,
        tuple(outputs.values()),
        tuple({**how, **more} for more in extra),
        {**_identity(how), "numbers": [min(outputs), max(outputs)]},
        how["versions"],
        overwrite=where.overwrite,
        resume=where.resume,
        record_every=where.record_every,
        waves=request.waves,
        preview=_preview(where, order, next(iter(outputs.values()))),
        note=notes,
    )


def _preview(where: RunOptions, order: Order, output: Path) -> GrowingPreview | None:
    from nuwa_lightning.writers.preview import GrowingPreview

    if where.preview == "none" or order.video is not None:
        return None
    height, width = order.size
    if where.preview is None and height is not None and width is not None and height * width < _LARGE:
        return None
    beside = output.with_name(f"{short_name(output.name, longest=240)}.preview.png")
    path = beside if where.preview is None else Path(where.preview)
    return GrowingPreview(path, found=where.resume is not None)


def _hash_of(folder: Path) -> str:
    """Return a hash (sha256, hex) of a saved model or tokenizer."""
    return hashlib.sha256(
        "".join(file_sha256(folder / n) for n in ("config.json", "model.safetensors")).encode()
    ).hexdigest()
