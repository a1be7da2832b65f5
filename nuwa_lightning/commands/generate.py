"""``generate``: pictures of any size from a trained run."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from nuwa_lightning.commands import outpaint, prompting
from nuwa_lightning.errors import UsageError

TASKS = ("unconditional", "text-to-image", "outpaint")
_SIZE = "1024x512"
_EPILOG = """\
examples
  python -m nuwa_lightning generate --checkpoint runs/landscape --size 4096x512 --seed 0 --output panorama.png
  python -m nuwa_lightning generate --checkpoint runs/landscape --size 16384x1024 --output wide.tif
  python -m nuwa_lightning generate --checkpoint runs/landscape --image in.jpg --expand left=512,down=256
  python -m nuwa_lightning generate --checkpoint runs/landscape_text --prompt "snowy mountains at dusk"
The suffix picks the format: .png, .jpg, .tif (tiled BigTIFF, for anything large). Equal commands make equal pictures.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            options = [o for action in self._actions for o in action.option_strings]
            near = difflib.get_close_matches(unknown.group(1), options, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "see generate --help"
            raise UsageError("option", unknown.group(1), f"there is no such option; {hint}")
        found = re.match(r"argument (--\w+): (.*?)(?:: '(.*)')?$", message)
        if found:
            raise UsageError(found.group(1), found.group(3) or "nothing", f"{found.group(2)}; see generate --help")
        raise UsageError("generate", message, "see generate --help")


def parser() -> argparse.ArgumentParser:
    """Return the options of ``generate``."""
    p = _Parser(
        "python -m nuwa_lightning generate",
        description="Make a picture of any size from a trained run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder of stage 2 (holds model/ and tokenizer/)"
    )
    p.add_argument("--task", metavar="TASK", help=f"one of {', '.join(TASKS)} (default: by the other options)")
    p.add_argument("--size", metavar="WxH", help=f"width and height in pixels (default: {_SIZE})")
    p.add_argument("--seed", type=int, default=0, help="equal seeds make equal pictures (default: %(default)s)")
    p.add_argument("--output", default="picture.png", metavar="FILE", help=".png, .jpg or .tif (default: %(default)s)")
    p.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    p.add_argument(
        "--temperature", type=float, default=1.0, help="below 1 calmer, above 1 wilder (default: %(default)s)"
    )
    p.add_argument("--top_k", type=int, default=50, help="draw from the k best tokens; 0 = all (default: %(default)s)")
    p.add_argument(
        "--top_p", type=float, default=1.0, help="draw from the best tokens that reach p (default: %(default)s)"
    )
    p.add_argument(
        "--order", default=None, metavar="ORDER", help="omega, omega*, zeta or zeta* (default: by the shape)"
    )
    p.add_argument(
        "--max_rows", type=int, default=64, help="patches written side by side at most (default: %(default)s)"
    )
    p.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="CLASS",
        help="your pool, direction or text encoder that the model was trained with: my_pools.MyPool; may be repeated",
    )
    outpaint.add_options(p)
    prompting.add_options(p)
    return p


def import_own(path: str) -> type[Any]:
    """Return the strategy or text encoder at an import path such as ``my_pools.MyPool``.

    Raises:
        UsageError: if there is none.
    """
    from nuwa_lightning.context import ContextPool
    from nuwa_lightning.direction import DirectionController
    from nuwa_lightning.generation.local import LocalDecoder
    from nuwa_lightning.text.base import TextEncoder

    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError("--own", path, f"{error}: name a class in a file of the working directory") from None
    if not (
        isinstance(found, type) and issubclass(found, (ContextPool, DirectionController, LocalDecoder, TextEncoder))
    ):
        cure = "is no ContextPool, DirectionController, LocalDecoder or TextEncoder: derive it from one"
        raise UsageError("--own", path, cure)
    return found


def parse_size(text: str) -> tuple[int, int]:
    """Return ``(width, height)`` in pixels.

    Raises:
        UsageError: if it is not WIDTHxHEIGHT with both at least 1.
    """
    found = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not found or min(int(v) for v in found.groups()) < 1:
        raise UsageError("--size", text, "write WIDTHxHEIGHT in pixels, both at least 1, such as 4096x512")
    return int(found.group(1)), int(found.group(2))


