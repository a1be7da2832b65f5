"""A table of equalities: our maths beside that of the libraries, on the same features and images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from evaluation.fid import frechet_distance
from evaluation.inception_score import inception_score
from evaluation.kid import kid, mmd2
from evaluation.manifold import manifold
from evaluation.reconstruction import psnr, ssim

Array = Any
FIDELITY = {"verbose": False}


def features(n: int, dim: int, seed: int, shift: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) / np.sqrt(dim) + shift


def fidelity_fid(x: Array, y: Array) -> float:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    stats = [fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)]
    return float(fid_statistics_to_metric(*stats, **FIDELITY)["frechet_inception_distance"])


def torchmetrics_fid(x: Array, y: Array) -> float:
    from torchmetrics.image.fid import _compute_fid

    moments = [(torch.from_numpy(z.mean(0)), torch.from_numpy(np.cov(z.T))) for z in (x, y)]
    return float(_compute_fid(*moments[0], *moments[1]))


def fidelity_kid(x: Array, y: Array) -> float:
    """With subsets as large as the sets the draw does not matter."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    found = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=2, kid_subset_size=len(x), **FIDELITY
    )
    return float(found["kernel_inception_distance_mean"])


def torchmetrics_kid(x: Array, y: Array) -> float:
    from torchmetrics.image.kid import maximum_mean_discrepancy, poly_kernel

    a, b = torch.from_numpy(x), torch.from_numpy(y)
    return float(maximum_mean_discrepancy(poly_kernel(a, a), poly_kernel(a, b), poly_kernel(b, b)))


def fidelity_isc(x: Array, _: Array, splits: int) -> float:
    from torch_fidelity.metric_isc import isc_features_to_metric

    return float(isc_features_to_metric(torch.from_numpy(x), splits=splits)["inception_score_mean"])


def fidelity_prc(x: Array, y: Array) -> tuple[float, float]:
    from torch_fidelity.metric_prc import prc_features_to_metric

    # Theirs puts the generated images first.
    found = prc_features_to_metric(
        torch.from_numpy(y), torch.from_numpy(x), prc_neighborhood=3, prc_batch_size=64, save_cpu_ram=False, **FIDELITY
    )
    return found["precision"], found["recall"]


def torchmetrics_image(name: str, x: Array, y: Array) -> float:
    import torchmetrics.functional.image as theirs

    a, b = (torch.from_numpy(z.copy()).permute(2, 0, 1)[None].double() for z in (x, y))
    return float(getattr(theirs, name)(a, b, data_range=255.0))


FEATURES = (features(120, 24, 1), features(120, 24, 2, 0.3))
FEW = (features(30, 60, 3), features(30, 60, 4, 0.3))
SCORES = (4 * features(95, 12, 5), features(2, 2, 6))
TABLE: list[tuple[str, Callable[..., Any], Callable[..., Any], tuple[Array, Array], float]] = [
    ("FID, torch-fidelity", frechet_distance, fidelity_fid, FEATURES, 1e-6),
    ("FID, torchmetrics", frechet_distance, torchmetrics_fid, FEATURES, 1e-6),
    ("FID of fewer images than features, torch-fidelity", frechet_distance, fidelity_fid, FEW, 1e-6),
    ("KID, torch-fidelity", mmd2, fidelity_kid, FEATURES, 1e-9),
    (
        "KID over subsets, torch-fidelity",
        lambda x, y: kid(x, y, subset_size=120, subsets=2).value, fidelity_kid, FEATURES, 1e-9,
    ),
    ("KID, torchmetrics", mmd2, torchmetrics_kid, FEATURES, 1e-9),
    ("IS, torch-fidelity", lambda x, y: inception_score(x).value, lambda x, y: fidelity_isc(x, y, 1), SCORES, 1e-9),
    (
        "IS in ten parts, torch-fidelity",
        lambda x, y: inception_score(x, splits=10).value, lambda x, y: fidelity_isc(x, y, 10), SCORES, 1e-9,
    ),
    (
        "precision and recall, torch-fidelity",
        lambda x, y: (manifold(x, y).precision.value, manifold(x, y).recall.value), fidelity_prc, FEATURES, 1e-6,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "given", "tolerance"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_equals(ours: Callable[..., Any], theirs: Callable[..., Any], given: tuple[Array, Array], tolerance: float):
    assert ours(*given) == pytest.approx(theirs(*given), rel=tolerance)


def noisy(photo: Array, strength: float) -> Array:
    return (photo + np.random.default_rng(0).normal(0, strength, photo.shape)).clip(0, 255).astype(np.uint8)


def test_psnr_equals_torchmetrics(sample_photos: dict[str, Array]) -> None:
    photo = sample_photos["china.jpg"][:120, :160]
    expected = torchmetrics_image("peak_signal_noise_ratio", noisy(photo, 9), photo)
    assert psnr(noisy(photo, 9), photo) == pytest.approx(expected, rel=1e-6)


def wang(x_YX: Array, y_YX: Array) -> float:
    """``ssim_index.m`` of Wang et al. 2004, line by line."""
    at = np.arange(-5, 6)
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(z: Array) -> Array:
        return correlate2d(z, window, mode="valid")

    x, y, c1, c2 = x_YX.astype(float), y_YX.astype(float), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mu_x, mu_y = mean(x), mean(y)
    var_x, var_y, cov = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2, mean(x * y) - mu_x * mu_y
    top, bottom = (2 * mu_x * mu_y + c1) * (2 * cov + c2), (mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2)
    return float((top / bottom).mean())


@pytest.mark.parametrize(("rows", "columns", "strength"), [(120, 160, 9.0), (11, 11, 40.0), (16, 40, 3.0)])
def test_ssim_is_wangs(rows: int, columns: int, strength: float, sample_photos: dict[str, Array]) -> None:
    photo = sample_photos["china.jpg"][:rows, :columns]
    other = noisy(photo, strength)
    expected = np.mean([wang(photo[..., color], other[..., color]) for color in range(3)])
    assert ssim(other, photo) == pytest.approx(expected, abs=1e-9)


def test_two_gaussians_equal_the_closed_form() -> None:
    """Covariances that commute: |m - n|^2 + sum (sqrt a - sqrt b)^2 in the common axes."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    a, b = rng.uniform(0.1, 4, 6), rng.uniform(0.1, 4, 6)
    m, n = rng.normal(size=6), rng.normal(size=6)
    expected = ((m - n) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    # Samples whose moments are exactly those: whitened, then given mean and covariance.
    x, y = (rng.normal(size=(400, 6)) for _ in range(2))
    drawn = []
    for z, mean, variance in ((x, m, a), (y, n, b)):
        z = z - z.mean(0)
        z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
        drawn.append(z * np.sqrt(variance) @ axes.T + mean)
    assert frechet_distance(*drawn) == pytest.approx(expected, rel=1e-9)


def test_two_gaussians_of_equal_covariance_are_their_means_apart() -> None:
    x = features(200, 8, 7)
    assert frechet_distance(x, x + 0.5) == pytest.approx(8 * 0.25, rel=1e-9)
    assert math.isclose(frechet_distance(x, x), 0, abs_tol=1e-9)
