"""Which region of a canvas a patch lies in: that whose rectangle holds the patch's center."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.request_fields import Region


@dataclass(frozen=True)
class Axis:
    """An axis of the canvas, in pixels: its length, that of a patch, and where it begins on the grid of patches."""

    length: int
    patch: int
    origin: int

    @property
    def told(self) -> str:
        """Its length, for messages."""
        return "endless" if self.length == sys.maxsize else str(self.length)

    def center(self, number: int) -> int:
        """Return where a patch has its center, or the pixel of the canvas that is nearest to it."""
        return min(max(number * self.patch + self.patch // 2 - self.origin, 0), self.length - 1)

    def meets(self, start: int, length: int) -> bool:
        """Say whether a piece of the axis holds a center."""
        last = -(-(self.origin + self.length) // self.patch) - 1
        # The first patch whose center does not lie before the piece.
        first = max(-(-(start + self.origin - self.patch // 2) // self.patch), 0) if start else 0
        return start <= self.center(min(first, last)) < start + length


@dataclass(frozen=True)
class RegionMap:
    """Regions on a canvas.

    Args:
        regions: rectangles in pixels, none over another.
        rest: whether what no region covers has a text, too.
        y: the canvas along y.
        x: the canvas along x.

    Raises:
        UsageError: if a region lies outside, no patch would read it, or some of the canvas is left without a text.
    """

    regions: Sequence[Region]
    rest: bool
    y: Axis
    x: Axis

    def __post_init__(self) -> None:
        """Refuse regions that do not fit the canvas."""
        for region in self.regions:
            if region.left + region.width > self.x.length or region.top + region.height > self.y.length:
                hint = f"lies outside the canvas of {self.x.told}x{self.y.told}: make it smaller"
                raise UsageError("prompt", region, hint)
            if not (self.x.meets(region.left, region.width) and self.y.meets(region.top, region.height)):
                hint = f"holds no center of a patch of {self.x.patch}x{self.y.patch} pixels, so nothing would read it"
                raise UsageError("prompt", region, f"{hint}: make it larger")
        covered = sum(region.width * region.height for region in self.regions)
        if self.regions and not self.rest and covered < self.x.length * self.y.length:
            hint = "leaves some of the canvas without a text: add a `prompt` for the rest"
            raise UsageError("prompt", self.regions[-1], hint)

    def number(self, patch: PatchIndex) -> int:
        """Return the number of the patch's text: of its region from 1 on, then that of the rest, 0 for none."""
        y, x = self.y.center(patch.y), self.x.center(patch.x)
        for number, region in enumerate(self.regions, start=1):
            if region.holds(x, y):
                return number
        return len(self.regions) + 1 if self.rest else 0
