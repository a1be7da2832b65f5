"""What a canvas on the disk says of itself: its facts and its states, read as what anybody may have written.

Shape legend: B images of one canvas (one a seed).
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load, save
from torch import Tensor

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.plain_data import fits, parse_json, read_json
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex

UNWRITTEN: Final = -1
"""What stands for a token that is not there yet."""
_FORMAT: Final = 2
_LONGEST_FACTS: Final = 64 << 20
_HOW: Final = {
    "metadata": list[dict[str, Any]],
    "request": dict[str, Any],
    "edits": list[dict[str, Any]],
    "undo": list[int],
    "given": dict[str, str],
    "versions": dict[str, Any],
}
"""What is read of how a canvas is made."""
_MAGIC: Final = b"nuwa_lightning state 1\n"
_DIGEST: Final = 32


@dataclass(frozen=True)
class Stage:
    """The shape of a canvas for a time: from its beginning, or from when it was grown, on.

    Attributes:
        grid: in patches; one axis may be endless, others closed.
        corner: position ``(t, y, x)`` on the lattice of the grid's first patch; below 0 after growth to the left or up.
            The first patch of the first stage is at (0, 0, 0), so that growing moves no position.
        size: height and width of the image in pixels; None along an endless axis.
        origin: pixel row and column of the grid at which the image begins.
    """

    grid: PatchGrid
    corner: tuple[int, int, int] = (0, 0, 0)
    size: tuple[int | None, int | None] = (None, None)
    origin: tuple[int, int] = (0, 0)

    def position(self, patch: PatchIndex) -> PatchIndex:
        """Return the position on the lattice of a patch of the grid."""
        return patch.shifted(self.corner)

    def patch(self, position: PatchIndex) -> PatchIndex:
        """Return the patch of the grid at a position of the lattice; it may lie outside."""
        t, y, x = self.corner
        return position.shifted((-t, -y, -x))


@dataclass(frozen=True)
class CanvasFacts:
    """What a canvas is.

    Attributes:
        stages: its shapes, the present one last.
        seeds: one for each of its B images.
        patch_size: tokens of a patch, rows and columns.
        codebook_size: how many tokens there are.
        downsample_factor: pixels of a token along an axis.
        log: how many records of the log the canvas has when it is finished, or had when its last stage began.
        finished: whether its last stage is.
        how: how it is made, plain JSON: what must not change while it grows, versions, hashes, metadata, edits.
    """

    stages: tuple[Stage, ...]
    seeds: tuple[int, ...]
    patch_size: tuple[int, int]
    codebook_size: int
    downsample_factor: int
    log: int = 0
    finished: bool = False
    how: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> Stage:
        """The present shape."""
        return self.stages[-1]

    @property
    def grid(self) -> PatchGrid:
        """The present shape in patches."""
        return self.stage.grid

    @property
    def corner(self) -> tuple[int, int, int]:
        """Position on the lattice of the grid's first patch."""
        return self.stage.corner

    @property
    def patch_pixels(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        rows, columns = self.patch_size
        return rows * self.downsample_factor, columns * self.downsample_factor

    def holds(self, position: PatchIndex) -> bool:
        """Say whether a record may have this position; an endless stage left some beyond where it was stopped."""
        patch = self.stage.patch(position)
        ends = (None if any(stage.grid.shape[axis] is None for stage in self.stages) else self.grid.shape[axis]
                for axis in range(3))  # fmt: skip
        return all(0 <= place < (end or 2**31) for place, end in zip(patch, ends, strict=True))


@dataclass(frozen=True)
class CanvasState:
    """Where generation stands between two waves."""

    waves: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def told(facts: Mapping[str, Any]) -> str:
    """Return how far a state is, for messages."""
    of = f" of {facts['patches_of']}" if facts.get("patches_of") else ""
    return f"{facts.get('patches', 0)}{of} patches"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each thing in which two canvases differ."""
    names = [name for name in (*before, *(n for n in now if n not in before)) if before.get(name) != now.get(name)]
    return [f"{name} was {_short(before.get(name))}, now {_short(now.get(name))}" for name in names]


def write_facts(path: Path, facts: CanvasFacts) -> None:
    """Write what a canvas says about itself, whole or not at all."""
    content = {"format": _FORMAT, **asdict(facts)}
    write_json(path, {"canvas": content, "sha256": _sum_of(content)})


def read_facts(path: Path) -> CanvasFacts:
    """Return what a canvas says about itself."""
    found = read_json(path, longest=_LONGEST_FACTS)
    content = dict(found["canvas"])
    if found["sha256"] != _sum_of(content) or content.pop("format") != _FORMAT:
        raise ValueError("checksum or format")
    stages = tuple(_stage(stage) for stage in content.pop("stages"))
    names = ("seeds", "patch_size")
    kept: dict[str, Any] = {name: tuple(v) if name in names else v for name, v in content.items()}
    facts = CanvasFacts(stages, **kept)
    lengths = (*facts.patch_size, facts.codebook_size, facts.downsample_factor)
    whole = (*lengths, *facts.seeds, facts.log)
    plain = all(type(n) is int for n in whole) and type(facts.finished) is bool and isinstance(facts.how, dict)
    sound = stages and len(facts.patch_size) == 2 and 0 < len(facts.seeds) <= 1 << 16 and facts.log >= 0
    if not (plain and sound and all(0 < n < 2**31 for n in lengths) and max(facts.patch_size) <= 1 << 12):
        raise ValueError("a number is out of range")
    _check_how(facts)
    return facts


def _check_how(facts: CanvasFacts) -> None:
    for name, kind in _HOW.items():
        if name in facts.how and not fits(facts.how[name], kind):
            raise ValueError(f"what it says of {name}")
    for stage in facts.stages:
        for start, size, patches, side in zip(
            stage.origin, stage.size, stage.grid.shape[1:], facts.patch_pixels, strict=True
        ):
            if start < 0 or (size is not None and start + size > (patches or 0) * side):
                raise ValueError("an image that is not inside its patches")
    grown = sum("grow" in edit for edit in facts.how.get("edits", ()))
    if grown >= len(facts.stages) or not all(0 <= length <= facts.log for length in facts.how.get("undo", ())):
        raise ValueError("edits that do not fit")
    for stage in facts.stages if facts.finished else facts.stages[:-1]:
        if not stage.grid.endless and stage.grid.size > facts.log:
            raise ValueError("more patches than it has")
    if facts.finished and None in (*facts.grid.shape, *facts.stage.size):
        raise ValueError("no end")


def _stage(content: Mapping[str, Any]) -> Stage:
    names = ("corner", "size", "origin")
    stage = Stage(PatchGrid(**content["grid"]), **{name: tuple(content[name]) for name in names})
    lengths = [length for length in (*stage.grid.shape, *stage.size) if length is not None]
    plain = all(type(n) is int for n in (*lengths, *stage.corner, *stage.origin))
    small = all(abs(n) < 2**31 for n in (*stage.corner, *stage.origin)) and all(0 < n < 2**31 for n in lengths)
    if not (plain and small and (len(stage.corner), len(stage.size), len(stage.origin)) == (3, 2, 2)):
        raise ValueError("a number of a stage is out of range")
    return stage


def write_state(path: Path, state: CanvasState, *, log: int) -> None:
    """Write a state that counts on so many records of the log, whole or not at all."""
    facts = json.dumps({"waves": state.waves, **state.facts, "log": log})
    data = save({name: tensor.contiguous() for name, tensor in state.tensors.items()}, metadata={"facts": facts})
    with atomic_write(path) as partial, partial.open("wb") as file:
        file.write(_MAGIC + hashlib.sha256(data).digest())
        file.write(data)


def read_state(path: Path) -> CanvasState | None:
    """Return the state in a file, or None if the file is damaged."""
    try:
        content = path.read_bytes()
        start = len(_MAGIC) + _DIGEST
        data = content[start:]
        if content[:start] != _MAGIC + hashlib.sha256(data).digest():
            return None
        (length,) = struct.unpack_from("<Q", data)
        facts = parse_json(parse_json(data[8 : 8 + length])["__metadata__"]["facts"])
        waves = facts.pop("waves")
        counts = [
            waves,
            facts["log"],
            *(facts[name] for name in ("patches", "patches_of") if facts.get(name) is not None),
        ]
        if any(type(count) is not int or count < 0 for count in counts):
            return None
        return CanvasState(waves, facts, load(data))
    except Exception:  # of a parser that meets what anybody may have written
        return None


def _short(value: object) -> str:
    text = "not given" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sum_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
