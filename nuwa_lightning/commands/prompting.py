"""``generate --prompt``: one text for the whole canvas, or a text for each of its regions."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nuwa_lightning.commands.filming import TEXT_RECIPE
from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from nuwa_lightning.generation.pretrained import Generator
    from nuwa_lightning.generation.prompts import Prompts
    from nuwa_lightning.planning.geometry import PatchIndex

RECIPE = "recipes/landscape_text.yaml"
_REGION = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:(.*)", re.DOTALL)
# Numbers and a colon that are none of the above, or the four numbers with the colon forgotten.
_LIKE_A_REGION = re.compile(r"[\s\d,.\-+x]*\d[\s\d,.\-+x]*:|\s*\d+\s*(,\s*\d+\s*){3}")


@dataclass(frozen=True)
class Region:
    """A rectangle of the canvas in pixels, and its text."""

    left: int
    top: int
    width: int
    height: int
    text: str

    def __str__(self) -> str:
        return f"{self.left},{self.top},{self.width},{self.height}: {self.text}"

    def holds(self, x: int, y: int) -> bool:
        """Say whether a pixel lies in it."""
        return self.left <= x < self.left + self.width and self.top <= y < self.top + self.height

    def overlaps(self, other: Region) -> bool:
        """Say whether a pixel lies in both."""
        x = max(self.left, other.left) < min(self.left + self.width, other.left + other.width)
        return x and max(self.top, other.top) < min(self.top + self.height, other.top + other.height)


@dataclass(frozen=True)
class _Axis:
    """An axis of the canvas, in pixels: its length, that of a patch, and where it begins on the grid of patches."""

    length: int
    patch: int
    origin: int

    @property
    def told(self) -> str:
        """Its length, for messages."""
        return "endless" if self.length == sys.maxsize else str(self.length)

    def centre(self, number: int) -> int:
        """Return where a patch has its centre, or the nearest pixel of the canvas to it: that place's text it reads."""
        return min(max(number * self.patch + self.patch // 2 - self.origin, 0), self.length - 1)

    def meets(self, start: int, length: int) -> bool:
        """Say whether a piece of the axis holds a centre."""
        last = -(-(self.origin + self.length) // self.patch) - 1
        # The first patch whose centre does not lie before the piece.
        first = max(-(-(start + self.origin - self.patch // 2) // self.patch), 0) if start else 0
        return start <= self.centre(min(first, last)) < start + length


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of text."""
    group = parser.add_argument_group("a text (tasks text-to-image and text-to-video, or another with a text)")
    group.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help='what is to be seen; for a region of the canvas "LEFT,TOP,WIDTH,HEIGHT: TEXT" in pixels, may be repeated,'
        " one without numbers is for the rest; a patch reads the text of the region that holds its centre",
    )
    group.add_argument(
        "--unprompted",
        action="store_true",
        help="let a model that reads texts go without one; --task unconditional says so by itself",
    )
    group.add_argument(
        "--guidance",
        type=float,
        metavar="NUMBER",
        help="how strongly the text pulls: 1 as trained, more exaggerates, at twice the work (default: 2)",
    )


def parse_prompts(prompts: Sequence[str]) -> tuple[list[Region], str | None]:
    """Return the regions with their texts, and the text of the rest.

    Raises:
        UsageError: if a text is empty, a region is none, two regions overlap, or two texts are for the rest.
    """
    regions: list[Region] = []
    rest: str | None = None
    for prompt in prompts:
        found = _REGION.fullmatch(prompt)
        if not found and _LIKE_A_REGION.match(prompt):
            raise UsageError(
                "--prompt", prompt, "write a region as LEFT,TOP,WIDTH,HEIGHT: TEXT, whole pixels from 0 up"
            )
        text = " ".join((found[5] if found else prompt).split())
        if not text:
            raise UsageError("--prompt", repr(prompt), "is empty: say what is to be seen")
        if not found:
            if rest is not None:
                raise UsageError(
                    "--prompt", prompt, "is the second one for the whole canvas: give regions to the others"
                )
            rest = text
            continue
        region = Region(int(found[1]), int(found[2]), int(found[3]), int(found[4]), text)
        if not region.width or not region.height:
            raise UsageError("--prompt", prompt, "the region is empty: give it a width and a height of 1 pixel or more")
        for other in regions:
            if region.overlaps(other):
                raise UsageError("--prompt", prompt, f"overlaps the region {other}: let regions meet at most")
        regions.append(region)
    return regions, rest


def check_options(options: Any, task: str) -> None:
    """Refuse options that do not go together, before anything is loaded.

    Raises:
        UsageError: naming the one that is missing or too much.
    """
    if task in ("text-to-image", "text-to-video") and not options.prompt:
        raise UsageError("--task", task, 'it needs a text: --prompt "a lake at dusk"')
    if task == "unconditional" and options.prompt:
        raise UsageError("--task", task, "it reads no text: leave --prompt out, or use --task text-to-image")
    if options.unprompted and options.prompt:
        raise UsageError("--prompt", options.prompt[0], "--unprompted says that there is none: leave one of them out")
    if options.guidance is not None:
        if not options.prompt:
            raise UsageError("--guidance", options.guidance, "there is no text that could pull: give a --prompt")
        # Not sooner: it brings torch, which other mistakes need not wait for.
        from nuwa_lightning.generation.prompts import STRONGEST

        if not 0 <= options.guidance <= STRONGEST:
            hint = f"give a number from 0 to {STRONGEST:g}; 1 is as trained, 2 to 5 is usual"
            raise UsageError("--guidance", options.guidance, hint)
    parse_prompts(options.prompt)


def prompts_for(
    options: Any, generator: Generator, *, size: tuple[int, int], patch: tuple[int, int], origin: tuple[int, int]
) -> Prompts | None:
    """Return what each patch of a canvas reads; None for a model without text.

    Args:
        options: of the command line.
        generator: the model and its text encoder.
        size: height and width of the canvas in pixels.
        patch: height and width of a patch in pixels.
        origin: where the canvas begins on the grid of patches, ``(y, x)`` in pixels.

    Raises:
        UsageError: if the model reads no text, or reads one and there is none, or the regions do not fit the canvas.
    """
    from nuwa_lightning.generation.prompts import Prompts, read_texts

    if generator.text_encoder is None:
        if options.prompt:
            recipe = TEXT_RECIPE if options.frames else RECIPE
            hint = f"the model of {options.checkpoint} reads no text: train one that does by {recipe}"
            raise UsageError("--prompt", options.prompt[0], hint)
        return None
    if not options.prompt and not options.unprompted:
        hint = f"the model of {options.checkpoint} reads a text: say what is to be seen, or give --unprompted"
        raise UsageError("--prompt", "nothing", hint)
    regions, rest = parse_prompts(options.prompt)
    height, width = size
    y_axis, x_axis = _Axis(height, patch[0], origin[0]), _Axis(width, patch[1], origin[1])
    for region in regions:
        if region.left + region.width > width or region.top + region.height > height:
            hint = f"lies outside the canvas of {x_axis.told}x{y_axis.told}: make it smaller"
            raise UsageError("--prompt", region, hint)
        if not (x_axis.meets(region.left, region.width) and y_axis.meets(region.top, region.height)):
            hint = (
                f"holds no centre of a patch of {patch[1]}x{patch[0]} pixels, so nothing would read it: make it larger"
            )
            raise UsageError("--prompt", region, hint)
    texts = [*(region.text for region in regions), *([] if rest is None else [rest])]
    if regions and rest is None and sum(r.width * r.height for r in regions) < width * height:
        raise UsageError(
            "--prompt", regions[-1], "leaves some of the canvas without a text: add a --prompt for the rest"
        )

    def choose(where: PatchIndex) -> tuple[int, ...]:
        y, x = y_axis.centre(where.y), x_axis.centre(where.x)
        for number, region in enumerate(regions, start=1):
            if region.holds(x, y):
                return (number,)
        return (len(texts) if rest is not None else 0,)

    guidance = 1.0 if not texts else 2.0 if options.guidance is None else options.guidance
    return Prompts(read_texts(generator.model, generator.text_encoder.states, texts), choose, guidance)


def describe(options: Any) -> dict[str, object]:
    """Return what a file's metadata should say about the text."""
    if not options.prompt:
        return {}
    return {"prompt": list(options.prompt), "guidance": 2.0 if options.guidance is None else options.guidance}
