"""Frames that are another set's, and clips that are another one of their set, by the hash of their pixels (ours)."""

from dataclasses import dataclass, field

import numpy as np

from evaluation.estimates import of_share
from evaluation.images import pixel_sha256
from evaluation.rows import Row, of_estimate
from evaluation.video.clips import Clip


@dataclass
class Frames:
    """Which frames a set has.

    Attributes:
        hashes: of each frame as it is and mirrored; none of a frame of one color, which may be anybody's.
        owners: number of the file that each is from.
        repeated: clips that equal another one of the set, as they are or mirrored.
    """

    hashes: list[frozenset[str]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    repeated: int = 0
    _seen: set[str] = field(default_factory=set)

    def add(self, clip_TYX3: Clip, owner: int) -> None:
        """Take in the frames of a clip."""
        for frame_YX3 in clip_TYX3:
            both = (frame_YX3, frame_YX3[:, ::-1]) if np.ptp(frame_YX3, axis=(0, 1)).any() else ()
            self.hashes.append(frozenset(map(pixel_sha256, both)))
        self.owners += [owner] * len(clip_TYX3)
        whole = {pixel_sha256(clip) for clip in (clip_TYX3, clip_TYX3[:, :, ::-1])}
        self.repeated += bool(whole & self._seen)
        self._seen |= whole


def copies(real: Frames, ours: Frames) -> Row:
    """Return the row of the share of frames whose pixels, or mirrored pixels, are those of a frame of a real clip."""
    theirs = frozenset().union(*real.hashes)
    hits = np.array([bool(theirs & both) for both in ours.hashes], np.float64)
    how = "share of frames that are one of a real clip, as they are or mirrored; interval: Wilson, over files"
    found = of_share(hits, how=how, clusters_N=np.array(ours.owners, np.intp))
    row = of_estimate("copies of real frames", "generated", found, better="lower")
    return {**row, "floor": 0.0, "floor_std": 0.0, "floor_n": len(real.hashes), "share": True}
