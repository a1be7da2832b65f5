"""``canvas``: what is done with a canvas that ``generate --canvas`` kept."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuwa_lightning.commands.plain_parser import PlainParser
from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from nuwa_lightning.canvas.editing import FinishedCanvas
    from nuwa_lightning.pipeline import NuwaInfinityPipeline

_EPILOG = """\
A canvas is a folder that holds the tokens of an image (a video) and how it was made; its pixels are decoded when it is
exported, as often as you like:
  python -m nuwa_lightning generate --checkpoint runs/landscape --size 4096x512 --canvas wide.canvas --output wide.png
  python -m nuwa_lightning canvas info wide.canvas
  python -m nuwa_lightning canvas export wide.canvas wide.tif
  python -m nuwa_lightning canvas grow wide.canvas --right 2048 --up 256
  python -m nuwa_lightning canvas redo wide.canvas --box 1024,0,1536,512 --seed 7
  python -m nuwa_lightning canvas export wide.canvas wider.tif
grow    makes patches around those that are there, which stay. Killed, it goes on with --resume; undo takes it back.
redo    makes the patches that the box touches again with another seed, and exactly those that were made by looking at
        them, directly or through others; all other tokens stay equal to the bit, and so do all pixels but those so near
        that the tokenizer's decoder sees new tokens from there. --count alone says how many patches these are.
