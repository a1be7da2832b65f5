"""Networks of published distances of clips, weights by path, with the preprocessing of the reference code.

FVD takes I3D (Unterthiner et al. 2018, as StyleGAN-V measures it) or VideoMAE (Ge et al. 2024, cd-fvd), JEDi takes
V-JEPA (Luo et al. 2024, videojedi). Weights are tensors only, but for I3D's TorchScript, which is a program: of it no
other file than the known one is run.

Shape legend: T frames, Y/X rows and columns, N tokens, D features.
"""

import os
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evaluation.video.clips import Clip
from evaluation.weights import checked_weights
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

I3D_SHA256: Final = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
_FRAMES: Final = 16
_IMAGENET: Final = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
State = dict[str, Tensor]


class I3D:
    """Class scores before the softmax by I3D: for FVD.

    Args:
        weights: StyleGAN-V's ``i3d_torchscript.pt``; None looks into torch's hub cache.
        device: where it computes.

    Raises:
        UsageError: if the file is missing or another one.
    """

    prefix = ""
    width = 400

    def __init__(self, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> None:
        path = checked_weights(weights, sha256=I3D_SHA256, cached_as="i3d_torchscript.pt")
        load: Any = torch.jit.load
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is on its way out; the published file is of it
            self._network, self._device = load(str(path), map_location=device).eval(), device
        self.protocol: dict[str, Any] = {
            "extractor": "I3D of Kinetics-400, class scores before the softmax (400)",
            "weights_sha256": I3D_SHA256,
            "resize": "by the network itself, of values in 0..255: 224x224, bilinear, not antialiased",
            "scaling": "by the network itself: x / 127.5 - 1",
        }

    def __call__(self, clip_TYX3: Clip) -> NDArray[np.float64]:
        """Return the scores ``(400)`` of a clip of ten frames or more."""
        if len(clip_TYX3) < 10:
            raise UsageError("protocol.frames", len(clip_TYX3), "I3D needs ten frames or more: raise it")
        with torch.inference_mode():
            given = _pixels(clip_TYX3)[None].to(self._device)
            found = self._network(given, rescale=True, resize=True, return_features=True)
        return np.asarray(found.flatten().double().cpu().numpy())


class VideoMAE:
    """VideoMAE v2's mean token behind its last normalization, as cd-fvd takes it: for its FVD.

    Values in 0..1 go in as they are, without mean and standard deviation of ImageNet.

    Args:
        weights: ``vit_g_hybrid_pt_1200e_ssv2_ft.pth``.
        device: where it computes.

    Raises:
        UsageError: if the file is missing, or holds no VideoMAE.
    """

    _HEAD = 88

    def __init__(self, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> None:
        self._state, digest = _loaded(weights, ("model", "module"), "patch_embed.proj.weight", device)
        self._device, self.width = device, len(self._state["fc_norm.weight"])
        self.prefix = f"videomae.{digest[:8]}-"
        for name in [name for name in self._state if name.endswith("attn.q_bias")]:
            q, v = self._state[name], self._state[name.replace("q_bias", "v_bias")]
            self._state[name.replace("q_bias", "qkv.bias")] = torch.cat([q, torch.zeros_like(q), v])
        side = self._state["patch_embed.proj.weight"].shape[-1]
        self._position_ND = _sinusoids((_FRAMES // 2) * (224 // side) ** 2, self.width).to(device)
        self.protocol: dict[str, Any] = {
            "extractor": "VideoMAE v2, mean token, normalized",
            "weights_sha256": digest,
            "resize": "224x224, torch bilinear of values in 0..1, not antialiased",
            "scaling": "none",
        }

    def __call__(self, clip_TYX3: Clip) -> NDArray[np.float64]:
        """Return the features ``(D)`` of a clip of 16 frames."""
        _check_frames(clip_TYX3)
        with torch.inference_mode():
            pixels_3TYX = functional.interpolate(_pixels(clip_TYX3) / 255, size=(224, 224), mode="bilinear")
            tokens_1ND = _tokens(self._state, pixels_3TYX[None].to(self._device), self._position_ND, self._HEAD)
            found = _normalized(self._state, "fc_norm", tokens_1ND.mean(1))
        return np.asarray(found[0].double().cpu().numpy())


class VJEPA:
    """V-JEPA's tokens pooled by the probe of Something-Something v2, as videojedi takes them: for JEDi.

    videojedi leaves resizing to its caller: clips are of 224 x 224 pixels, which the protocol sees to.

    Args:
        weights: ``vith16.pth.tar``, ``ssv2-probe.pth.tar`` beside it.
        device: where it computes.

    Raises:
        UsageError: if a file is missing, or holds something else.
    """

    _HEAD = 80

    def __init__(self, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> None:
        self._state, digest = _loaded(weights, ("target_encoder", "encoder"), "pos_embed", device)
        assert weights is not None
        probe = Path(weights).with_name("ssv2-probe.pth.tar")
        self._probe, of_probe = _loaded(probe, ("classifier",), "pooler.query_tokens", device)
        self._device, self.width = device, self._state["pos_embed"].shape[-1]
        self.prefix = f"vjepa.{digest[:8]}-"
        self.protocol: dict[str, Any] = {
            "extractor": "V-JEPA, tokens pooled by its attentive probe",
            "weights_sha256": digest,
            "probe_sha256": of_probe,
            "resize": "none",
            "scaling": "ImageNet mean and standard deviation",
        }

    def __call__(self, clip_TYX3: Clip) -> NDArray[np.float64]:
        """Return the features ``(D)`` of a clip of 16 frames of 224 x 224 pixels."""
        _check_frames(clip_TYX3)
        if clip_TYX3.shape[1:3] != (224, 224):
            size = f"{clip_TYX3.shape[2]}x{clip_TYX3.shape[1]}"
            raise UsageError("protocol.side", size, "V-JEPA takes 224x224: set real.side and generated.side to 224")
        with torch.inference_mode():
            mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in _IMAGENET)
            pixels_3TYX = (_pixels(clip_TYX3) / 255 - mean) / std
            state, probe = self._state, self._probe
            tokens_1ND = _tokens(state, pixels_3TYX[None].to(self._device), state["pos_embed"], self._HEAD)
            tokens_1ND = _normalized(state, "norm", tokens_1ND)
            block, query_11D = "pooler.cross_attention_block", probe["pooler.query_tokens"]
            keys, values = _linear(probe, f"{block}.xattn.kv", _normalized(probe, f"{block}.norm1", tokens_1ND, 1e-5)
                                   ).chunk(2, -1)  # fmt: skip
            seen = _attended(_linear(probe, f"{block}.xattn.q", query_11D), keys, values, self._HEAD)
            query_11D = query_11D + _linear(probe, f"{block}.xattn.proj", seen)
            found = query_11D + _mlp(probe, f"{block}.mlp", _normalized(probe, f"{block}.norm2", query_11D, 1e-5))
        return np.asarray(found.flatten().double().cpu().numpy())


def _pixels(clip_TYX3: Clip) -> Tensor:
    """Return float32 ``(3, T, Y, X)`` in 0..255."""
    return torch.from_numpy(np.array(clip_TYX3)).permute(3, 0, 1, 2).float()


def _check_frames(clip_TYX3: Clip) -> None:
    if len(clip_TYX3) != _FRAMES:
        raise UsageError("protocol.frames", len(clip_TYX3), f"this network takes {_FRAMES}: set real and generated")


def _loaded(
    weights: str | os.PathLike[str] | None, keys: tuple[str, ...], needed: str, device: str
) -> tuple[State, str]:
    """Return the tensors of a checkpoint, without the names of wrappers, and the file's hash."""
    import pickle

    if weights is None or not Path(weights).is_file():
        raise UsageError("weights", "missing" if weights is None else str(weights), "give the file: see the protocol")
    try:
        found = torch.load(weights, map_location=device, weights_only=True)
        found = next((found[key] for key in keys if key in found), found)
        state = {name.replace("module.", "").replace("backbone.", ""): value for name, value in found.items()}
    except (pickle.UnpicklingError, RuntimeError, AttributeError, TypeError, EOFError) as error:
        hint = f"cannot be read as weights: {' '.join(str(error).split())[:160]}"
        raise UsageError("weights", str(weights), hint) from None
    if needed not in state:
        raise UsageError("weights", str(weights), f"holds no {needed}: give the file that the protocol names")
    return state, file_sha256(weights)


def _sinusoids(count: int, width: int) -> Tensor:
    """Return the positions of VideoMAE, ``[count, width]``: sines in even columns, cosines in odd ones."""
    angle = np.arange(count)[:, None] / 10000 ** (2 * (np.arange(width) // 2) / width)
    return torch.from_numpy(np.where(np.arange(width) % 2, np.cos(angle), np.sin(angle))).float()


def _tokens(state: State, pixels_13TYX: Tensor, position: Tensor, head: int) -> Tensor:
    """Return the tokens of a vision transformer of clips, ``[1, N, D]``, before any last normalization."""
    kernel = state["patch_embed.proj.weight"]
    stride = (kernel.shape[2], kernel.shape[3], kernel.shape[4])
    maps = functional.conv3d(pixels_13TYX, kernel, state["patch_embed.proj.bias"], stride=stride)
    x_1ND, layer = maps.flatten(2).transpose(1, 2) + position, 0
    while f"blocks.{layer}.norm1.weight" in state:
        block = f"blocks.{layer}"
        parts = _linear(state, f"{block}.attn.qkv", _normalized(state, f"{block}.norm1", x_1ND)).chunk(3, -1)
        x_1ND = x_1ND + _linear(state, f"{block}.attn.proj", _attended(parts[0], parts[1], parts[2], head))
        x_1ND = x_1ND + _mlp(state, f"{block}.mlp", _normalized(state, f"{block}.norm2", x_1ND))
        layer += 1
    return x_1ND


def _attended(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
    q, k, v = (z.view(*z.shape[:2], -1, head).transpose(1, 2) for z in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _mlp(state: State, name: str, x_1ND: Tensor) -> Tensor:
    return _linear(state, f"{name}.fc2", functional.gelu(_linear(state, f"{name}.fc1", x_1ND)))


def _linear(state: State, name: str, x_1ND: Tensor) -> Tensor:
    return functional.linear(x_1ND, state[f"{name}.weight"], state.get(f"{name}.bias"))


def _normalized(state: State, name: str, x_1ND: Tensor, epsilon: float = 1e-6) -> Tensor:
    return functional.layer_norm(x_1ND, x_1ND.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], epsilon)
