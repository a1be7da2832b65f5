"""Names, sizes and speeds that cannot be had are refused before any work, and what is not ours is never replaced."""

from __future__ import annotations

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.files import (
    IMAGE_WRITERS,
    VIDEO_WRITERS,
    check_format,
    check_output,
    read_metadata,
    write_image,
    write_video,
)
from tests.writers.test_image_files import Canvas, noise


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(found.relative_to(folder)): found.read_bytes() if found.is_file() else None
        for found in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(
    ("name", "video", "message"),
    [
        ("a.bmp", False, r"a\.bmp: the name must end in one of \.png, \.jpg, .*\.webp, \.dzi, \.zarr"),
        ("a", False, "must end in one of"),
        ("a.mp4", False, "must end in one of"),
        ("a.png", True, r"must end in one of \.mp4, \.gif, \.webp, \.frames"),
        ("none/a.png", False, "the folder .*none does not exist"),
        ("file/a.png", False, "does not exist"),
        ("folder.png", False, "is a folder, and PNG makes a file"),
        ("folder.mp4", True, "is a folder, and MP4 makes a file"),
        ("file.zarr", False, "is a file, and OME-Zarr makes a folder"),
        ("file.frames", True, "is a file, and PNG frames makes a folder"),
        ("pipe.png", False, "is a device, and PNG makes a file"),
        (252 * "x" + ".png", False, "cannot be a file's name"),
        (251 * "x" + ".dzi", False, "cannot be a file's name"),  # NAME_files is two bytes longer
        ("a\0.png", False, "cannot be a file's name"),
    ],
)
def test_names_are_refused(tmp_path: Path, name: str, video: bool, message: str) -> None:
    for folder in ("folder.png", "folder.mp4"):
        (tmp_path / folder).mkdir()
    for file in ("file", "file.zarr", "file.frames"):
        (tmp_path / file).touch()
    os.mkfifo(tmp_path / "pipe.png")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=message) as refused:
            check_output(tmp_path / name, video=video, overwrite=overwrite, option="--output")
        assert refused.value.option == "--output"
        assert "\n" not in str(refused.value)


def test_good_names_are_taken(tmp_path: Path) -> None:
    for video, writers in ((False, IMAGE_WRITERS), (True, VIDEO_WRITERS)):
        for suffix in writers:
            check_output(tmp_path / f"a{suffix.upper()}", video=video)
    check_output(tmp_path / (251 * "x" + ".png"))
    write_image(Canvas(noise(9, 9)), tmp_path / (251 * "x" + ".png"), metadata={"seed": 1})
    assert read_metadata(tmp_path / (251 * "x" + ".png")) == {"seed": 1}


@pytest.mark.parametrize(
    ("name", "size", "fps", "message"),
    [
        ("a.png", (0, 9), None, "size: 0x9: both sides must be at least 1"),
        (
            "a.png",
            (9, 10**9),
            None,
            r"output: a\.png with 9x1000000000: PNG holds at most 100000000 .*: make it smaller",
        ),
        ("a.jpg", (65501, 9), None, r"JPEG holds at most 65500 pixels a side: use \.tif"),
        ("a.webp", (9, 16384), None, r"WebP holds at most 16383 pixels a side: use \.tif"),
        ("a.webp", (9, 16384), 8, r"use \.frames"),
        ("a.mp4", (33, 32), 8, "size: 33x32: MP4 needs sides that are multiples of 2, such as 32x32"),
        ("a.mp4", (16386, 32), 8, r"MP4 holds at most 16384 pixels a side: use \.frames"),
        ("a.gif", (32, 65536), 8, "GIF holds at most"),
        ("a.gif", (32, 32), 60, r"fps: 60\.0: GIF holds more than 0 and at most 50 frames a second"),
        ("a.mp4", (32, 32), 0, "more than 0"),
        ("a.mp4", (None, 33), 8, "multiples of 2, such as 32$"),
    ],
)
def test_sizes_and_speeds_are_refused(name: str, size: tuple[int | None, int], fps: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_format(name, *size, fps=fps)


def test_sizes_that_fit() -> None:
    check_format("a.tif", 100_000_000, None)
    check_format("a.jpg", 65500, 65500)
    check_format("a.mp4", 16384, 2, fps=Fraction(30000, 1001))


@pytest.mark.parametrize("suffix", sorted(IMAGE_WRITERS))
def test_only_our_own_is_replaced(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    canvas = Canvas(noise(300, 40))
    write_image(canvas, path, metadata={"seed": 1})
    before = content(tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        write_image(canvas, path)
    assert content(tmp_path) == before
    write_image(Canvas(noise(20, 10)), path, metadata={"seed": 2}, overwrite=True)
    assert read_metadata(path) == {"seed": 2}
    assert not [found for found in tmp_path.iterdir() if found.name.startswith(".")]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".gif", ".mp4", ".dzi", ".zarr", ".frames"])
def test_what_others_made_stays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    pixels = noise(32, 32)
    if suffix in (".zarr", ".frames"):
        path.mkdir()
        (path / "precious.txt").write_text("mine")
    elif suffix == ".dzi":  # a saved web page
        (tmp_path / "a_files").mkdir()
        (tmp_path / "a_files" / "style.css").write_text("mine")
    elif suffix == ".tif":
        tifffile.imwrite(path, pixels, metadata={"axes": "YXS"})  # JSON, too
    elif suffix == ".mp4":
        path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(500))
    else:
        Image.fromarray(pixels).save(path)
    before = content(tmp_path)
    with pytest.raises(UsageError, match="was not made by this program and is never replaced"):
        if suffix in VIDEO_WRITERS and suffix != ".webp":
            write_video(iter([pixels]), path, width=32, height=32, fps=8, overwrite=True)
        else:
            write_image(Canvas(pixels), path, overwrite=True)
    assert content(tmp_path) == before


def test_what_appears_meanwhile_stays(tmp_path: Path) -> None:
    class Slow(Canvas):
        def rows(self, start: int, stop: int) -> Any:
            (tmp_path / "a.png").write_text("mine")
            return super().rows(start, stop)

    with pytest.raises(UsageError, match="exists already"):
        write_image(Slow(noise(32, 32)), tmp_path / "a.png")
    assert content(tmp_path) == {"a.png": b"mine"}


def test_empty_files_and_links(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()  # as mktemp leaves it
    write_image(Canvas(noise(9, 9)), tmp_path / "a.png", overwrite=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.png").symlink_to("elsewhere/b.png")
    write_image(Canvas(noise(9, 9)), tmp_path / "link.png", metadata={"seed": 4})
    assert (tmp_path / "link.png").is_symlink()
    assert read_metadata(tmp_path / "elsewhere" / "b.png") == {"seed": 4}


@pytest.mark.parametrize("suffix", sorted({**IMAGE_WRITERS, **VIDEO_WRITERS}))
@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"\x89PNG\r\n\x1a\n", b"II+\0\x08\0\0\0" + bytes(8), b"GIF89a", b"{"]
)
def test_damaged_files_are_told(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with suppress(UsageError):
        assert read_metadata(path) == {}
    with pytest.raises(UsageError, match="cannot be read"):
        read_metadata(tmp_path / f"none{suffix}")


def test_metadata_of_images_too_large_for_pillow(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg"):
        path = tmp_path / f"a{suffix}"
        write_image(
            Canvas(np.zeros((1, 1, 3), np.uint8).repeat(20_000, 0).repeat(9_000, 1), 500), path, metadata={"a": 1}
        )
        with pytest.raises(Image.DecompressionBombError):
            Image.open(path)
        assert read_metadata(path) == {"a": 1}
