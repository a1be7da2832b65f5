"""How clips change over time: what a mean over frames hides (ours)."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import of_mean
from evaluation.video.clips import Clip

NAMES: Final = ("color drift", "sharpness", "distance to the first frame", "flicker")


def curves_of(clip_TYX3: Clip) -> NDArray[np.float64]:
    """Return the curves of a clip, ``[4, T]`` in the order of `NAMES`, on 0..255.

    Color drift is the mean over R, G and B of the change of the frame's mean since the first frame; sharpness is the
    mean absolute difference of neighboring pixels of the luminance (Rec. 601); the distance is the mean absolute
    difference of pixels; flicker is half the mean absolute second difference, of a frame and the two before it, and
    nan for the first two.
    """
    first_YX3, means_T3 = clip_TYX3[0].astype(np.int16), clip_TYX3.mean((1, 2))
    found = np.full((len(NAMES), len(clip_TYX3)), np.nan)
    for t, frame_YX3 in enumerate(clip_TYX3):
        light_YX = frame_YX3 @ np.array([0.299, 0.587, 0.114])
        steps = [np.abs(np.diff(light_YX, axis=axis)) for axis in (0, 1)]
        found[0, t] = np.abs(means_T3[t] - means_T3[0]).mean()
        found[1, t] = np.mean([step.mean() for step in steps if step.size]) if light_YX.size > 1 else 0.0
        found[2, t] = np.abs(frame_YX3.astype(np.int16) - first_YX3).mean()
        if t > 1:
            found[3, t] = np.abs(np.diff(clip_TYX3[t - 2 : t + 1].astype(np.int16), n=2, axis=0)).mean() / 2
    return found


def over_clips(curves_N4T: Sequence[NDArray[np.float64]], files_N: NDArray[np.intp]) -> dict[str, dict[str, Any]]:
    """Return the mean of each curve over clips: ``frames``, ``value``, ``low`` and ``high`` (Student's, over files)."""
    stacked_N4T = np.stack(curves_N4T)
    report: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(NAMES):
        frames = np.flatnonzero(np.isfinite(stacked_N4T[0, i]))
        each = [of_mean(stacked_N4T[:, i, t], how="", clusters_N=files_N) for t in frames]
        report[name] = {
            "frames": frames.tolist(),
            "value": [one.value for one in each],
            "low": [one.low if np.isfinite(one.low) else None for one in each],
            "high": [one.high if np.isfinite(one.high) else None for one in each],
        }
    return report
