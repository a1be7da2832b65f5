"""What a network has to offer to be measured with.

A feature extractor is a plain callable: uint8 RGB ``(B, Y, X, 3)`` to features ``(B, D)`` and class scores ``(B, K)``.
"""

import hashlib
import importlib
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evaluation.weights import RESERVED_NAMES
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

_ALIKE: Final = str.maketrans("01i345", "olleas")
"""Digits, and one letter, to the letters that they look like."""


def identity(extractor: Any, shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Return all that tells one network from another, for the cache's key and the report.

    Args:
        extractor: the network.
        shape: what it is given, ``(B, Y, X, 3)`` or ``(T, Y, X, 3)``: one of your own is asked for its features of made
            images of it, since neither its protocol nor its file need tell which weights it has read.
    """
    kind = type(extractor)
    return {
        **extractor.protocol,
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "prefix": extractor.prefix,
        "width": extractor.width,
        **({"weights_file_sha256": found} if (found := getattr(extractor, "weights_file_sha256", None)) else {}),
        **({} if is_ours(extractor) else _code_of(kind)),
        **({} if is_ours(extractor) or shape is None else {"features_sha256": features_sha256(extractor, shape)}),
    }


def is_ours(extractor: Any) -> bool:
    """Say whether a network is one of this package, which its protocol tells: by its class, whatever it says."""
    kind = type(extractor)
    ours = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    return ours and getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind


def check_name(extractor: Any) -> None:
    """Refuse a network of one's own whose prefix is not plain, or looks like the name of another network or metric."""
    prefix, kind = extractor.prefix, type(extractor)
    if is_ours(extractor) and prefix == getattr(kind, "prefix", prefix):
        return
    option, value = "features", f"{kind.__module__}.{kind.__qualname__}"
    if not re.fullmatch(r"[A-Za-z0-9]+([._][A-Za-z0-9]+)*-", prefix):
        hint = "a network of your own needs letters and digits, then '-', such as prefix = 'mine-'"
        raise UsageError(option, value, f"prefix {prefix!r}: {hint}")
    for stem in re.split(r"[._-]", prefix):
        for name in RESERVED_NAMES:
            if stem.casefold().translate(_ALIKE).startswith(name.translate(_ALIKE)):
                raise UsageError(option, value, f"prefix {prefix!r} looks like {name}, which is taken: take another")


def features_sha256(extractor: Any, shape: tuple[int, ...]) -> str:
    """Return a hash of what a network makes of made images.

    It is of the length and a few sums of its features to three digits: other machines, which differ from the sixth
    digit on, give the same.
    """
    found = extractor(made_images(shape))
    told = []
    for part in found if isinstance(found, tuple) else (found,):
        values = np.ravel(np.asarray(part, np.float64))
        length = float(np.linalg.norm(values)) or 1.0
        sums = np.cos(np.outer(range(1, 5), np.arange(len(values)))) @ (values / length)
        told += [f"{length:.2e}", *(f"{round(one, 3) + 0.0:.3f}" for one in sums.tolist())]
    return hashlib.sha256(" ".join(told).encode()).hexdigest()


def made_images(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return images of a formula in whole numbers, the same everywhere and always: uint8 RGB ``(B, Y, X, 3)``."""
    n, y, x, color = np.ogrid[tuple(slice(size) for size in shape)]
    return np.asarray((y * x * (n + 2) // 8 + 5 * y + 3 * x * (color + 1)) % 256, np.uint8)


def _code_of(kind: type[Any]) -> dict[str, str]:
    """Return the hash of the file that a class of one's own is written in."""
    try:
        source = inspect.getsourcefile(kind)
    except (OSError, TypeError):  # typed in by hand
        return {}
    return {"code_sha256": file_sha256(source)} if source and Path(source).is_file() else {}


def remember_weights(extractor: Any, weights: str | os.PathLike[str] | None) -> None:
    """Note the hash of the weights that a network of one's own was made with: :func:`identity` tells it."""
    if weights is None:
        return
    if not Path(weights).is_file():
        raise UsageError("weights", str(weights), "is no file, so its content cannot be told: give a file")
    extractor.weights_file_sha256 = file_sha256(weights)


def imported(name: str, weights: str | os.PathLike[str] | None, device: str, *, known: str, kind: type[Any]) -> Any:
    """Return an extractor of the user's own class, of a ``kind``, by its import path; ``known`` is told in errors."""
    module, _, cls = name.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), cls)(weights=weights, device=device)
    except UsageError:
        raise
    except (ImportError, AttributeError, ValueError) as error:
        hint = f"{error}: give {known}, or the import path of your own class, such as my_features.Mine"
        raise UsageError("features", name, hint) from None
    if not isinstance(made, kind):
        raise UsageError("features", name, f"has no prefix, width or protocol: see {kind.__module__}.{kind.__name__}")
    if not is_ours(made):
        check_name(made)
        remember_weights(made, weights)
    return made


@runtime_checkable
class Extractor(Protocol):
    """What a network has to offer to be measured with.

    Attributes:
        prefix: stands before the names of the metrics ("lite0-"); empty only for the network of the published FID.
        width: number of features D.
        protocol: what else moves a number (weights, resizing, scaling), as plain values.
    """

    prefix: str
    width: int
    protocol: dict[str, Any]

    def __call__(self, images_BYX3: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return features ``(B, D)`` and class scores before the softmax ``(B, K)``; K may be 0."""
