"""Good files of every kind that is read, and their readers, for ``fuzz_inputs.py``."""

from __future__ import annotations

import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaluation.feature_cache import FeatureCache
from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.canvas.editing import FinishedCanvas
from nuwa_lightning.canvas.keeping import hashes
from nuwa_lightning.generation.pretrained import Generator
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.text.base import TextEncoder

REPOSITORY = Path(__file__).parents[1]
VQGAN_SIZE = {
    "codebook_size": 16, "codebook_dim": 4, "encoder_channels": [8, 8], "encoder_blocks": [0, 0],
    "decoder_channels": [8, 8], "decoder_blocks": [1, 1],
}  # fmt: skip


def tiny() -> NuwaInfinityPipeline:
    """Return a pipeline of random weights: patches of 8 x 8 pixels."""
    torch.manual_seed(0)
    vqgan = VQGAN.build(VQGANConfig.from_dict({**VQGAN_SIZE, "cell": 2})).eval()
    pool = NearbyContextPool((0, 1, 1))
    size = TransformerConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1)
    model = PatchTransformer(16, 4, patch_size=(2, 2), embedding_extent=pool.embedding_extent, size=size).eval()
    model.set_codes(vqgan.codebook_KD)
    made = Generator(model, pool, ArbitraryDirectionController(), "mirrored", vqgan.fingerprint())
    return NuwaInfinityPipeline(made, vqgan)


