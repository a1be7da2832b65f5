"""Deep Zoom and OME-Zarr: what other programs make of the tiles is the image, however it was written."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nuwa_lightning.writers import CanvasWriter, open_writer, read_metadata
from nuwa_lightning.writers.pyramid import halved, level_count, level_size
from tests.writers.conftest import file_content

Array = np.ndarray[Any, np.dtype[np.uint8]]
NAMESPACE = "{http://schemas.microsoft.com/deepzoom/2008}"


def smooth(height: int, width: int) -> Array:
    """Return an image that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / 40 + c) + np.cos(x / (50 + 9 * c)) for c in range(3)]
    return (np.stack(waves, axis=-1) * 60 + 128).astype(np.uint8)


def deep_zoom(path: Path, level: int) -> Array:
    """Put the tiles of a level together as the format's description says; every tile must be there and none more."""
    root = ElementTree.parse(path).getroot()
    size = root.find(f"{NAMESPACE}Size")
    assert size is not None
    width, height, side = int(size.attrib["Width"]), int(size.attrib["Height"]), int(root.attrib["TileSize"])
    assert root.attrib["Overlap"] == "0"
    top = int(np.ceil(np.log2(max(width, height))))
    height, width = (int(np.ceil(s / 2 ** (top - level))) for s in (height, width))
    folder = path.with_name(f"{path.stem}_files") / str(level)
    out = np.zeros((height, width, 3), np.uint8)
    expected = {(x, y) for x in range(-(-width // side)) for y in range(-(-height // side))}
    assert {tuple(map(int, f.stem.split("_"))) for f in folder.iterdir()} == expected
    for x, y in expected:
        with Image.open(folder / f"{x}_{y}.{root.attrib['Format']}") as tile:
            area = out[y * side : (y + 1) * side, x * side : (x + 1) * side]
            assert area.shape[1::-1] == tile.size
            area[:] = np.asarray(tile)
    return out


def write(path: Path, canvas: Array, *, step: int = 512, endless: str = "", metadata: Any = None) -> None:
    height, width = canvas.shape[:2]
    known = (None if endless == "x" else width, None if endless == "y" else height)
    corners = [(y, x) for y in range(0, height, step) for x in range(0, width, step)]
    if endless == "x":
        corners.sort(key=lambda corner: corner[::-1])
    with open_writer(path, *known, metadata=metadata) as writer:
        for number, (y, x) in enumerate(corners):
            if number % 3 == 0:
                writer.state()
            writer.write(canvas[y : y + step, x : x + step], y=y, x=x)
        if endless:
            writer.cut(width, height)


def test_deep_zoom_tiles_are_the_image(tmp_path: Path) -> None:
    canvas = smooth(700, 1300)
    path = tmp_path / "a.dzi"
    write(path, canvas, step=300, metadata={"prompt": "a?>b -->"})
    assert read_metadata(path) == {"prompt": "a?>b -->"}
    assert {f.name for f in (tmp_path / "a_files").iterdir()} == {str(n) for n in range(12)}
    expected = canvas
    for level in range(11, -1, -1):
        found = deep_zoom(path, level)
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 2
        expected = halved(expected)
    assert deep_zoom(path, 0).shape == (1, 1, 3)


def test_deep_zoom_leaves_no_tile_out(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.dzi", 1200, 600) as writer:
        writer.write(smooth(20, 20), y=580, x=0)
    assert not deep_zoom(tmp_path / "a.dzi", 11)[:, 520:].any()
    assert deep_zoom(tmp_path / "a.dzi", 11)[580:, :20].any()


@pytest.mark.parametrize("endless", ["", "x", "y"])
def test_ome_zarr_is_read_and_found_valid(tmp_path: Path, endless: str) -> None:
    zarr = pytest.importorskip("zarr")
    from ome_zarr_models.v05.image import Image as OmeImage

    canvas = np.random.default_rng(0).integers(0, 256, (601, 1303, 3), np.uint8)
    path = tmp_path / "a.ome.zarr"
    write(path, canvas, step=400, endless=endless, metadata={"seed": 1})
    write(tmp_path / "a.tif", canvas, step=400, endless=endless)
    assert read_metadata(path) == {"seed": 1}
    group = zarr.open_group(path, mode="r")
    image = OmeImage.from_zarr(group)
    (multiscale,) = image.ome_attributes.multiscales
    assert multiscale.name == "a"
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert len(multiscale.datasets) == level_count((601, 1303), 512)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        for level, dataset in enumerate(multiscale.datasets):
            scale, shift = dataset.coordinateTransformations
            assert scale.scale == [1, 2**level, 2**level]
            assert shift.translation == [0, (2**level - 1) / 2, (2**level - 1) / 2]
            found = np.asarray(group[dataset.path]).transpose(1, 2, 0)
            assert found.shape[:2] == level_size((601, 1303), level)
            np.testing.assert_array_equal(found, tiff.series[0].levels[level].asarray())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(
    kind=st.sampled_from([".tif", ".zarr", ".dzi"]),
    endless=st.sampled_from("xy"),
    size=st.tuples(st.integers(1, 1100), st.integers(1, 1100)),
    beyond=st.sampled_from([0, 0, 1, 40]),
)
def test_an_endless_canvas_is_the_canvas_of_that_size(
    tmp_path_factory: pytest.TempPathFactory, kind: str, endless: str, size: tuple[int, int], beyond: int
) -> None:
    """Also where more was written than is kept; JPEG tiles that are cut may then differ a little."""
    folder = tmp_path_factory.mktemp("endless")
    height, width = size
    canvas = smooth(height + beyond, width + beyond)
    kept = canvas[:height, :width]
    paths = [folder / name / f"a{kind}" for name in ("known", "grown")]
    for path in paths:
        path.parent.mkdir()
    write(paths[0], kept)
    more = canvas[:, :width] if endless == "y" else canvas[:height]
    with open_writer(paths[1], *((None, height) if endless == "x" else (width, None))) as writer:
        steps = range(0, max(more.shape[:2]), 300)
        for at in steps:
            part = more[:, at : at + 300] if endless == "x" else more[at : at + 300]
            if part.size:
                writer.write(part, y=0 if endless == "x" else at, x=at if endless == "x" else 0)
        writer.cut(width, height)
    known, grown = (file_content(path, path.parent) for path in paths)
    if kind == ".dzi" and beyond:
        top = int(np.ceil(np.log2(max(size))))
        pixels = [deep_zoom(path, top).astype(int) for path in paths]
        assert np.abs(pixels[0] - pixels[1]).mean() < 2
    elif kind == ".tif" and endless == "y":  # tiles lie in another order
        levels = [tifffile.TiffFile(path) for path in paths]
        for first, second in zip(levels[0].pages, levels[1].pages, strict=True):
            np.testing.assert_array_equal(first.asarray(), second.asarray())
        for file in levels:
            file.close()
    else:
        assert known == grown


@pytest.mark.parametrize("number", [0, 2, 3, 4, 5])
def test_deep_zoom_goes_on_after_a_kill_while_it_gives_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    canvas = smooth(600, 1500)
    live, expected = tmp_path / "live", tmp_path / "expected"
    live.mkdir()
    expected.mkdir()
    write(expected / "a.dzi", canvas)
    write(live / "a.dzi", smooth(30, 30))
    writer = open_writer(live / "a.dzi", 1500, 600, overwrite=True, keep=True)
    for x in (0, 512, 1024):
        writer.write(canvas[:, x : x + 512], y=0, x=x)
    state = json.loads(json.dumps(writer.state()))
    rename, replace, calls = os.rename, os.replace, iter(range(99))

    def killed(old: Path, new: Path) -> None:
        """Three levels, the folder that was there and the new folder are renamed, then the small file is replaced."""
        if new.name == "a.dzi" or (next(calls) == number):
            shutil.copytree(live, tmp_path / "killed")
            raise KeyboardInterrupt
        rename(old, new)

    monkeypatch.setattr(os, "rename", killed)
    monkeypatch.setattr(os, "replace", lambda old, new: (killed if new.name == "a.dzi" else replace)(old, new))
    with pytest.raises(KeyboardInterrupt):
        writer.close()
    monkeypatch.undo()
    with open_writer(tmp_path / "killed" / "a.dzi", 1500, 600, overwrite=True, keep=True, state=state):
        pass
    assert file_content(tmp_path / "killed" / "a.dzi", tmp_path / "killed") == file_content(
        expected / "a.dzi", expected
    )


@pytest.mark.parametrize("kind", [".tif", ".zarr", ".dzi"])
def test_memory_does_not_grow_with_an_endless_canvas(tmp_path: Path, kind: str) -> None:
    part = smooth(512, 512)
    peaks = []
    for count in (1, 5, 20):  # the first time for imports
        with open_writer(tmp_path / f"a{count}{kind}", None, 512) as writer:
            tracemalloc.start()
            for x in range(0, 512 * count, 512):
                writer.write(part, y=0, x=x)
            writer.cut(512 * count, 512)
            writer.close()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[2] < 1.03 * peaks[1]


@pytest.mark.parametrize("kind", [".zarr", ".dzi"])
@pytest.mark.parametrize("endless", [False, True])
def test_any_of_the_last_two_states_gives_the_same_tiles(tmp_path: Path, kind: str, endless: bool) -> None:
    canvas = np.random.default_rng(0).integers(0, 256, (600, 1100, 3), np.uint8)
    corners = [(y, x) for x in range(0, 1100, 256) for y in range(0, 600, 256)]

    def put(writer: CanvasWriter, start: int, stop: int) -> None:
        for y, x in corners[start:stop]:
            writer.write(canvas[y : y + 256, x : x + 256], y=y, x=x)

    def close(writer: CanvasWriter) -> None:
        if endless:
            writer.cut(1100, 600)
        writer.close()

    width = None if endless else 1100
    (tmp_path / "expected").mkdir()
    writer = open_writer(tmp_path / "expected" / f"a{kind}", width, 600)
    put(writer, 0, len(corners))
    close(writer)
    expected = file_content(tmp_path / "expected" / f"a{kind}", tmp_path / "expected")
    (tmp_path / "live").mkdir()
    writer = open_writer(tmp_path / "live" / f"a{kind}", width, 600)
    states: list[dict[str, Any]] = []
    for number in range(0, len(corners), 6):
        states = [*states[-1:], writer.state()]
        put(writer, number, number + 6)
        for back, state in enumerate(reversed(states)):
            killed = tmp_path / f"killed{number}_{back}"
            shutil.copytree(tmp_path / "live", killed)
            again = open_writer(killed / f"a{kind}", width, 600, state=json.loads(json.dumps(state)))
            put(again, number - 6 * back, len(corners))
            close(again)
            assert file_content(killed / f"a{kind}", killed) == expected
    writer.abort()
    assert not list((tmp_path / "live").iterdir())
