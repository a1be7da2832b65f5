"""How different two images look: distances in the feature space of pretrained networks, read from plain files.

Shapes: B batch, C channels, Y/X rows and columns.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

_LOG = logging.getLogger(__name__)
# As torch's hub names files: with the first digits of their sha256.
_VGG16: Final = "vgg16-397923af.pth"
_SHIFT_3 = (-0.030, -0.088, -0.188)
_SCALE_3 = (0.458, 0.448, 0.450)


class PerceptualLoss(nn.Module, ABC):
    """A frozen network's opinion of the distance between two images.

    Each stage's features are brought to unit length per position; the squared differences are weighted per channel by
    learned heads, averaged over the image and summed over the stages (LPIPS, Zhang et al. 2018).
    """

    name: str
    """What the numbers may be called in logs and reports."""
    shift: Tensor
    scale: Tensor

    def __init__(self, heads: Sequence[Tensor]) -> None:
        super().__init__()
        self.heads = nn.ParameterList([nn.Parameter(head.flatten(), requires_grad=False) for head in heads])
        self.register_buffer("shift", torch.tensor(_SHIFT_3).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE_3).view(1, 3, 1, 1))

    @abstractmethod
    def features(self, image_B3YX: Tensor) -> list[Tensor]:
        """Return the features of each stage for an image that is already scaled as the trunk expects."""

    def forward(self, image_B3YX: Tensor, target_B3YX: Tensor) -> Tensor:
        """Return the distance (B) of two images in [-1, 1]; gradients flow to the first only."""
        with torch.no_grad():
            target = [_unit(x) for x in self.features((target_B3YX - self.shift) / self.scale)]
        mine = [_unit(x) for x in self.features((image_B3YX - self.shift) / self.scale)]
        terms = [
            (functional.conv2d((a - b).square(), head.view(1, -1, 1, 1))).mean(dim=(1, 2, 3))
            for a, b, head in zip(mine, target, self.heads, strict=True)
        ]
        return torch.stack(terms).sum(dim=0)


class STLPIPS(PerceptualLoss):
    """ST-LPIPS with the AlexNet trunk: LPIPS made tolerant of small shifts (Ghildyal and Liu 2022).

    Not comparable with LPIPS figures. The weights come with the package ``stlpips-pytorch`` (extra ``train``).

    Args:
        state: the package's ``alex_shift_tolerant.pth``.
        fused: compute the first convolution and its blur as one strided convolution: the same numbers but for the
            outermost few pixels, at a fraction of the cost.
    """

    name = "ST-LPIPS(alex)"
    blur_33: Tensor
    fused_weight: Tensor

    def __init__(self, state: Mapping[str, Tensor], *, fused: bool = True) -> None:
        super().__init__([state[f"lin{i}.model.1.weight"] for i in range(5)])
        self.fused = fused
        blur_33 = state["net.slice1.1.filt"][0, 0]
        first = state["net.slice1.0.weight"]
        spread = functional.conv2d(first.flatten(0, 1)[:, None], blur_33.flip(0, 1)[None, None], padding=2)
        self.register_buffer("blur_33", blur_33.clone())
        self.register_buffer("fused_weight", spread.view(*first.shape[:2], *spread.shape[2:]))
        names = ["slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13"]
        self.weights = nn.ParameterList(
            [nn.Parameter(state[f"net.{name}.weight"].clone(), requires_grad=False) for name in names]
        )
        self.biases = nn.ParameterList(
            [nn.Parameter(state[f"net.{name}.bias"].clone(), requires_grad=False) for name in names]
        )

    @classmethod
    def from_package(cls, *, fused: bool = True) -> STLPIPS:
        """Read the weights that the installed package ``stlpips-pytorch`` carries, without running its code."""
        folder = _package_folder("stlpips_pytorch")
        if folder is None:
            hint = "stlpips-pytorch is not installed: pip install stlpips-pytorch --no-deps"
            raise UsageError("perceptual.kind", "st-lpips", hint)
        return cls(_read_state(folder / "weights/vST0.0/alex_shift_tolerant.pth"), fused=fused)

    def features(self, image_B3YX: Tensor) -> list[Tensor]:
        """Return the five stages' features at strides 2, 4, 8, 8, 8."""
        if self.fused:
            x = functional.conv2d(image_B3YX, self.fused_weight, self.biases[0], stride=2, padding=4)
        else:
            x = self._blur(functional.conv2d(image_B3YX, self.weights[0], self.biases[0], padding=2))
        x = functional.relu(x)
        out = [x]
        for stage in (1, 2):
            x = self._blur(functional.max_pool2d(x, 3, stride=1))
            padding = self.weights[stage].shape[-1] // 2
            x = functional.relu(functional.conv2d(x, self.weights[stage], self.biases[stage], padding=padding))
            out.append(x)
        for stage in (3, 4):
            x = functional.relu(functional.conv2d(x, self.weights[stage], self.biases[stage], padding=1))
            out.append(x)
        return out

    def _blur(self, x_BCYX: Tensor) -> Tensor:
        kernel = self.blur_33.expand(x_BCYX.shape[1], 1, 3, 3)
        padded = functional.pad(x_BCYX, (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(padded, kernel, stride=2, groups=x_BCYX.shape[1])


class LPIPS(PerceptualLoss):
    """LPIPS with the VGG-16 trunk (Zhang et al. 2018), where its weights are on disk."""

    name = "LPIPS(vgg)"
    _STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))

    def __init__(self, trunk: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        super().__init__([heads[f"lin{i}.model.1.weight"] for i in range(5)])
        numbers = [number for stage in self._STAGES for number in stage]
        self.weights = nn.ParameterList(
            [nn.Parameter(trunk[f"features.{n}.weight"].clone(), requires_grad=False) for n in numbers]
        )
        self.biases = nn.ParameterList(
            [nn.Parameter(trunk[f"features.{n}.bias"].clone(), requires_grad=False) for n in numbers]
        )

    @classmethod
    def from_files(cls, trunk: str | os.PathLike[str], heads: str | os.PathLike[str]) -> LPIPS:
        """Read torchvision's ``vgg16`` weights and the package ``lpips``' ``vgg.pth``."""
        try:
            return cls(_read_state(Path(trunk)), _read_state(Path(heads)))
        except KeyError as error:
            raise UsageError(
                "perceptual", f"{trunk}, {heads}", f"{error} is missing: give torchvision's vgg16 and lpips' vgg.pth"
            ) from None

    def features(self, image_B3YX: Tensor) -> list[Tensor]:
        """Return the features of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""
        x, out, at = image_B3YX, [], 0
        for stage, numbers in enumerate(self._STAGES):
            if stage:
                x = functional.max_pool2d(x, 2)
            for _ in numbers:
                x = functional.relu(functional.conv2d(x, self.weights[at], self.biases[at], padding=1))
                at += 1
            out.append(x)
        return out


def build_perceptual(
    kind: str = "auto",
    *,
    vgg16: str | os.PathLike[str] | None = None,
    lpips_heads: str | os.PathLike[str] | None = None,
) -> PerceptualLoss | None:
    """Return the best perceptual distance there is: LPIPS where its files are, else ST-LPIPS, else nothing.

    A ``kind`` that is asked for by name and not there is refused. By default torchvision's ``vgg16`` weights are those
    in the cache of torch's hub, and the package ``lpips``' ``vgg.pth`` that of the installed package.
    """
    if kind not in ("auto", "lpips", "st-lpips", "none"):
        raise UsageError("perceptual.kind", kind, "use auto, lpips, st-lpips or none")
    if kind == "none":
        return None
    if kind in ("auto", "lpips"):
        heads = lpips_heads or _package_heads()
        trunk = vgg16 or (None if heads is None else _hub_vgg16())
        if trunk is not None and heads is not None:
            return LPIPS.from_files(trunk, heads)
        if kind == "lpips":
            hint = f"give both vgg16 and lpips_heads, the paths of its weights, or put {_VGG16} into torch hub's cache"
            raise UsageError("perceptual.kind", kind, f"{hint} and install lpips")
    if kind == "auto" and importlib.util.find_spec("stlpips_pytorch") is None:
        return None
    return STLPIPS.from_package()


def _package_folder(name: str) -> Path | None:
    """Return where an installed package lies, without running its code."""
    spec = importlib.util.find_spec(name)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _package_heads() -> Path | None:
    folder = _package_folder("lpips")
    file = None if folder is None else folder / "weights" / "v0.1" / "vgg.pth"
    return file if file is not None and file.is_file() else None


def _hub_vgg16() -> Path | None:
    """Return the file in torch hub's cache if it is there and whole."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / _VGG16
    if not file.is_file():
        return None
    if not file_sha256(file).startswith(file.stem.rpartition("-")[2]):
        _LOG.warning("perceptual: %s: not used, its sha256 is not that in its name: cut short?", file)
        return None
    return file


def _unit(x_BCYX: Tensor) -> Tensor:
    # The small constant keeps the gradient finite where all features are zero.
    return x_BCYX * torch.rsqrt(x_BCYX.square().sum(dim=1, keepdim=True) + 1e-10)


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError("perceptual", path, "no such file; name the file with the pretrained weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError("perceptual", path, f"not a plain file of weights ({type(error).__name__})") from None
    if not isinstance(state, Mapping):
        raise UsageError("perceptual", path, "not a plain file of weights (no mapping of names to tensors)")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
