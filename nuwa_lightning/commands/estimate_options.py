"""The options of ``estimate``; jsonargparse imports what their module imports for types only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EstimateOptions:
    """What is asked beside the recipe.

    Args:
        size: WIDTHxHEIGHT in pixels of a canvas to be generated, on one device
        frames: of the canvas
        devices: that train together, each with all weights, or a part of them if the recipe names ShardedStrategy
        flops: sustained FLOP/s of a device (default: a step is timed here)
        step_seconds: of one step of decoding (default: timed here)
    """

    size: str | None = None
    frames: int = 1
    devices: int = 1
    flops: float | None = None
    step_seconds: float | None = None
