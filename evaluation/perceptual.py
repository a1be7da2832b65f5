"""How different two images look (LPIPS, Zhang et al. 2018): pairs of originals and reconstructions, and diversity.

With the trunk weights of AlexNet or VGG-16 on disk it is the package ``lpips``, under that name. Offline it is
ST-LPIPS (Ghildyal and Liu 2022), whose trunk a package carries: a metric of its own, not comparable with LPIPS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Estimate
from evaluation.images import Pixels
from evaluation.jackknife import of_left_out
from evaluation.weights import checked_weights
from nuwa_lightning.hashing import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

Network = Literal["stlpips", "lpips-alex", "lpips-vgg"]

_TRUNKS: Final = {
    "lpips-alex": ("alexnet-owt-7be5be79.pth", "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"),
    "lpips-vgg": ("vgg16-397923af.pth", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"),
}
_BATCH: Final = 8


class PerceptualDistance:
    """A trained perceptual distance; a plain callable on arrays.

    Args:
        network: which.
        weights: the trunk's weights (torchvision's file), for "lpips-alex" and "lpips-vgg"; None looks into torch's
            hub cache.
        device: where it computes.

    Attributes:
        name: what its numbers are called: "stlpips" or "LPIPS(alex)", "LPIPS(vgg)".
        protocol: what else moves a number.

    Raises:
        UsageError: if weights are missing or other ones.
    """

    def __init__(
        self, network: Network = "stlpips", *, weights: str | os.PathLike[str] | None = None, device: str = "cpu"
    ) -> None:
        self._device = device
        if network == "stlpips":
            import importlib.util

            from nuwa_lightning.models.perceptual import STLPIPS

            # Not fused: the package's own numbers up to the border.
            self._network: Any = STLPIPS.from_package(fused=False).eval().to(device)
            self.name = "stlpips"
            spec = importlib.util.find_spec("stlpips_pytorch")
            assert spec is not None
            assert spec.submodule_search_locations
            file = Path(next(iter(spec.submodule_search_locations))) / "weights/vST0.0/alex_shift_tolerant.pth"
            self.protocol = {"network": "ST-LPIPS, shift-tolerant AlexNet", "weights_sha256": file_sha256(file)}
            return
        cached_as, sha256 = _TRUNKS[network]
        trunk = checked_weights(weights, sha256=sha256, cached_as=cached_as, option="lpips_weights")
        kind = network.removeprefix("lpips-")
        self._network = _lpips(kind, trunk).to(device)
        self.name = f"LPIPS({kind})"
        self.protocol = {"network": f"LPIPS 0.1, {kind}", "weights_sha256": sha256}

    def __call__(self, a_BYX3: NDArray[np.uint8], b_BYX3: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the distance of each pair (B) of uint8 RGB images."""
        import torch

        with torch.inference_mode():
            found: Tensor = self._network(self._tensor(a_BYX3), self._tensor(b_BYX3))
        return np.asarray(found.flatten().double().cpu().numpy())

    def _tensor(self, images_BYX3: NDArray[np.uint8]) -> Tensor:
        import torch

        images_B3YX = torch.from_numpy(np.array(images_BYX3)).permute(0, 3, 1, 2).to(self._device)
        return images_B3YX.float() / 127.5 - 1


def _lpips(kind: str, trunk: Path) -> Any:
    """Return the package's network with a trunk from disk; by itself it would download one."""
    import lpips
    import torch

    network = lpips.LPIPS(net=kind, pnet_rand=True, verbose=False)
    state = torch.load(trunk, map_location="cpu", weights_only=True)
    wanted = network.net.state_dict()
    # "slice2.3.weight" is the trunk's "features.3.weight".
    network.net.load_state_dict({key: state[f"features.{key.partition('.')[2]}"] for key in wanted})
    return network.eval().requires_grad_(False)


def random_pairs(clusters: NDArray[np.intp], pairs: int, seed: int) -> list[tuple[int, int]]:
    """Return random pairs of crops, not of one canvas.

    Raises:
        ValueError: if there are fewer than two canvases.
    """
    names = np.unique(clusters)
    if len(names) < 2:
        raise ValueError(f"{len(names)} canvas: two are needed for a pair")
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, int]] = []
    while len(chosen) < pairs:
        a, b = rng.integers(len(clusters), size=2).tolist()
        if clusters[a] != clusters[b]:
            chosen.append((a, b))
    return chosen


def diversity(
    distance: PerceptualDistance,
    some: Callable[[NDArray[np.intp]], list[Pixels]],
    clusters: NDArray[np.intp],
    *,
    pairs: int,
    seed: int,
) -> Estimate:
    """Return the mean distance of :func:`random_pairs`, at most two images for each, few enough to be held.

    Args:
        distance: of two images.
        some: returns crops by their numbers.
        clusters: which canvas each crop comes from.
        pairs: how many.
        seed: which.

    Raises:
        ValueError: as :func:`random_pairs`.
    """
    chosen = random_pairs(clusters, pairs, seed)
    wanted = sorted({i for pair in chosen for i in pair})
    held = dict(zip(wanted, some(np.array(wanted, np.intp)), strict=True))
    values = [value for part in _parts(chosen) for value in _of(distance, part, held)]
    how = f"{len(chosen)} random pairs; interval: Student's t, of the mean over all pairs, over canvases"
    return _of_pairs_that_share(np.array(values), clusters[np.array(chosen)], how)


def _of_pairs_that_share(values_P: NDArray[np.float64], canvases_P2: NDArray[np.intp], how: str) -> Estimate:
    """Return the mean over pairs with Student's interval by leaving out canvases, each with all of its pairs."""
    names, index_P2 = np.unique(canvases_P2, return_inverse=True)
    index_P2 = index_P2.reshape(canvases_P2.shape)
    of_C, pairs_C = (np.bincount(index_P2.ravel(), np.repeat(z, 2)) for z in (values_P, np.ones(len(values_P))))
    left_out_C = (values_P.sum() - of_C) / np.maximum(len(values_P) - pairs_C, 1)
    return of_left_out(float(values_P.mean()), left_out_C, n=len(values_P), how=how)


def _parts(pairs: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for i in range(0, len(pairs), _BATCH):
        yield pairs[i : i + _BATCH]


def _of(distance: PerceptualDistance, pairs: list[tuple[int, int]], held: dict[int, Pixels]) -> list[float]:
    found = distance(np.stack([held[a] for a, _ in pairs]), np.stack([held[b] for _, b in pairs]))
    return [float(value) for value in found]
