"""What a video says of how it is shown: turned, mirrored, stretched, transparent; or it is said that it is not read."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

pytest.importorskip("av")

import av

from evaluation.video.clips import Clips, ClipSet
from nuwa_lightning.data.clips import ClipSettings, prepare_videos
from nuwa_lightning.data.video_reading import PyAvReader, TorchcodecReader, VideoReadError, read_clip
from nuwa_lightning.data.videos import Video
from tests.inputs.test_videos import FRAMES, written

Frame = np.ndarray[Any, np.dtype[np.uint8]]

WAYS: dict[int, tuple[tuple[float, float, float, float], Callable[[Frame], Frame]]] = {
    1: ((1, 0, 0, 1), lambda frame: frame),
    2: ((-1, 0, 0, 1), np.fliplr),
    3: ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
    4: ((1, 0, 0, -1), np.flipud),
    5: ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
    6: ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    7: ((0, -1, -1, 0), lambda frame: np.rot90(frame.swapaxes(0, 1), 2)),
    8: ((0, -1, 1, 0), np.rot90),
}
"""By EXIF's number: matrix a, b, c, d, which shows a point (x, y) at (a x + c y, b x + d y), and what it does."""


def boxed(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def shown_by(path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """Write a matrix into the header of an MP4's track."""
    a, b, c, d = (round(65536 * number) for number in matrix)
    raw = path.read_bytes()
    identity, told = (struct.pack(">9i", *m, 0, 0, 0, 1 << 30) for m in ((65536, 0, 0, 0, 65536), (a, b, 0, c, d)))
    at = raw.index(identity, raw.index(b"tkhd"))
    path.write_bytes(raw[:at] + told + raw[at + len(told) :])
    return path


def decoded(path: Path) -> list[Frame]:
    return [frame for _, frame in PyAvReader().frames(path)]


def made(path: Path, codec: str, form: str, frames: list[Frame] = FRAMES[:3], **about: Any) -> Path:
    """A video of some pixel format; frames are RGB, RGBA, or planes that are taken as they are."""
    options = about.pop("options", {})
    planar = frames[0].shape[0] == 3
    kind = form if planar else "rgba" if frames[0].shape[2] == 4 else "rgb24"
    height, width = frames[0].shape[1:] if planar else frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, form
        for name, value in about.items():
            setattr(stream.codec_context, name, value)
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format=kind)
            for name in about.keys() & {"colorspace", "color_range"}:
                setattr(frame, name, about[name])
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("way", WAYS)
def test_eight_ways(tmp_path: Path, way: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, change = WAYS[way]
    path = written(tmp_path / "a.mp4", "libx264", {"qp": "4"})
    expected = [change(frame) for frame in decoded(path)]
    shown_by(path, matrix)
    np.testing.assert_array_equal(decoded(path), expected)
    ((_, scored_TYX3),) = ClipSet(tmp_path, Clips(frames=20))
    np.testing.assert_array_equal(scored_TYX3, expected)
    settings = ClipSettings(fps=10, short_side=64)
    (entry,) = prepare_videos([Video(path, "a")], settings, reader=PyAvReader(), cache=tmp_path / "c").entries
    np.testing.assert_array_equal(entry.array(), expected)
    if way != 1:  # torchcodec is not even asked
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        np.testing.assert_array_equal([frame for _, frame in TorchcodecReader().frames(path)], expected)


@pytest.mark.parametrize("way", WAYS)
def test_the_ways_are_those_of_exif(way: int) -> None:
    exif = Image.Exif()
    exif[0x112] = way
    file = io.BytesIO()
    Image.fromarray(FRAMES[0]).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(WAYS[way][1](FRAMES[0]), ImageOps.exif_transpose(Image.open(file)))


@pytest.mark.parametrize(
    "matrix", [(0.7071, 0.7071, -0.7071, 0.7071), (1, 0.1, 0, 1), (0.9998, 0.0175, -0.0175, 0.9998)]
)
def test_a_slant_is_refused(tmp_path: Path, matrix: tuple[float, float, float, float]) -> None:
    path = shown_by(written(tmp_path / "a.mp4", "libx264", {}), matrix)
    with pytest.raises(VideoReadError, match=r"a\.mp4 \(it is to be shown at a slant, which is not read\)"):
        decoded(path)


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0.0001, 0, 1), (2, 0, 0, 2)])
def test_what_is_upright_nearly_or_says_nothing(tmp_path: Path, matrix: tuple[float, float, float, float]) -> None:
    path = written(tmp_path / "a.mp4", "libx264", {})
    expected = decoded(path)
    np.testing.assert_array_equal(decoded(shown_by(path, matrix)), expected)