def painted(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return an image of soft colors."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(small).resize((width, height))


@contextmanager
def inside(folder: Path) -> Any:
    """Work in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Target:
    """A kind of file.

    Args:
        folder: where good files are made.
    """

    name: ClassVar[str]
    files: ClassVar[Sequence[str]] = ("*",)
    share: ClassVar[float] = 1.0
    """Of the trials: fewer where one takes long."""

    def __init__(self, folder: Path) -> None:
        self.make(folder)

    def read_copy(self, good: Path) -> None:
        """Read a copy of the good files: they are good, and reading may change them."""
        copy = good.with_name("copy")
        shutil.copytree(good, copy, symlinks=True)
        self.read(copy)
        shutil.rmtree(copy)

    @abstractmethod
    def make(self, folder: Path) -> None:
        """Make good files."""

    @abstractmethod
    def read(self, folder: Path) -> None:
        """Read what lies there now, as the program does."""


TARGETS: dict[str, type[Target]] = {}


def target(cls: type[Target]) -> type[Target]:
    """Let a kind of file be found by its name."""
    TARGETS[cls.name] = cls
    return cls


# -- canvases ----------------------------------------------------------------------------------------------------------


@target
class FinishedFolder(Target):
    """A canvas with a given image that was edited."""

    name, files = "canvas", ("c/canvas.json", "c/canvas.json", "c/canvas.json", "c/tokens.log", "c/*.png")

    def make(self, folder: Path) -> None:
        self.pipe = tiny()
        self.hashes = hashes(self.pipe.builder)
        with self.pipe.outpaint(painted(24, 32), right=24, seed=1).canvases[0].save(folder / "c") as canvas:
            canvas.redo((40, 0, 56, 16), seed=5)
            canvas.grow(right=8)

    def read(self, folder: Path) -> None:
        from nuwa_lightning.serve.view import CanvasView

        errors: list[Exception] = []
        for look in (self._page, self._opened):
            try:
                look(folder / "c", CanvasView)
            except ValueError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _page(self, folder: Path, view: Any) -> None:
        seen = view(folder, self.pipe, self.hashes)
        json.dumps(seen.told())
        look = seen.look()
        look.read(type(look.order.grid) and _area(look.size))

    def _opened(self, folder: Path, _: Any) -> None:
        with FinishedCanvas.open(folder, self.pipe) as canvas:
            if canvas.finished:
                json.dumps(canvas.info())
                width, height = canvas.size
                canvas.dependents((0, 0, min(8, width), min(8, height)))
                if width * height < 1 << 16:
                    list(canvas.pixels())
                    canvas.export(folder.parent / "out.png")
            canvas.undo()


def _area(size: tuple[int, int]) -> Any:
    from nuwa_lightning.tokenizers.tiling import Rectangle

    return Rectangle(0, 0, min(size[0], 64), min(size[1], 64))


@target
class GrowingFolder(Target):
    """A canvas that was stopped while it grew; it holds states."""

    name, files = "growing canvas", ("c/canvas.json", "c/tokens.log", "c/state-*", "c/state-*", "c/state-*")

    def make(self, folder: Path) -> None:
        self.pipe = tiny()
        with self.pipe(size=(32, 24), seed=1).canvases[0].save(folder / "c") as canvas:
            waves = iter([False] * 3 + [True])
            canvas.grow(right=64, record_every=0, stop=lambda: next(waves))

    def read(self, folder: Path) -> None:
        with FinishedCanvas.open(folder / "c", self.pipe) as canvas:
            if canvas.finished:
                canvas.info()
            else:
                steps = iter([False] * 6 + [True] * 9)
                try:
                    canvas.resume(record_every=0, stop=lambda: next(steps))
                except ValueError:
                    canvas.resume(record_every=0, stop=lambda: next(steps), earlier=True)


# -- caches ------------------------------------------------------------------------------------------------------------


class _Means:
    downsample_factor, codebook_size = 4, 1000

    def encode(self, image_B3YX: Tensor) -> Tensor:
        mean_BYX = torch.nn.functional.avg_pool2d(image_B3YX.mean(1, keepdim=True), 4)[:, 0]
        return ((mean_BYX + 1) / 2 * 999).long().clamp(0, 999)

    def fingerprint(self) -> str:
        return "means"


class _Bank(Target):
    def make(self, folder: Path) -> None:
        for number in range(3):
            (folder / "photos").mkdir(exist_ok=True)
            painted(40, 60, number).save(folder / "photos" / f"{number}.png")
        self.expected = self._tokens(folder)

    def _tokens(self, folder: Path) -> list[Any]:
        from nuwa_lightning.data import FolderPhotos, build_token_bank
        from nuwa_lightning.data.token_data import BankSettings

        source = FolderPhotos(str(folder / "photos"), val_fraction=0.34)
        photos: Any = {"train": source.photos("train"), "val": source.photos("val")}
        settings = BankSettings((32,), flips=False, phases=1)
        bank = build_token_bank(photos, _Means(), cache=folder / "cache", settings=settings, progress=False)
        return [bank.tokens(entry).tolist() for entry in bank.entries]

    def read(self, folder: Path) -> None:
        for found in self._tokens(folder):
            np.asarray(found, int)


@target
class TokenBankFolder(_Bank):
    """Tokens of images: index and array."""

    name, files, share = "token bank", ("cache/tokens/*/index.json", "cache/tokens/*/tokens.npy"), 0.5


@target
class TokenShards(_Bank):
    """Tokens of single images, left by a build that was broken off."""

    name, files, share = "token shards", ("cache/tokens/*.part/*.npy",), 0.5

    def make(self, folder: Path) -> None:
        super().make(folder)
        (bank,) = (path for path in (folder / "cache" / "tokens").iterdir() if path.is_dir())
        index = json.loads((bank / "index.json").read_text())
        part = bank.with_name(f"{bank.name}.part")
        part.mkdir()
        tokens = np.load(bank / "tokens.npy")
        for number, entry in enumerate(index["entries"]):
            size = entry["y"] * entry["x"]
            np.save(part / f"{number:06d}.npy", tokens[entry["start"] : entry["start"] + size])
        shutil.rmtree(bank)

    def read(self, folder: Path) -> None:
        self._tokens(folder)


@target
class PreparedArrays(Target):
    """Images and videos shrunk once, and crops of one image."""

    name, files = "prepared arrays", ("cache/prepared-*/*.npy", "clip.npy", "clip.json", "cache/crops-*/*/index.json")

    def make(self, folder: Path) -> None:
        from nuwa_lightning.data.clips import write_json

        painted(40, 60).save(folder / "a.png")
        np.save(folder / "clip.npy", np.zeros((7, 4, 5, 3), np.uint8))
        write_json(folder / "clip.json", {"key": "a", "synthetic": False, "cuts": [2, 5]})
        self.read(folder)

    def read(self, folder: Path) -> None:
        from nuwa_lightning.data import GiantImage, Photo
        from nuwa_lightning.data.clips import _bounds
        from nuwa_lightning.data.preparing import prepare_photos

        photo = Photo(folder / "a.png", "a", "", "a")
        found = prepare_photos([photo], (32,), crop=16, cache=folder / "cache", progress=False)
        assert found.array(0, 0).shape == (32, 48, 3)
        bounds = _bounds(folder / "clip.npy", folder / "clip.json")
        assert not bounds or np.load(folder / "clip.npy", mmap_mode="r")[: bounds[1]].sum() >= 0
        crops = GiantImage(str(folder / "a.png"), crop=24, overlap=8, cache=str(folder / "cache"))
        for crop in crops.photos("train"):
            Image.open(crop.path).load()


class _Letters(TextEncoder):
    width = 2

    def fingerprint(self) -> str:
        return "letters"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        return [torch.tensor([[ord(c) % 128, 1 / 3] for c in caption]) for caption in captions]


@target
class TextStates(Target):
    """States of captions."""

    name, files = "text states", ("texts/*/*/index.json", "texts/*/*/states.npy")
    captions = ("a lake", "dunes", "fog over a valley")

    def make(self, folder: Path) -> None:
        self.expected = _Letters().states(self.captions)
        self.read(folder)

    def read(self, folder: Path) -> None:
        bank = _Letters().bank(self.captions, folder)
        for caption, states in zip(self.captions, self.expected, strict=True):
            assert bank.states(caption).isfinite().all(), "not finite"
            assert bank.states(caption).shape[1] == states.shape[1], "another width"


class _Colors:
    prefix, width, protocol = "toy-", 27, {"weights": "none"}

    def __call__(self, images_BYX3: Any) -> tuple[Any, Any]:
        mean_BC = images_BYX3.astype(np.float64).reshape(len(images_BYX3), -1)[:, :27]
        return mean_BC, mean_BC[:, :10]


@target
class Features(Target):
    """Features of crops."""

    name, files = "features", ("features/*.sqlite",)

    def make(self, folder: Path) -> None:
        self.crops = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), np.uint8)
        self.read(folder)

    def read(self, folder: Path) -> None:
        found = FeatureCache(_Colors(), folder=folder).of_crops(iter(self.crops), count=20)
        assert np.isfinite(found.features_ND).all(), "not finite"
