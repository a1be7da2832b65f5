"""The extractor sees what is in real photographs, and is the one that its name stands for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.features import NAME, Lite0Features, preprocess
from evaluation.features_of import features_of
from evaluation.weights import LITE0
from nuwa_lightning.errors import UsageError

Photos = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def extractor() -> Lite0Features:
    return Lite0Features()


@pytest.fixture(scope="module")
def crops(sample_photos: Photos) -> np.ndarray[Any, Any]:
    return np.stack([sample_photos["flower.jpg"][:420, 200:620], sample_photos["china.jpg"][:420, :420]])


def test_it_is_a_working_classifier(extractor: Lite0Features, crops: np.ndarray[Any, Any]) -> None:
    features, logits = extractor(crops)
    assert features.shape == (2, 1280)
    assert features.dtype == np.float64
    assert logits[0].argmax() == 985  # ImageNet's daisy, for a dahlia; there is no nearer class
    assert set(np.argsort(logits[1])[-5:]) & {442, 538, 832, 698}  # bell cote, dome, stupa, palace


def test_features_do_not_depend_on_the_batch(extractor: Lite0Features, crops: np.ndarray[Any, Any]) -> None:
    together = features_of(crops, extractor=extractor)
    alone = np.concatenate([features_of(crops[i : i + 1], extractor=extractor) for i in range(2)])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_resize_is_antialiased(crops: np.ndarray[Any, Any]) -> None:
    """Pillow's resize is antialiased too; a plain bicubic one is ten times as far from it."""
    from torch.nn import functional

    ours = preprocess(crops).numpy() * 128 + 127
    pillow = np.stack(
        [np.asarray(Image.fromarray(s).resize((224, 224), Image.Resampling.BICUBIC), np.float32) for s in crops]
    )
    assert np.abs(ours.transpose(0, 2, 3, 1) - pillow).mean() < 0.5
    import torch

    plain = functional.interpolate(torch.from_numpy(crops).permute(0, 3, 1, 2).float(), (224, 224), mode="bicubic")
    assert np.abs(plain.permute(0, 2, 3, 1).numpy() - pillow).mean() > 1


def test_folder_and_array_agree(tmp_path: Path, extractor: Lite0Features, crops: np.ndarray[Any, Any]) -> None:
    for i, square in enumerate(crops):
        Image.fromarray(square).save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(features_of(tmp_path, extractor=extractor), features_of(crops, extractor=extractor))
    cut = features_of(tmp_path, window=210, extractor=extractor)
    assert cut.shape == (8, 1280)
    np.testing.assert_allclose(cut[1], features_of(crops[:1, :210, 210:], extractor=extractor)[0], atol=1e-4)
    assert features_of(crops[:0], extractor=extractor).shape == (0, 1280)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"other")
    with pytest.raises(UsageError, match=f"{NAME} stands for {LITE0}"):
        Lite0Features(weights=path)


def test_images_that_are_not_square_are_refused(extractor: Lite0Features) -> None:
    with pytest.raises(UsageError, match="20x10: features are taken of crops"):
        features_of(np.zeros((1, 10, 20, 3), np.uint8), extractor=extractor)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UsageError, match="efficientnet_lite_pytorch: install it"):
        Lite0Features()
