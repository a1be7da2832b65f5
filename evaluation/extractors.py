"""The networks that turn images into features, each under the name that its numbers bear.

A feature extractor is a plain callable: uint8 RGB ``(B, Y, X, 3)`` to features ``(B, D)`` and class scores ``(B, K)``.
"""

import os
import re

from evaluation import features as lite0
from evaluation import inception
from evaluation.extractor import Extractor, imported
from evaluation.weights import INCEPTION_FILE, RESERVED_PREFIXES
from nuwa_lightning.errors import UsageError


def make_extractor(name: str, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> Extractor:
    """Return the extractor of a name.

    Args:
        name: "lite0", "inception", "inception-clean", or the import path of a class of your own, which is called with
            ``weights`` and ``device``.
        weights: its weights on disk, where no package carries them.
        device: where it computes.

    Raises:
        UsageError: if there is none, or its weights are missing or not the ones that the name stands for.
    """
    if name == "lite0":
        return lite0.Lite0Features(weights=weights, device=device)
    if name == "inception":
        return inception.InceptionFeatures(weights=weights, device=device)
    if name == "inception-clean":
        return inception.CleanInceptionFeatures(weights=weights, device=device)
    made: Extractor = imported(name, weights, device, known="lite0, inception", kind=Extractor)
    check_name(made)
    return made


def check_name(extractor: Extractor) -> None:
    """Refuse a prefix that is not plain, or that only other weights may bear."""
    prefix = extractor.prefix
    own = lite0.Lite0Features, inception.InceptionFeatures, inception.CleanInceptionFeatures
    if type(extractor) in own:
        return
    kind = f"{type(extractor).__module__}.{type(extractor).__qualname__}"
    if not prefix.strip():
        hint = f"only {INCEPTION_FILE} may go without a prefix: name yours by it, such as prefix = 'mine-'"
        raise UsageError("features", kind, hint)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.]*-", prefix):
        raise UsageError("features", kind, f"prefix {prefix!r}: letters and digits, then '-', such as 'mine-'")
    if prefix.lower() in RESERVED_PREFIXES:
        raise UsageError("features", kind, f"prefix {prefix!r} is that of other weights: take another")
