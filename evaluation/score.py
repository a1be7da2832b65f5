"""One report on folders of images: every metric of a protocol, each beside what real images get (ours)."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from evaluation import rows
from evaluation.clip_score import Captioned, ClipScore, captions_of, captions_sha256
from evaluation.estimates import Estimate
from evaluation.extractor import Extractor, check_name, identity, is_ours, remember_weights
from evaluation.extractors import make_extractor
from evaluation.feature_cache import BATCH, FeatureCache, FeatureSet
from evaluation.images import ImageSet, Pixels
from evaluation.looking import Look, Wanted, check, look
from evaluation.perceptual import PerceptualDistance, random_pairs
from evaluation.protocol import Protocol
from evaluation.real_images import real_images
from evaluation.reconstruction import Pairs, score_pairs
from evaluation.record import SAMPLES, finish_report, machine, samples_of
from nuwa_lightning.data.reading import MAX_PIXELS, MediaReadError
from nuwa_lightning.errors import UsageError

Where = str | os.PathLike[str]

LEAST: Final = 10
"""Fewer images than this make no interval worth printing; the real ones must be twice as many, for the floor."""


LEAST_FILES: Final = 4
"""Crops of fewer files than this cannot be parted by file, and say nothing of other files."""


@dataclass(frozen=True)
class Networks:
    """Where weights lie that no package carries, and where networks compute; moves no number.

    Attributes:
        weights: of the features ("inception", or your own class).
        lpips_weights: of LPIPS' trunk.
        clip: folder of a CLIP model.
        device: "cpu", "cuda".
        extractor: a network that is loaded already.
    """

    weights: Where | None = None
    lpips_weights: Where | None = None
    clip: Path | None = None
    device: str = "cpu"
    extractor: Extractor | None = None


@dataclass(frozen=True)
class Work:
    """How to work; moves no number.

    Attributes:
        cache: folder of the feature cache; None takes the user's.
        cached: whether features are kept at all.
        skip_corrupt: leave out files that cannot be read, and count them.
        progress: show bars on standard error.
        max_pixels: refuse an image of more, before it is decoded.
    """

    cache: Path | None = None
    cached: bool = True
    skip_corrupt: bool = False
    progress: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise UsageError("max_pixels", self.max_pixels, "must be at least 1")


@dataclass
class Scoring:
    """What the metrics of one report share."""

    protocol: Protocol
    cache: FeatureCache
    sets: dict[str, ImageSet]
    progress: bool = False
    looks: dict[str, Look] = field(default_factory=dict)
    shown: Callable[[Path, Pixels], None] | None = None

    @property
    def features(self) -> dict[str, FeatureSet]:
        """The features of every set."""
        return {name: one.features for name, one in self.looks.items()}

    def look(self) -> None:
        """Go through every set once, the smallest first."""
        for name in sorted(self.sets, key=lambda name: len(self.sets[name])):
            check(self.sets[name], self._wanted(name))
        for name in sorted(self.sets, key=lambda name: len(self.sets[name])):
            found = self.looks[name] = look(self.sets[name], self.cache, self._wanted(name), progress=self.progress)
            check_count(self.sets[name], len(found.features), least(name))
            files = len(np.unique(found.features.clusters_N))
            if name == "real" and files < LEAST_FILES:
                hint = f"its crops come from {files} files, at least {LEAST_FILES} are needed: add some"
                raise UsageError(self.sets[name].option, self.sets[name].where, hint)

    def _wanted(self, name: str) -> Wanted:
        metrics, images = self.protocol.metrics, self.sets[name]
        samples = "generated" in self.sets and name in ("real", "generated")
        held: frozenset[int] = frozenset()
        if samples and metrics.diversity and len(np.unique(images.clusters())) > 1:
            pairs = random_pairs(images.clusters(), metrics.diversity.pairs, self.protocol.seed)
            held = frozenset(i for pair in pairs for i in pair)
        return Wanted(
            metrics.seams, metrics.color, metrics.collapse.window if samples and metrics.collapse else None,
            samples and metrics.memorization, metrics.blocks if samples else None, held,
            self.shown if name == "generated" else None,
        )  # fmt: skip


def score(
    protocol: Protocol,
    real: Where,
    *,
    generated: Where | None = None,
    reconstruction: Where | None = None,
    original: Where | None = None,
    networks: Networks | None = None,
    work: Work | None = None,
) -> dict[str, Any]:
    """Score folders of images; the same folders and protocol give the same report but for its ``run`` part.

    Args:
        protocol: all that moves a number.
        real: folder of real images, or the name of photographs that the program knows ("landscape").
        generated: folder of images to score.
        reconstruction: folder of reconstructions.
        original: their originals, under the same names; by default ``real``.
        networks: where weights lie.
        work: how to work.

    Returns:
        The report, ready for JSON: ``metrics`` is a list of rows with name, set, value, interval, floor and n.

    Raises:
        UsageError: for a missing or empty folder, a file that cannot be read, mixed sizes, too few images, missing
            weights, or the same images on both sides.
    """
    started = time.monotonic()
    networks, work = networks or Networks(), work or Work()
    if generated is None and reconstruction is None:
        raise UsageError("generated", "missing", "give images to score, `generated` or `reconstruction`")
    check_device(networks.device)
    _check_loaded(networks)
    reading: dict[str, Any] = {"skip_corrupt": work.skip_corrupt, "max_pixels": work.max_pixels}
    sets = {"real": real_images(real, protocol.real, **reading)}
    for name, where in (("generated", generated), ("reconstruction", reconstruction)):
        if where is not None:
            spec = protocol.generated if name == "generated" else dataclasses.replace(protocol.generated, count=None)
            sets[name] = ImageSet(where, spec, option=name, **reading)
    check_different(sets)
    for name, found in sets.items():
        check_count(found, len(found), least(name))
    pairs = None
    if reconstruction is not None:
        pairs = Pairs(original or _folder(sets["real"]), reconstruction, **reading)
    clip = _clip(networks) if protocol.metrics.clip else None
    captions = dict(captions_of(sets["generated"].files, option="generated")) if clip and "generated" in sets else {}
    captioned = Captioned(clip) if clip and captions else None
    extractor = networks.extractor or make_extractor(
        protocol.features.name, weights=networks.weights, device=networks.device
    )
    distance = _distance(protocol, networks, pairs is not None)
    scoring = Scoring(protocol, FeatureCache(extractor, folder=work.cache, enabled=work.cached), sets, work.progress)
    if captioned is not None:
        scoring.shown = lambda path, whole: captioned.add(whole, captions[path])
    report_rows = _rows(scoring, distance, pairs)
    if captioned is not None:
        scores = captioned.found()
        report_rows += [rows.of_estimate(name, "generated", found, better="higher") for name, found in scores.items()]
    report: dict[str, Any] = {
        "metrics": report_rows,
        "sets": {name: _described(scoring.looks[name]) for name in sets},
    }
    if captions:
        report["sets"]["generated"]["captions_sha256"] = captions_sha256(captions.values())
    if "generated" in sets and protocol.metrics.memorization:
        report["nearest"] = rows.nearest_pairs(
            scoring.features,
            {name: one.images.used_files() for name, one in scoring.looks.items()},
            {name: one.some for name, one in scoring.looks.items()},
        )
    if pairs is not None:
        report["sets"]["reconstruction"] |= {
            "pairs": len(pairs.files) - len(pairs.skipped),
            "equal_pairs": pairs.equal,
            "originals_sha256": pairs.originals_sha256(),
        }
    cut = next(cut for _, cuts in sets["real"].plan for cut in cuts)
    settings = protocol.settings() | {"extractor": identity(extractor, (BATCH, cut.rows, cut.columns, 3))}
    settings |= {"perceptual_network": distance.protocol} if distance else {}
    settings |= {"clip_network": clip.protocol} if clip else {}
    sampling = _sampling(generated, report["sets"])
    report = finish_report(report, settings, seconds=time.monotonic() - started, device=networks.device)
    report["run"] |= {"sampling": sampling} if sampling else {}
    return report


def _rows(scoring: Scoring, distance: PerceptualDistance | None, pairs: Pairs | None) -> list[dict[str, Any]]:
    protocol, others = scoring.protocol, [name for name in scoring.sets if name != "real"]
    metrics = protocol.metrics
    # What is quick goes first, so that a mistake shows before the minutes that features may take.
    late: list[dict[str, Any]] = []
    if pairs is not None:
        found: dict[str, Estimate] = score_pairs(pairs, protocol.reconstruction, distance)
        for name, estimate in found.items():
            better = "higher" if name in ("PSNR", "SSIM") else "lower"
            late.append(rows.of_estimate(name, "reconstruction", estimate, better=better))
    scoring.look()
    looks = scoring.looks
    if metrics.collapse and "generated" in others:
        late = rows.collapsed(looks, metrics.collapse) + late
    for name in others[::-1]:
        late = (rows.colors(looks, name) if metrics.color else []) + late
        late = (rows.seams(looks, name, metrics.seams) if metrics.seams else []) + late
    prefix, features = scoring.cache.extractor.prefix, scoring.features
    first: list[dict[str, Any]] = []
    for name in others:
        first += rows.distances(prefix, name, features, protocol, scoring.sets[name])
    if "generated" in others:
        first += rows.of_classes(prefix, features, protocol)
        if metrics.manifold:
            first += rows.manifolds(prefix, features, metrics.manifold, scoring.sets["generated"], protocol.seed)
        if metrics.memorization:
            first += rows.nearest(prefix, features)
            first += [*rows.authenticities(prefix, features, protocol.seed), rows.copies(looks)]
        if metrics.diversity and distance is not None:
            first += rows.diversities(looks, distance, metrics.diversity.pairs, protocol.seed)
        if metrics.blocks:
            first += rows.blocks(prefix, looks, metrics.blocks, protocol)
    return first + late


def _sampling(generated: Where | None, sets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return how images were made, if that is known; fewer of them than were made are somebody's choice: noted."""
    if generated is None or not (Path(generated) / SAMPLES).is_file():
        return {}
    found = samples_of(Path(generated))
    made = found.get("images", found.get("pictures", 0))
    if isinstance(made, int) and made > sets["generated"]["files"]:
        sets["generated"]["made"] = made
    return found


