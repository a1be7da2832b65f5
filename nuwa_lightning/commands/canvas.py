"""``canvas``: what is done with a canvas that ``generate --canvas`` kept."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from nuwa_lightning.commands.canvas_options import Exported, Grown, Kept, Redone
from nuwa_lightning.commands.options import completed, parse
from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from nuwa_lightning.canvas.editing import FinishedCanvas

_PROG: Final = "python -m nuwa_lightning canvas"
_HELP: Final = """\
usage: {prog} ACTION FOLDER [options]

A canvas is a folder that holds the tokens of an image (a video) and how it was made; its pixels are decoded when it is
exported, as often as you like:
  python -m nuwa_lightning generate --checkpoint runs/landscape --size 4096x512 --canvas wide.canvas --output wide.png
{examples}

actions
{actions}
The pixels of an image that was given (--image) stay as they are in all of this.
{prog} ACTION --help tells the options
"""


def canvas(arguments: Sequence[str]) -> int:
    """Run ``canvas``; returns the exit status."""
    if list(arguments) in (["-h"], ["--help"]):
        actions = "".join(f"  {name:<8}{about}\n" for name, (_, _, about, _) in _ACTIONS.items())
        examples = "\n".join(f"  {_PROG} {name} wide.canvas{more}" for name, (*_, more) in _ACTIONS.items())
        sys.stdout.write(_HELP.format(prog=_PROG, actions=actions, examples=examples))
        return 0
    action, options = parsed(arguments)
    try:
        return _ACTIONS[action][0](options)
    except UsageError as error:
        from nuwa_lightning.commands.generate_options import RunOptions
        from nuwa_lightning.request import GenerationRequest

        raise completed(error, GenerationRequest, RunOptions, type(options)) from error.__cause__


def parsed(arguments: Sequence[str]) -> tuple[str, Any]:
    """Return what is to be done, and its options."""
    name = arguments[0] if arguments else "missing"
    if name not in _ACTIONS:
        raise UsageError("ACTION", name, f"give {', '.join(_ACTIONS)}; see canvas --help")
    _, kind, about, more = _ACTIONS[name]
    positional = ("folder", "output") if kind is Exported else ("folder",)
    prog, example = f"{_PROG} {name}", f"example\n  {_PROG} {name} wide.canvas{more}"
    return name, parse(kind, prog, arguments[1:], about=about, epilog=example, positional=positional)


def _opened(options: Kept) -> FinishedCanvas:
    """Return the canvas, opened by the pipeline of the run that made it."""
    from nuwa_lightning.canvas.facts import read_facts
    from nuwa_lightning.commands.generate import load
    from nuwa_lightning.hub import find_run

    folder = options.folder
    if not (folder / "canvas.json").is_file():
        raise UsageError("canvas", folder, "holds no canvas: name the folder of a canvas that was kept")
    try:
        run = options.checkpoint or str(read_facts(folder / "canvas.json").how["metadata"][0]["checkpoint"]["path"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise UsageError("canvas", folder, "does not say which run made it: name it, --checkpoint RUN") from None
    return load(replace(options, checkpoint=run), find_run(run)).open_canvas(folder, max_pixels=options.max_pixels)


def _info(options: Kept) -> int:
    with _opened(options) as found:
        sys.stdout.write(json.dumps(found.info(), indent=2, ensure_ascii=False) + "\n")
    return 0


def _export(options: Exported) -> int:
    from nuwa_lightning.commands.progress import export_bar
    from nuwa_lightning.writers import check_output

    output = options.output
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


def _grow(options: Grown) -> int:
    from nuwa_lightning.commands.making import signals
    from nuwa_lightning.commands.progress import GenerationBar

    wish: dict[str, Any] = {name: getattr(options, name) for name in ("left", "right", "up", "down", "frames")}
    steered = options.steered()
    if options.resume and (any(wish.values()) or steered or options.seed is not None):
        raise UsageError("resume", options.resume, "goes on with what was wished before: give no side beside it")
    if not 0 <= options.record_every < float("inf"):
        raise UsageError("record_every", options.record_every, "give a number of seconds from 0 up")
    with _opened(options) as found, signals() as caught:
        canvases = len(found.seeds)
        with GenerationBar(None, found.patch_pixels[0] * found.patch_pixels[1], canvases=canvases) as bar:
            bar.begin(0)
            how: dict[str, Any] = {
                "callback": bar.update,
                "record_every": options.record_every,
                "stop": lambda: bool(caught),
            }
            if options.resume:
                found.resume(**how, earlier=options.resume == "earlier")
            else:
                found.grow(**wish, seed=options.seed, options=steered, **how)
        if not found.finished:
            sys.stderr.write(f"{options.folder}: stopped; go on with canvas grow {options.folder} --resume\n")
            return 128 + caught[0]
        sys.stderr.write("{}: {}x{} pixels\n".format(options.folder, *found.size))
    return 0


def _redo(options: Redone) -> int:
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
            found.redo(boxes, seed=options.seed, frames=frames, options=options.steered(), callback=bar.update)
        sys.stderr.write(f"{options.folder}: {of} made again\n")
    return 0


def _undo(options: Kept) -> int:
    with _opened(options) as found:
        found.undo()
        sys.stderr.write("{}: {}x{} pixels, as before\n".format(options.folder, *found.size))
    return 0


def _numbers(option: str, text: str, count: int) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != count or not all(re.fullmatch(r"\s*\d{1,9}\s*", part) for part in parts):
        raise UsageError(option, text or "''", f"give {count} whole numbers from 0 up with commas")
    return tuple(map(int, parts))


_ACTIONS: Final[dict[str, tuple[Callable[[Any], int], type[Kept], str, str]]] = {
    "info": (_info, Kept, "what it is and how it was made, as JSON", ""),
    "export": (_export, Exported, "write it to a file; the suffix picks the format, as for generate", " wide.tif"),
    "grow": (
        _grow,
        Grown,
        "make patches around those that are there, which stay. Killed, it goes on with --resume; undo takes it back",
        " --right 2048 --up 256",
    ),
    "redo": (
        _redo,
        Redone,
        """make the patches that the box touches again with another seed, and exactly those that were made by looking at
          them, directly or through others; all other tokens stay equal to the bit, and so do all pixels but those so
          near that the tokenizer's decoder sees new tokens from there. --count alone says how many patches they are""",
        " --box 1024,0,1536,512 --seed 7",
    ),
    "undo": (_undo, Kept, "take the last edit back: a part made again, or growing, finished or stopped", ""),
}
"""Of each action: what runs it, its options, what it does, and the rest of an example."""
