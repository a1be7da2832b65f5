"""Features of crops, kept by the crops' content, so that nothing is computed twice and nothing is stale (ours).

Rows are computed in batches of one fixed shape: a row then does not depend on what else is in its batch, so the same
image has the same features to the last bit, whether they come from the cache or not.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.extractor import Extractor, identity
from evaluation.images import ImageSet, Pixels
from nuwa_lightning.data.folders import cache_folder

BATCH: Final = 16
_IN_MEMORY: Final = 1 << 28
"""Above this many bytes, features lie in a temporary file."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of crops.

    Attributes:
        features_ND: float32.
        scores_NK: float32 class scores before the softmax; K is 0 where the network has none.
        clusters_N: which canvas a crop comes from.
    """

    features_ND: NDArray[np.float32]
    scores_NK: NDArray[np.float32]
    clusters_N: NDArray[np.intp]

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.features_ND)


class FeatureCache:
    """A file of features of one extractor, ``features/NAME.sqlite`` in the cache folder.

    Args:
        extractor: its protocol is the name of the file.
        folder: the cache folder; by default the user's.
        enabled: False keeps nothing and finds nothing.
    """

    def __init__(self, extractor: Extractor, *, folder: Path | None = None, enabled: bool = True) -> None:
        self.extractor = extractor
        self.folder = cache_folder(folder)
        self.enabled = enabled
        name = hashlib.sha256(json.dumps(identity(extractor), sort_keys=True).encode()).hexdigest()[:24]
        self.path = self.folder / "features" / f"{name}.sqlite"

    def of_crops(self, crops: Iterable[Pixels], *, count: int, progress: Any = None) -> FeatureSet:
        """Return the features of ``crops``, at most ``count`` of them; each counts as a canvas of its own.

        Args:
            crops: uint8 RGB, all of one size.
            count: how many there are; fewer are fine.
            progress: is told by ``update(n)`` how many are done.
        """
        found: list[NDArray[np.float32]] = []
        place, width = 0, self.extractor.width
        with closing(self._open()) as store:
            for batch in _batches(crops, BATCH):
                rows = self._rows(batch, store)
                if not found:
                    found = [_room(count, width), _room(count, rows.shape[1] - width)]
                found[0][place : place + len(batch)] = rows[:, :width]
                found[1][place : place + len(batch)] = rows[:, width:]
                place += len(batch)
                if progress is not None:
                    progress.update(len(batch))
        features, scores = found or [np.zeros((0, width), np.float32), np.zeros((0, 0), np.float32)]
        return FeatureSet(features[:place], scores[:place], np.arange(place))

    def of_set(self, images: ImageSet, *, progress: bool = False) -> FeatureSet:
        """Return the features of the crops of a set, each with the number of its file.

        Raises:
            UsageError: if a file cannot be read.
        """
        from tqdm import tqdm

        total = len(images)
        with tqdm(
            total=total, desc=f"features of {images.label}", unit="image", disable=not progress, leave=False
        ) as bar:
            found = self.of_crops(images.crops(), count=total, progress=bar)
        # Only now it is known which files could be read.
        return replace(found, clusters_N=images.clusters())

    def _rows(self, batch: list[Pixels], store: sqlite3.Connection) -> NDArray[np.float32]:
        keys = [_key(pixels) for pixels in batch]
        marks = ",".join("?" * len(keys))
        known = dict(store.execute(f"SELECT key, row FROM features WHERE key IN ({marks})", keys))
        missing = [i for i, key in enumerate(keys) if key not in known]
        if missing:
            images = np.stack([batch[i] for i in missing])
            padded = np.zeros((BATCH, *images.shape[1:]), np.uint8)
            padded[: len(images)] = images
            both = np.concatenate(self.extractor(padded), axis=1).astype(np.float32)
            new = {keys[i]: both[n].tobytes() for n, i in enumerate(missing)}
            if self.enabled:
                with store:
                    store.executemany("INSERT OR IGNORE INTO features VALUES (?, ?)", new.items())
            known |= new
        return np.stack([np.frombuffer(known[key], np.float32) for key in keys])

    def _open(self) -> sqlite3.Connection:
        if not self.enabled:
            store = sqlite3.connect(":memory:")
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            store = sqlite3.connect(self.path, timeout=60)
            # A crash may lose the last features, never damage the file.
            store.execute("PRAGMA journal_mode=WAL")
            store.execute("PRAGMA synchronous=NORMAL")
        store.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, row BLOB)")
        return store


def _key(pixels: Pixels) -> bytes:
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.digest()


def _batches(crops: Iterable[Pixels], size: int) -> Iterator[list[Pixels]]:
    batch: list[Pixels] = []
    for crop in crops:
        batch.append(crop)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _room(count: int, width: int) -> NDArray[np.float32]:
    if count * width * 4 <= _IN_MEMORY:
        return np.empty((count, width), np.float32)
    # The file has no name any more and goes with the array.
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=(count, width))
