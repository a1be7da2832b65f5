"""The joint of closed canvases: against a slow version, on unrolled canvases, and what it does to steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nuwa_lightning.canvas.decoding import Crop, DecodedImage, TileDecoder, to_uint8
from nuwa_lightning.canvas.image_condition import JointBlend
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig

SIZE = (48, 64)


def drawing(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def finished(blend: JointBlend, image: np.ndarray) -> np.ndarray:
    """Finish a whole canvas: unrolled three times along closed axes, of which the middle counts."""
    height, width = image.shape[:2]
    down, right = int("y" in blend.wrap), int("x" in blend.wrap)
    unrolled = np.tile(image, (1 + 2 * down, 1 + 2 * right, 1))
    done = blend.finish(unrolled, y=-down * height, x=-right * width)
    return done[down * height :, right * width :][:height, :width]


def test_along_x_it_is_what_the_definition_says():
    image, reach = drawing(), 8
    done = finished(JointBlend((None, SIZE[1]), "x", reach, 8), image)
    expected = image.astype(float)
    for distance in range(reach):
        weight = 0.5 * math.cos(math.pi * distance / reach / 2) ** 2
        own, mirrored = image[:, -1 - distance].astype(float), image[:, distance].astype(float)
        expected[:, -1 - distance] = (1 - weight) * own + weight * mirrored
        expected[:, distance] = (1 - weight) * mirrored + weight * own
    assert np.abs(done - expected.clip(0, 255)).max() <= 0.5 + 1e-3
    assert np.array_equal(done[:, reach:-reach], image[:, reach:-reach])


@given(
    st.integers(-70, 70),
    st.integers(-70, 70),
    st.integers(1, 50),
    st.integers(1, 60),
    st.sampled_from(["x", "y", "xy"]),
)
def test_pieces_with_their_margin_are_parts_of_the_whole(top, left, height, width, wrap):
    image, blend = drawing(), JointBlend(SIZE, wrap, 8, 8)
    margin, index, kept = blend.margin * 8, [], []
    for axis, (start, length) in enumerate(((top, height), (left, width))):
        if "yx"[axis] in wrap:
            index.append(np.arange(start - margin, start + length + margin))
            kept.append(slice(margin, margin + length))
        else:  # an open axis is cut off at its ends
            first = start % SIZE[axis]
            size = min(length, SIZE[axis] - first)
            index.append(np.arange(max(0, first - margin), min(SIZE[axis], first + size + margin)))
            kept.append(slice(first - index[axis][0], first - index[axis][0] + size))
    place = np.ix_(*(i % n for i, n in zip(index, SIZE, strict=True)))
    done = blend.finish(image[place], y=int(index[0][0]), x=int(index[1][0]))
    assert np.array_equal(done[tuple(kept)], finished(blend, image)[place][tuple(kept)])


@pytest.mark.parametrize("wrap", ["x", "y", "xy"])
def test_a_step_is_gone_and_what_has_none_stays(wrap):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ramp = (y * 2 + x * 2).astype(np.uint8)[..., None].repeat(3, axis=2)
    done = finished(JointBlend(SIZE, wrap, 16, 8), ramp).astype(int)
    for axis, name in ((0, "y"), (1, "x")):
        first, last = np.take(done, 0, axis), np.take(done, -1, axis)
        before = abs(int(np.take(ramp, 0, axis)[20, 0]) - int(np.take(ramp, -1, axis)[20, 0]))
        step = np.abs(first - last).mean()
        assert step == 0 if name in wrap else step > 0.7 * before
    # What is the same on both sides stays: waves with a crest on each seam.
    period = 128 + 100 * np.cos(2 * np.pi * (x + 0.5) / SIZE[1]) * np.cos(2 * np.pi * (y + 0.5) / SIZE[0])
    smooth = np.rint(period).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert np.abs(finished(JointBlend(SIZE, wrap, 16, 8), smooth).astype(int) - smooth).max() <= 1


def test_a_narrow_canvas_is_blended_over_a_quarter_of_it():
    image = drawing()[:, :8]
    done = finished(JointBlend((SIZE[0], 8), "x", 16, 8), image)
    assert np.array_equal(done[:, 2:-2], image[:, 2:-2])
    assert not np.array_equal(done, image)
    assert np.array_equal(finished(JointBlend((SIZE[0], 8), "x", 0, 8), image), image)


def test_an_image_of_tiles_is_the_whole_one_finished():
    torch.manual_seed(0)
    channels = {"encoder_channels": (8, 8), "decoder_channels": (12, 8)}
    tokenizer = VQGAN.build(VQGANConfig(16, 4, encoder_blocks=(1, 1), decoder_blocks=(1, 1), **channels))
    for parameter in tokenizer.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randint(0, 16, (6, 8))
    f = tokenizer.downsample_factor
    blend = JointBlend((6 * f, 8 * f), "x", f, f)
    tiles = TileDecoder(
        tokenizer, (6, 8), lambda a: tokens[a.top : a.bottom, a.left : a.right], tile=3, finish=blend, wrap="x"
    )
    out = DecodedImage(tiles, Crop((6 * f, 8 * f))).rows(0, 6 * f)
    unrolled = to_uint8(tokenizer.decode(tokens.repeat(1, 3)[None])[0])
    expected = blend.finish(unrolled, y=0, x=-8 * f)[:, 8 * f : 16 * f]
    assert np.abs(out.astype(int) - expected).max() <= 1
    assert not np.array_equal(out, unrolled[:, 8 * f : 16 * f])
