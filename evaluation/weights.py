"""Weights files are named by their hash: a number can only bear a network's name if it comes from that network."""

import os
from pathlib import Path
from typing import Final

from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

LITE0: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INCEPTION: Final = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_FILE: Final = "weights-inception-2015-12-05-6726825d.pth"

KNOWN_SHA256: Final = {"lite0": LITE0, "inception": INCEPTION, "inception-clean": INCEPTION}
"""By the name of the features."""

RESERVED_NAMES: Final = (
    "lite0", "inception", "clean", "dino", "clip", "videomae", "vjepa", "i3d", "stlpips", "lpips",
    "fid", "kid", "fvd", "kvd", "cmmd", "jedi",
)  # fmt: skip
"""Networks and metrics whose names only the networks of this package may bear."""


def hub_cache() -> Path:
    """Return the folder where torch keeps downloaded weights; torchvision, torch-fidelity and lpips use it too."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_HOME") or Path(base) / "torch") / "hub" / "checkpoints"


def checked_weights(
    path: str | os.PathLike[str] | None, *, sha256: str, cached_as: str, option: str = "weights"
) -> Path:
    """Return a weights file, by default ``cached_as`` in torch's hub cache, whose content is the expected one."""
    file = hub_cache() / cached_as if path is None else Path(path)
    if not file.is_file():
        hint = f"there is no such file; give the path of {cached_as} (sha256 {sha256[:8]}...)"
        raise UsageError(option, str(file), hint)
    digest = file_sha256(file)
    if digest != sha256:
        raise UsageError(option, str(file), f"its sha256 is {digest}, wanted is {sha256} ({cached_as}): give that file")
    return file
