"""Networks of published scores, their weights in a folder on disk, with the preprocessing of the reference code.

The numbers carry the hash of the weights: they compare with published ones only if these are the published weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

_IMAGENET: Final = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP: Final = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

Images = NDArray[np.uint8]
Found = tuple[NDArray[np.float64], NDArray[np.float64]]


class DinoFeatures:
    """DINOv2's normalized class token, as dgm-eval takes it (Stein et al. 2023): for FD-DINOv2.

    Args:
        weights: ``model.safetensors`` of a DINOv2 model, its ``config.json`` beside it; published: ViT-L/14.
        device: where it computes.

    Raises:
        UsageError: if they are missing, or are no DINOv2 model.
    """

    def __init__(self, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> None:
        from transformers import Dinov2Model

        folder, digest = _folder(weights)
        self._network: Any = _loaded(Dinov2Model, folder).eval().to(device)
        self._device, self.prefix, self.width = device, f"dinov2.{digest[:8]}-", int(self._network.config.hidden_size)
        self.protocol: dict[str, Any] = {
            "extractor": "DINOv2, normalized class token",
            "weights_sha256": digest,
            "resize": "224x224, Pillow bicubic of 8-bit images, antialiased, rounded to 8 bits (torchvision's Resize)",
            "scaling": "ImageNet mean and standard deviation",
        }

    def __call__(self, images_BYX3: Images) -> Found:
        """Return the class tokens (B, D) and no class scores."""
        import torch

        small = [Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC) for image in images_BYX3]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in small])).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            found = self._network(_scaled(pixels, _IMAGENET).to(self._device)).pooler_output
        return found.double().cpu().numpy(), np.zeros((len(small), 0))


class ClipFeatures:
    """CLIP's image embedding of length 1, as cmmd-pytorch takes it (Jayasumana et al. 2024): for CMMD.

    Args:
        weights: ``model.safetensors`` of a CLIP model, its ``config.json`` beside it; published: ViT-L/14 at 336.
        device: where it computes.

    Raises:
        UsageError: if they are missing, or are no CLIP model.
    """

    def __init__(self, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> None:
        from transformers import CLIPVisionModelWithProjection

        folder, digest = _folder(weights)
        self._network: Any = _loaded(CLIPVisionModelWithProjection, folder).eval().to(device)
        self._side = int(self._network.config.image_size)
        self._device, self.prefix = device, f"clip.{digest[:8]}-"
        self.width = int(self._network.config.projection_dim)
        self.protocol: dict[str, Any] = {
            "extractor": "CLIP image embedding of length 1",
            "weights_sha256": digest,
            "resize": f"{self._side}x{self._side}, torch bicubic of values in 0..1, not antialiased",
            "scaling": "CLIP mean and standard deviation",
        }

    def __call__(self, images_BYX3: Images) -> Found:
        """Return the embeddings (B, D) and no class scores."""
        import torch

        pixels = torch.from_numpy(np.array(images_BYX3)).permute(0, 3, 1, 2).float() / 255
        pixels = torch.nn.functional.interpolate(pixels, size=(self._side, self._side), mode="bicubic")
        with torch.inference_mode():
            found = self._network(_scaled(pixels, _CLIP).to(self._device)).image_embeds
            found = found / found.norm(dim=-1, keepdim=True)
        return found.double().cpu().numpy(), np.zeros((len(pixels), 0))


def cmmd(x_ND: NDArray[np.floating[Any]], y_MD: NDArray[np.floating[Any]]) -> float:
    """Return 1000 times the squared MMD of a Gaussian kernel of sigma 10, with pairs of an image with itself."""
    total = 0.0
    for a, b, sign in ((x_ND, x_ND, 1), (y_MD, y_MD, 1), (x_ND, y_MD, -2)):
        mean = 0.0
        for i in range(0, len(a), 1024):
            part, other = np.asarray(a[i : i + 1024], np.float64), np.asarray(b, np.float64)
            squared = (part**2).sum(1)[:, None] + (other**2).sum(1) - 2 * part @ other.T
            mean += float(np.exp(-squared / 200).sum()) / (len(a) * len(b))
        total += sign * mean
    return 1000 * total


def jedi(x_ND: NDArray[np.floating[Any]], y_MD: NDArray[np.floating[Any]]) -> float:
    """Return 100 times the squared MMD of the kernel ``(x.y / D) ** 2``, with pairs of a clip with itself."""
    x_ND, y_MD = np.asarray(x_ND, np.float64), np.asarray(y_MD, np.float64)
    xx, yy, xy = (float(((a @ b.T / a.shape[1]) ** 2).mean()) for a, b in ((x_ND, x_ND), (y_MD, y_MD), (x_ND, y_MD)))
    return 100 * (xx + yy - 2 * xy)


def _folder(weights: str | os.PathLike[str] | None) -> tuple[Path, str]:
    if weights is None or not Path(weights).is_file() or Path(weights).suffix != ".safetensors":
        hint = "give the model.safetensors of a folder that save_pretrained has written: nothing is downloaded"
        raise UsageError("weights", "missing" if weights is None else str(weights), hint)
    return Path(weights).parent, file_sha256(weights)


def _loaded(kind: Any, folder: Path) -> Any:
    from safetensors import SafetensorError

    try:
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = f"cannot be read as {kind.__name__}: {' '.join(str(error).split())[:160]}"
        raise UsageError("weights", str(folder), hint) from error


def _scaled(pixels_B3YX: Tensor, by: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (pixels_B3YX.new_tensor(values).view(3, 1, 1) for values in by)
    return (pixels_B3YX - mean) / std
