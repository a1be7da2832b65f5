"""clean-fid's resizing in front of Inception: planted weights, nothing published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from evaluation import inception
from evaluation.inception import CleanInceptionFeatures, InceptionFeatures, clean_resized
from evaluation.protocol import load_protocol


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a file that the hash check lets through."""
    path = tmp_path / "weights.pth"
    torch.manual_seed(0)
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    torch.save({}, path)
    monkeypatch.setattr(inception, "checked_weights", lambda *_, **__: path)
    return path


def test_resizing_keeps_floats_and_a_closed_form() -> None:
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 60, 3))
    found = clean_resized(ramp)
    assert found.dtype == np.float32
    # A cubic filter leaves a ramp a ramp, away from its ends.
    wanted = 4 * ((np.arange(299) + 0.5) * 60 / 299 - 0.5)
    np.testing.assert_allclose(found[150, 30:-30, 0], wanted[30:-30], atol=1e-3)
    assert np.abs(found - np.round(found)).max() > 0.3
    edge = np.zeros((40, 40, 3), np.uint8)
    edge[:, 20:] = 255  # a cubic filter overshoots
    assert (clean_resized(edge).min(), clean_resized(edge).max()) == (0, 255)


def test_at_its_own_size_it_is_plain_inception(planted: Path) -> None:
    clean = CleanInceptionFeatures(weights=planted)
    plain = InceptionFeatures(weights=planted)
    plain._network.__dict__["_modules"].update(
        {n: m for n, m in clean._network._modules.items() if n != "Conv2d_1a_3x3"}
    )
    first: Any = clean._network.Conv2d_1a_3x3
    with torch.no_grad():
        for a, b in zip(plain._network.Conv2d_1a_3x3.parameters(), first.parameters(), strict=True):
            a.copy_(b)
    images = np.random.default_rng(0).integers(0, 256, (2, 299, 299, 3), dtype=np.uint8)
    for ours, theirs in zip(clean(images), plain(images), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    large = np.random.default_rng(1).integers(0, 256, (1, 350, 350, 3), dtype=np.uint8)
    assert np.abs(clean(large)[0] - plain(large)[0]).max() > 0


def test_its_protocols() -> None:
    assert load_protocol("clean_fid").features.name == "inception-clean"
    coco = load_protocol("fid_coco30k")
    assert (coco.real.count, coco.generated.count, coco.real.side) == (30000, 30000, 256)
