"""The options of ``canvas``, one dataclass an action; apart from what runs them, so that help comes at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nuwa_lightning.commands.options import ModelOptions


@dataclass(frozen=True, kw_only=True)
class Kept(ModelOptions):
    """The canvas.

    Args:
        folder: the canvas; the first word behind the action, with or without its name
        checkpoint: the run that made it (default: the one it names)
    """

    folder: Path
    checkpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class Exported(Kept):
    """The canvas, and the file that it becomes.

    Args:
        output: .png, .jpg, .webp, .tif, .zarr, .dzi; .mp4, .gif, .frames; the second word
        number: which of several images, from 0 (default: all, as OUTPUT-0, ...)
        overwrite: replace the output if it exists
    """

    output: Path
    number: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Steered(Kept):
    """The canvas, and how what is made now is made.

    Args:
        seed: of what is new (default of grow: that of the canvas; redo needs another one)
        prompt: as for generate
        temperature: as for generate
        top_k: as for generate
        top_p: as for generate
        guidance: as for generate
    """

    seed: int | None = None
    prompt: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    guidance: float | None = None

    def steered(self) -> dict[str, Any]:
        """Return what was given of these."""
        names = ("prompt", "temperature", "top_k", "top_p", "guidance")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Grown(Steered):
    """The canvas, and how much larger it becomes.

    Args:
        left: pixels more, left
        right: pixels more, right
        up: pixels more, up
        down: pixels more, down
        frames: frames more, of a video
        record_every: how many seconds of work a kill may cost
        resume: go on with growing that was stopped; earlier, from the last good state where the newest is damaged
    """

    left: int = 0
    right: int = 0
    up: int = 0
    down: int = 0
    frames: int = 0
    record_every: float = 10.0
    resume: Literal["last", "earlier"] | None = field(default=None, metadata={"alone": "last"})


@dataclass(frozen=True, kw_only=True)
class Redone(Steered):
    """The canvas, and what of it is made again.

    Args:
        box: LEFT,TOP,RIGHT,BOTTOM in pixels of the image; give it again for several that are made together
        frames: FIRST,LAST of a video, the last one excluded (default: all)
        count: only say how many patches would be made again
    """

    box: tuple[str, ...]
    frames: str | None = None
    count: bool = False
