"""Planted faults: each moves rows of the default report beyond their intervals; docs/evaluation.md has the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evaluation.color import NAMES, color_of
from evaluation.crop_spec import CropSpec
from evaluation.images import ImageSet
from evaluation.protocol import load_protocol
from evaluation.real_images import LANDSCAPE, real_images
from evaluation.score import Work, score
from evaluation.seams import seam_ratio
from nuwa_lightning.errors import UsageError

Images = list[np.ndarray[Any, Any]]
COUNT = 80


def off_grid(images: Images) -> Images:
    """A step of 24 levels every 64 pixels, 21 off the grid of patches."""
    bump = np.zeros((256, 256, 1))
    bump[(np.arange(256) + 43) // 64 % 2 == 0] += 24
    bump[:, (np.arange(256) + 43) // 64 % 2 == 0] += 24
    return [np.clip(image + bump, 0, 255) for image in images]


def flat(images: Images) -> Images:
    """12 %."""
    return [np.broadcast_to(x.mean((0, 1)), x.shape) if i % 25 in (0, 8, 16) else x for i, x in enumerate(images)]


def blurred(images: Images) -> Images:
    return [np.asarray(Image.fromarray(x.astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))) for x in images]


FAULTS: dict[str, tuple[Callable[[Images], Images], str]] = {
    "inverted colors": (lambda images: [255 - x for x in images], "color: top minus bottom"),
    "contrast x 0.7": (lambda images: [(x - x.mean()) * 0.7 + x.mean() for x in images], "color: contrast"),
    "12 % flat images": (flat, "collapsed (256 px)"),
    "seams off the grid": (off_grid, "seam ratio, any place"),
    "gray images": (lambda images: [np.repeat(x.mean(2, keepdims=True), 3, 2) for x in images], "color: saturation"),
    "blurred": (blurred, "lite0-KID"),
    "one image again and again": (lambda images: [images[i % 4] for i in range(len(images))], "lite0-recall"),
    "upside down": (lambda images: [x[::-1] for x in images], "color: top minus bottom"),
}


def save(folder: Path, images: Images) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        pixels = np.clip(np.round(image), 0, 255).astype(np.uint8)
        pixels[0, 0, 0] = i  # files of equal content would be one
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def moved(clean: dict[str, Any], faulty: dict[str, Any]) -> list[str]:
    """Rows of which neither value lies in the other's interval."""
    return [
        name
        for name, row in clean.items()
        if None not in (row["low"], faulty.get(name, {}).get("low"))
        and not row["low"] <= faulty[name]["value"] <= row["high"]
        and not faulty[name]["low"] <= row["value"] <= faulty[name]["high"]
    ]


@pytest.mark.slow
def test_each_planted_fault_is_seen(tmp_path: Path) -> None:
    spec = CropSpec(split="train", count=COUNT, short_sides=(288, 352), crop="random", side=256, seed=7)
    try:
        fresh = real_images(LANDSCAPE, spec)
    except UsageError as error:
        pytest.skip(f"no photographs here: {error}")
    images: Images = [crop.astype(np.float64) for crop in fresh.crops()]
    owners = fresh.clusters()
    # Those of the default protocol that cost little: blocks, FID and diversity would only add to what is seen.
    protocol = load_protocol(
        "landscape", ["metrics.blocks=null", "metrics.fid=null", "metrics.diversity=null", "splits=10"]
    )
    work = Work(cache=tmp_path / "cache")

    def rows(name: str, these: Images) -> dict[str, Any]:
        report = score(protocol, LANDSCAPE, generated=save(tmp_path / name.replace(" ", "_"), these), work=work)
        return {row["name"]: row for row in report["metrics"]}

    clean = rows("clean", images)
    table = {name: moved(clean, rows(name, fault(images))) for name, (fault, _) in FAULTS.items()}
    half = [image for image, owner in zip(images, owners, strict=True) if owner % 2]
    half = [half[i % len(half)] if i < len(half) else np.fliplr(half[i % len(half)]) for i in range(COUNT)]
    table["half of the photographs dropped"] = moved(clean, rows("half", half))
    wanted = {name: row for name, (_, row) in FAULTS.items()} | {"half of the photographs dropped": "lite0-coverage"}
    (tmp_path / "table.txt").write_text("\n".join(f"| {name} | {', '.join(found)} |" for name, found in table.items()))
    assert not {name: table[name] for name, row in wanted.items() if row not in table[name]}, table
    # And other crops of the same photographs move nothing but by chance.
    again = ImageSet(fresh.files, CropSpec(count=COUNT, short_sides=(288, 352), crop="random", side=256, seed=8))
    by_chance = moved(clean, rows("again", [crop.astype(np.float64) for crop in again.crops()]))
    assert len(by_chance) <= 1, by_chance


def test_seams_are_found_at_any_place() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 200, (256, 256, 3)).astype(np.uint8) // 8 + 100 for _ in range(12)]
    shifted = [np.clip(x, 0, 255).astype(np.uint8) for x in off_grid([x.astype(float) for x in images])]
    plain, found = (seam_ratio(these, patch=64, token=8) for these in (images, shifted))
    assert plain.anywhere is not None
    assert found.anywhere is not None
    # On the grid nothing shows. One in 56 lines between tokens has a step of 24 on average (the noise never turns its
    # sign), the others that of two values from 25 in a row: (25^2 - 1) / (3 * 25).
    inside = 1 + (24 / (624 / 75) - 1) / 56
    assert found.value == pytest.approx(plain.value / inside, rel=0.002)
    assert found.anywhere.value > 1.5 > 1.1 > plain.anywhere.value
    assert found.anywhere.place == (21, 21)


def test_color_statistics_by_hand() -> None:
    image = np.zeros((4, 2, 3), np.uint8)
    image[:2] = (200, 100, 0)
    found = dict(zip(NAMES, color_of(image), strict=True))
    light = 0.299 * 200 + 0.587 * 100
    assert found["brightness"] == pytest.approx(light / 2)
    assert found["contrast"] == pytest.approx(light / 2)
    assert found["saturation"] == pytest.approx(100)
    assert found["red minus blue"] == pytest.approx(100)
    assert found["green minus magenta"] == pytest.approx(0)
    assert found["top minus bottom"] == pytest.approx(light)
    inverted = color_of(255 - image)
    for i in (3, 4, 5):
        assert inverted[i] == pytest.approx(-color_of(image)[i])
