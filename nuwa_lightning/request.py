"""What is to be generated: one frozen, checked value that the command line and the pipeline share. No torch."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from nuwa_lightning.errors import UsageError
from nuwa_lightning.request_fields import Expansion, InputImage, Region, Size, check_kinds, parse_prompts

_LOG = logging.getLogger(__name__)
TASKS: Final = ("unconditional", "text-to-image", "outpaint", "animate", "text-to-video")
FRAMES: Final = 40
FPS: Final = 8.0
GUIDANCE: Final = 2.0
BLEND: Final = 16
WIDEST_BLEND: Final = 1024
"""The most pixels of ``blend``: every tile is decoded with as many around it."""
MOST_IMAGES: Final = 100_000
STRONGEST_GUIDANCE: Final = 1000.0
"""Beyond it hardly anything changes, and far beyond it logits overflow."""
IMAGE_SIZE: Final = Size(1024, 512)
VIDEO_SIZE: Final = Size(256, 256)


@dataclass(frozen=True)
class GenerationRequest:
    """What is to be generated.

    Everything of it that can be checked without a model is checked when it is made; errors name the field.

    Args:
        task: unconditional, text-to-image, outpaint, animate or text-to-video (default: by the other options)
        size: width and height in pixels (default: 1024x512, of a video 256x256); x1024 goes on to the right until it
            is stopped (Ctrl-C)
        wrap: close x (a panorama all around), y, or xy (a tile of a pattern)
        seed: equal seeds make equal images
        count: so many images, of this seed and the next
        temperature: below 1 calmer, above 1 wilder; 0 takes the best token (default: the model's own, else 1)
        top_k: draw from the k best tokens; 0 = all (default: the model's own, else 50)
        top_p: draw from the best tokens that reach p (default: the model's own, else 1)
        order: omega, omega*, zeta or zeta* (default: by the shape)
        max_rows: patches generated side by side at most
        weights: float32, bfloat16 or int8: how matrices are kept
        cache: float32, bfloat16 or int8: how finished patches are kept
        local_decoder: how the tokens of a patch are written, if not as in training: JacobiLocalDecoder writes several a
            step, by any model whose tokens see earlier ones only; StaticLocalDecoder one, by steps made for a GPU; your
            own by its import path, where ``own`` allows it
        tile: tokens a side of what becomes pixels at once
        waves: stop an endless canvas by itself, after so many waves
        image: the image to go on from; its pixels stay as they are in a lossless file
        expand: pixels more on each side, such as left=512,right=512,up=0,down=256
        blend: how far beyond the border what is generated takes on the image's sharpness; its pixels never change; with
            wrap, how far to both sides of the seam what differs across it fades out
        prompt: what is to be seen; for a region of the canvas "LEFT,TOP,WIDTH,HEIGHT: TEXT" in pixels, may be repeated,
            one without numbers is for the rest; a patch reads the text of the region that holds its center
        prompt_each: instead, a text for each of the images; "" for none
        unprompted: let a model that reads texts go without one; ``task`` unconditional says so by itself
        guidance: how strongly the text pulls: 1 as trained, more exaggerates, at twice the work (default: 2)
        frames: how many frames of a video (default: 40)
        fps: frames a second (default: 8)
        plan: how the canvas is laid out: an image of any size, painted or made small, that is stretched to it; for a
            model that reads coarse plans
        plan_guidance: how strongly a coarse plan pulls: 1 as trained, more exaggerates, at twice the work

    Raises:
        UsageError: naming the field that is missing, too much or out of range.
    """

    task: str | None = None
    size: Size | None = None
    wrap: str = ""
    seed: int = 0
    count: int = 1
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    order: str | None = None
    max_rows: int = 64
    weights: str = "float32"
    cache: str = "float32"
    local_decoder: str | None = None
    tile: int = 64
    waves: int | None = None
    image: InputImage | None = None
    expand: Expansion | None = None
    blend: int = BLEND
    prompt: tuple[str, ...] = ()
    prompt_each: tuple[str, ...] = ()
    unprompted: bool = False
    guidance: float | None = None
    frames: int | None = None
    fps: float | None = None
    plan: InputImage | None = None
    plan_guidance: float = 1.0
    regions: tuple[Region, ...] = field(init=False, default=(), compare=False, repr=False)
    text: str | None = field(init=False, default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Fill in what is usual, and refuse what does not go together."""
        check_kinds(self)
        self._set(task=self._task(), prompt=tuple(self.prompt), prompt_each=tuple(self.prompt_each))
        self._check_image()
        self._check_video()
        self._check_text()
        for name in ("max_rows", "count", "waves", "tile"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(name, value, "must be at least 1")
        if self.count > MOST_IMAGES:
            raise UsageError("count", self.count, f"give at most {MOST_IMAGES} at once, and the others by their `seed`")
        self._check_canvas()

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def video(self) -> bool:
        """Whether a video is made."""
        timed = self.frames is not None or self.fps is not None
        return self.task in ("animate", "text-to-video") or (self.task == "unconditional" and timed)

    @property
    def canvas_size(self) -> Size:
        """Width and height of what is made."""
        if self.image is None:
            return self.size or (VIDEO_SIZE if self.video else IMAGE_SIZE)
        height, width = self.image.pixels_YX3.shape[:2]
        more = self.expand or Expansion()
        return Size(width + more.left + more.right, height + more.up + more.down)

    @property
    def guidance_scale(self) -> float:
        """How strongly the text pulls, the usual filled in."""
        return GUIDANCE if self.guidance is None else self.guidance

    def to_options(self) -> dict[str, Any]:
        """Return the fields that are not None as plain JSON; images by the names of their files."""
        said: dict[str, Any] = {}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if not each.init or value is None or (each.name == "prompt_each" and not value):
                continue
            if isinstance(value, InputImage):
                said[each.name] = value.source
                if value.mask_source:
                    said["mask"] = value.mask_source
            elif isinstance(value, Size | Expansion):
                said[each.name] = str(value)
            else:
                said[each.name] = list(value) if isinstance(value, tuple) else value
        return said

    @property
    def notes(self) -> list[str]:
        """What reading changed about the tones of its image, mask and plan, a line each."""
        return [note for given in (self.image, self.plan) if given is not None for note in given.notes]

    def log_notes(self) -> None:
        """Log :attr:`notes` as warnings."""
        for note in self.notes:
            _LOG.warning(note)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, max_pixels: int | None = None) -> GenerationRequest:
        """Return the request that :meth:`to_options` described; opens its image.

        Raises:
            UsageError: as the class does, or if a field is unknown or the image cannot be read.
        """
        values = dict(options)
        image, mask = values.pop("image", None), values.pop("mask", None)
        if image is None and mask is not None:
            raise UsageError("mask", mask, "there is no image: name one, `image` FILE")
        known = {each.name for each in dataclasses.fields(cls) if each.init}
        for name in values:
            if name not in known:
                raise UsageError(name, values[name], "there is no such field")
        for name, kind in (("size", Size), ("expand", Expansion)):
            if isinstance(values.get(name), str):
                values[name] = kind.parse(values[name])
        if image is not None:
            values["image"] = InputImage.open(image, mask, max_pixels=max_pixels)
        if values.get("plan") is not None:
            values["plan"] = InputImage.open(values["plan"], option="plan", max_pixels=max_pixels)
        return cls(**values)

    def _task(self) -> str:
        """Return the task, by name or by the other fields."""
        video = self.frames is not None or self.fps is not None
        if self.task is None:
            if self.image is not None:
                return "animate" if video else "outpaint"
            if self.prompt or any(self.prompt_each):
                return "text-to-video" if video else "text-to-image"
            return "unconditional"
        if self.task not in TASKS:
            near = difflib.get_close_matches(self.task, TASKS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(TASKS)}"
            raise UsageError("task", self.task, hint)
        return self.task

    def _check_image(self) -> None:
        if not 0 <= self.blend <= WIDEST_BLEND:
            raise UsageError("blend", self.blend, f"give a number of pixels from 0 to {WIDEST_BLEND}")
        needs = self.task in ("outpaint", "animate")
        if self.image is None:
            if self.expand is not None:
                raise UsageError("expand", self.expand, "there is no image: name one, `image` FILE")
            if needs:
                what = "an image that begins to move" if self.task == "animate" else "an image"
                raise UsageError("task", self.task, f"it needs {what}: `image` FILE")
            return
        if self.size is not None:
            hint = "leave it out" if self.task == "animate" else "say how much larger, `expand`"
            raise UsageError("size", self.size, f"the size follows from the image: {hint}")
        holes = self.image.holes_YX
        if self.task == "animate":
            for name, value in (("expand", self.expand), ("mask", None if holes is None else self.image.mask_source)):
                if value is not None:
                    hint = "a video goes on from a whole image: make that first by `task` outpaint"
                    raise UsageError(name, value, hint)
            return
        if self.expand is None and holes is None:
            hint = "nothing to expand: add `expand` left=512,right=512 or `mask` FILE, or `frames` 40 to make it move"
            raise UsageError("image", self.image.source or "this one", hint)
        if not needs:
            hint = "it goes on from no image: leave `image` out, or use `task` outpaint or animate"
            raise UsageError("task", self.task, hint)
        if not self.expand and (holes is None or not holes.any()):
            name, value = ("expand", self.expand) if holes is None else ("mask", self.image.mask_source)
            hint = "nothing to expand: give a side some pixels, or a mask that is white somewhere"
            raise UsageError(name, value, hint)

    def _check_video(self) -> None:
        if not self.video:
            for name in ("frames", "fps"):
                if getattr(self, name) is not None:
                    hint = f"`task` {self.task} makes an image: leave it out, or choose animate, text-to-video or"
                    raise UsageError(name, getattr(self, name), f"{hint} unconditional")
            return
        frames, fps = FRAMES if self.frames is None else self.frames, FPS if self.fps is None else self.fps
        self._set(frames=frames, fps=fps)
        least = 2 if self.task == "animate" else 1
        if frames < least:
            hint = "the image is the first one: give 2 or more" if least == 2 else "give 1 or more"
            raise UsageError("frames", frames, hint)
        if not 0 < fps < float("inf"):
            raise UsageError("fps", fps, "give frames a second, such as 8")
        if self.waves is not None:
            raise UsageError("waves", self.waves, "it ends an endless image: say how many `frames` instead")

    def _check_text(self) -> None:
        there = bool(self.prompt or self.prompt_each)
        if self.prompt and self.prompt_each:
            raise UsageError("prompt", self.prompt[0], "there is a text for each image already: give one of both")
        if self.prompt_each and len(self.prompt_each) != self.count:
            raise UsageError("prompt", len(self.prompt_each), f"give a text for each of {self.count} images")
        if self.task in ("text-to-image", "text-to-video") and not there:
            raise UsageError("task", self.task, 'it needs a text: `prompt` "a lake at dusk"')
        if self.task == "unconditional" and there:
            raise UsageError("task", self.task, "it reads no text: leave `prompt` out, or use `task` text-to-image")
        if self.unprompted and self.prompt:
            hint = "`unprompted` says that there is none: leave one of them out"
            raise UsageError("prompt", self.prompt[0], hint)
        if self.guidance is not None:
            if not there:
                raise UsageError("guidance", self.guidance, "there is no text that could pull: give a `prompt`")
            if not 0 <= self.guidance <= STRONGEST_GUIDANCE:
                hint = f"give a number from 0 to {STRONGEST_GUIDANCE:g}; 1 is as trained, 2 to 5 is usual"
                raise UsageError("guidance", self.guidance, hint)
        if not 0 <= self.plan_guidance <= STRONGEST_GUIDANCE:
            hint = f"give a number from 0 to {STRONGEST_GUIDANCE:g}; 1 is as trained"
            raise UsageError("plan_guidance", self.plan_guidance, hint)
        regions, text = parse_prompts(self.prompt)
        self._set(regions=regions, text=text)

    def _check_canvas(self) -> None:
        self._set(wrap="".join(sorted(self.wrap)))
        if self.wrap not in ("", "x", "y", "xy"):
            raise UsageError("wrap", self.wrap, "choose x, y or xy")
        if self.wrap and self.image is not None:
            raise UsageError("wrap", self.wrap, "a given image cannot be closed: leave it out")
        size = self.canvas_size
        if self.video and None in (size.width, size.height):
            raise UsageError("size", size, "a video has a width and a height: give both")
        if self.waves is not None and None not in (size.width, size.height):
            raise UsageError("waves", self.waves, "the canvas has an end: leave it out")
        closed = [side for name, side in (("x", size.width), ("y", size.height)) if name in self.wrap]
        if None in closed:
            name = "x" if size.width is None else "y"
            raise UsageError("wrap", self.wrap, f"the axis {name} is endless: give it a length, or leave it open")
        least = min((side for side in closed if side is not None), default=0)
        if closed and self.blend > max(least // 4, BLEND):
            hint = f"reaches over a quarter of the closed side of {least} pixels: give {least // 4} or less"
            raise UsageError("blend", self.blend, hint)
        longest = max(size.height or 0, size.width or 0)
        if self.image is not None and self.blend > max(longest, BLEND):
            hint = f"reaches further than the canvas of {size}: give {longest} or less"
            raise UsageError("blend", self.blend, hint)
