"""One report on folders of clips (ours).

FVD (Unterthiner et al. 2018) is the Frechet distance of clip features; with another network than I3D it bears that
network's name. Block-FVD is its average over blocks of frames, as Block-FID is over blocks of pixels.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from evaluation import blocks as block_distances
from evaluation import fid as frechet
from evaluation import kid as kernel
from evaluation.blocks import BlockSet
from evaluation.clip_score import ClipScore, captions_of, captions_sha256, frame_similarity, said_of_cut
from evaluation.config import build, read_yaml, set_option
from evaluation.estimates import Estimate, of_mean
from evaluation.extractor import check_name, identity
from evaluation.feature_cache import FeatureSet
from evaluation.protocol import FOLDER, check_protocol_name
from evaluation.published import jedi
from evaluation.record import finish_report
from evaluation.rows import Row, authenticities, nearest, nearest_pairs, of_biased, of_distance, of_estimate
from evaluation.score import check_device, described_skips
from evaluation.video.clips import Clip, Clips, ClipSet
from evaluation.video.copies import Frames, copies
from evaluation.video.curves import curves_of, over_clips
from evaluation.video.extractors import ClipExtractor
from evaluation.video.measures import flicker, frame_difference, motion
from nuwa_lightning.errors import UsageError

LEAST: Final = 4
_KINDS: Final = ("fvd", "fvd_over_n", "kvd", "jedi")
FORMAT: Final = 4
"""Raised whenever the same protocol comes to mean other numbers; it is part of the hash."""


@dataclass(frozen=True)
class VideoProtocol:
    """All that moves a number of clips.

    Attributes:
        name: what to call it.
        version: to be raised whenever a setting changes.
        real: which real clips.
        generated: which generated clips.
        features: name of the extractor, or an import path.
        distances: of whole clips: "fvd" (Frechet, covariances over N - 1), "fvd_over_n" (over N, as StyleGAN-V and
            cd-fvd have them), "kvd" (kernel), "jedi" (V-JEPA's kernel distance).
        block_frames: also compare blocks of so many frames; None does not.
        flicker: measure flicker and frame difference.
        motion_block: side of the blocks whose motion is measured; None does not.
        curves: report color drift, sharpness, distance to the first frame and flicker over time.
        resamples: moves nothing any more; it stays a part of the hash.
        splits: splits of the real clips for each floor.
        seed: of all resampling.
    """

    name: str
    version: int
    real: Clips
    generated: Clips
    features: str = "lite0t"
    distances: tuple[str, ...] = ("fvd", "kvd")
    block_frames: int | None = None
    flicker: bool = True
    motion_block: int | None = 32
    curves: bool = True
    resamples: int = 200
    splits: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_protocol_name(self.name)
        for kind in self.distances:
            if kind not in _KINDS:
                raise UsageError("protocol.distances", kind, f"choose of {', '.join(_KINDS)}")
        if {"fvd", "fvd_over_n"} <= set(self.distances):
            raise UsageError("protocol.distances", "fvd and fvd_over_n", "both are called FVD: choose either")

    def settings(self) -> dict[str, Any]:
        """Return every setting as plain values."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {**found, "format": FORMAT}


@dataclass
class _Side:
    """What is known of one side after a single pass over its clips."""

    features: list[Any] = field(default_factory=list)
    blocks: list[Any] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    measures: dict[str, list[float]] = field(default_factory=dict)
    curves: list[Any] = field(default_factory=list)
    similarities: list[float] = field(default_factory=list)
    frames: Frames = field(default_factory=Frames)
    files: list[Path] = field(default_factory=list)

    def feature_set(self) -> FeatureSet:
        """Return the features with the number of the file that each clip is from."""
        features_ND = np.array(self.features, np.float32)
        return FeatureSet(features_ND, np.zeros((len(features_ND), 0), np.float32), np.array(self.sources, np.intp))


def load_video_protocol(name: str | Path, changes: tuple[str, ...] | list[str] = ()) -> VideoProtocol:
    """Return the protocol of a file, or of a name in ``evaluation/protocols``."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        path = FOLDER / f"{name}.yaml"
    content = read_yaml(path, "protocol")
    for change in changes:
        set_option(content, change)
    return build(VideoProtocol, content, "protocol")


def score_videos(
    protocol: VideoProtocol,
    real: ClipSet,
    generated: ClipSet,
    extractor: ClipExtractor,
    *,
    clip: ClipScore | None = None,
    progress: Callable[[str], object] = lambda clip: None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Score a folder of clips; the same folders and protocol give the same report but for its ``run`` part.

    Args:
        protocol: all that moves a number.
        real: the real clips.
        generated: the clips to score.
        extractor: the network, passed in.
        clip: compares the generated clips with their captions, which lie beside them.
        progress: is told of each clip that is done.
        device: where the networks compute; said in the report.
    """
    started = time.monotonic()
    check_name(extractor)
    check_device(device)
    sets = {"real": real, "generated": generated}
    if real.sha256() == generated.sha256():
        raise UsageError(generated.option, str(generated.folder), "holds the same clips as `real`: give another folder")
    captions = {} if clip is None else dict(captions_of(sorted(generated.sources), option=generated.option))

    def similarity(path: Path, frames: Clip) -> float | None:
        return frame_similarity(clip, frames, captions[path]) if clip is not None else None

    sides = {"real": _go_through(real, protocol, extractor, progress)}
    sides["generated"] = _go_through(generated, protocol, extractor, progress, similarity)
    for name, side in sides.items():
        needed = 2 * LEAST if name == "real" else LEAST
        if len(side.features) < needed:
            short = (
                f" ({sets[name].short} are shorter than {sets[name].spec.frames} frames)" if sets[name].short else ""
            )
            hint = f"holds {len(side.features)} clips{short}, at least {needed} are needed for an interval: add some"
            raise UsageError(sets[name].option, str(sets[name].folder), hint)
    if len(sides["real"].files) < LEAST:
        hint = f"its clips come from {len(sides['real'].files)} files, at least {LEAST} are needed: add some"
        raise UsageError(real.option, str(real.folder), hint)
    rows = _distances(protocol, sides, extractor.prefix)
    if protocol.block_frames:
        rows += _blocks(protocol, sides, extractor.prefix)
    features, label = {name: side.feature_set() for name, side in sides.items()}, extractor.prefix or "I3D-"
    rows += [*nearest(label, features), *authenticities(label, features, protocol.seed)]
    rows.append(copies(sides["real"].frames, sides["generated"].frames))
    rows += [_measured(name, sides) for name in sides["generated"].measures]
    if clip is not None:
        ours = sides["generated"]
        how = f"mean over clips of the mean over frames; interval: Student's t{said_of_cut(clip, captions.values())}"
        alike = of_mean(np.array(ours.similarities), how=how, clusters_N=np.array(ours.sources, np.intp))
        rows.append(of_estimate(clip.similarity_name, "generated", alike, better="higher"))
    report: dict[str, Any] = {
        "metrics": rows,
        "sets": {
            name: {
                "folder": found.folder.resolve().name,
                "files": len(found.sources),
                "formats": found.formats(),
                "sizes": found.sizes(),
                "crops": len(sides[name].features),
                **described_skips(found.skipped),
                "short": found.short,
                "sha256": found.sha256(),
                "repeated": sides[name].frames.repeated,
            }
            for name, found in sets.items()
        },
        "nearest": nearest_pairs(
            features,
            {name: side.files for name, side in sides.items()},
            {"real": real.some, "generated": generated.some},
        ),
    }
    if captions:
        report["sets"]["generated"]["captions_sha256"] = captions_sha256(captions.values())
    if protocol.curves:
        found = {name: over_clips(side.curves, np.array(side.sources, np.intp)) for name, side in sides.items()}
        report["curves"] = {"stride": protocol.generated.stride, **found}
    shape = next(clip.shape for _, clip in real)
    settings = protocol.settings() | {"extractor": identity(extractor, shape)}
    settings |= {"clip_network": clip.protocol} if clip is not None else {}
    return finish_report(report, settings, seconds=time.monotonic() - started, device=device)


def _go_through(
    clips: ClipSet,
    protocol: VideoProtocol,
    extractor: ClipExtractor,
    progress: Callable[[str], object],
    similarity: Callable[[Path, Clip], float | None] = lambda path, clip: None,
) -> _Side:
    side = _Side()
    files: dict[Path, int] = {}
    for number, (path, clip) in enumerate(clips):
        # Parts of one file are not independent: files are resampled.
        side.sources.append(files.setdefault(path, len(files)))
        side.features.append(extractor(clip))
        side.frames.add(clip, side.sources[-1])
        length = protocol.block_frames
        if length:
            for place, at in enumerate(range(0, len(clip) - length + 1, length)):
                side.blocks.append(extractor(clip[at : at + length]))
                side.places.append((place, 0))
                side.owners.append(number)
        for name, value in _measures(clip, protocol).items():
            side.measures.setdefault(name, []).append(value)
        if protocol.curves:
            side.curves.append(curves_of(clip))
        alike = similarity(path, clip)
        side.similarities += [] if alike is None else [alike]
        progress(path.name)
    side.files = list(files)
    return side


def _measures(clip: Clip, protocol: VideoProtocol) -> dict[str, float]:
    found = {}
    if protocol.flicker:
        found["frame difference"] = frame_difference(clip)
        if len(clip) > 2:
            found["flicker"] = flicker(clip)
    if protocol.motion_block:
        moved = motion(clip, block=protocol.motion_block)
        found |= {f"motion {name}": float(value) for name, value in asdict(moved).items()}
    return found


def _distances(protocol: VideoProtocol, sides: Mapping[str, _Side], prefix: str) -> list[Row]:
    real, ours = (np.array(sides[name].features, np.float64) for name in ("real", "generated"))
    files_N, files_M = (np.array(sides[name].sources, np.intp) for name in ("real", "generated"))
    own: dict[str, Any] = {"clusters_N": files_N, "splits": protocol.splits, "seed": protocol.seed}
    rows = []
    for kind in protocol.distances:
        if kind == "jedi":
            rows.append(of_biased(f"{prefix}JEDi", "generated", jedi, (real, ours), files_N, protocol))
            continue
        if kind == "kvd":
            value = kernel.kid(real, ours, clusters_N=files_N, clusters_M=files_M, seed=protocol.seed)
            rows.append(of_distance(f"{prefix}KVD", "generated", value, kernel.real_floor(real, len(ours), **own)))
            continue
        ddof = {"fvd": 1, "fvd_over_n": 0}[kind]
        value = frechet.fid(
            real, ours, clusters_N=files_N, clusters_M=files_M, ddof=ddof,
        )  # fmt: skip
        lowest = frechet.real_floor(real, len(ours), ddof=ddof, **own)
        row = of_distance(f"{prefix}FVD", "generated", value, lowest)
        row["how"] += "" if ddof else "; covariances over N, as StyleGAN-V and cd-fvd have them"
        if min(len(real), len(ours)) <= real.shape[1]:
            row["low_rank"] = True
            row["how"] += "; fewer clips than features: the floor is its bias"
        rows.append(row)
    return rows


def _blocks(protocol: VideoProtocol, sides: Mapping[str, _Side], prefix: str) -> list[Row]:
    found = {}
    for name, side in sides.items():
        features = np.array(side.blocks, np.float32)
        empty = np.zeros((len(features), 0), np.float32)
        owners_N = np.array(side.owners, np.intp)
        files_N = np.array(side.sources, np.intp)[owners_N]
        found[name] = BlockSet(FeatureSet(features, empty, files_N), side.places, owners_N)
    real, ours = found["real"], found["generated"]
    # Longer clips than the real ones have blocks that no real clip has.
    against: Any = "position" if set(ours.positions()) <= set(real.positions()) else "pooled"

    def at_positions(x: BlockSet, y: BlockSet, interval: bool = False) -> Any:
        return block_distances.by_position(x, y, "fid", against=against, interval=interval)

    try:
        value = at_positions(real, ours, interval=True)
        canvases = len(set(ours.canvases().tolist()))
        lowest = block_distances.floor(
            real, canvases, lambda x, y: float(at_positions(x, y).value), splits=protocol.splits, seed=protocol.seed
        )
    except ValueError as error:
        raise UsageError(
            "protocol.block_frames", protocol.block_frames, f"{error}: give more or longer clips"
        ) from None
    return [of_distance(f"{prefix}Block-FVD-{protocol.block_frames}", "generated", value, lowest)]


def _measured(name: str, sides: Mapping[str, _Side]) -> Row:
    how = "mean over clips; interval: Student's t, over files; good is what real clips have"

    def mean(which: str) -> Estimate:
        side = sides[which]
        return of_mean(np.array(side.measures[name]), how=how, clusters_N=np.array(side.sources, np.intp))

    return of_estimate(name, "generated", mean("generated"), better="as real", floor=mean("real"))
