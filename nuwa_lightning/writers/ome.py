"""OME-Zarr 0.5 by zarr: a folder of compressed chunks at several scales, all of them filled in one pass."""

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import read_json
from nuwa_lightning.writers.base import LONGEST_SIDE, MARKER, ImageSource, ImageWriter, Pixels, bands

_CHUNK = 256
_AT_ONCE = 16 * _CHUNK  # columns
_AXES = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
_COLORS = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
_WINDOW = {"min": 0, "max": 255, "start": 0, "end": 255}


class OmeZarrWriter(ImageWriter):
    """OME-Zarr with axes c, y, x, in chunks of 3x256x256; the metadata are an attribute. Needs the extra ``zarr``."""

    format_name = "OME-Zarr"
    longest_side = LONGEST_SIDE
    folder = True

    def write(self, source: ImageSource, path: Path, metadata: Mapping[str, Any]) -> None:
        try:
            import zarr
            from zarr.codecs import BloscCodec
        except ImportError as error:
            hint = "OME-Zarr needs zarr: pip install 'nuwa-lightning[zarr]', or name a .tif or .dzi"
            raise UsageError("output", path.name, hint) from error
        shapes = level_shapes(source.height, source.width)
        datasets = [{"path": str(n), "coordinateTransformations": _transformations(2.0**n)} for n in range(len(shapes))]
        name = path.name.split(".")[0]
        ome: dict[str, Any] = {
            "version": "0.5",
            "multiscales": [{"name": name, "axes": _AXES, "datasets": datasets, "type": "mean of 2x2"}],
            "omero": {
                "channels": [
                    {"label": label, "color": color, "active": True, "window": _WINDOW}
                    for label, color in _COLORS.items()
                ]
            },
        }
        group = zarr.open_group(path, mode="w-", zarr_format=3, attributes={"ome": ome, MARKER: dict(metadata)})
        arrays = [
            group.create_array(
                str(number),
                shape=(3, *shape),
                chunks=(3, _CHUNK, _CHUNK),
                dtype=np.uint8,
                compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
                fill_value=0,
                dimension_names=[axis["name"] for axis in _AXES],
            )
            for number, shape in enumerate(shapes)
        ]
        levels = [_Level(array) for array in arrays]
        for level, above in itertools.pairwise(levels):
            level.above = above
        try:
            for pixels_YX3 in bands(source):
                levels[0].take(pixels_YX3)
            levels[0].end()
        except OSError:
            _wait_for_zarr()
            raise

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """Return the attribute of the group."""
        node = read_json(path / "zarr.json")
        found = node.get("attributes", {}).get(MARKER)
        return found if isinstance(found, dict) else None


def _wait_for_zarr() -> None:
    """Wait for chunks that are still being written beside one that failed: they would make the folder anew."""
    from zarr.core.sync import sync

    async def others() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)

    sync(others())


class _Level:
    """Gathers the rows of one level until they fill a row of chunks, then hands on half as many."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._waiting: list[Pixels] = []
        self._rows = 0
        self._written = 0
        self.above: _Level | None = None

    def take(self, pixels_YX3: Pixels) -> None:
        while len(pixels_YX3):
            part_YX3 = pixels_YX3[: _CHUNK - self._rows]
            self._waiting.append(part_YX3)
            self._rows += len(part_YX3)
            pixels_YX3 = pixels_YX3[len(part_YX3) :]
            if self._rows == _CHUNK:
                self._flush()

    def end(self) -> None:
        self._flush()
        if self.above is not None:
            self.above.end()

    def _flush(self) -> None:
        if not self._rows:
            return
        start, stop, smaller = self._written, self._written + self._rows, []
        for x in range(0, self._array.shape[2], _AT_ONCE):  # packing takes several times what it packs
            pixels_YX3 = np.concatenate([part_YX3[:, x : x + _AT_ONCE] for part_YX3 in self._waiting])
            self._array[:, start:stop, x : x + _AT_ONCE] = pixels_YX3.transpose(2, 0, 1)
            if self.above is not None:
                smaller.append(halved(pixels_YX3))
        self._written = stop
        self._waiting, self._rows = [], 0
        if self.above is not None:
            self.above.take(np.concatenate(smaller, axis=1))


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Return height and width of every level, each half of the one before, rounded up, until one chunk holds it."""
    shapes = [(height, width)]
    while max(shapes[-1]) > _CHUNK:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def halved(pixels_YX3: Pixels) -> Pixels:
    """Return the means of squares of 2x2, halves up; an odd last row or column counts twice."""
    rows, columns = pixels_YX3.shape[:2]
    pixels_YX3 = np.pad(pixels_YX3, ((0, rows % 2), (0, columns % 2), (0, 0)), mode="edge")
    total_YX3 = np.full((-(-rows // 2), -(-columns // 2), 3), 2, np.uint16)
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total_YX3 += pixels_YX3[y::2, x::2]
    half_YX3: Pixels = (total_YX3 >> 2).astype(np.uint8)
    return half_YX3


def _transformations(step: float) -> list[dict[str, Any]]:
    # The center of a pixel of a smaller level lies between those of the pixels that it stands for.
    shift = (step - 1) / 2
    return [{"type": "scale", "scale": [1.0, step, step]}, {"type": "translation", "translation": [0.0, shift, shift]}]
