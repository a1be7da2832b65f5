"""A set of drawn landscapes with captions, made on the spot; see `nuwa_lightning.data.scenes`."""

import functools
import hashlib
from pathlib import Path
from typing import Final, final

from PIL import Image

from nuwa_lightning.atomic import atomic_write
from nuwa_lightning.data.folders import cache_folder, locked
from nuwa_lightning.data.photos import Photo, PhotoSource, Split
from nuwa_lightning.data.scenes import Scene, all_scenes, caption, draw
from nuwa_lightning.errors import UsageError

_VERSION: Final = "1"
_VAL_EVERY: Final = 6


def held_out_scenes(*, motions: bool = False) -> list[Scene]:
    """Return the combinations of attributes that training never sees: every 6th in the order of a hash."""
    ranked = sorted(all_scenes(motions=motions), key=lambda scene: hashlib.sha256(scene.name.encode()).hexdigest())
    return ranked[::_VAL_EVERY]


@final
class SyntheticLandscapes(PhotoSource):
    """Drawn landscapes: time of day, colour of the sky, mountains, water and snow are known, and told by the caption.

    All 72 combinations come up equally often. Twelve of them are held out for validation: each of their attributes is
    known from training, the combination is not.

    Args:
        count: images in all.
        size: height and width of an image in pixels.
        seed: another seed, other images.
        cache: the cache folder; default: see `nuwa_lightning.data.folders.cache_folder`.

    Raises:
        UsageError: if a number makes no sense.
    """

    def __init__(
        self, count: int = 720, *, size: tuple[int, int] = (272, 272), seed: int = 0, cache: str | None = None
    ) -> None:
        if count < len(all_scenes()):
            raise UsageError("data.photos.count", count, f"give {len(all_scenes())} or more, one for each combination")
        if min(size) < 16:
            raise UsageError("data.photos.size", list(size), "give 16 pixels or more on each side")
        self.count, self.size, self.seed = count, size, seed
        name = f"{_VERSION}-{size[0]}x{size[1]}-{seed}"
        self.folder = cache_folder(cache) / "synthetic_landscapes" / name

    def scene(self, number: int) -> Scene:
        """Return what image ``number`` shows."""
        scenes = all_scenes()
        return scenes[number % len(scenes)]

    def prepare(self) -> None:
        """Draw what is missing."""
        from tqdm.auto import tqdm

        with locked(self.folder):
            missing = [number for number in range(self.count) if not self._path(number).is_file()]
            for number in tqdm(missing, desc="drawing landscapes", unit="image", disable=None):
                with atomic_write(self._path(number)) as partial:
                    image = draw(self.scene(number), self._seed(number), self.size)
                    Image.fromarray(image).save(partial, format="PNG")

    def photos(self, split: Split) -> list[Photo]:
        """Return the images of ``split`` in the order of their numbers."""
        out = _held_out_names()
        return [
            Photo(self._path(number), f"{number:06d}", caption(scene, self._seed(number)), scene.name)
            for number in range(self.count)
            if ((scene := self.scene(number)).name in out) == (split == "val")
        ]

    def option(self, split: Split) -> tuple[str, str]:
        return "cache", str(self.folder)

    def record(self) -> dict[str, object]:
        """Return what was drawn."""
        return {"source": "synthetic landscapes", "count": self.count, "size": list(self.size), "seed": self.seed}

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.png"

    def _seed(self, number: int) -> int:
        return self.seed * 1_000_003 + number


@functools.cache
def _held_out_names() -> frozenset[str]:
    return frozenset(scene.name for scene in held_out_scenes())
