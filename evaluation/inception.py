"""The Inception network of 2015, with which FID, KID and IS are published, where its weights are on disk.

Network and weights are torch-fidelity's: a port of the TensorFlow graph, its odd resizing included.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.weights import INCEPTION, INCEPTION_FILE, checked_weights


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


class CleanInceptionFeatures(InceptionFeatures):
    """The same network behind the resizing of clean-fid (Parmar et al. 2022): each color as floats, not rounded."""

    prefix = "clean-"

    def __init__(self, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> None:
        super().__init__(weights=weights, device=device)
        self.protocol["resize"] = "299x299, Pillow bicubic of float32 colors, antialiased, cut to 0..255, not rounded"
        self._pixels: Any = None
        # The network takes 8-bit pixels only: what has been resized and scaled goes in where its own pixels would.
        self._network.Conv2d_1a_3x3.register_forward_pre_hook(lambda layer, given: (self._pixels,))

    def __call__(self, images_BYX3: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        import torch

        small_B3YX = torch.from_numpy(np.stack([clean_resized(image) for image in images_BYX3])).permute(0, 3, 1, 2)
        self._pixels = ((small_B3YX - 128) / 128).to(self._device)
        try:
            return super().__call__(np.zeros((len(small_B3YX), 299, 299, 3), np.uint8))
        finally:
            self._pixels = None


def clean_resized(image_YX3: NDArray[np.uint8], side: int = 299) -> NDArray[np.float32]:
    """Return an image of ``side`` x ``side`` pixels as clean-fid resizes it, float32 in 0..255."""
    colors = [Image.fromarray(image_YX3[..., i].astype(np.float32)) for i in range(3)]
    small = [np.asarray(color.resize((side, side), Image.Resampling.BICUBIC)) for color in colors]
    return np.stack(small, axis=2).clip(0, 255)