The pixels of an image that was given (--image) stay as they are in all of this.
"""


_STEERED: dict[str, Callable[[str], Any]] = {
    "prompt": str, "temperature": float, "top_k": int, "top_p": float, "guidance": float
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return the options of ``canvas``."""
    p = PlainParser(
        "python -m nuwa_lightning canvas",
        description="Export, grow and partly redo a canvas that generate --canvas kept.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = p.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        action.add_argument("folder", metavar="FOLDER", help="the canvas")
        action.add_argument("--checkpoint", metavar="RUN", help="the run that made it (default: the one it names)")
        action.add_argument("--own", metavar="CLASS", action="append", default=[], help="as for generate")
        action.add_argument("--threads", type=int, default=1, help="as for generate")
        action.add_argument("--max_pixels", type=int, help="as for generate")
        return action

    add("info", "what it is and how it was made, as JSON")
    export = add("export", "write it to a file; the suffix picks the format, as for generate")
    export.add_argument("output", metavar="OUTPUT", help=".png, .jpg, .webp, .tif, .zarr, .dzi; .mp4, .gif, .frames")
    export.add_argument("--number", type=int, help="which of several images, from 0 (default: all, as OUTPUT-0, ...)")
    export.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    grow = add("grow", "make it larger; what is there stays")
    for side in ("left", "right", "up", "down"):
        grow.add_argument(f"--{side}", type=int, default=0, metavar="PIXELS", help=f"pixels more, {side}")
    grow.add_argument("--frames", type=int, default=0, help="frames more, of a video")
    grow.add_argument("--record_every", type=float, default=10.0, help="how many seconds of work a kill may cost")
    grow.add_argument(
        "--resume", nargs="?", const="last", choices=("last", "earlier"), help="go on with growing that was stopped"
    )
    redo = add("redo", "make a part again with another seed, and exactly what depends on it")
    box_help = "in pixels of the image; give it again for several that are made together"
    redo.add_argument("--box", required=True, action="append", metavar="LEFT,TOP,RIGHT,BOTTOM", help=box_help)
    redo.add_argument("--frames", metavar="FIRST,LAST", help="of a video, the last one excluded (default: all)")
    redo.add_argument("--seed", type=int, help="another one than the canvas was made with")
    grow.add_argument("--seed", type=int, help="of what is new (default: that of the canvas)")
    for action in (grow, redo):
        for name, kind in _STEERED.items():
            action.add_argument(f"--{name}", type=kind, help="as for generate, for what is made now")
    redo.add_argument("--count", action="store_true", help="only say how many patches would be made again")
    add("undo", "take the last edit back: a part made again, or growing, finished or stopped")
    return p


def canvas(arguments: Sequence[str]) -> int:
    """Run ``canvas``; returns the exit status."""
    from nuwa_lightning.commands.generate_options import completed

    options = parser().parse_args(arguments)
    try:
        return _ACTIONS[options.action](options)
    except UsageError as error:
        if error.option in ("left", "right", "up", "down", "box", "number", "seed"):
            error.option = f"--{error.option}"
        raise completed(error) from error.__cause__


def _opened(options: argparse.Namespace) -> FinishedCanvas:
    return _pipe(options).open_canvas(options.folder, max_pixels=options.max_pixels)


def _pipe(options: argparse.Namespace) -> NuwaInfinityPipeline:
    """Return the pipeline of the run that made a canvas."""
    from nuwa_lightning.canvas.facts import read_facts
    from nuwa_lightning.commands.generate import import_own
    from nuwa_lightning.hub import find_run
    from nuwa_lightning.pipeline import NuwaInfinityPipeline

    folder = Path(options.folder)
    if not (folder / "canvas.json").is_file():
        raise UsageError("canvas", folder, "holds no canvas: name a folder that --canvas made")
    try:
        run = options.checkpoint or str(read_facts(folder / "canvas.json").how["metadata"][0]["checkpoint"]["path"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise UsageError("canvas", folder, "does not say which run made it: name it, --checkpoint RUN") from None
    own = [import_own(path) for path in options.own]
    pipe = NuwaInfinityPipeline.from_folder(find_run(run), own=own, name=run)
    pipe.threads = options.threads
    return pipe


def _info(options: argparse.Namespace) -> int:
    with _opened(options) as found:
        sys.stdout.write(json.dumps(found.info(), indent=2, ensure_ascii=False) + "\n")
    return 0


def _export(options: argparse.Namespace) -> int:
    from nuwa_lightning.commands.progress import export_bar
    from nuwa_lightning.writers import check_output

    output = Path(options.output)
    if not output.absolute().parent.is_dir():
        raise UsageError("output", output, f"the folder {output.parent} is missing: make it first")
    with _opened(options) as found:
        numbers = range(len(found.seeds)) if options.number is None else [options.number]
        paths = {number: output for number in numbers}
        if len(numbers) > 1:
            digits = len(str(len(numbers) - 1))
            paths = {n: output.with_name(f"{output.stem}-{n:0{digits}}{output.suffix}") for n in numbers}
        video = found.request.video
        for path in paths.values():
            check_output(path, overwrite=options.overwrite, video=video)
        (width, height), frames = found.size, found.frames
        for number, path in paths.items():
            with export_bar(frames if video else height, unit="frame" if video else "row") as progress:
                found.export(path, number=number, overwrite=options.overwrite, progress=progress)
            sys.stderr.write(f"{path}: {width}x{height} pixels{f', {frames} frames' if video else ''}\n")
    return 0


def _grow(options: argparse.Namespace) -> int:
    from nuwa_lightning.commands.making import signals
    from nuwa_lightning.commands.progress import GenerationBar

    wish = {name: getattr(options, name) for name in ("left", "right", "up", "down", "frames")}
    steered = _steered(options)
    if options.resume and (any(wish.values()) or steered or options.seed is not None):
        raise UsageError("resume", options.resume, "goes on with what was wished before: give no side beside it")
    if not 0 <= options.record_every < float("inf"):
        raise UsageError("record_every", options.record_every, "give a number of seconds from 0 up")
    with _opened(options) as found, signals() as caught:
        canvases = len(found.seeds)
        with GenerationBar(None, found.patch_pixels[0] * found.patch_pixels[1], canvases=canvases) as bar:
            bar.begin(0)
            how = {"callback": bar.update, "record_every": options.record_every, "stop": lambda: bool(caught)}
            if options.resume:
                found.resume(**how, earlier=options.resume == "earlier")
            else:
                found.grow(**wish, seed=options.seed, options=steered, **how)
        if not found.finished:
            sys.stderr.write(f"{options.folder}: stopped; go on with canvas grow {options.folder} --resume\n")
            return 128 + caught[0]
        sys.stderr.write("{}: {}x{} pixels\n".format(options.folder, *found.size))
    return 0


def _redo(options: argparse.Namespace) -> int:
    from nuwa_lightning.commands.progress import GenerationBar

    boxes: list[Any] = [_numbers("box", box, 4) for box in options.box]
    frames = None
    if options.frames is not None:
        first, last = _numbers("frames", options.frames, 2)
        frames = (first, last)
    with _opened(options) as found:
        count = len(found.dependents(boxes, frames=frames))
        of = f"{count} of {found.info()['patches']} patches"
        if options.count:
            sys.stderr.write(f"{options.folder}: {of} would be made again\n")
            return 0
        if options.seed is None:
            raise UsageError("seed", "nothing", f"give another one than {found.seed}")
        with GenerationBar(None, found.patch_pixels[0] * found.patch_pixels[1], canvases=len(found.seeds)) as bar:
            bar.begin(0)
            found.redo(boxes, seed=options.seed, frames=frames, options=_steered(options), callback=bar.update)
        sys.stderr.write(f"{options.folder}: {of} made again\n")
    return 0


def _undo(options: argparse.Namespace) -> int:
    with _opened(options) as found:
        found.undo()
        sys.stderr.write("{}: {}x{} pixels, as before\n".format(options.folder, *found.size))
    return 0


def _steered(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in _STEERED if (value := getattr(options, name)) is not None}


def _numbers(option: str, text: str, count: int) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != count or not all(re.fullmatch(r"\s*\d{1,9}\s*", part) for part in parts):
        raise UsageError(option, text or "''", f"give {count} whole numbers from 0 up with commas")
    return tuple(map(int, parts))


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "info": _info,
    "export": _export,
    "grow": _grow,
    "redo": _redo,
    "undo": _undo,
}