def check_device(device: str) -> None:
    """Refuse a device that is not there, before any work.

    Raises:
        UsageError: saying what there is.
    """
    import torch

    try:
        torch.zeros(1, device=device).item()  # a number that comes back: "meta" holds none
        machine(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        hint = f"cannot compute here ({str(error).splitlines()[0]}): give cpu, or a device that is there"
        raise UsageError("device", device, hint) from None


def least(name: str) -> int:
    """Return how many images a set needs at least."""
    return 2 * LEAST if name == "real" else LEAST


def check_count(images: ImageSet, found: int, needed: int) -> None:
    """Refuse sets that are too small for an interval.

    Raises:
        UsageError: if ``found`` is below ``needed``.
    """
    if found < needed:
        hint = f"holds {found} crops, at least {needed} are needed for an interval: add some"
        raise UsageError(images.option, images.where, hint)


def check_different(sets: dict[str, ImageSet]) -> None:
    """Refuse a set that is the real one.

    Raises:
        UsageError: if another set holds the same files.
    """
    for name, found in sets.items():
        if name != "real" and found.sha256() == sets["real"].sha256():
            raise UsageError(found.option, found.where, "holds the same images as `real`: give another folder")


def _check_loaded(networks: Networks) -> None:
    if networks.extractor is not None:
        check_name(networks.extractor)
        if not is_ours(networks.extractor):
            remember_weights(networks.extractor, networks.weights)


def _folder(real: ImageSet) -> Path:
    if real.folder is None:
        raise UsageError("original", "missing", "reconstructions need the folder of their originals: give it")
    return real.folder


def _clip(networks: Networks) -> ClipScore:
    if networks.clip is None:
        hint = "the protocol asks for the CLIP score: give the folder of a CLIP model"
        raise UsageError("clip", "missing", hint)
    return ClipScore(networks.clip, device=networks.device)


def _distance(protocol: Protocol, networks: Networks, has_pairs: bool) -> PerceptualDistance | None:
    if protocol.metrics.diversity is None and not (has_pairs and protocol.reconstruction.lpips):
        return None
    return PerceptualDistance(protocol.perceptual, weights=networks.lpips_weights, device=networks.device)


def described_skips(skipped: Mapping[Path, MediaReadError]) -> dict[str, Any]:
    """Return what a report says of files that were left out: their names, and how many were larger than allowed."""
    large = sum(error.over_limit for error in skipped.values())
    return {"skipped": sorted(path.name for path in skipped), **({"too_large": large} if large else {})}


def _described(found: Look) -> dict[str, Any]:
    images = found.images
    return {
        "folder": images.label,
        "files": len(images.files),
        "formats": images.formats(),
        "sizes": images.sizes(),
        "crops": len(found.features),
        **described_skips(images.skipped),
        "sha256": images.sha256(),
        **({} if found.repeated is None else {"repeated": found.repeated}),
    }
