"""Lost stretches of videos are found wherever they are, and whole videos pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from nuwa_lightning.data.video_reading import PyAvReader, VideoReadError, find_damage, length_bytes
from tests.data.test_videos import Photos, pan, video_file

READER = PyAvReader()


def remuxed(source: Path, path: Path) -> Path:
    """The same compressed frames in another container; MPEG-TS tells units apart by start codes."""
    import av

    with av.open(str(source)) as found, av.open(str(path), "w") as made:
        stream = made.add_stream_from_template(found.streams.video[0])
        for packet in found.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_stretch_of_zeros_in_a_smooth_video_is_found(tmp_path: Path, sample_photos: Photos, suffix: str) -> None:
    """A decoder paints over most of them: the video looks alright, but for colours that are 60 of 255 off."""
    path = video_file(tmp_path / "a.mp4", pan(sample_photos["china.jpg"], 0, 16, height=256, width=384))
    path = path if suffix == ".mp4" else remuxed(path, tmp_path / f"a{suffix}")
    assert len(list(READER.frames(path))) == 16
    whole = path.read_bytes()
    for count in (50, 3000):
        for at in range(5000, len(whole) - 5000, len(whole) // 8):
            path.write_bytes(whole[:at] + bytes(count) + whole[at + count :])
            with pytest.raises(VideoReadError) as caught:
                list(READER.frames(path))
            assert "damaged" in str(caught.value)
            assert "\n" not in str(caught.value)


UNIT = bytes([0x65, 7, 0, 0, 3, 1, 9])


@pytest.mark.parametrize(
    ("packet", "lengths", "wrong"),
    [
        (b"\0\0\0\7" + UNIT + b"\0\7" + UNIT, 4, "a unit of 484615 bytes where 5 are left"),
        (2 * (b"\0\7" + UNIT), 2, None),
        (2 * (b"\0\0\0\1" + UNIT), 0, None),
        (b"\0\0\1" + UNIT + bytes(40) + b"\0\0\1" + UNIT, 0, None),  # zeros may stand between units
        (b"\0\0\1" + UNIT + bytes(40) + UNIT, 0, "a stretch of zeros"),
        (b"\0\0\1" + UNIT + b"\0\0\2", 0, "a stretch of zeros"),
        (b"\x0a" + UNIT + bytes(3), 1, None),  # padding
        (b"\x1b" + UNIT + bytes(20), 1, "a stretch of zeros"),
        (b"\x0b" + UNIT + b"\0\0\1\5", 1, "a stretch of zeros"),
        (b"\x07" + UNIT + b"\0", 1, "a unit of 0 bytes where 0 are left"),
        (b"", 4, None),
    ],
)
def test_units_are_looked_through(packet: bytes, lengths: int, wrong: str | None) -> None:
    assert find_damage(packet, lengths) == wrong


def test_lengths_are_told_by_the_stream() -> None:
    avcc = bytes([1, 100, 0, 31, 0xFD, 0xE1, 0, 0])
    hvcc = bytes([1, *20 * [7], 0xFF, 0, 0])
    start = b"\0\0\0\1" + bytes(range(30))
    assert length_bytes("h264", avcc) == 2
    assert length_bytes("hevc", hvcc) == 4
    assert [length_bytes(codec, said) for codec in ("h264", "hevc") for said in (start, b"", None)] == 6 * [0]
    assert length_bytes("vp9", avcc) is None


def test_videos_stand_upright_as_their_file_says(tmp_path: Path, sample_photos: Photos) -> None:
    """As telephones write them: frames lie on their side, and the header says by how much."""
    path = video_file(tmp_path / "a.mp4", pan(sample_photos["china.jpg"], 0, 3, height=64, width=96))
    lying = [frame for _, frame in READER.frames(path)]
    one, none = (1 << 16).to_bytes(4, "big"), bytes(4)
    minus, last = (-1 << 16).to_bytes(4, "big", signed=True), (1 << 30).to_bytes(4, "big")
    straight = one + none + none + none + one + none + none + none + last
    whole = path.read_bytes()
    at = whole.index(straight, whole.index(b"tkhd"))
    # QuickTime: x' = a x + c y, y' = b x + d y, both axes to the right and down.
    for (a, b, c, d), turns in (((none, one, minus, none), -1), ((minus, none, none, minus), 2)):
        matrix = a + b + none + c + d + none + none + none + last
        path.write_bytes(whole[:at] + matrix + whole[at + len(matrix) :])
        for (_, upright), frame in zip(READER.frames(path), lying, strict=True):
            np.testing.assert_array_equal(upright, np.rot90(frame, turns))
