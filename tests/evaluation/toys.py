"""A feature extractor that costs nothing: small shrunk images, and how often it was asked."""

from __future__ import annotations

from typing import Any

import numpy as np


class ToyFeatures:
    """Mean colors of a 3x3 grid (27 features), and ten scores."""

    prefix = "toy-"
    width = 27

    def __init__(self, *, weights: Any = None, device: str = "cpu") -> None:
        self.protocol: dict[str, Any] = {"extractor": "toy", "weights": str(weights)}
        self.seen = 0

    def __call__(self, images_BYX3: Any) -> tuple[Any, Any]:
        self.seen += len(images_BYX3)
        cells = [
            part.mean((1, 2)) / 255
            for rows in np.array_split(images_BYX3.astype(np.float64), 3, axis=1)
            for part in np.array_split(rows, 3, axis=2)
        ]
        features = np.concatenate(cells, axis=1)
        return features, 5 * features[:, :10]


class NoExtractor:
    """Lacks everything."""

    def __init__(self, *, weights: Any = None, device: str = "cpu") -> None:
        pass


class ToyClips:
    """Mean colors of halves over time and space."""

    prefix = "toy-"
    width = 12

    def __init__(self, *, weights: Any = None, device: str = "cpu") -> None:
        self.protocol: dict[str, Any] = {"extractor": "toy clips"}

    def __call__(self, clip_TYX3: Any) -> Any:
        halves = np.array_split(clip_TYX3.astype(np.float64) / 255, 2, axis=2)
        means = [half.mean((0, 1, 2)) for half in halves]
        return np.concatenate([*means, *(np.abs(np.diff(half, axis=0)).mean((0, 1, 2)) for half in halves)])


class NamelessFeatures(ToyFeatures):
    """Would call its distance FID."""

    prefix = ""


class NamelessClips(ToyClips):
    """Would call its distance FVD; says its weights if it is asked for some."""

    prefix = ""

    def __init__(self, *, weights: Any = None, device: str = "cpu") -> None:
        super().__init__()
        self.protocol |= {} if weights is None else {"weights_sha256": "0" * 64}
