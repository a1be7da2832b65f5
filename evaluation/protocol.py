"""All that moves a number, in one file: how images are chosen and cut, which features, which metrics, which seeds.

Two numbers compare when the hashes of their protocols agree; if they do not, :func:`differences` names the settings.
Where the images lie, how many processes work and where weights lie on disk move no number and are no part of it.
"""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from evaluation.config import build, flat, read_yaml, set_option
from evaluation.crop_spec import CropSpec
from evaluation.weights import KNOWN_SHA256
from nuwa_lightning.errors import UsageError, check_range

FOLDER: Final = Path(__file__).parent / "protocols"
_RANGES: Final[dict[str, tuple[float, float]]] = {
    r"(.*\.)?seed": (0, (1 << 32) - 1),
    r"version": (0, 1_000_000),
    r"resamples": (2, 100_000),
    r"splits": (1, 100_000),
    r"(real|generated)\.count": (1, 10_000_000),
    r"(real|generated)\.(side|short_sides)": (1, 1 << 17),
    r"metrics\.kid\.subset_size": (2, 10_000_000),
    r"metrics\.kid\.subsets": (1, 100_000),
    r"metrics\.inception_score\.splits": (1, 100_000),
    r"metrics\.manifold\.(k|k_coverage)": (1, 100_000),
    r"metrics\.diversity\.pairs": (1, 10_000_000),
    r"metrics\.\w+\.projections": (1, 1_000_000),
    r"metrics\.(blocks\.side|seams\.patch|seams\.token|collapse\.window)": (1, 1 << 17),
    r"metrics\.collapse\.percentile": (0, 100),
}
"""From where to where every number of a protocol goes, by a pattern of its name."""
_LOG = logging.getLogger(__name__)
_NAME: Final = "[a-z0-9][a-z0-9_.-]*"
FORMAT: Final = 6
"""Raised whenever the same protocol comes to mean other numbers; it is part of the hash."""


@dataclass(frozen=True)
class Features:
    """The network whose features enter the distances.

    Attributes:
        name: "lite0" (a package carries it) or "inception" (give its weights by ``--weights``), or the import path of
            a class of your own.
        weights_sha256: hash of its weights; None takes the one that the name stands for.
    """

    name: str = "lite0"
    weights_sha256: str | None = None


@dataclass(frozen=True)
class Kid:
    """Kernel distance. All images enter one estimate, or the mean over ``subsets`` of ``subset_size``."""

    subset_size: int | None = None
    subsets: int = 100


@dataclass(frozen=True)
class Fid:
    """Frechet distance. With fewer images than features it is far off: refused, or stated beside its floor."""

    low_rank: Literal["refuse", "state"] = "refuse"


@dataclass(frozen=True)
class Mind:
    """Sliced Wasserstein distance along ``projections`` random directions of ``seed``; both move the number."""

    projections: int = 1000
    seed: int = 2020


@dataclass(frozen=True)
class InceptionScore:
    """Inception score, as the mean over ``splits`` parts."""

    splits: int = 1


@dataclass(frozen=True)
class Manifold:
    """Precision and recall (``k`` neighbors), density and coverage (``k_coverage`` neighbors)."""

    k: int = 3
    k_coverage: int = 5


@dataclass(frozen=True)
class Diversity:
    """Perceptual distance among samples, over so many random pairs."""

    pairs: int = 200


@dataclass(frozen=True)
class Blocks:
    """Distances of blocks (paper, section on metrics).

    Attributes:
        side: side of a block in pixels.
        shifted: move the grid by half a block, so that patch borders fall inside blocks.
        against: real blocks of the same "position", or all of them "pooled" (canvases larger than real images).
        distances: which.
    """

    side: int
    shifted: bool = True
    against: Literal["position", "pooled"] = "position"
    distances: tuple[Literal["kid", "fid"], ...] = ("kid", "fid")


@dataclass(frozen=True)
class Seams:
    """Sides of a patch and of a token in pixels."""

    patch: int = 64
    token: int = 8


@dataclass(frozen=True)
class Collapse:
    """Windows whose luminance spread lies below this percentile of real windows are flat."""

    window: int = 256
    percentile: float = 5.0


@dataclass(frozen=True)
class Metrics:
    """Which metrics; None leaves one out.

    Attributes:
        memorization: distance to the nearest real image, authenticity, and copies of real files.
        color: means of six color statistics.
        cmmd: biased distance of a Gaussian kernel; for features of length 1.
    """

    kid: Kid | None = None
    fid: Fid | None = None
    mind: Mind | None = None
    inception_score: InceptionScore | None = None
    manifold: Manifold | None = None
    diversity: Diversity | None = None
    blocks: Blocks | None = None
    seams: Seams | None = None
    collapse: Collapse | None = None
    clip: bool = False
    memorization: bool = True
    color: bool = True
    cmmd: bool = False


