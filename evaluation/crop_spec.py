"""Which crops are taken of a folder of images."""

from dataclasses import dataclass
from typing import Literal

from nuwa_lightning.errors import UsageError

Crop = Literal["whole", "center", "windows", "random"]


@dataclass(frozen=True)
class CropSpec:
    """Which crops are taken of a folder.

    Attributes:
        split: which images the folder is meant to hold; for photographs that the program knows, the ones it takes.
        count: how many crops; None takes all there are. Fewer than that are an error.
        short_sides: lengths that the shorter side of an image is brought to first; empty leaves images as they are.
            With ``random`` crops the scales take turns, otherwise every image is taken at every scale.
        filter: Pillow's filter for it.
        antialias: Pillow's filters widen when an image shrinks; there is no other way here, so this says it.
        crop: "whole" images (all of one size), their "center", all "windows" that lie beside each other from the
            upper left corner, or "random" crops, every image in turn.
        side: side of a crop in pixels; with "whole" it is only checked.
        seed: of which crops, where "random" or where ``count`` is below what there is.
    """

    split: Literal["any", "train", "val"] = "any"
    count: int | None = None
    short_sides: tuple[int, ...] = ()
    filter: Literal["lanczos", "bicubic", "bilinear", "box"] = "lanczos"
    antialias: Literal[True] = True
    crop: Crop = "whole"
    side: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crop != "whole" and self.side is None:
            raise UsageError("protocol.side", None, f"crop {self.crop} needs the side of the crops: give it")
        if self.side is not None and self.short_sides and min(self.short_sides) < self.side:
            hint = f"is smaller than the crops of {self.side} pixels: raise it"
            raise UsageError("protocol.short_sides", list(self.short_sides), hint)
        if self.crop == "random" and self.count is None:
            raise UsageError("protocol.count", None, "random crops need a number: give it")
        if self.count is not None and self.count < 1:
            raise UsageError("protocol.count", self.count, "must be at least 1")
