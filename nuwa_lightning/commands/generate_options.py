"""The options of ``generate``, and how an image that was made gives them back."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nuwa_lightning.commands import filming, outpaint, prompting
from nuwa_lightning.errors import UsageError

TASKS = ("unconditional", "text-to-image", "outpaint", "animate", "text-to-video")
SIZE = "1024x512"
VIDEO_SIZE = "256x256"
_EPILOG = """\
examples
  python -m nuwa_lightning generate --checkpoint runs/landscape --size 4096x512 --seed 0 --output panorama.png
  python -m nuwa_lightning generate --checkpoint runs/landscape --size 16384x1024 --output wide.tif
  python -m nuwa_lightning generate --checkpoint runs/landscape --size 4096x512 --wrap x --output around.png
  python -m nuwa_lightning generate --checkpoint runs/landscape --size x1024 --output endless.tif
  python -m nuwa_lightning generate --checkpoint runs/landscape --image in.jpg --expand left=512,down=256
  python -m nuwa_lightning generate --checkpoint runs/landscape_text --prompt "snowy mountains at dusk"
  python -m nuwa_lightning generate --from panorama.png --output again.png
  python -m nuwa_lightning generate --checkpoint runs/landscape_video --image in.jpg --frames 40 --output video.mp4
  python -m nuwa_lightning generate --checkpoint runs/landscape_video --size 256x256 --frames 40 --output video.mp4
The suffix picks the format: .png, .jpg, and for anything large .tif (BigTIFF), .zarr (OME-Zarr) or .dzi (Deep Zoom);
of videos .mp4, .gif, .webp or .frames (a folder of PNG files).
Equal commands make equal images.
What is killed goes on where it was: the same command with --resume.
"""

OF_THE_RUN = (
    "checkpoint",
    "output",
    "overwrite",
    "resume",
    "from_file",
    "record_every",
    "preview",
    "own",
    "max_pixels",
)
"""Options that say nothing about the image itself, or must not come out of a file (``own`` imports code, and
``max_pixels`` is a matter of trust)."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)(?:[= ](?!--)(.*))?", message, re.DOTALL)
        if unknown:
            options = [o for action in self._actions for o in action.option_strings]
            near = difflib.get_close_matches(unknown.group(1), options, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "see generate --help"
            raise UsageError(unknown.group(1), unknown.group(2) or "unknown", f"there is no such option; {hint}")
        found = re.match(r"argument (--\w+): (.*?)(?:: '(.*)')?$", message)
        wrong = re.match(r"argument (--\w+): invalid choice: '(.*?)' \((choose from .*)\)$", message)
        if wrong:
            raise UsageError(wrong.group(1), wrong.group(2), f"{wrong.group(3)}; see generate --help")
        if found:
            raise UsageError(found.group(1), found.group(3) or "nothing", f"{found.group(2)}; see generate --help")
        raise UsageError("generate", message, "see generate --help")


def parser() -> argparse.ArgumentParser:
    """Return the options of ``generate``."""
    p = _Parser(
        "python -m nuwa_lightning generate",
        description="Make an image of any size from a trained run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("--checkpoint", metavar="RUN", help="run folder of stage 2 (holds model/ and tokenizer/)")
    p.add_argument("--task", metavar="TASK", help=f"one of {', '.join(TASKS)} (default: by the other options)")
    p.add_argument(
        "--size",
        metavar="WxH",
        help=f"width and height in pixels (default: {SIZE}, of a video {VIDEO_SIZE}); x1024 goes on to the right until"
        " it is stopped (Ctrl-C)",
    )
    p.add_argument("--wrap", metavar="AXES", help="close x (a panorama all around), y, or xy (a tile of a pattern)")
    p.add_argument("--seed", type=int, default=0, help="equal seeds make equal images (default: %(default)s)")
    p.add_argument(
        "--count", type=int, default=1, help="so many images, of this seed and the next (default: %(default)s)"
    )
    p.add_argument(
        "--output",
        metavar="FILE",
        help=".png, .jpg, .tif, .zarr or .dzi; .mp4, .gif, .webp or .frames (default: image.png or video.mp4)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace FILE if it exists, finished or not")
    p.add_argument(
        "--resume",
        nargs="?",
        const="last",
        choices=("last", "earlier"),
        help="go on with FILE where a stopped or killed run left it; earlier: with the last good record of a journal"
        " that is damaged",
    )
    p.add_argument("--from", dest="from_file", metavar="IMAGE", help="make an image again, by the options it holds")
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
        "--weights", default="float32", metavar="NUMBER", help="float32, bfloat16 or int8: how matrices are kept"
    )
    p.add_argument(
        "--cache", default="float32", metavar="NUMBER", help="float32, bfloat16 or int8: how finished patches are kept"
    )
    p.add_argument(
        "--tile", type=int, default=64, help="tokens a side of what becomes pixels at once (default: %(default)s)"
    )
    p.add_argument("--waves", type=int, metavar="N", help="stop an endless canvas by itself, after N waves")
    p.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="CLASS",
        help="your pool, direction or text encoder that the model was trained with: my_pools.MyPool; may be repeated",
    )
    p.add_argument(
        "--preview",
        metavar="FILE",
        help="a small .png that grows with the image; none for none (default: beside FILE, from 16 megapixels on)",
    )
    p.add_argument(
        "--record_every",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how much work a kill may cost; 0 records every wave (default: %(default)s)",
    )
    outpaint.add_options(p)
    prompting.add_options(p)
    filming.add_options(p)
    return p


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options, those of an image that ``--from`` names included, and refuse what makes no sense.

    Raises:
        UsageError: naming the option.
    """
    p = parser()
    options = p.parse_args(arguments)
    unprompted = options.task == "unconditional"  # asked for here: what an image stores may be by the other options
    if options.from_file is not None:
        stored = _stored(p, options.from_file)
        if options.prompt:  # texts given here replace those of the image, they do not add to them
            stored.pop("prompt", None)
            stored.pop("unprompted", None)
        p.set_defaults(**stored)
        options = p.parse_args(arguments)
    if options.checkpoint is None:
        raise UsageError("--checkpoint", "nothing", "name the run folder of stage 2, such as runs/landscape")
    options.unprompted |= unprompted
    options.task = _task(options)
    for option in ("max_rows", "count", "waves", "tile", "max_pixels"):
        if getattr(options, option) is not None and getattr(options, option) < 1:
            raise UsageError(f"--{option}", getattr(options, option), "must be at least 1")
    if not 0 <= options.record_every < float("inf"):
        raise UsageError("--record_every", options.record_every, "give a number of seconds from 0 up")
    options.output = options.output or ("video.mp4" if filming.is_video(options, options.task) else "image.png")
    _check_canvas(options)
    return options


def _check_canvas(options: argparse.Namespace) -> None:
    options.wrap = "".join(sorted(options.wrap or ""))
    if options.wrap not in ("", "x", "y", "xy"):
        raise UsageError("--wrap", options.wrap, "choose x, y or xy")
    if options.wrap and options.task in ("outpaint", "animate"):
        raise UsageError("--wrap", options.wrap, "a given image cannot be closed: leave it out")
    video = filming.is_video(options, options.task)
    width, height = parse_size(options.size or (VIDEO_SIZE if video else SIZE))
    if video and None in (width, height):
        raise UsageError("--size", options.size, "a video has a width and a height: give both")
    if options.waves is not None and None not in (width, height):
        raise UsageError("--waves", options.waves, "the canvas has an end: leave it out")
    for name, length in (("x", width), ("y", height)):
        if length is None and name in options.wrap:
            raise UsageError("--wrap", options.wrap, f"the axis {name} is endless: give it a length, or leave it open")


def of_the_image(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what the image looks like, as far as they are not None."""
    return {name: value for name, value in vars(options).items() if name not in OF_THE_RUN and value is not None}