@dataclass(frozen=True)
class Reconstruction:
    """What is measured on pairs of originals and reconstructions, beside the distances."""

    psnr: bool = True
    ssim: bool = True
    lpips: bool = True


@dataclass(frozen=True)
class Protocol:
    """All that moves a number.

    Attributes:
        name: what to call it.
        version: to be raised whenever a setting changes.
        real: which real crops.
        generated: which generated (or reconstructed) crops.
        features: of the distances.
        perceptual: "stlpips" (a package carries it), "lpips-alex" or "lpips-vgg" (their trunks' weights on disk).
        metrics: which metrics.
        reconstruction: which metrics of pairs.
        resamples: at most so many parts of a set are left out in turn for the interval of IS.
        splits: splits of the real images for each floor.
        seed: of all resampling and of random pairs.
        color: said, and fixed.
        rounding: said, and fixed.
    """

    name: str
    version: int
    real: CropSpec = field(default_factory=CropSpec)
    generated: CropSpec = field(default_factory=CropSpec)
    features: Features = field(default_factory=Features)
    perceptual: Literal["stlpips", "lpips-alex", "lpips-vgg"] = "stlpips"
    metrics: Metrics = field(default_factory=Metrics)
    reconstruction: Reconstruction = field(default_factory=Reconstruction)
    resamples: int = 200
    splits: int = 50
    seed: int = 0
    color: Literal["8-bit RGB, upright, transparency over white"] = "8-bit RGB, upright, transparency over white"
    rounding: Literal["to 8 bits after resizing"] = "to 8 bits after resizing"

    def __post_init__(self) -> None:
        check_protocol_name(self.name)
        for name, value in flat(dataclasses.asdict(self)).items():
            for pattern, (least, most) in _RANGES.items():
                if value is not None and re.fullmatch(pattern, name):
                    for number in value if isinstance(value, list | tuple) else (value,):
                        check_range(f"protocol.{name}", number, least, most)

    def settings(self) -> dict[str, Any]:
        """Return every setting, defaults included, as plain values."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {**found, "format": FORMAT}


def load_protocol(name: str | Path, changes: Sequence[str] = ()) -> Protocol:
    """Return the protocol of a file, or of a name in ``evaluation/protocols``.

    Args:
        name: "landscape", or a path.
        changes: settings to change, as ``real.count=50``.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        path = FOLDER / f"{name}.yaml"
    content = upgraded(read_yaml(path, "protocol"))
    for change in changes:
        set_option(content, change)
    protocol = build(Protocol, content, "protocol")
    return dataclasses.replace(protocol, features=resolved(protocol.features))


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Return a protocol's settings with the first version's names replaced by today's; a warning says which."""
    found = dict(content)
    if "colour" in found:
        found["color"] = found.pop("colour")
        _LOG.warning("protocol: colour is called color now")
    for name in ("real", "generated"):
        if isinstance(found.get(name), dict) and found[name].get("crop") == "centre":
            found[name] = {**found[name], "crop": "center"}
            _LOG.warning("protocol: %s.crop: centre is called center now", name)
    return found


def resolved(features: Features) -> Features:
    """Return features with the hash that their name stands for."""
    known = KNOWN_SHA256.get(features.name)
    if known is None or features.weights_sha256 == known:
        return features
    if features.weights_sha256 is not None:
        hint = f"{features.name} stands for weights of sha256 {known}: leave it out, or name your own class"
        raise UsageError("protocol.features.weights_sha256", features.weights_sha256, hint)
    return dataclasses.replace(features, weights_sha256=known)


def check_protocol_name(name: str) -> None:
    """Refuse a name that could be taken for another protocol's, or for what a report says beside it."""
    if not re.fullmatch(_NAME, name):
        hint = "take small letters, digits, '_', '.' and '-', such as landscape_50"
        raise UsageError("protocol.name", ascii(name), hint)


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """Return the hash of every setting but the name."""
    kept = {key: value for key, value in settings.items() if key != "name"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the settings in which two protocols differ, as ``real.count: 200 against 100``; names do not count."""
    ours, theirs = flat(a), flat(b)
    keys = sorted((ours.keys() | theirs.keys()) - {"name"})
    absent = "absent"
    return [
        f"{key}: {ours.get(key, absent)} against {theirs.get(key, absent)}"
        for key in keys
        if ours.get(key, absent) != theirs.get(key, absent)
    ]
