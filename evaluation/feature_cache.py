"""Features of crops, kept by the crops' content, so that nothing is computed twice and nothing is stale (ours).

Rows are computed in batches of one fixed shape: a row then does not depend on what else is in its batch, so the same
image has the same features to the last bit, whether they come from the cache or not.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
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
        with self.rows(count, progress=progress) as rows:
            for crop in crops:
                rows.add(crop)
        return rows.found()

    @contextmanager
    def rows(self, count: int, *, progress: Any = None) -> Iterator[Rows]:
        """Yield where crops are given one by one; their features are there when it is left. See :meth:`of_crops`."""
        with closing(self._open()) as store:
            rows = Rows(partial(self._rows, store=store), self.extractor.width, count, progress)
            yield rows
            rows.flush()

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


class Rows:
    """Features of crops that are given one by one, each its own canvas.

    Args:
        compute: returns features and scores side by side for a batch.
        width: number of features.
        count: how many crops there are, at most.
        progress: is told by ``update(n)`` how many are done.
    """

    def __init__(
        self, compute: Callable[[list[Pixels]], NDArray[np.float32]], width: int, count: int, progress: Any = None
    ) -> None:
        self._compute, self._width, self._count, self._progress = compute, width, count, progress
        self._batch: list[Pixels] = []
        self._room: list[NDArray[np.float32]] = []
        self._place = 0

    def add(self, pixels: Pixels) -> None:
        """Give a crop, uint8 RGB; all are of one size."""
        self._batch.append(pixels)
        if len(self._batch) == BATCH:
            self.flush()

    def flush(self) -> None:
        """Compute what waits for a full batch."""
        if not self._batch:
            return
        rows, first = self._compute(self._batch), self._place
        self._room = self._room or [_room(self._count, width) for width in (self._width, rows.shape[1] - self._width)]
        self._place += len(rows)
        self._room[0][first : self._place] = rows[:, : self._width]
        self._room[1][first : self._place] = rows[:, self._width :]
        if self._progress is not None:
            self._progress.update(len(rows))
        self._batch = []

    def found(self) -> FeatureSet:
        """Return the features of what was given."""
        features, scores = self._room or [np.zeros((0, self._width), np.float32), np.zeros((0, 0), np.float32)]
        return FeatureSet(features[: self._place], scores[: self._place], np.arange(self._place))


def _key(pixels: Pixels) -> bytes:
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.digest()


def _room(count: int, width: int) -> NDArray[np.float32]:
    if count * width * 4 <= _IN_MEMORY:
        return np.empty((count, width), np.float32)
    # The file has no name any more and goes with the array.
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=(count, width))
