"""Features of crops, kept by the crops' content, so that nothing is computed twice and nothing is stale (ours).

Rows are computed in batches of one fixed shape: a row then does not depend on what else is in its batch, so the same
image has the same features to the last bit, whether they come from the cache or not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.extractor import Extractor, features_sha256, identity, is_ours
from evaluation.images import ImageSet, Pixels
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.errors import UsageError

BATCH: Final = 16
_IN_MEMORY: Final = 1 << 28
"""Above this many bytes, features lie in a temporary file."""
_DAMAGED: Final = (
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
)
"""What SQLite says of a file that is none of ours, or not whole; all else is a matter of rights, room and locks."""
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


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
        self._told: dict[tuple[int, ...], str] = {}

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
    def rows(self, count: int, *, progress: Any = None) -> Iterator[Collected]:
        """Yield where crops are given one by one; their features are there when it is left. See :meth:`of_crops`."""
        with closing(_Rows(self.path if self.enabled else None, least=4 * self.extractor.width)) as store:
            rows = Collected(partial(self._rows, store=store), self.extractor.width, count, progress)
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

    def _rows(self, batch: list[Pixels], store: _Rows) -> NDArray[np.float32]:
        told = self._tells(batch[0].shape)
        keys = [_key(pixels, told) for pixels in batch]
        known = store.known(keys)
        missing = [i for i, key in enumerate(keys) if key not in known]
        if missing:
            images = np.stack([batch[i] for i in missing])
            padded = np.zeros((BATCH, *images.shape[1:]), np.uint8)
            padded[: len(images)] = images
            both = np.concatenate(self.extractor(padded), axis=1).astype(np.float32)
            new = {keys[i]: both[n].tobytes() for n, i in enumerate(missing)}
            store.keep(new)
            known |= new
        return np.stack([np.frombuffer(known[key], np.float32) for key in keys])

    def _tells(self, shape: tuple[int, ...]) -> str:
        """Return what a network of one's own makes of made images of a shape: its weights may have changed."""
        if not self.enabled or is_ours(self.extractor):
            return ""
        if shape not in self._told:
            self._told[shape] = features_sha256(self.extractor, (BATCH, *shape))
        return self._told[shape]


class _Rows:
    """The rows of a cache's file. One that is damaged is made anew, one that cannot be used done without, both said.

    Args:
        path: the file; None for none.
        least: bytes of a row, at least.
    """

    def __init__(self, path: Path | None, *, least: int) -> None:
        self._path, self._least, self._length = path, least, 0
        self._store = sqlite3.connect(":memory:")
        self._tried(self._open)

    def known(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the rows that are there and whole, by key."""
        wanted = f"SELECT key, CAST(row AS BLOB) FROM features WHERE key IN ({','.join('?' * len(keys))})"
        found = self._tried(lambda: self._store.execute(wanted, keys).fetchall())
        whole = {key: row for key, row in found if row is not None and _is_whole(row, self._length)}
        self._tell(len(found) - len(whole))
        return whole

    def keep(self, rows: Mapping[bytes, bytes]) -> None:
        """Add rows.

        Raises:
            UsageError: if those that were there are of another length.
        """
        length = len(next(iter(rows.values())))
        if self._length not in (0, length):
            hint = "holds rows of another length than this network gives: remove the file, it is made anew"
            raise UsageError("features", self._path, hint)
        self._length = length
        if self._path is not None:
            self._tried(lambda: self._add(rows))

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()

    def _add(self, rows: Mapping[bytes, bytes]) -> None:
        with self._store:
            self._store.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows.items())

    def _open(self) -> None:
        self._store.close()
        path = self._path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._store = sqlite3.connect(path or ":memory:", timeout=60)
        # A crash may lose the last features, never damage the file.
        self._store.execute("PRAGMA journal_mode=WAL")
        self._store.execute("PRAGMA synchronous=NORMAL")
        with self._store:
            self._store.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, row BLOB)")
            lengths = "SELECT length(CAST(row AS BLOB)) AS n, count(*) FROM features GROUP BY n ORDER BY count(*) DESC"
            usual = self._store.execute(lengths).fetchall()
            self._length = next((n for n, _ in usual if n and n >= self._least and n % 4 == 0), 0)
            self._tell(sum(count for n, count in usual if n != self._length))
            self._store.execute("DELETE FROM features WHERE length(CAST(row AS BLOB)) IS NOT ?", (self._length,))

    def _tell(self, damaged: int) -> None:
        if damaged:
            _LOG.warning("%s: %d damaged rows are computed anew", self._path, damaged)

    def _tried(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:  # the last of names in a damaged file
            self._rescue(error)
            return work()

    def _rescue(self, error: Exception) -> None:
        assert self._path is not None, "nothing goes wrong in memory"
        self._store.close()
        if isinstance(error, UnicodeDecodeError) or getattr(error, "sqlite_errorcode", 0) & 255 in _DAMAGED:
            _LOG.warning("%s is damaged (%s): computing its features anew", self._path, error)
            with suppress(OSError, sqlite3.Error):
                for name in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + name).unlink(missing_ok=True)
                self._open()
                return
        _LOG.warning("%s cannot be used (%s): features are not kept", self._path, error)
        self._path = None
        self._open()


def _is_whole(row: bytes, length: int) -> bool:
    return 0 < len(row) == length and bool(np.isfinite(np.frombuffer(row, np.float32)).all())


class Collected:
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


def _key(pixels: Pixels, network: str) -> bytes:
    digest = hashlib.sha256(f"{pixels.shape}{network}".encode())
    digest.update(pixels.tobytes())
    return digest.digest()


def _room(count: int, width: int) -> NDArray[np.float32]:
    if count * width * 4 <= _IN_MEMORY:
        return np.empty((count, width), np.float32)
    # The file has no name any more and goes with the array.
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=(count, width))