def parse_size(text: str) -> tuple[int | None, int | None]:
    """Return ``(width, height)`` in pixels; None is endless.

    Raises:
        UsageError: if it is not WIDTHxHEIGHT with both at least 1, one of them perhaps left out.
    """
    found = re.fullmatch(r"(\d*)[xX](\d*)", text)
    sides = [int(side) if side else None for side in found.groups()] if found else []
    known = [side for side in sides if side is not None]
    if not known or min(known) < 1:
        hint = "write WIDTHxHEIGHT in pixels, both at least 1, such as 4096x512; x512 is endless to the right"
        raise UsageError("--size", text, hint)
    return sides[0], sides[1]


def _stored(p: argparse.ArgumentParser, path: str) -> dict[str, Any]:
    """Return the options that an image was made with."""
    metadata = image_metadata(path)
    options = dict(metadata["options"])
    known = {action.dest for action in p._actions} - set(OF_THE_RUN) - {"help"}
    strange = sorted(set(options) - known)
    if strange:
        hint = f"it was made with {strange[0]}, which this version does not know: use {metadata.get('version')}"
        raise UsageError("--from", path, hint)
    return {"checkpoint": metadata["checkpoint"]["path"], **options}


def image_metadata(path: str) -> Mapping[str, Any]:
    """Return how an image was made.

    Raises:
        UsageError: if it cannot be read, or does not say.
    """
    from nuwa_lightning.writers import read_metadata

    if not Path(path).exists():
        raise UsageError("--from", path, "no such file: name an image that generate made")
    try:
        metadata = read_metadata(path)
    except UsageError as error:
        raise UsageError("--from", path, error.hint) from None
    options, checkpoint = metadata.get("options"), metadata.get("checkpoint")
    if not isinstance(options, Mapping) or not isinstance(checkpoint, Mapping) or "path" not in checkpoint:
        raise UsageError("--from", path, "it does not say how it was made: name an image that generate made")
    return metadata


def _task(options: Any) -> str:
    """Return the task that is asked for, by name or by the other options, and refuse options that belong to another."""
    if options.task is not None and options.task not in TASKS:
        near = difflib.get_close_matches(options.task, TASKS, n=1, cutoff=0.5)
        raise UsageError("--task", options.task, f"did you mean {near[0]}?" if near else f"choose {', '.join(TASKS)}")
    task: str = options.task or _usual_task(options)
    outpaint.check_options(options, task)
    if task == "outpaint" and options.image is None:
        raise UsageError("--task", task, "it needs an image: --image FILE")
    if task not in ("outpaint", "animate") and options.image is not None:
        hint = "it goes on from no image: leave --image out, or use --task outpaint or animate"
        raise UsageError("--task", task, hint)
    filming.check_options(options, task)
    prompting.check_options(options, task)
    return task


def _usual_task(options: Any) -> str:
    video = filming.wanted(options)
    if options.image is not None:
        return "animate" if video else "outpaint"
    if options.prompt:
        return "text-to-video" if video else "text-to-image"
    return "unconditional"
