"""Frechet distance between two sets of features (Heusel et al. 2017), in float64.

Biased upwards by the sample size: below some thousand pictures prefer the kernel distance. With other features than
those of the 2015 Inception network it is not FID and must not be called so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def frechet_distance(x_ND: NDArray[np.float64], y_MD: NDArray[np.float64]) -> float:
    """Return the squared Frechet distance of the normal distributions fitted to two sets of features.

    The trace of ``(S_x S_y) ** 0.5`` is the sum of the singular values of the product of the two centred feature
    matrices, so no root of a rank-deficient matrix is taken: exact for fewer pictures than features, where the usual
    way adds noise.

    Raises:
        ValueError: if a set has fewer than two members, or the feature lengths differ.
    """
    if x_ND.ndim != 2 or y_MD.ndim != 2 or x_ND.shape[1] != y_MD.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {x_ND.shape} and {y_MD.shape}")
    if len(x_ND) < 2 or len(y_MD) < 2:
        raise ValueError(f"sets of {len(x_ND)} and {len(y_MD)} pictures: at least 2 each are needed")
    mean_x, root_x = _mean_and_root(x_ND)
    mean_y, root_y = _mean_and_root(y_MD)
    shared = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    return float(((mean_x - mean_y) ** 2).sum() + (root_x**2).sum() + (root_y**2).sum() - 2 * shared)


def gaussian_frechet_distance(
    mean_x: NDArray[np.float64],
    covariance_x: NDArray[np.float64],
    mean_y: NDArray[np.float64],
    covariance_y: NDArray[np.float64],
) -> float:
    """Return the squared Frechet distance of two normal distributions given by mean (D) and covariance (D, D)."""
    root_x = _symmetric_root(covariance_x)
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root_x @ covariance_y @ root_x), 0, None)).sum()
    return float(((mean_x - mean_y) ** 2).sum() + np.trace(covariance_x) + np.trace(covariance_y) - 2 * shared)


def _mean_and_root(x_ND: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and a matrix ``R`` whose ``R.T @ R`` is the covariance, with at most D rows."""
    x_ND = np.asarray(x_ND, np.float64)
    mean = x_ND.mean(0)
    root = (x_ND - mean) / np.sqrt(len(x_ND) - 1)
    if len(root) > root.shape[1]:
        root = np.linalg.qr(root, mode="r")
    return mean, root


def _symmetric_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