@pytest.mark.parametrize("ratio", [Fraction(4, 3), Fraction(10, 11), Fraction(200, 201)])
def test_pixels_become_square(tmp_path: Path, ratio: Fraction) -> None:
    plain = decoded(made(tmp_path / "a.mp4", "libx264", "yuv420p", options={"qp": "4"}))
    path = made(tmp_path / "b.mp4", "libx264", "yuv420p", options={"qp": "4"}, sample_aspect_ratio=ratio)
    width = 96 if ratio == Fraction(200, 201) else round(96 * ratio)
    for frame, before in zip(decoded(path), plain, strict=True):
        assert frame.shape == (64, width, 3)
        expected = Image.fromarray(before).resize((width, 64), Image.Resampling.LANCZOS)
        assert np.abs(frame.astype(int) - np.asarray(expected)).mean() < (0.1 if width == 96 else 2.5)
    turned = decoded(shown_by(path, WAYS[6][0]))
    assert turned[0].shape == (width, 64, 3)


def test_too_wide_once_its_pixels_are_square(tmp_path: Path) -> None:
    path = made(tmp_path / "a.mp4", "libx264", "yuv420p", sample_aspect_ratio=Fraction(4, 1))
    with pytest.raises(VideoReadError, match="384x64 is 24576 pixels"):
        list(read_clip(path, max_pixels=10_000))


WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Of red and blue in the brightness, by the code of BT.709, BT.601 and BT.2020 in H.273."""


@pytest.mark.parametrize(("space", "limits"), list(itertools.product(WEIGHTS, (1, 2))))
def test_matrix_and_range(tmp_path: Path, space: int, limits: int) -> None:
    """Against the definition in H.273: limited range has 16 to 235, full range 0 to 255."""
    color = (200, 40, 90)
    red, green, blue = (value / 255 for value in color)
    of_red, of_blue = WEIGHTS[space]
    light = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    parts = (light, (blue - light) / (2 - 2 * of_blue), (red - light) / (2 - 2 * of_red))
    scales = ((16, 219), (128, 224), (128, 224)) if limits == 1 else ((0, 255), (128, 255), (128, 255))
    planes = [
        np.full((64, 96), round(low + reach * x), np.uint8) for x, (low, reach) in zip(parts, scales, strict=True)
    ]
    told = {"colorspace": space, "color_range": limits, "options": {"qp": "0"}}
    path = made(tmp_path / "a.mp4", "libx264", "yuv444p", [np.stack(planes)] * 3, **told)
    assert np.abs(decoded(path)[0].astype(int) - color).max() <= 2


HALF = [np.dstack([frame, np.full(frame.shape[:2], 128, np.uint8)]) for frame in FRAMES[:3]]


@pytest.mark.parametrize(("name", "codec", "form"), [("a.mov", "qtrle", "argb"), ("a.mov", "png", "rgba")])
def test_transparent_video_lies_over_white(tmp_path: Path, name: str, codec: str, form: str) -> None:
    read = decoded(made(tmp_path / name, codec, form, HALF))
    for frame, before in zip(read, FRAMES, strict=False):
        assert np.abs(frame - (before * (128 / 255) + 127)).max() <= 1


DEEP, MIRRORED = "samples of more than 8 bits become 8", "whether it is mirrored is not known"
SAID: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "plain": (lambda folder: made(folder / "a.mp4", "libx264", "yuv420p"), []),
    "10 bits": (lambda folder: made(folder / "a.mkv", "ffv1", "yuv420p10le"), [DEEP]),
    "PQ": (
        lambda folder: made(folder / "a.mkv", "ffv1", "yuv420p10le", color_primaries=9, color_trc=16, colorspace=9),
        [DEEP, *(f"its colors ({name}) are taken as they are" for name in ("PQ", "BT.2020"))],
    ),
    "HLG": (
        lambda folder: made(folder / "a.mp4", "libx264", "yuv420p", color_trc=18),
        ["its colors (HLG) are taken as they are"],
    ),
    "large, and its colors not told": (
        lambda folder: made(folder / "a.mp4", "libx264", "yuv420p", [np.zeros((720, 960, 3), np.uint8)] * 3),
        ["which colors it means is not told: BT.601 is taken, not BT.709"],
    ),
    "interlaced": (
        lambda folder: made(folder / "a.mp4", "libx264", "yuv420p", options={"x264-params": "tff=1"}),
        ["it is coded as interlaced: every other row of a frame may be of another moment"],
    ),
    "transparent WebM": (
        lambda folder: made(folder / "a.webm", "libvpx-vp9", "yuva420p", HALF, options={"deadline": "realtime"}),
        ["its transparency is not read"],
    ),
    "EXIF": (lambda folder: with_exif(folder / "a.avi"), [MIRRORED]),
}


def with_exif(path: Path) -> Path:
    """An MJPEG whose frames are JPEG files as cameras write them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for number, pixels in enumerate(FRAMES[:3]):
            file, exif = io.BytesIO(), Image.Exif()
            exif[0x112] = 6
            Image.fromarray(pixels).save(file, "JPEG", exif=exif)
            packet = av.Packet(file.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 10)
            container.mux(packet)
    return path


