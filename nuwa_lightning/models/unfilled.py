"""Modules of which only the shapes are made: their weights are read afterwards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

_KEPT: Final = (
    "normal_",
    "uniform_",
    "kaiming_uniform_",
    "zero_",
    "fill_",
    "copy_",
    "clone",
    "mul_",
    "mul",
    "normalize",
)
"""What gives numbers to a tensor and leaves its shape."""
_MADE: Final = ("randn", "ones", "zeros")


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in _KEPT:
            return args[0] if args else given["tensor"]
        if name == "full":
            return torch.empty(args[0])
        return (torch.empty if name in _MADE else func)(*args, **given)


@contextmanager
def unfilled() -> Iterator[None]:
    """Make tensors on the device ``meta``, which takes no memory, and compute no numbers for them.

    That device alone would go through PyTorch's own Python for that, which imports its compiler and sympy: seconds.
    """
    with torch.device("meta"), _NothingDrawn():
        yield