def generate(arguments: Sequence[str]) -> int:
    """Run ``generate``; returns the exit status."""
    options = parser().parse_args(arguments)
    task = _task(options)
    width, height = parse_size(options.size or _SIZE)
    output = Path(options.output)
    _check_output(output, overwrite=options.overwrite)

    # Only now what takes time to import.
    from nuwa_lightning.direction import ArbitraryDirectionController
    from nuwa_lightning.generation.export import load_generator
    from nuwa_lightning.generation.picture import stream_picture
    from nuwa_lightning.generation.sampling import Sampling
    from nuwa_lightning.geometry import PatchGrid
    from nuwa_lightning.tokenizers.export import load_tokenizer
    from nuwa_lightning.writers import open_writer

    run = Path(options.checkpoint)
    if not run.is_dir():
        raise UsageError("--checkpoint", run, "is no folder: name the run folder of stage 2, such as runs/landscape")
    if not (run / "model").is_dir() and (run / "tokenizer").is_dir():
        raise UsageError("--checkpoint", run, "holds a tokenizer only (stage 1): name the run folder of stage 2")
    if options.max_rows < 1:
        raise UsageError("--max_rows", options.max_rows, "must be at least 1")
    direction = None if options.order is None else ArbitraryDirectionController(options.order)
    generator = load_generator(run / "model", direction=direction, own=[import_own(path) for path in options.own])
    tokenizer = load_tokenizer(run / "tokenizer")
    if tokenizer.fingerprint() != generator.tokenizer_fingerprint:
        raise UsageError(
            "--checkpoint", run, "its tokenizer is not the one that the model was trained with: copy that one there"
        )
    sampling = Sampling(options.temperature, options.top_k, options.top_p)
    rows, columns = (n * tokenizer.factor for n in generator.model.patch_size)
    grid = PatchGrid(1, -(-height // rows), -(-width // columns))
    given, origin = None, (0, 0)
    if task == "outpaint":
        given = outpaint.given_picture(options, tokenizer, generator.model.patch_size)
        (height, width), grid, origin = given.size, given.grid, given.origin
    prompts = prompting.prompts_for(options, generator, size=(height, width), patch=(rows, columns), origin=origin)
    renderer = generator.renderer(sampling, max_rows=options.max_rows)
    metadata = {
        "program": "nuwa_lightning",
        "task": task,
        **outpaint.describe(options),
        **prompting.describe(options),
        "size": [width, height],
        "seed": options.seed,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "tokenizer": generator.tokenizer_fingerprint,
        "context_pool": repr(generator.pool),
        "direction": repr(generator.direction),
    }
    started = time.monotonic()
    with (
        open_writer(output, width, height, metadata=metadata, overwrite=options.overwrite) as writer,
        _Bar(grid.size, width * height / 1e6) as bar,
    ):
        known = given.known if given else None
        for y, x, pixels in stream_picture(
            renderer,
            tokenizer,
            grid=grid,
            seed=options.seed,
            known=known,
            prompts=prompts,
            finish=given,
            watch=bar.update,
        ):
            top, left = y - origin[0], x - origin[1]
            kept = pixels[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
            if kept.size:
                writer.write(kept, y=max(0, top), x=max(0, left))
    seconds = time.monotonic() - started
    sys.stderr.write(f"{output}: {width}x{height} pixels, {grid.size} patches, {seconds:.1f} s\n")
    return 0


def _task(options: Any) -> str:
    """Return the task that is asked for, by name or by the other options, and refuse options that belong to another."""
    outpaint.check_options(options)
    if options.task is not None and options.task not in TASKS:
        near = difflib.get_close_matches(options.task, TASKS, n=1, cutoff=0.5)
        raise UsageError("--task", options.task, f"did you mean {near[0]}?" if near else f"choose {', '.join(TASKS)}")
    usual = "outpaint" if options.image is not None else "text-to-image" if options.prompt else "unconditional"
    task: str = options.task or usual
    if task == "outpaint" and options.image is None:
        raise UsageError("--task", task, "it needs a picture: --image FILE")
    if task != "outpaint" and options.image is not None:
        raise UsageError("--task", task, "it goes on from no picture: leave --image out, or use --task outpaint")
    prompting.check_options(options, task)
    return task


def _check_output(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise UsageError("--output", output, "exists already: give --overwrite or another name")
    if not output.parent.is_dir():
        raise UsageError("--output", output, f"the folder {output.parent} is missing: make it first")


class _Bar:
    """Progress: patches, megapixels, how many at once, how many alive."""

    def __init__(self, patches: int, megapixels: float) -> None:
        from tqdm import tqdm

        self._share = megapixels / patches
        self._bar = tqdm(total=patches, unit="patch", desc="writing", dynamic_ncols=True, leave=False)

    def update(self, done: Any) -> None:
        self._bar.set_postfix_str(
            f"{(self._bar.n + 1) * self._share:.2f} Mpx, {done.wave} at once, {done.live} alive", refresh=False
        )
        self._bar.update()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
