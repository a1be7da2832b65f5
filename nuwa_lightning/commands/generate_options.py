"""The options of ``generate``: a request, and where it goes. An image that was made gives its request back."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import register_type

from nuwa_lightning.commands.options import ModelOptions, OptionsParser, parser_of
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hub import find_run
from nuwa_lightning.plain_data import parse_json, read_text
from nuwa_lightning.request import FRAMES, GenerationRequest
from nuwa_lightning.request_fields import Expansion, Size

VIDEO_SUFFIXES: Final = (".mp4", ".gif", ".webp", ".frames")
"""Names of videos; a test holds them equal to the writers'."""
_EPILOG = """\
examples
  python -m nuwa_lightning generate --size 4096x512 --seed 0 --output panorama.png
  python -m nuwa_lightning generate --checkpoint runs/landscape --size 16384x1024 --output wide.tif
  python -m nuwa_lightning generate --checkpoint runs/landscape --size 4096x512 --wrap x --output around.png
  python -m nuwa_lightning generate --checkpoint runs/landscape --size x1024 --output endless.tif
  python -m nuwa_lightning generate --checkpoint runs/landscape --image in.jpg --expand left=512,down=256
  python -m nuwa_lightning generate --checkpoint landscape_text --prompt "snowy mountains at dusk"
  python -m nuwa_lightning generate --from panorama.png --output again.png
  python -m nuwa_lightning generate --checkpoint runs/landscape --size 4096x512 --canvas wide.canvas --output wide.tif
  python -m nuwa_lightning generate --checkpoint landscape_video --image in.jpg --frames 40 --output video.mp4
  python -m nuwa_lightning generate --checkpoint landscape_video --size 256x256 --frames 40 --output video.mp4
The suffix picks the format: .png, .jpg, and for anything large .tif (BigTIFF), .zarr (OME-Zarr) or .dzi (Deep Zoom);
of videos .mp4, .gif, .webp or .frames (a folder of PNG files).
Equal commands make equal images.
What is killed goes on where it was: the same command with --resume.
"""
_REPEATED: Final = ("--prompt", "--own")

for _type in (Size, Expansion):
    register_type(_type, str, _type.parse, fail_already_registered=False)


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """What is said of the run, and nothing of the image.

    Args:
        output: .png, .jpg, .tif, .zarr or .dzi; .mp4, .gif, .webp or .frames (default: image.png or video.mp4)
        canvas: a folder that keeps the canvas, to be exported, grown and made again in part: see canvas --help
        preview: a small .png that grows with the image; none for none (default: beside the output, from 16 megapixels
            on)
        record_every: how many seconds of work a kill may cost; 0 records every wave
        overwrite: replace the output if it exists, finished or not
        resume: go on where a stopped or killed run left it; earlier: from the last good state where the newest is
            damaged
        from_file: make an image again
    """

    output: str | None = field(default=None, metadata={"file": True})
    canvas: str | None = None
    preview: str | None = field(default=None, metadata={"file": True})
    record_every: float = 10.0
    overwrite: bool = False
    resume: Literal["last", "earlier"] | None = field(default=None, metadata={"alone": "last"})
    from_file: str | None = None


OF_THE_RUN: Final = tuple(each.name for each in dataclasses.fields(RunOptions))
"""Options that say nothing about the image itself, or must not come out of a file (``own`` imports code, and
``max_pixels`` is a matter of trust)."""


def parser() -> OptionsParser:
    """Return the options of ``generate``."""
    p = parser_of(
        "python -m nuwa_lightning generate",
        RunOptions,
        GenerationRequest,
        about="Generate an image of any size, or a video, from a trained run.",
        epilog=_EPILOG,
        skip={"from_file", "image", "plan", "prompt_each"},
    )
    p.add_argument("--from", dest="from_file", metavar="IMAGE", help="make an image again, by the options it holds")
    p.add_argument("--image", metavar="FILE", help="the image to go on from (tasks outpaint and animate)")
    p.add_argument(
        "--mask", metavar="FILE", help="an image of the same size, white where the given one is to be generated anew"
    )
    p.add_argument(
        "--plan",
        metavar="FILE",
        help="how the canvas is laid out: an image of any size, painted or made small, that is stretched to it (models"
        " that read coarse plans)",
    )
    return p


