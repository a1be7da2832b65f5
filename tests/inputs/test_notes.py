"""What reading changes about tones is said once, by every reader, and nothing is where there is nothing to say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tifffile

from evaluation.images import ImageSet
from evaluation.reconstruction import Pairs
from nuwa_lightning.data.photos import Photo
from nuwa_lightning.data.preparing import prepare_photos
from nuwa_lightning.data.reading import MAX_PIXELS, NotesLog, notes_of, read_image
from nuwa_lightning.data.token_data import BankSettings, _PassingItem
from nuwa_lightning.data.video_reading import read_clip
from nuwa_lightning.data.videos import photograph
from tests.inputs.test_images import CASES, RGB, RGB12, saved


@pytest.mark.parametrize("name", ["8-bit PNG", "sRGB told", *(name for name in CASES if name.startswith("PNG of"))])
def test_what_needs_no_word(tmp_path: Path, name: str) -> None:
    file, write, _, _, said = CASES[name]
    write(tmp_path / file)
    assert len(notes_of(read_image(tmp_path / file))) == (said != "")


def test_jpeg_2000_of_16_bits(tmp_path: Path) -> None:
    saved(RGB, "JPEG2000")(tmp_path / "a.jp2")
    assert notes_of(read_image(tmp_path / "a.jp2")) == ()
    content = bytearray((tmp_path / "a.jp2").read_bytes())
    size = content.index(b"\xff\x4f\xff\x51")
    content[size + 42 : size + 51 : 3] = [15, 15, 15]
    (tmp_path / "a.jp2").write_bytes(content)
    assert notes_of(read_image(tmp_path / "a.jp2")) == ("samples of more than 8 bits become 8",)


def test_each_reader_says_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        for name in "ab":
            tifffile.imwrite(folder / f"{name}.tif", RGB12, photometric="rgb")
    photos = [Photo(ours / f"{name}.tif", name, "", name) for name in "ab"]
    prepared = prepare_photos(photos, [24], crop=16, cache=tmp_path / "cache", limit_bytes=0)
    images, pairs, told = ImageSet(ours), Pairs(theirs, ours), NotesLog()
    settings = BankSettings(short_sides=(24,), phases=1)
    readers: dict[str, Callable[[], object]] = {
        "scored": lambda: list(images.looks(every=True)),
        "pairs": lambda: list(pairs),
        "not kept": lambda: [prepared.array(n, 0) for n in (0, 1)],
        "to shards": lambda: [_PassingItem(p, "train", 4, settings, None, MAX_PIXELS, told).pixels(0) for p in photos],
        "a video's photographs": lambda: [photograph(photo.path) for photo in photos],
    }
    for name, read in readers.items():
        caplog.clear()
        for _ in range(2):
            read()
        notes = [message.partition(": ")[2] for message in caplog.messages]
        assert notes == [
            "samples of more than 8 bits become 8",
            "white is taken to be 4095 in 16 bits, the end of its values",
        ], name
    caplog.clear()
    frames = list(read_clip(ours))
    assert len(frames) == len(caplog.messages) == 2
