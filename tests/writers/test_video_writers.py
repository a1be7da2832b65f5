"""Every video writer: other programs see the frames that were appended, as fast as was asked, or nothing at all."""

from __future__ import annotations

import json
import shutil
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers import VIDEO_WRITERS, VideoWriter, mp4, open_video_writer, read_metadata
from tests.writers.conftest import file_content

Frame = np.ndarray[Any, np.dtype[np.uint8]]
SUFFIXES = sorted(VIDEO_WRITERS)
WIDTH, HEIGHT = 48, 32
METADATA = {"seed": 3, "prompt": "waves, café, 山 ?> " + 300 * "x", "nested": {"top_k": None}}


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    monkeypatch.setattr(mp4, "SEGMENT", 6)


def frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> Frame:
    """A soft wave that wanders and changes colour."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x + 3 * number) / 9 + c) + np.cos(y / (7 + c)) for c in range(3)]
    return (np.stack(waves, axis=-1) * 55 + 128).astype(np.uint8)


def put(writer: VideoWriter, start: int, stop: int) -> None:
    for number in range(start, stop):
        writer.append(frame(number, writer.width, writer.height))


def read(path: Path) -> tuple[list[Frame], float]:
    """Return the frames and how long they last in seconds, by Pillow or PyAV."""
    if path.suffix == ".mp4":
        import av

        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.duration is not None
            frames = list(container.decode(stream))
            times = [decoded.time for decoded in frames]
            assert times == pytest.approx([n / float(stream.average_rate or 0) for n in range(len(frames))], abs=1e-3)
            images = [decoded.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for decoded in frames]
            return images, float(stream.duration * (stream.time_base or 0))
    if path.is_dir():
        about = json.loads((path / "video.json").read_text())
        files = sorted(path.glob("*.png"))
        assert [file.name for file in files] == [f"{n:06d}.png" for n in range(about["frames"])]
        return [np.asarray(Image.open(file)) for file in files], len(files) / Fraction(*about["fps"])
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        frames_and_times = [
            (np.asarray(one.convert("RGB")), one.info["duration"]) for one in ImageSequence.Iterator(image)
        ]
    return [pixels for pixels, _ in frames_and_times], sum(time for _, time in frames_and_times) / 1000


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("count", [1, 6, 20])
@pytest.mark.parametrize("fps", [8, Fraction(30000, 1001)])
def test_frames_come_back_in_time(tmp_path: Path, suffix: str, count: int, fps: Fraction) -> None:
    path = tmp_path / f"video{suffix}"
    with open_video_writer(path, WIDTH, HEIGHT, fps=fps, metadata=METADATA) as writer:
        put(writer, 0, count)
        assert writer.frames == count
    frames, seconds = read(path)
    assert len(frames) == count
    for number, found in enumerate(frames):
        apart = np.abs(found.astype(int) - frame(number))
        assert apart.mean() < {".frames": 1e-9, ".gif": 6, ".webp": 4, ".mp4": 4}[suffix]
    assert seconds == pytest.approx(count / float(fps), abs=0.0101 if suffix == ".gif" else 0.002)
    assert read_metadata(path) == METADATA


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_odd_sizes(tmp_path: Path, suffix: str) -> None:
    with open_video_writer(tmp_path / f"video{suffix}", 21, 13) as writer:
        put(writer, 0, 3)
    frames, _ = read(tmp_path / f"video{suffix}")
    assert [found.shape for found in frames] == 3 * [(13, 21, 3)]
    assert read_metadata(tmp_path / f"video{suffix}") == {}


def test_colours_survive(tmp_path: Path) -> None:
    """The matrix that is written into the file is the one that was used: pure colours stay themselves."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)]
    for suffix in SUFFIXES:
        with open_video_writer(tmp_path / f"video{suffix}", 32, 32) as writer:
            for colour in colours:
                writer.append(np.full((32, 32, 3), colour, np.uint8))
        frames, _ = read(tmp_path / f"video{suffix}")
        for colour, found in zip(colours, frames, strict=True):
            assert np.abs(found.mean((0, 1)) - colour).max() < 5, suffix
    import av

    with av.open(str(tmp_path / "video.mp4")) as container:
        assert container.streams.video[0].codec_context.colorspace == 1
        plain = next(container.decode(video=0)).to_ndarray(format="rgb24")  # a reader that goes by the file
    assert np.abs(plain.mean((0, 1)) - (255, 0, 0)).max() < 5


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_of_the_last_two_states_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    count = 15

    def opened(folder: Path, **more: Any) -> VideoWriter:
        folder.mkdir(exist_ok=True)
        return open_video_writer(folder / f"a{suffix}", WIDTH, HEIGHT, metadata={"seed": 1}, keep=True, **more)

    with opened(tmp_path / "whole") as writer:
        put(writer, 0, count)
    expected = file_content(tmp_path / "whole" / f"a{suffix}", tmp_path / "whole")
    for step in (5, 6):
        writer = opened(tmp_path / f"live{step}")
        states: list[tuple[int, dict[str, Any]]] = []
        for number in range(0, count, step):
            states = [*states[-1:], (number, writer.state())]
            put(writer, number, min(count, number + step))
            for at, state in states:
                killed = tmp_path / f"killed{step}_{number}_{at}"
                shutil.copytree(tmp_path / f"live{step}", killed)
                with opened(killed, state=json.loads(json.dumps(state))) as again:
                    put(again, at, count)
                assert file_content(killed / f"a{suffix}", killed) == expected
        writer.abort()
        assert list((tmp_path / f"live{step}").iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_leaves_nothing_new(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"video{suffix}"
    with pytest.raises(KeyboardInterrupt), open_video_writer(path, WIDTH, HEIGHT) as writer:
        put(writer, 0, 8)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with open_video_writer(path, WIDTH, HEIGHT) as writer:
        put(writer, 0, 2)
    before = file_content(path, tmp_path)
    writer = open_video_writer(path, WIDTH, HEIGHT, overwrite=True)
    put(writer, 0, 8)
    writer.abort()
    assert file_content(path, tmp_path) == before
    with pytest.raises(UsageError, match="exists already"):
        open_video_writer(path, WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="closed"):
        put(writer, 0, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_video(tmp_path: Path, suffix: str) -> None:
    peaks = []
    for count in (1, 10, 50):  # the first time for imports
        with open_video_writer(tmp_path / f"{count}{suffix}", WIDTH, HEIGHT) as writer:
            tracemalloc.start()
            put(writer, 0, count)
            writer.close()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[2] < 1.03 * peaks[1] + 20_000


@pytest.mark.parametrize(
    ("name", "size", "fps", "message"),
    [
        ("a.png", (32, 32), 8, r"must end in one of \.mp4, \.gif, \.webp, \.frames"),
        ("a.mp4", (33, 32), 8, r"--size: 33x32: MP4 needs sides that are multiples of 2, such as 32x32"),
        ("a.mp4", (16386, 32), 8, r"MP4 holds at most 16384 pixels a side: use \.frames"),
        ("a.webp", (16384, 32), 8, "WebP holds at most"),
        ("a.gif", (32, 65536), 8, "GIF holds at most"),
        ("a.gif", (0, 32), 8, "at least 1 pixel"),
        ("a.gif", (32, 32), 60, r"--fps: 60\.0: GIF holds more than 0 and at most 50 frames a second"),
        ("a.mp4", (32, 32), 0, "more than 0"),
        ("none/a.mp4", (32, 32), 8, "does not exist"),
        ("folder.mp4", (32, 32), 8, "is a folder"),
        ("file.frames", (32, 32), 8, "is a file"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(
    tmp_path: Path, name: str, size: tuple[int, int], fps: int, message: str
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file.frames").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=message):
        open_video_writer(tmp_path / name, *size, fps=fps)
    assert sorted(tmp_path.iterdir()) == before


def test_mp4_without_pyav_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"pip install 'nuwa-lightning\[video\]'"):
        open_video_writer(tmp_path / "a.mp4", 32, 32)
    assert list(tmp_path.iterdir()) == []


def test_wrong_frames_and_no_frames_are_refused(tmp_path: Path) -> None:
    with open_video_writer(tmp_path / "a.gif", 32, 16) as writer:
        for wrong in (frame(0, 16, 32), frame(0, 32, 16)[..., :1], frame(0, 32, 16).astype(np.float32)):
            with pytest.raises(ValueError, match=r"expected uint8 \(16, 32, 3\)"):
                writer.append(wrong)
        writer.append(frame(0, 32, 16))
    for suffix in SUFFIXES:
        with pytest.raises(ValueError, match="at least one frame"), open_video_writer(tmp_path / f"b{suffix}", 32, 16):
            pass
    assert [found.name for found in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_torn_files_are_named_in_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with open_video_writer(path, 32, 16, metadata=METADATA) as writer:
        put(writer, 0, 2)
    head = path / "video.json" if path.is_dir() else path
    whole = head.read_bytes()
    for size in (*range(0, 400, 3), *range(400, len(whole), 97)):
        head.write_bytes(whole[:size])
        try:
            outcome: object = read_metadata(path)
        except UsageError as error:
            outcome = str(error)
        assert outcome in ({}, METADATA) or (str(path) in str(outcome) and "\n" not in str(outcome))
