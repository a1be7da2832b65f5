"""``generate --frames``: an image that begins to move, or a video from a text or from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from nuwa_lightning.canvas.job import Order, Video
    from nuwa_lightning.generation.pretrained import Generator
    from nuwa_lightning.tokenizers.base import Tokenizer

RECIPE: Final = "recipes/landscape_video.yaml"
TEXT_RECIPE: Final = "recipes/landscape_text_video.yaml"
SUFFIXES: Final = (".mp4", ".gif", ".webp", ".frames")
"""Names of videos; a test holds them equal to the writers'."""

FRAMES: Final = 40
FPS: Final = 8.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of videos."""
    group = parser.add_argument_group("a video (tasks animate and text-to-video, or unconditional with --frames)")
    group.add_argument("--frames", type=int, metavar="N", help=f"how many frames (default: {FRAMES})")
    group.add_argument("--fps", type=float, metavar="NUMBER", help=f"frames a second (default: {FPS:g})")


def wanted(options: Any) -> bool:
    """Say whether the options ask for a video, whatever the task."""
    named = options.output is not None and Path(options.output).suffix.lower() in SUFFIXES
    return options.frames is not None or options.fps is not None or named


def check_options(options: Any, task: str) -> None:
    """Refuse options that do not go together, before anything is loaded; fill in what is usual.

    Raises:
        UsageError: naming the one that is missing or too much.
    """
    if not is_video(options, task):
        for name in ("frames", "fps"):
            if getattr(options, name) is not None:
                hint = f"--task {task} makes an image: leave it out, or choose animate, text-to-video or unconditional"
                raise UsageError(f"--{name}", getattr(options, name), hint)
        return
    least = 2 if task == "animate" else 1
    options.frames = FRAMES if options.frames is None else options.frames
    options.fps = FPS if options.fps is None else options.fps
    if options.frames < least:
        what = "the image is the first one: give 2 or more" if least == 2 else "give 1 or more"
        raise UsageError("--frames", options.frames, what)
    if not 0 < options.fps < float("inf"):
        raise UsageError("--fps", options.fps, "give frames a second, such as 8")
    if task == "animate":
        _check_image(options)
    if options.preview not in (None, "none"):
        raise UsageError("--preview", options.preview, "it is of an image that grows: leave it out for a video")
    if options.waves is not None:
        raise UsageError("--waves", options.waves, "it ends an endless image: say how many --frames instead")


def _check_image(options: Any) -> None:
    if options.image is None:
        raise UsageError("--task", "animate", "it needs an image that begins to move: --image FILE")
    for name in ("expand", "mask"):
        if getattr(options, name) is not None:
            hint = "a video goes on from a whole image: make that first by --task outpaint"
            raise UsageError(f"--{name}", getattr(options, name), hint)


def is_video(options: Any, task: str) -> bool:
    """Say whether a task makes a video with these options."""
    return task in ("animate", "text-to-video") or (task == "unconditional" and wanted(options))


def check_trained(options: Any, generator: Generator) -> None:
    """Refuse a model that was trained on images.

    Raises:
        UsageError: naming the recipe that trains one.
    """
    if generator.frames < 2:
        recipe = TEXT_RECIPE if options.prompt else RECIPE
        hint = f"the model of {options.checkpoint} was trained on images, not on videos: train one by {recipe}"
        raise UsageError("--task", options.task, hint)


def video(options: Any, tokenizer: Tokenizer) -> Video:
    """Return what makes a video of the canvas: with the pixel-guided decoder that lies in the run, if there is one.

    Raises:
        UsageError: if it is damaged, belongs to another tokenizer, or is asked to close a video.
    """
    from nuwa_lightning.canvas.frame_decoder import GuidedFrames, SingleFrames
    from nuwa_lightning.canvas.job import Video
    from nuwa_lightning.tokenizers.pretrained import load_pixel_guided

    single = SingleFrames(tokenizer, options.tile, options.wrap)
    folder = guided_folder(options)
    if folder is None:
        return Video(options.fps, single)
    if options.wrap:
        hint = f"the pixel-guided decoder in {options.checkpoint} does not look across a seam: leave it out"
        raise UsageError("--wrap", options.wrap, hint)
    guided = load_pixel_guided(folder, tokenizer=tokenizer, option="--checkpoint")
    return Video(options.fps, GuidedFrames(single, guided, options.tile))


def guided_folder(options: Any) -> Path | None:
    """Return the folder of the pixel-guided decoder of a run, if it has one."""
    folder = Path(options.checkpoint) / "pixel_guided"
    return folder if folder.is_dir() else None


def check_sides(options: Any, width: int, height: int) -> None:
    """Refuse an image whose sides the video's format cannot hold.

    Raises:
        UsageError: naming the formats that can.
    """
    from nuwa_lightning.writers import VIDEO_WRITERS

    multiple = VIDEO_WRITERS[Path(options.output).suffix.lower()].multiple
    if height % multiple or width % multiple:
        hint = f"cannot hold the {width}x{height} pixels of the image, only even sides: use .webp, .gif or .frames"
        raise UsageError("--output", options.output, hint)


def animation(options: Any, tokenizer: Tokenizer, patch_size: tuple[int, int]) -> Order:
    """Return the video that begins with the image that the options name.

    Raises:
        UsageError: if the image cannot be read or does not fit.
    """
    from nuwa_lightning.canvas.image_condition import ImageCondition
    from nuwa_lightning.canvas.job import Order
    from nuwa_lightning.commands.outpaint import image
    from nuwa_lightning.planning.geometry import PatchGrid

    image_YX3 = image(options, tokenizer, patch_size)
    given = ImageCondition(image_YX3, tokenizer=tokenizer, patch_size=patch_size, blend=0)
    return Order(
        PatchGrid(options.frames, given.grid.y, given.grid.x),
        (options.seed,),
        given.size,
        origin=given.origin,
        known=given.known,
        finish=given,
        tile=options.tile,
        video=video(options, tokenizer),
    )


def describe(options: Any) -> dict[str, object]:
    """Return what a file's metadata should say about the video."""
    if not is_video(options, options.task):
        return {}
    said: dict[str, object] = {"frames": options.frames, "fps": options.fps}
    return {**said, "image": Path(options.image).name} if options.task == "animate" else said