@pytest.mark.parametrize("kind", SAID)
def test_what_is_not_read_is_said_once(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    make, said = SAID[kind]
    make(tmp_path)
    (path,) = tmp_path.iterdir()
    path.with_stem("b").write_bytes(path.read_bytes())
    clips, reader = ClipSet(tmp_path, Clips(frames=3)), PyAvReader()
    for read in (lambda: list(clips), lambda: [list(reader.frames(each)) for each in sorted(tmp_path.iterdir())]):
        caplog.clear()
        assert len(read()) == len(read()) == 2
        assert [message.partition("others: ")[2] for message in caplog.messages] == said
    height, width, _ = decoded(path)[0].shape
    assert (height > width) == (kind == "EXIF")


def test_a_cover_is_not_the_video(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4", "libx264", {})
    before, raw, cover = decoded(path), path.read_bytes(), io.BytesIO()
    Image.new("RGB", (32, 32)).save(cover, "JPEG")
    picture = boxed(b"ilst", boxed(b"covr", boxed(b"data", struct.pack(">II", 13, 0) + cover.getvalue())))
    about = boxed(b"hdlr", struct.pack(">II4s4sIIB", 0, 0, b"mdir", b"appl", 0, 0, 0))
    added = boxed(b"udta", boxed(b"meta", bytes(4) + about + picture))
    movie = raw.index(b"moov") - 4
    size, first = (int.from_bytes(raw[at : at + 4], "big") for at in (movie, movie + 8))
    after = movie + 8 + first  # before the track
    path.write_bytes(raw[:movie] + struct.pack(">I", size + len(added)) + raw[movie + 4 : after] + added + raw[after:])
    with av.open(str(path)) as container:
        assert [stream.codec_context.name for stream in container.streams.video] == ["mjpeg", "h264"]
    np.testing.assert_array_equal(decoded(path), before)


def test_an_edit_list_is_obeyed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4", "libx264", {"bf": "0", "g": "4"})
    before, raw = decoded(path), path.read_bytes()
    at = raw.index(b"elst") + 12  # duration in milliseconds, begin in the track's time
    with av.open(str(path)) as container:
        begin = int(Fraction(3, 10) / container.streams.video[0].time_base)
    path.write_bytes(raw[:at] + struct.pack(">Ii", 400, begin) + raw[at + 8 :])
    read = list(PyAvReader().frames(path))
    np.testing.assert_array_equal([frame for _, frame in read], before[3:7])
    assert [time for time, _ in read] == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-3)


def test_times_that_are_not_even(tmp_path: Path) -> None:
    times = [0, 40, 80, 500, 900, 910, 1000, 2000]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for time, pixels in zip(times, FRAMES, strict=False):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    read = PyAvReader().frames(tmp_path / "a.mkv")
    assert [time for time, _ in read] == pytest.approx([time / 1000 for time in times], abs=1e-3)
