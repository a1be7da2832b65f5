"""``generate --frames``: a picture that begins to move, or a film from a text or from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from nuwa_lightning.canvas.job import Film, Order
    from nuwa_lightning.generation.pretrained import Generator
    from nuwa_lightning.tokenizers.base import Tokenizer

RECIPE: Final = "recipes/landscape_video.yaml"
TEXT_RECIPE: Final = "recipes/landscape_text_video.yaml"
SUFFIXES: Final = (".mp4", ".gif", ".webp", ".frames")
"""Names of films; a test holds them equal to the writers'."""

FRAMES: Final = 40
FPS: Final = 8.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of films."""
    group = parser.add_argument_group("a film (tasks animate and text-to-video, or unconditional with --frames)")
    group.add_argument("--frames", type=int, metavar="N", help=f"how many frames (default: {FRAMES})")
    group.add_argument("--fps", type=float, metavar="NUMBER", help=f"frames a second (default: {FPS:g})")


def wanted(options: Any) -> bool:
    """Say whether the options ask for a film, whatever the task."""
    named = options.output is not None and Path(options.output).suffix.lower() in SUFFIXES
    return options.frames is not None or options.fps is not None or named


def check_options(options: Any, task: str) -> None:
    """Refuse options that do not go together, before anything is loaded; fill in what is usual.

    Raises:
        UsageError: naming the one that is missing or too much.
    """
    if not is_film(options, task):
        for name in ("frames", "fps"):
            if getattr(options, name) is not None:
                cure = f"--task {task} makes a picture: leave it out, or choose animate, text-to-video or unconditional"
                raise UsageError(f"--{name}", getattr(options, name), cure)
        return
    least = 2 if task == "animate" else 1
    options.frames = FRAMES if options.frames is None else options.frames
    options.fps = FPS if options.fps is None else options.fps
    if options.frames < least:
        what = "the picture is the first one: give 2 or more" if least == 2 else "give 1 or more"
        raise UsageError("--frames", options.frames, what)
    if not 0 < options.fps < float("inf"):
        raise UsageError("--fps", options.fps, "give frames a second, such as 8")
    if task == "animate":
        _check_picture(options)
    if options.preview not in (None, "none"):
        raise UsageError("--preview", options.preview, "it is of a picture that grows: leave it out for a film")
    if options.waves is not None:
        raise UsageError("--waves", options.waves, "it ends an endless picture: say how many --frames instead")


def _check_picture(options: Any) -> None:
    if options.image is None:
        raise UsageError("--task", "animate", "it needs a picture that begins to move: --image FILE")
    for name in ("expand", "mask"):
        if getattr(options, name) is not None:
            cure = "a film goes on from a whole picture: make that first by --task outpaint"
            raise UsageError(f"--{name}", getattr(options, name), cure)


def is_film(options: Any, task: str) -> bool:
    """Say whether a task makes a film with these options."""
    return task in ("animate", "text-to-video") or (task == "unconditional" and wanted(options))


def check_trained(options: Any, generator: Generator) -> None:
    """Refuse a model that was trained on pictures.

    Raises:
        UsageError: naming the recipe that trains one.
    """
    if generator.frames < 2:
        recipe = TEXT_RECIPE if options.prompt else RECIPE
        cure = f"the model of {options.checkpoint} was trained on pictures, not on films: train one by {recipe}"
        raise UsageError("--task", options.task, cure)


def film(options: Any, tokenizer: Tokenizer) -> Film:
    """Return what makes a film of the canvas: with the pixel-guided decoder that lies in the run, if there is one.

    Raises:
        UsageError: if it is damaged, belongs to another tokenizer, or is asked to close a film.
    """
    from nuwa_lightning.canvas.frame_decoder import GuidedFrames, SingleFrames
    from nuwa_lightning.canvas.job import Film
    from nuwa_lightning.tokenizers.pretrained import load_pixel_guided

    single = SingleFrames(tokenizer, options.tile, options.wrap)
    folder = guided_folder(options)
    if folder is None:
        return Film(options.fps, single)
    if options.wrap:
        cure = f"the pixel-guided decoder in {options.checkpoint} does not look across a seam: leave it out"
        raise UsageError("--wrap", options.wrap, cure)
    guided = load_pixel_guided(folder, tokenizer=tokenizer, option="--checkpoint")
    return Film(options.fps, GuidedFrames(single, guided, options.tile))


def guided_folder(options: Any) -> Path | None:
    """Return the folder of the pixel-guided decoder of a run, if it has one."""
    folder = Path(options.checkpoint) / "pixel_guided"
    return folder if folder.is_dir() else None


def check_sides(options: Any, width: int, height: int) -> None:
    """Refuse a picture whose sides the film's format cannot hold.

    Raises:
        UsageError: naming the formats that can.
    """
    from nuwa_lightning.writers import VIDEO_WRITERS

    multiple = VIDEO_WRITERS[Path(options.output).suffix.lower()].multiple
    if height % multiple or width % multiple:
        cure = f"cannot hold the {width}x{height} pixels of the picture, only even sides: use .webp, .gif or .frames"
        raise UsageError("--output", options.output, cure)


def animation(options: Any, tokenizer: Tokenizer, patch_size: tuple[int, int]) -> Order:
    """Return the film that begins with the picture that the options name.

    Raises:
        UsageError: if the picture cannot be read or does not fit.
    """
    from nuwa_lightning.canvas.image_condition import GivenPicture
    from nuwa_lightning.canvas.job import Order
    from nuwa_lightning.commands.outpaint import picture
    from nuwa_lightning.planning.geometry import PatchGrid

    picture_YX3 = picture(options, tokenizer, patch_size)
    given = GivenPicture(picture_YX3, tokenizer=tokenizer, patch_size=patch_size, blend=0)
    return Order(
        PatchGrid(options.frames, given.grid.y, given.grid.x),
        (options.seed,),
        given.size,
        origin=given.origin,
        known=given.known,
        finish=given,
        tile=options.tile,
        film=film(options, tokenizer),
    )


def describe(options: Any) -> dict[str, object]:
    """Return what a file's metadata should say about the film."""
    if not is_film(options, options.task):
        return {}
    said: dict[str, object] = {"frames": options.frames, "fps": options.fps}
    return {**said, "image": Path(options.image).name} if options.task == "animate" else said
