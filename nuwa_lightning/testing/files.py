"""The laws of what reads and writes files: sources of photos, writers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from nuwa_lightning.data.photos import PhotoSource
from nuwa_lightning.data.sources import SPLITS
from nuwa_lightning.errors import shown
from nuwa_lightning.writers.base import ImageWriter, Pixels, VideoWriter


def check_photo_source(source: PhotoSource) -> None:
    """Check the laws of a source of photos; it is prepared for that.

    Args:
        source: one that holds a few photos.

    Raises:
        AssertionError: naming the law and what broke it.
    """
    import json

    from nuwa_lightning.data.reading import image_size, read_image

    name = type(source).__name__
    source.prepare()
    source.prepare()
    sides = {split: source.photos(split) for split in SPLITS}
    again = {split: source.photos(split) for split in SPLITS}
    assert sides == again, f"{name}: photos returns the same photos in the same order each time"
    assert sides["train"], f"{name}: there is a photo for training"
    keys = [photo.key for photos in sides.values() for photo in photos]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    assert not twice, f"{name}: keys are unique over both splits: {twice}"
    shared = {photo.scene or photo.key for photo in sides["train"]} & {p.scene or p.key for p in sides["val"]}
    assert not shared, f"{name}: a scene lies on one side: {sorted(shared)}"
    for photos in sides.values():
        for photo in photos:
            size = read_image(photo.path).size
            assert image_size(photo.path) == (size[1], size[0]), f"{name}: {photo.path} tells its size"
            assert isinstance(photo.caption, str), f"{name}: the caption of {photo.key} is text"
    for split in SPLITS:
        option, value = source.option(split)
        assert isinstance(option, str), f"{name}: option names an option"
        assert isinstance(value, str), f"{name}: option gives its value as text"
    json.dumps(source.record(), allow_nan=False)  # raises what is wrong with it


def check_writer(
    writer: ImageWriter | VideoWriter, suffix: str, *, read: Callable[[Path], Sequence[Pixels]] | None = None
) -> None:
    """Hold a writer of images or of videos to its laws on small outputs.

    Args:
        writer: an object of the class to be tested.
        suffix: of the outputs, such as ``.png``.
        read: returns the pixels of an output (of a video its frames) if the format gives all of them back unchanged.

    Raises:
        AssertionError: naming the class and the law.
    """
    metadata = {"prompt": "a, (b) \u5c71 ?> -->", "seed": 3, "nested": {"none": None, "list": [1, 2.5]}}
    video = isinstance(writer, VideoWriter)
    random_pixels = np.random.default_rng(0)
    for height, width in ((2, 2), (34, 58), (128, 16), (258, 130)) if video else ((1, 1), (1, 61), (53, 1), (257, 131)):
        frames_TYX3 = random_pixels.integers(0, 256, (3 if video else 1, height, width, 3), np.uint8)
        where = f"{shown(writer)}: {width}x{height}: "
        contents = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"output{suffix}"
                if isinstance(writer, VideoWriter):
                    writer.write(iter(frames_TYX3), path, metadata, fps=Fraction(12))
                else:
                    writer.write(ArraySource(frames_TYX3[0]), path, metadata)
                expected = sorted([path, *writer.companions(path)])
                assert sorted(Path(folder).iterdir()) == expected, f"{where}makes the output and nothing else"
                assert path.is_dir() == writer.folder, f"{where}is a folder where it says so"
                assert writer.read_metadata(path) == metadata, f"{where}metadata come back"
                if read is not None:
                    same = np.array_equal(np.asarray(read(path)), frames_TYX3 if video else frames_TYX3[0])
                    assert same, f"{where}pixels come back"
                files = sorted(found for found in Path(folder).rglob("*") if found.is_file())
                contents.append([(found.relative_to(folder), found.read_bytes()) for found in files])
        assert contents[0] == contents[1], f"{where}equal pixels make equal bytes"


class ArraySource:
    """An image in memory as a source of pixels.

    Args:
        pixels_YX3: uint8 sRGB.
    """

    band = 7

    def __init__(self, pixels_YX3: Pixels) -> None:
        self._pixels_YX3 = pixels_YX3
        self.height, self.width = pixels_YX3.shape[:2]

    def rows(self, start: int, stop: int) -> Pixels:
        """Return some rows."""
        return self._pixels_YX3[start:stop]
