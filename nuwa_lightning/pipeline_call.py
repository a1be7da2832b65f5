"""What a call of the pipeline takes: its arguments are checked, and errors name them as the caller does."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Final

import torch

from nuwa_lightning.errors import UsageError
from nuwa_lightning.request import GenerationRequest

_ARGUMENTS: Final = {"count": "num_images_per_prompt", "guidance": "guidance_scale"}
"""Fields of a request whose argument has another name."""
_ELSEWHERE: Final = {**_ARGUMENTS, "height": "size=(width, height)", "width": "size=(width, height)"}


def check_call(
    options: Mapping[str, Any],
    *,
    arguments: Collection[str],
    size: Any,
    seed: int | None,
    generator: Any,
    num_images_per_prompt: Any,
) -> None:
    """Refuse what a call cannot take: ``options`` are those that are not among its own ``arguments``."""
    if size is not None and (not isinstance(size, (tuple, list)) or len(size) != 2):
        raise UsageError("size", size, "give width and height in pixels, such as (1024, 512)")
    fields = {each.name for each in dataclasses.fields(GenerationRequest)} - set(_ARGUMENTS)
    known = sorted((fields | set(arguments)) - {"options"})
    for name, value in options.items():
        if name not in fields:
            near = [_ELSEWHERE[name]] if name in _ELSEWHERE else difflib.get_close_matches(name, known, 1, 0.6)
            way_out = f"did you mean {near[0]}?" if near else f"choose {', '.join(known)}"
            raise UsageError(name, value, f"there is no such argument; {way_out}")
    if not isinstance(num_images_per_prompt, Integral) or int(num_images_per_prompt) < 1:
        raise UsageError("num_images_per_prompt", num_images_per_prompt, "give a whole number from 1 up")
    if generator is not None and not isinstance(generator, torch.Generator):
        hint = "give one torch.Generator: each further image has the next seed"
        raise UsageError("generator", type(generator).__name__, hint)
    if seed is not None and generator is not None:
        raise UsageError("seed", seed, "there is a generator, too: give one of both")


@contextmanager
def named_as_given() -> Iterator[None]:
    """Turn errors about fields of a request into errors about the arguments of a call."""
    try:
        yield
    except UsageError as error:
        error.option = _ARGUMENTS.get(error.option, error.option)
        error.hint = re.sub(r"`(\w+)`", lambda found: f"`{_ARGUMENTS.get(found[1], found[1])}`", error.hint)
        raise


def drawn(generator: torch.Generator) -> int:
    """Return a seed."""
    return int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
