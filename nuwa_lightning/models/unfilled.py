"""Modules of which only the shapes are made: their weights are read afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLING = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _FILLING:
            return args[0] if args else given["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **given)


@contextmanager
def unfilled() -> Iterator[None]:
    """Make tensors on the device ``meta``, which takes no memory, and draw no numbers for them.

    That device alone would draw them, too, for which PyTorch imports sympy: seconds.
    """
    with torch.device("meta"), _NothingDrawn():
        yield
