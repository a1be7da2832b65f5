"""Videos: every frame once, in the order of showing, at its time; whatever the container tells."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

import av

from evaluation.video.clips import Clips, ClipSet
from nuwa_lightning.data.clips import ClipSettings, prepare_videos
from nuwa_lightning.data.video_reading import SUFFIXES, PyAvReader, VideoReadError, list_clips, read_clip
from nuwa_lightning.data.videos import FolderVideos, Video
from tests.data.conftest import painted

WIDE = painted(64, 96 + 40, seed=3)
FRAMES = [np.ascontiguousarray(WIDE[:, 2 * n : 2 * n + 96]) for n in range(20)]
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "H.264, MP4": ("a.mp4", "libx264", {"bf": "0"}),
    "H.264 with B-frames, MP4": ("a.mp4", "libx264", {"bf": "3", "g": "12"}),
    "H.264 with B-frames, MKV": ("a.mkv", "libx264", {"bf": "3", "g": "12"}),
    "H.264 with B-frames, TS": ("a.ts", "libx264", {"bf": "2", "g": "12"}),
    "H.264, AVI": ("a.avi", "libx264", {"bf": "0"}),
    "H.264 with B-frames, AVI": ("a.avi", "libx264", {"bf": "3", "g": "12"}),
    "H.264 with many B-frames, AVI": ("a.avi", "libx264", {"bf": "8", "g": "20", "b-pyramid": "normal"}),
    "MPEG-4, AVI": ("a.avi", "mpeg4", {"qscale": "2"}),
    "MPEG-4 with B-frames, AVI": ("a.avi", "mpeg4", {"bf": "2"}),
    "MJPEG, AVI": ("a.avi", "mjpeg", {}),
}


def written(path: Path, codec: str, options: dict[str, str], frames: Sequence[Any] = FRAMES) -> Path:
    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, rate=10)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 4_000_000
        stream.options = options
        for frame in frames:
            made.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        made.mux(stream.encode())
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_frames(tmp_path: Path, kind: str) -> None:
    name, codec, options = KINDS[kind]
    read = list(PyAvReader().frames(written(tmp_path / name, codec, options)))
    assert [time for time, _ in read] == pytest.approx([n / 10 for n in range(20)], abs=0.002)
    for number, (_, frame) in enumerate(read):
        errors = [np.abs(frame.astype(int) - other).mean() for other in FRAMES]
        assert int(np.argmin(errors)) == number


@pytest.mark.parametrize("kind", KINDS)
def test_scored_frames(tmp_path: Path, kind: str) -> None:
    name, codec, options = KINDS[kind]
    written(tmp_path / name, codec, options)
    ((_, clip_TYX3),) = ClipSet(tmp_path, Clips(frames=20))
    errors = [[np.abs(frame.astype(int) - other).mean() for other in FRAMES] for frame in clip_TYX3]
    assert np.argmin(errors, axis=1).tolist() == list(range(20))


def test_turned_videos_are_upright(tmp_path: Path) -> None:
    """The header of a telephone's video says that it was held upright."""
    path = written(tmp_path / "a.mp4", "libx264", {"qp": "4"})
    identity, quarter = (
        b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
        for matrix in ((1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30))
    )
    raw = path.read_bytes()
    at = raw.index(identity, raw.index(b"tkhd"))
    path.write_bytes(raw[:at] + quarter + raw[at + len(identity) :])
    trained = [frame for _, frame in PyAvReader().frames(path)]
    ((_, scored_TYX3),) = ClipSet(tmp_path, Clips(frames=20))
    np.testing.assert_array_equal(scored_TYX3, trained)
    upright = np.asarray(Image.fromarray(FRAMES[0]).transpose(Image.Transpose.ROTATE_270))  # clockwise
    assert scored_TYX3[0].shape == upright.shape
    assert np.abs(scored_TYX3[0].astype(int) - upright).mean() < 6


def test_frames_are_scored_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for number in range(12):
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(tmp_path / "clip" / f"{number}.png")
    assert [int(frame[0, 0, 0]) for frame in read_clip(tmp_path / "clip")] == list(range(0, 240, 20))
    before = ClipSet(tmp_path, Clips(frames=12)).sha256()
    (tmp_path / "clip" / "0.png").rename(tmp_path / "clip" / "99.png")
    assert ClipSet(tmp_path, Clips(frames=12)).sha256() != before


