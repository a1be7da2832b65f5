"""One line of the table, and how long to measure."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Say = Callable[[str], None]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what is divided by what.
        value: measured; None where it could not be.
        aim: what was aimed at.
        at_least: whether more is better.
        note: what else there is to say.
    """

    name: str
    value: float | None
    aim: float | None = None
    at_least: bool = True
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the aim was reached, None where there is none."""
        if self.value is None or self.aim is None:
            return None
        return self.value >= self.aim if self.at_least else self.value <= self.aim


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes:
        steps: of a burst; 64 or more for figures to be quoted.
        rounds: how many bursts of each.
        large: the 85M models as well.
        canvases: whole canvases as well (minutes).
        shrink: by how much canvases are shorter than they should be, for a look at whether all works.
        run: a trained run of the default recipe, for the paper's canvas.
    """

    steps: int = 64
    rounds: int = 5
    large: bool = True
    canvases: bool = True
    shrink: int = 1
    run: Path | None = None
