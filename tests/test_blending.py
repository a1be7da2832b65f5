from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuwa_lightning.blending import RIM, blurred, fading, filled, meeting, nearby


def brute_blur(values: np.ndarray, radius: int, beyond: float | None) -> np.ndarray:
    pads = [(radius, radius), (radius, radius), (0, 0)]
    wide = np.pad(values, pads, mode="edge") if beyond is None else np.pad(values, pads, constant_values=beyond)
    size = 2 * radius + 1
    height, width = values.shape[:2]
    rows = [[wide[y : y + size, x : x + size].mean((0, 1)) for x in range(width)] for y in range(height)]
    return np.array(rows)


@pytest.mark.parametrize("beyond", [None, 0.0])
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 4))
def test_blur_equals_a_mean_over_squares(beyond: float | None, height: int, width: int, radius: int) -> None:
    values = np.random.default_rng(height * 7 + width).normal(size=(height, width, 2)).astype(np.float32)
    np.testing.assert_allclose(blurred(values, radius, beyond=beyond), brute_blur(values, radius, beyond), atol=1e-5)


@given(st.integers(1, 17), st.integers(1, 17), st.integers(0, 99))
def test_filling_keeps_what_is_known_and_stays_within_it(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(height, width, 3)).astype(np.float32)
    known = random.random((height, width)) < 0.3
    out = filled(values, known)
    assert np.array_equal(out[known], values[known])
    if known.any():
        assert out.min() >= values[known].min() - 1e-5
        assert out.max() <= values[known].max() + 1e-5
    else:
        assert not out.any()


def test_filling_carries_two_sides_on_to_where_they_meet() -> None:
    values = np.zeros((16, 32, 1), np.float32)
    values[:, 24:] = 9
    known = np.zeros((16, 32), bool)
    known[:, :8] = known[:, 24:] = True
    out = filled(values, known)[8, :, 0]
    assert out[8] < 1
    assert out[23] > 8
    assert (np.diff(out) >= -1e-5).all()


def test_what_is_written_meets_what_is_given_and_the_rest_stays() -> None:
    """Of a step at the border nothing is left there; it fades, and only what is near decides."""
    random = np.random.default_rng(0)
    given = np.full((60, 60, 2), 5, np.float32)
    given[30:] = 9
    known = np.zeros((60, 60), bool)
    known[:, :30] = True
    written = (1 + 0.01 * random.normal(size=given.shape)).astype(np.float32)
    written[:, :30] = given[:, :30]  # what is given is decoded as it is: the step was written at the border
    more = meeting(written, given, known, 8)
    for row, level in ((20, 5), (45, 9)):
        out = (written + more)[row, 30:, 0]
        assert out[0] == pytest.approx(level, rel=0.15)
        assert (np.diff(out[:8]) < 0.1).all()
        assert (out[8:] == written[row, 38:, 0]).all()
    far = 8 + RIM
    cut = np.s_[20 - far : 20 + far + 1, 30 - far : 38 + far]
    np.testing.assert_allclose(
        meeting(written[cut], given[cut], known[cut], 8)[far, far : far + 8], more[20, 30:38], atol=1e-4
    )
    assert (fading(known, 8)[:, :30] == 1).all()
    assert not fading(known, 8)[:, 38:].any()
    assert (np.diff(fading(known, 8)[20, 29:39]) < 0).all()


@pytest.mark.parametrize("reach", [1, 6, 16])
def test_what_is_nearby_is_a_mean_that_the_nearest_outweigh(reach: int) -> None:
    random = np.random.default_rng(reach)
    values = random.normal(size=(24, 30, 1)).astype(np.float32)
    known = random.random((24, 30)) < 0.2
    known[:, :9] = True
    out = nearby(values, known, reach)[..., 0]
    sigmas = [sigma for sigma in (0.5, 1, 2, 4, 8) if 2 * sigma <= reach]
    share = brute_blur(known[..., None].astype(np.float32), reach, 0.0)[..., 0]
    np.testing.assert_allclose(fading(known, reach), np.where(known, 1, np.minimum(1, 2 * share)), atol=1e-5)
    for y, x in [(3, 10), (12, 12), (23, 29), (0, 20)]:
        if known[y, x]:
            assert out[y, x] == values[y, x, 0]
            continue
        down, across = np.indices(known.shape) - np.array([y, x])[:, None, None]
        weight = np.zeros(known.shape)
        for sigma in sigmas:
            radius = min(reach, int(np.ceil(3 * sigma)))
            taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2)).sum() ** 2
            inside = (abs(down) <= radius) & (abs(across) <= radius)
            weight += inside * np.exp(-(down**2 + across**2) / (2 * sigma**2)) / taps / sigma**4
        weight *= known
        mean = (weight * values[..., 0]).sum() / max(weight.sum(), 1e-12)
        assert out[y, x] == pytest.approx(mean, abs=1e-4)


def test_what_is_next_to_a_border_hardly_differs_from_it() -> None:
    values = np.random.default_rng(0).normal(size=(200, 40, 1)).astype(np.float32)
    known = np.zeros((200, 40), bool)
    known[:, :20] = True
    out = (nearby(values, known, 16) * fading(known, 16)[..., None])[..., 0]
    steps = [np.abs(np.diff(out[:, place : place + 2], axis=1)).mean() for place in range(18, 30)]
    inside = steps[0]
    # No step is larger than those inside, and they die away without another one.
    assert steps[1] < 0.75 * inside
    assert max(steps[5:]) < 0.3 * inside