def test_every_ending_that_trains_is_scored(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        (tmp_path / f"{suffix[1:]}{suffix.upper()}").touch()
    assert {path.suffix.lower() for path in ClipSet(tmp_path, Clips(frames=2)).sources} == SUFFIXES


def test_own_files_are_no_clips(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "a.mp4", "libx264", {})
    Image.fromarray(FRAMES[0]).save(tmp_path / "a.mp4.preview.png")
    (tmp_path / "b.dzi").write_text("<Image/>")
    for tile in ("b_files/9/0_0.png", "c.Zarr/0/tile.png", "own_files/0.png", "d.frames/0.png", "e.canvas/image.png"):
        (tmp_path / tile).parent.mkdir(parents=True)
        Image.fromarray(FRAMES[0]).save(tmp_path / tile)
    assert [path.name for path in list_clips(tmp_path)] == ["a.mp4", "d.frames", "own_files"]
    assert "not read: c.Zarr, e.canvas" in caplog.text


def test_one_frame_is_no_video(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4", "libx264", {}, FRAMES[:1])
    found = prepare_videos([Video(path, "a")], ClipSettings(), reader=PyAvReader(), cache=tmp_path, progress=False)
    assert [entry.reason for entry in found.skipped] == ["it has 1 frame, no video"]
    scored = ClipSet(tmp_path, Clips(frames=2))
    assert (list(scored), scored.short) == ([], 1)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"v\xe9")))
    folder.mkdir()
    path = folder / os.fsdecode(b"\xff.mp4")
    shutil.move(written(tmp_path / "a.mp4", "libx264", {}), path)
    source = FolderVideos(str(folder))
    assert [len(list(video.frames(PyAvReader()))) for video in source.videos("train")] == [20]
    found = prepare_videos(source.videos("train"), ClipSettings(short_side=32), reader=PyAvReader(), cache=tmp_path)
    assert len(found.entries) == 1


@pytest.mark.parametrize("suffix", [".gif", ".apng"])
@pytest.mark.parametrize("disposal", [1, 2])
def test_what_is_transparent_is_white(tmp_path: Path, suffix: str, disposal: int) -> None:
    """As in a single image: a square that moves over nothing, and what the last frame leaves there."""
    frames = []
    for number in range(4):
        frame = np.zeros((24, 32, 4), np.uint8)
        frame[:8, 8 * number : 8 * number + 8] = (0, 200, 0, 255)
        frames.append(Image.fromarray(frame))
    more: dict[str, Any] = {
        ".gif": {"disposal": disposal},
        ".apng": {"format": "PNG", "disposal": disposal - 1, "blend": 0 if disposal == 1 else 1},
    }[suffix]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, **more)
    read = list(read_clip(path))
    assert len(read) == 4
    for number, frame in enumerate(read):
        kept = suffix == ".gif" and disposal == 1  # the squares before stay
        expected = np.full((24, 32, 3), 255, np.uint8)
        expected[:8, 0 if kept else 8 * number : 8 * number + 8] = (0, 200, 0)
        np.testing.assert_array_equal(frame, expected)


def of_unknown_kind(path: Path) -> None:
    written(path, "libx264", {}, FRAMES[:3])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xxxx"))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: path.write_bytes(b""), "damaged or no video"),
    "text": (lambda path: path.write_text("<html>"), "damaged or no video"),
    "a pipe": (os.mkfifo, "a pipe, a socket or a device"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a pipe, a socket or a device"),
    "a folder": (Path.mkdir, "folder|directory"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), "No such file"),
    "a kind that nobody knows": (of_unknown_kind, "of a kind that no decoder here reads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_line(tmp_path: Path, name: str) -> None:
    make, words = REFUSED[name]
    make(tmp_path / "a.mp4")
    with pytest.raises(VideoReadError, match=f"(?i)a\\.mp4.*({words})") as caught:
        list(PyAvReader().frames(tmp_path / "a.mp4"))
    assert "\n" not in str(caught.value)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "an array cut short": lambda array, about: array.write_bytes(array.read_bytes()[:-50]),
    "an empty array": lambda array, about: array.write_bytes(b""),
    "an array of floats": lambda array, about: np.save(array, np.zeros((4, 8, 8, 3))),
    "no cuts": lambda array, about: about.write_text("{}"),
    "cuts of text": lambda array, about: about.write_text('{"cuts": ["a"]}'),
    "cuts beyond the end": lambda array, about: about.write_text(json.dumps({"cuts": [10**6]})),
    "cuts that run backwards": lambda array, about: about.write_text(json.dumps({"cuts": [9, 3]})),
    "deep JSON": lambda array, about: about.write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_prepared_videos(tmp_path: Path, damage: str) -> None:
    video = Video(written(tmp_path / "a.mp4", "libx264", {}), "a.mp4")

    def prepared() -> tuple[bytes, object]:
        settings = ClipSettings(fps=10, short_side=32)
        (entry,) = prepare_videos([video], settings, reader=PyAvReader(), cache=tmp_path, progress=False).entries
        return entry.array().tobytes(), entry.shots

    before = prepared()
    (array,) = tmp_path.glob("clips-*/*.npy")
    DAMAGE[damage](array, array.with_suffix(".json"))
    assert prepared() == before
    assert list(itertools.islice(array.parent.glob("*.npy"), 2)) == [array]
