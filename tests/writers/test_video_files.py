"""Every video format: other programs see the frames that were given, as fast as was asked."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from nuwa_lightning.errors import UsageError
from nuwa_lightning.testing import check_writer
from nuwa_lightning.writers.files import VIDEO_WRITERS, read_metadata, write_video

Frame = np.ndarray[Any, np.dtype[np.uint8]]
SUFFIXES = sorted(VIDEO_WRITERS)
WIDTH, HEIGHT = 48, 32
METADATA = {"seed": 3, "prompt": "waves, café, 山 ?> " + 300 * "x", "nested": {"top_k": None}}


def video(count: int, width: int = WIDTH, height: int = HEIGHT) -> Iterator[Frame]:
    """A soft wave that wanders and changes color."""
    y, x = np.mgrid[:height, :width]
    for number in range(count):
        waves = [np.sin((x + 3 * number) / 9 + c) + np.cos(y / (7 + c)) for c in range(3)]
        yield (np.stack(waves, axis=-1) * 55 + 128).astype(np.uint8)


def read(path: Path) -> tuple[list[Frame], float]:
    """Return the frames and how long they last in seconds, by Pillow or PyAV."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            frames = list(container.decode(stream))
            times = [frame.time for frame in frames]
            assert times == pytest.approx([n / float(stream.average_rate or 0) for n in range(len(frames))], abs=1e-3)
            seconds = float((stream.duration or 0) * (stream.time_base or 0))
            return [frame.to_ndarray(format="rgb24") for frame in frames], seconds  # as the file says, by itself
    if path.is_dir():
        about = json.loads((path / "video.json").read_text())
        files = sorted(path.glob("*.png"))
        assert [file.name for file in files] == [f"{n:06d}.png" for n in range(about["frames"])]
        return [np.asarray(Image.open(file)) for file in files], len(files) / Fraction(*about["fps"])
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        shown = [(np.asarray(one.convert("RGB")), one.info["duration"]) for one in ImageSequence.Iterator(image)]
    return [pixels for pixels, _ in shown], sum(time for _, time in shown) / 1000


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("count", "fps"), [(1, 8), (7, Fraction(30000, 1001)), (50, 12.5)])
def test_frames_come_back_in_time(tmp_path: Path, suffix: str, count: int, fps: Fraction | float) -> None:
    path = tmp_path / f"video{suffix}"
    taken: list[int] = []
    write_video(video(count), path, width=WIDTH, height=HEIGHT, fps=fps, metadata=METADATA, progress=taken.append)
    assert taken == list(range(1, count + 1))
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    frames, seconds = read(path)
    assert len(frames) == count
    for found, expected in zip(frames, video(count), strict=True):
        apart = np.abs(found.astype(int) - expected)
        assert apart.mean() < {".frames": 1e-9, ".gif": 6, ".webp": 4, ".mp4": 4}[suffix]
    assert seconds == pytest.approx(count / float(fps), abs=0.0101 if suffix == ".gif" else 0.002)
    assert read_metadata(path) == METADATA


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".frames"])
@pytest.mark.parametrize("size", [(1, 1), (21, 13), (1, 97)])
def test_odd_sizes(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = tmp_path / f"video{suffix}"
    write_video(video(3, *size), path, width=size[0], height=size[1], fps=8)
    assert [found.shape for found in read(path)[0]] == 3 * [(*size[::-1], 3)]
    assert read_metadata(path) == {}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_colors_survive(tmp_path: Path, suffix: str) -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)]
    frames = (np.full((32, 32, 3), color, np.uint8) for color in colors)
    write_video(frames, tmp_path / f"video{suffix}", width=32, height=32, fps=8)
    for color, found in zip(colors, read(tmp_path / f"video{suffix}")[0], strict=True):
        assert np.abs(found.mean((0, 1)) - color).max() < 5
    if suffix == ".mp4":
        with av.open(str(tmp_path / "video.mp4")) as container:
            context = container.streams.video[0].codec_context
            assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_leaves_nothing_new(tmp_path: Path, suffix: str) -> None:
    def broken() -> Iterator[Frame]:
        yield from video(9)
        raise KeyboardInterrupt

    path = tmp_path / f"video{suffix}"
    with pytest.raises(KeyboardInterrupt):
        write_video(broken(), path, width=WIDTH, height=HEIGHT, fps=8)
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(iter(()), path, width=WIDTH, height=HEIGHT, fps=8)
    with pytest.raises(ValueError, match="expected uint8"):
        write_video(video(2, 16, 16), path, width=WIDTH, height=HEIGHT, fps=8)
    assert list(tmp_path.iterdir()) == []
    write_video(video(2), path, width=WIDTH, height=HEIGHT, fps=8)
    with pytest.raises(KeyboardInterrupt):
        write_video(broken(), path, width=WIDTH, height=HEIGHT, fps=8, overwrite=True)
    assert len(read(path)[0]) == 2
    with pytest.raises(UsageError, match="exists already"):
        write_video(video(3), path, width=WIDTH, height=HEIGHT, fps=8)
    write_video(video(3), path, width=WIDTH, height=HEIGHT, fps=8, overwrite=True)
    assert len(read(path)[0]) == 3
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def collecting(frames: Iterator[Frame]) -> Iterator[Frame]:
    for frame in frames:
        gc.collect(0)
        yield frame


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_video(tmp_path: Path, suffix: str) -> None:
    peaks = []
    for count in (1, 10, 60):  # the first time for imports
        tracemalloc.start()
        gc.collect()  # Pillow's GIF leaves classes behind, which live until some collection
        write_video(collecting(video(count)), tmp_path / f"{count}{suffix}", width=WIDTH, height=HEIGHT, fps=8)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.03 * peaks[1] + 20_000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writers_keep_the_laws(suffix: str) -> None:
    check_writer(VIDEO_WRITERS[suffix](), suffix, read=(lambda path: read(path)[0]) if suffix == ".frames" else None)
