"""What the page may ask for, read from JSON that anybody may have written."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from nuwa_lightning.canvas.edits import STEERED
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import parse_json
from nuwa_lightning.request import FRAMES, GenerationRequest
from nuwa_lightning.request_fields import Expansion, InputImage, Size
from nuwa_lightning.writers import IMAGE_WRITERS, VIDEO_WRITERS

LONGEST_BODY: Final = 64 << 10
_LONGEST_SIDE: Final = 1 << 24
_MOST_PIXELS: Final = 1 << 34
_LONGEST_TEXT: Final = 2000
_MOST_CANDIDATES: Final = 8
_MOST_BOXES: Final = 1000
_SEEDS: Final = 2**62
SHARED: Final = ".canvas.zip"
"""The format of an export that is the canvas itself, for another folder of canvases."""
SIDES: Final = ("left", "right", "up", "down")


def parsed(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body."""
    try:
        found = parse_json(body.decode("utf-8")) if body else {}
    except ValueError:
        raise UsageError("body", f"{len(body)} bytes", "is no JSON") from None
    if not isinstance(found, dict):
        raise UsageError("body", type(found).__name__, "give a JSON object")
    return found


def whole(body: Mapping[str, Any], name: str, least: int, most: int, default: int | None = None) -> int:
    """Return a whole number of a body.

    Raises:
        UsageError: if it is missing, no whole number, or out of range.
    """
    value = body.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise UsageError(name, json.dumps(value), f"give a whole number from {least} to {most}")
    return value


def text(body: Mapping[str, Any], name: str, default: str = "", *, longest: int = _LONGEST_TEXT) -> str:
    """Return a text of a body.

    Raises:
        UsageError: if it is none, or too long.
    """
    value = body.get(name, default)
    if not isinstance(value, str) or len(value) > longest:
        raise UsageError(name, json.dumps(value), f"give a text of at most {longest} characters")
    return value


def options(body: Mapping[str, Any], *, reads_text: bool) -> dict[str, Any]:
    """Return how tokens are drawn, and by which text; see :func:`nuwa_lightning.canvas.edits.steered`.

    Raises:
        UsageError: if there is no such option, or it is of another kind.
    """
    given = body.get("options") or {}
    if not isinstance(given, dict):
        raise UsageError("options", type(given).__name__, f"give an object with some of {', '.join(STEERED)}")
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in STEERED:
            raise UsageError("options", name, f"choose {', '.join(STEERED)}")
        if name == "prompt":
            prompt = " ".join(text(given, "prompt").split())
            if reads_text:
                found["prompt"] = prompt
            elif prompt:
                raise UsageError("prompt", prompt, "this model reads no text: leave it out")
        elif name == "top_k":
            found["top_k"] = whole(given, "top_k", 0, 1 << 20)
        elif type(value) not in (int, float) or not math.isfinite(value):
            raise UsageError(name, json.dumps(value), "give a number")
        else:
            found[name] = float(value)
    return found


def growth(body: Mapping[str, Any], *, reads_text: bool) -> dict[str, Any]:
    """Return the arguments of ``FinishedCanvas.grow``."""
    wish: dict[str, Any] = {side: whole(body, side, 0, _LONGEST_SIDE, 0) for side in SIDES}
    wish["frames"] = whole(body, "frames", 0, 1 << 20, 0)
    if body.get("seed") is not None:
        wish["seed"] = whole(body, "seed", 0, _SEEDS)
    return {**wish, "options": options(body, reads_text=reads_text)}


def part(body: Mapping[str, Any], *, reads_text: bool) -> dict[str, Any]:
    """Return the arguments of ``FinishedCanvas.redo``, and how many candidates."""
    given = body.get("box")
    boxes = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
    if len(boxes) > _MOST_BOXES or not all(_whole_numbers(box, 4) for box in boxes):
        hint = f"give left, top, right, bottom in whole pixels, or a list of at most {_MOST_BOXES} of them"
        raise UsageError("box", json.dumps(given)[:200], hint)
    found: dict[str, Any] = {"box": boxes, "seed": whole(body, "seed", 0, _SEEDS)}
    found["count"] = whole(body, "count", 1, _MOST_CANDIDATES, 1)
    if body.get("frames") is not None:
        frames = body["frames"]
        if not _whole_numbers(frames, 2):
            raise UsageError("frames", json.dumps(frames), "give the first and the last, excluded")
        found["frames"] = tuple(frames)
    return {**found, "options": options(body, reads_text=reads_text)}


def _whole_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(n) is int for n in value)


def request(
    body: Mapping[str, Any], image: InputImage | None, plan: InputImage | None, *, reads_text: bool
) -> GenerationRequest:
    """Return the request of a new canvas."""
    given = options(body, reads_text=reads_text)
    prompt = given.pop("prompt", "")
    given |= {"prompt": (prompt,)} if prompt else {"unprompted": True}
    given["seed"] = whole(body, "seed", 0, _SEEDS, 0)
    if image is not None:
        expand = body.get("expand") or {}
        if not isinstance(expand, dict) or set(expand) - set(SIDES):
            raise UsageError("expand", json.dumps(expand), f"give pixels for {', '.join(SIDES)}")
        sides = Expansion(**{side: whole(expand, side, 0, _LONGEST_SIDE, 0) for side in SIDES})
        given |= {"image": image, "expand": sides if sides or image.holes_YX is None else None}
    else:
        size = Size(whole(body, "width", 1, _LONGEST_SIDE), whole(body, "height", 1, _LONGEST_SIDE))
        given |= {"size": size, "wrap": text(body, "wrap", longest=2)}
        if (size.width or 0) * (size.height or 0) > _MOST_PIXELS:
            raise UsageError("size", size, "is too much at once: begin smaller, and let it grow")
    if plan is not None:
        given["plan"] = plan
    if body.get("order"):
        given["order"] = text(body, "order", longest=8)
    if body.get("frames") is not None:
        given["frames"] = whole(body, "frames", 2, 10_000, FRAMES)
    return GenerationRequest(**given)


def suffix(body: Mapping[str, Any], *, video: bool) -> str:
    """Return the format of an export."""
    found, known = text(body, "suffix", longest=len(SHARED)), (*(VIDEO_WRITERS if video else IMAGE_WRITERS), SHARED)
    if found not in known:
        raise UsageError("suffix", found or "''", f"choose {', '.join(known)}")
    return found