def parsed(arguments: Sequence[str]) -> tuple[GenerationRequest, RunOptions]:
    """Return what is asked for, options of an image that ``--from`` names included, and where it goes."""
    _check_arguments(arguments)
    p = parser()
    values = _plain(p.parse_args(arguments))
    # Asked for here: what an image stores may be by the other options.
    unprompted = values["task"] == "unconditional" and not values["prompt"]
    if values["from_file"] is not None:
        stored = _stored(p, values["from_file"])
        if values["prompt"]:  # texts given here replace those of the image, they do not add to them
            stored.pop("prompt", None)
            stored.pop("unprompted", None)
        p.set_defaults(stored)
        values = _plain(p.parse_args(arguments))
    where = RunOptions(**{name: values.pop(name) for name in OF_THE_RUN})
    if where.max_pixels is not None and where.max_pixels < 1:
        raise UsageError("max_pixels", where.max_pixels, "must be at least 1")
    if not 0 <= where.record_every < float("inf"):
        raise UsageError("record_every", where.record_every, "give a number of seconds from 0 up")
    values["unprompted"] = values["unprompted"] or unprompted
    if where.output == "":
        raise UsageError("output", "''", "is empty: name a file, such as image.png")
    suffix = Path(where.output or "").suffix.lower()
    undecided = values["frames"] is None and values["task"] in (None, "unconditional")
    always = suffix != ".webp" or values["fps"] is not None
    if undecided and suffix in VIDEO_SUFFIXES and (always or _makes_videos(where.checkpoint)):
        values["frames"] = FRAMES
    request = GenerationRequest.from_options(values, max_pixels=where.max_pixels)
    if request.video and where.preview not in (None, "none"):
        raise UsageError("preview", where.preview, "it is of an image that grows: leave it out for a video")
    output = where.output or ("video.mp4" if request.video else "image.png")
    return request, dataclasses.replace(where, output=output)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what the parser would fail at: configurations that are none, and texts that are no text."""
    for name, value in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, given = name.partition("=")
        if option == "--device":
            hint = 'there is no such option: images are made on the CPU; from Python use pipe.to("cuda")'
            raise UsageError(option, given if equals else value, hint)
        if option in _REPEATED:
            text = given if equals else value
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UsageError(option, ascii(text), "is no UTF-8: type it in a terminal that writes UTF-8") from None


def _plain(found: Namespace) -> dict[str, Any]:
    values = vars(found)
    values.pop("config", None)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _stored(p: ArgumentParser, path: str) -> dict[str, Any]:
    """Return the options that an image was made with."""
    metadata = image_metadata(path)
    options = dict(metadata["options"])
    fields = {each.name for each in dataclasses.fields(GenerationRequest) if each.init} | {"mask"}
    strange = sorted(set(options) - {action.dest for action in p._actions if action.dest in fields})
    if strange:
        hint = f"it was made with {strange[0]}, which this version does not know: use {metadata.get('version')}"
        raise UsageError("from_file", path, hint)
    stored = {"checkpoint": metadata["checkpoint"]["path"], **options}
    for name, value in stored.items():
        parts = value if isinstance(value, list) else [value]
        plain = all(isinstance(p, str | float | None) or (isinstance(p, int) and abs(p) < 1 << 63) for p in parts)
        if not plain or (name == "checkpoint" and not isinstance(value, str)):
            raise UsageError("from_file", path, f"what it says of {name} makes no sense: name another image")
    return stored


def _makes_videos(checkpoint: str) -> bool:
    """Say whether a model was trained on videos; yes where that cannot be read, and is refused later."""
    try:
        found = parse_json(read_text(find_run(checkpoint) / "model" / "config.json"))
        return int(found.get("frames", 1)) > 1
    except UsageError:
        raise
    except (OSError, ValueError, AttributeError, TypeError):
        return True


def image_metadata(path: str) -> Mapping[str, Any]:
    """Return how an image was made."""
    from nuwa_lightning.writers import read_metadata

    if not Path(path).exists():
        raise UsageError("from_file", path, "no such file: name an image that generate made")
    try:
        metadata = read_metadata(path)
    except UsageError as error:
        raise UsageError("from_file", path, error.hint) from None
    if metadata.get("edits"):
        hint = "it was edited on a canvas, which one command cannot repeat: export it from that canvas"
        raise UsageError("from_file", path, hint)
    options, checkpoint = metadata.get("options"), metadata.get("checkpoint")
    if not isinstance(options, Mapping) or not isinstance(checkpoint, Mapping) or "path" not in checkpoint:
        raise UsageError("from_file", path, "it does not say how it was made: name an image that generate made")
    return metadata
