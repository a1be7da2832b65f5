"""The growing preview is the image, reduced, whatever order its parts come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers.preview import GrowingPreview, reduced


def test_means_of_squares() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    small = reduced(pixels, 2)
    assert small.shape == (3, 4, 3)
    assert small[1, 2].tolist() == np.rint(pixels[2:4, 4:6].reshape(-1, 3).mean(axis=0)).tolist()
    assert small[2, 3].tolist() == pixels[4, 6].tolist(), "cut squares are filled up by their edge"
    assert reduced(pixels, 1) is pixels


@pytest.mark.parametrize(("longest", "scale"), [(4096, 1), (200, 4), (64, 8)])
def test_it_is_the_image_reduced(tmp_path: Path, longest: int, scale: int) -> None:
    ramp = np.linspace(0, 255, 512)[:, None, None] * np.ones((1, 320, 3))
    canvas = np.ascontiguousarray(ramp.transpose(1, 0, 2)).astype(np.uint8)
    preview = GrowingPreview(tmp_path / "p.png", longest=longest, every=1e9)
    corners = [(y, x) for x in range(0, 512, 64) for y in range(0, 320, 64)]
    for n, (y, x) in enumerate(corners):
        if n == 20:  # killed, and gone on with
            preview.save()
            preview = GrowingPreview(tmp_path / "p.png", found=True, longest=longest, every=1e9)
        preview.write(canvas[y : y + 64, x : x + 64], y=y, x=x)
    preview.save()
    with Image.open(tmp_path / "p.png") as image:
        made = np.asarray(image).astype(int)
    assert made.shape == (320 // scale, 512 // scale, 3)
    assert np.abs(made - reduced(canvas, scale)).max() <= 2
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_it_is_saved_now_and_then_and_never_a_reason_to_stop(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 9, np.uint8)
    preview = GrowingPreview(tmp_path / "p.png", every=0)
    preview.save()
    assert not (tmp_path / "p.png").exists(), "nothing to be seen yet"
    preview.write(pixels, y=0, x=0)
    assert (tmp_path / "p.png").exists()
    (tmp_path / "p.png").write_bytes(b"something else")
    for found in (True, False):
        with pytest.raises(UsageError, match="is no preview and is never replaced"):
            GrowingPreview(tmp_path / "p.png", found=found)
    assert (tmp_path / "p.png").read_bytes() == b"something else"
    GrowingPreview(tmp_path / "gone" / "p.png", every=0).write(pixels, y=0, x=0)
