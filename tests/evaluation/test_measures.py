"""Seams, collapse and PSNR: known answers, and what real photographs give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.collapse import collapse, luminance_spread
from evaluation.reconstruction import psnr, ssim
from evaluation.seams import seam_ratio
from experiments.measure_outpaint import border_ratio

Photos = dict[str, np.ndarray[Any, Any]]


def staircase(length: int, *, patch: int, token: int, origin: int, steps: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """One line whose step is ``steps[0]`` on patch borders, ``[1]`` on other token borders, ``[2]`` elsewhere."""
    values = [100]
    for place in range(1, length):
        which = 0 if (place - origin) % patch == 0 else 1 if (place - origin) % token == 0 else 2
        values.append(values[-1] + steps[which] * (1 if values[-1] < 128 else -1))
    return np.array(values, np.uint8)


@given(
    patches=st.integers(2, 4), tokens=st.integers(2, 4), token=st.integers(2, 8), origin=st.integers(0, 30),
    steps=st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 10)),
)  # fmt: skip
def test_seam_ratio_of_a_staircase(
    patches: int, tokens: int, token: int, origin: int, steps: tuple[int, int, int]
) -> None:
    patch = tokens * token
    line = staircase((patches + 1) * patch, patch=patch, token=token, origin=origin, steps=steps)
    wide = np.broadcast_to(line[None, :, None], (patch, len(line), 3))
    found = seam_ratio([wide], patch=patch, token=token, origin=(0, origin))
    assert found.across_x == pytest.approx(steps[0] / steps[2])
    assert found.value == pytest.approx(steps[0] / steps[2], rel=1e-9)
    tall = seam_ratio([wide.transpose(1, 0, 2)], patch=patch, token=token, origin=(origin, 0))
    assert tall.across_y == pytest.approx(steps[0] / steps[2])


def test_photographs_have_no_seams_until_they_get_some(sample_photos: Photos) -> None:
    photos = list(sample_photos.values())
    real = seam_ratio(photos)
    assert real.value == pytest.approx(1, abs=0.1)
    assert real.n == 2
    seamed = [photo.astype(int) for photo in photos]
    for photo in seamed:
        photo[:, 64:128] += 20
        photo[:, 192:256] -= 20
    lined = seam_ratio([photo.clip(0, 255).astype(np.uint8) for photo in seamed])
    assert lined.across_x > 1.3 * real.across_x
    assert lined.across_y == pytest.approx(real.across_y, rel=0.02)


def test_the_tokenizers_own_grid_does_not_count_as_inside(sample_photos: Photos) -> None:
    """Stronger token borders everywhere raise the ratio: dividing by them would hide those of the patches."""
    photo = sample_photos["china.jpg"].astype(int)
    photo[:, ::8] += 10
    assert seam_ratio([photo.clip(0, 255).astype(np.uint8)]).across_x > 1.1


def test_seams_need_borders_and_a_sound_grid() -> None:
    small = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="larger than a patch of 64"):
        seam_ratio([small])
    with pytest.raises(ValueError, match="multiple of token"):
        seam_ratio([small], patch=60)
    flat = seam_ratio([np.zeros((128, 128, 3), np.uint8)])
    assert flat.value == 1


def test_collapse_finds_the_flat_window(sample_photos: Photos) -> None:
    photos = list(sample_photos.values())
    # Two photographs have four windows of 200 px a row: a panorama of them, then one with a part of even gray.
    panorama = np.concatenate([photo[:400, :600] for photo in photos], axis=1)
    ruined = panorama.copy()
    ruined[200:400, 800:1000] = 128
    found = collapse(photos, [panorama, ruined, panorama[:100]], window=200)
    assert (found.canvases, found.windows) == (2, 24)
    assert found.flat == 3  # one window of the photographs is the flattest of 12, in both panoramas
    assert (found.collapsed, found.real_canvases, found.real_collapsed) == (2, 2, 1)
    assert collapse([ruined], [ruined], window=200).threshold < found.threshold


def test_luminance_spread_follows_rec_601() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = (0, 200, 0)
    assert luminance_spread(image) == pytest.approx(0.587 * 100)


def test_collapse_needs_images_as_large_as_a_window(sample_photos: Photos) -> None:
    photo = sample_photos["china.jpg"]
    with pytest.raises(ValueError, match="no generated image is 256 pixels"):
        collapse([photo], [photo[:100]])


def test_psnr_of_equal_images_and_of_other_shapes(sample_photos: Photos) -> None:
    photo = sample_photos["china.jpg"][:40, :40]
    assert psnr(photo, photo) == float("inf")
    for measure in (psnr, ssim):
        with pytest.raises(ValueError, match="cannot be compared"):
            measure(photo, photo[:20])
    assert ssim(photo, photo) == pytest.approx(1)
    with pytest.raises(ValueError, match="smaller than the window"):
        ssim(photo[:9], photo[:9])


def test_a_border_shows_where_there_is_one(sample_photos: Photos) -> None:
    photo = sample_photos["china.jpg"][40:240, 100:340]
    box = (48, 0, 200, 160)  # borders above and to the right
    assert border_ratio([photo], box=box) == pytest.approx(1, abs=0.3)
    pasted = photo.astype(int)
    pasted[48:200, :160] = np.clip(pasted[48:200, :160] + 60, 0, 255)
    shown = border_ratio([pasted.astype(np.uint8)], box=box)
    assert shown > 2
    # By hand, for one border.
    only = (0, 0, 200, 160)
    steps = np.abs(np.diff(pasted, axis=1)).mean((0, 2))
    near = [steps[160 + away - 1] for away in range(-16, 17) if away % 8]
    assert border_ratio([pasted.astype(np.uint8)], box=only) == pytest.approx(steps[159] / np.mean(near))
    flat = np.zeros((20, 20, 3), np.uint8)
    assert border_ratio([flat], box=(0, 5, 20, 20)) == 1
    with pytest.raises(ValueError, match="no border"):
        border_ratio([flat], box=(0, 0, 20, 20))
    with pytest.raises(ValueError, match="no border"):
        border_ratio([], box=(0, 5, 20, 20))
