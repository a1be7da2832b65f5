"""The laws of a text encoder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from nuwa_lightning.testing.laws import asked, hold

if TYPE_CHECKING:
    from torch import Tensor

    from nuwa_lightning.text.base import TextEncoder

_CAPTIONS: Final = (
    "a lake",
    "snowy mountains above a lake, at dusk",
    " ".join(200 * ["lake"]),
    "Caf\u00e9 \u6e56 -- 3.50 $",
    "a",
)


def check_text_encoder(encoder: TextEncoder, *, tolerance: float = 1e-2) -> None:
    """Hold ``encoder`` to the laws of :class:`TextEncoder` on a few captions.

    Args:
        encoder: an object of the class to be tested.
        tolerance: how far the states of a caption beside others may be from those of it alone, by the largest.

    Raises:
        AssertionError: naming the class and the law.
    """
    import torch

    holds = functools.partial(hold, encoder)
    with asked(encoder, "a member of it"):
        width, expected, fingerprint = encoder.width, encoder.expected_size(), encoder.fingerprint()
        same = fingerprint == encoder.fingerprint()
    holds("width is a whole number from 1 up", isinstance(width, int) and width >= 1)
    holds("expected_size tells the width first", expected[0] == width)
    holds("fingerprint is a text that stays the same", isinstance(fingerprint, str) and same)
    together = _states(encoder, _CAPTIONS)
    holds("encode is deterministic", all(map(torch.equal, _states(encoder, _CAPTIONS), together)))
    for caption, states_SE in zip(_CAPTIONS, together, strict=True):
        (alone_SE,) = _states(encoder, [caption])
        law = "the states of a caption do not depend on captions beside it, and have no padding"
        holds(law, alone_SE.shape == states_SE.shape)
        apart, largest = (float(x.abs().max()) if len(x) else 0.0 for x in (alone_SE - states_SE, alone_SE))
        holds(law, apart <= tolerance * largest)


def _states(encoder: TextEncoder, captions: Sequence[str]) -> list[Tensor]:
    """Return the states of captions as they are cached, checked for themselves."""
    import torch

    with asked(encoder, "encode"), torch.inference_mode():
        encoded = encoder.encode(captions)
    good = all(isinstance(each, torch.Tensor) and each.dim() == 2 and each.is_floating_point() for each in encoded)
    hold(encoder, "encode gives a tensor [S, E] of floats for each caption", good and len(encoded) == len(captions))
    hold(encoder, "a token has width E", all(each.shape[1] == encoder.width for each in encoded))
    found = [each.float() for each in encoder.states(captions)]
    hold(encoder, "states are finite in half precision", all(bool(each.isfinite().all()) for each in found))
    (empty,) = encoder.states([" "])
    hold(encoder, "an empty caption has no token", empty.shape == (0, encoder.width))
    return found
