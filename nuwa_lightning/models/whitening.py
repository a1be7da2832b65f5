"""Code vectors as the patch transformer reads them. Shape legend: K codes, E width of a code vector."""

import torch
from torch import Tensor


def whitened(codebook_KE: Tensor) -> Tensor:
    """Return code vectors with mean 0 and identity covariance, as far as they span E dimensions."""
    centred_KE = codebook_KE.double() - codebook_KE.double().mean(dim=0)
    values_E, vectors_EE = torch.linalg.eigh(centred_KE.T @ centred_KE / len(codebook_KE))
    # Directions in which codes hardly differ carry rounding noise: they are not blown up.
    scale_E = values_E.clamp_min(1e-4 * float(values_E.max()) + 1e-12).rsqrt()
    white_KE: Tensor = centred_KE @ (vectors_EE * scale_E) @ vectors_EE.T
    return white_KE.to(codebook_KE.dtype)
