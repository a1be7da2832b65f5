"""The Inception network of 2015, with which FID, KID and IS are published, where its weights are on disk.

Network and weights are torch-fidelity's: a port of the TensorFlow graph, its odd resizing included.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.known_weights import INCEPTION, INCEPTION_FILE
from evaluation.weights import checked_weights


class InceptionFeatures:
    """The network with its trained weights; a plain callable on arrays.

    Args:
        weights: torch-fidelity's file of weights; None looks into torch's hub cache, where torch-fidelity keeps it.
        device: where it computes.

    Raises:
        UsageError: if the weights are missing or other ones.
    """

    prefix = ""
    width = 2048

    def __init__(self, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> None:
        path = checked_weights(weights, sha256=INCEPTION, cached_as=INCEPTION_FILE)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity unpickles the file: its hash has just been checked, so it holds tensors only.
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
        self._network, self._device = network.to(device), device
        self.protocol: dict[str, Any] = {
            "extractor": "Inception-v3 of 2015-12-05 by torch-fidelity (2048), scores without bias (1008)",
            "weights_sha256": INCEPTION,
            "resize": "299x299, bilinear as in TensorFlow 1, not antialiased",
            "scaling": "(x - 128) / 128",
        }

    def __call__(self, images_BYX3: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the pooled features (B, 2048) and the class scores (B, 1008) of uint8 RGB images."""
        import torch

        with torch.inference_mode():
            images_B3YX = torch.from_numpy(np.array(images_BYX3)).permute(0, 3, 1, 2).to(self._device)
            features_BC, logits_BK = self._network(images_B3YX)
        return features_BC.double().cpu().numpy(), logits_BK.double().cpu().numpy()
