"""The default photographs: landscapes that come with Debian and npm packages, fetched once into the user's cache.

No photograph is part of this program. `landscape_manifest.json` says which file of which package is one, with its
sha256, size, licence, author, a caption, and the scene it shows. The licences are the packages' or the photographers'
own: fetch, train, show with attribution, but do not redistribute the files without reading them.
"""

import functools
import hashlib
import importlib.resources
import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.packages import FetchError, Package, PackagedFile, PackageFiles
from nuwa_lightning.data.photos import Photo, PhotoSource, Split, held_out
from nuwa_lightning.data.reading import ImageReadError, image_size, read_image
from nuwa_lightning.errors import UsageError

Kind = Literal["landscape", "closeup"]
Origin = Literal["apt", "npm"]

_LOG = logging.getLogger(__name__)
_VAL_EVERY: Final = 6
_VAL_OFFSET: Final = 4
_FALLBACK: Final = {
    "train": ("china.jpg", "a Chinese temple roof between trees under a cloudy sky", "china"),
    "val": ("flower.jpg", "a pink dahlia in front of dark leaves", "flower"),
}


@dataclass(frozen=True)
class CataloguePhoto(PackagedFile):
    """What is known of one photo before it is fetched; ``width`` and ``height`` in pixels.

    ``horizon``: it shows sky above land or water; views from above or below, skies and details do not.
    """

    width: int
    height: int
    author: str
    kind: str
    setting: str
    scene: str
    horizon: bool = True


@dataclass(frozen=True)
class Catalogue:
    """The packages and the photos in them."""

    packages: tuple[Package, ...]
    photos: tuple[CataloguePhoto, ...]

    def validation_scenes(self) -> set[str]:
        """Return the scenes held out: every 6th in the order of setting, then of the name's hash.

        Going by setting (water, mountain, forest, field, sky, town, close-up) keeps validation typical. The choice
        depends on the catalogue only, so a photo never changes sides when a package cannot be fetched.
        """
        settings: dict[str, str] = {}
        for photo in self.photos:
            settings.setdefault(photo.scene, photo.setting)
        order = sorted(settings, key=lambda scene: (settings[scene], hashlib.sha256(scene.encode()).hexdigest()))
        return set(order[_VAL_OFFSET::_VAL_EVERY])


def read_manifest() -> dict[str, Any]:
    """Return what `landscape_manifest.json` says, which is part of this program."""
    text = importlib.resources.files("nuwa_lightning.data").joinpath("landscape_manifest.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@functools.cache
def load_catalogue() -> Catalogue:
    """Return the catalogue of photos."""
    data = read_manifest()
    return Catalogue(
        tuple(Package(**package) for package in data["packages"]),
        tuple(CataloguePhoto(**photo) for photo in data["photos"]),
    )


@final
class LandscapePhotos(PhotoSource):
    """78 landscape photographs and 16 close-ups of plants and animals, from Debian and npm packages.

    About 320 MB of packages are fetched once, of which 75 MB of photos are kept, with a ``manifest.json`` beside them.
    A package that cannot be fetched is skipped with one line and tried again on the next run. When nothing at all is
    to be had, the two sample photos of scikit-learn stand in, with one line that says so.

    Args:
        kinds: which photos to use.
        horizon: only those that show sky above land or water, 58 of the 94: for models of what lies above what.
        sources: where to fetch from: ``apt`` (Debian and its relatives; no root needed) and ``npm`` (optional).
        cache: the cache folder; default: see `nuwa_lightning.data.folders.cache_folder`.
        progress: show a bar while fetching.
    """

    def __init__(
        self,
        kinds: Sequence[Kind] = ("landscape",),
        *,
        horizon: bool = False,
        sources: Sequence[Origin] = ("apt", "npm"),
        cache: str | None = None,
        progress: bool = True,
    ) -> None:
        self.kinds = tuple(kinds)
        self.horizon = horizon
        self.sources = tuple(sources)
        self.folder = cache_folder(cache) / "landscape_photos"
        catalogue = load_catalogue()
        self._files = PackageFiles(self.folder, "photos", catalogue.packages, catalogue.photos, progress=progress)

    def prepare(self) -> None:
        """Fetch what is missing; returns at once, without the network, when all is there."""
        gone = self._files.fetch(self.sources, _check) if self._files.missing(self.sources) else {}
        if self._fetched("train"):
            for source, why in gone.items():
                _LOG.warning("photos: skipping all packages from %s: %s", source, why)
            return
        sources = " or ".join(self.sources) or "any source"
        _LOG.warning(
            "no landscape photos from %s%s: training on the 2 sample photos of scikit-learn instead, enough for a trial"
            " only",
            sources,
            f" ({'; '.join(gone.values())})" if gone else "",
        )
        _fallback("train")

    def photos(self, split: Split) -> list[Photo]:
        """Return the photos of ``split``, sorted as in the catalogue."""
        return self._fetched(split) if self._fetched("train") else _fallback(split)

    def option(self, split: Split) -> tuple[str, str]:
        return "cache", str(self.folder)

    def record(self) -> dict[str, object]:
        """Return the sources that were really used, for the record of a run."""
        fetched = bool(self._fetched("train"))
        packages = self._files.manifest()["packages"]
        entries = self._files.entries() if fetched else {}
        return {
            "source": "landscape packages" if fetched else "scikit-learn sample photos (fallback)",
            "kinds": list(self.kinds),
            "horizon": self.horizon,
            "packages": {name: package for name, package in packages.items() if fetched},
            "not_fetched": sorted(package.name for package in self._files.packages if package.name not in packages),
            "changed": sorted(key for key, entry in entries.items() if entry.get("changed")),
            "train": [photo.key for photo in self.photos("train")],
            "val": [photo.key for photo in self.photos("val")],
        }

    def _fetched(self, split: Split) -> list[Photo]:
        entries, catalogue = self._files.entries(), load_catalogue()
        here = [
            photo
            for photo in catalogue.photos
            if photo.key in entries and photo.kind in self.kinds and (photo.horizon or not self.horizon)
        ]
        out = catalogue.validation_scenes()
        if not any(photo.scene in out for photo in here):
            out = held_out((photo.scene for photo in here), fraction=1 / _VAL_EVERY)
        return [
            Photo(self._files.path(photo.key, entries[photo.key]), photo.key, photo.caption, photo.scene)
            for photo in here
            if (photo.scene in out) == (split == "val")
        ]


def _check(path: Path, entry: dict[str, Any]) -> None:
    """Look at a photo of a version unlike the catalogue's, which may be no image any more."""
    if entry["changed"]:
        try:
            read_image(path)
            entry["height"], entry["width"] = image_size(path)
        except ImageReadError as error:
            raise FetchError(error.reason) from error


def _fallback(split: Split) -> list[Photo]:
    """Return scikit-learn's photos without importing it, since that takes a second."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "sources",
            "no photo could be fetched",
            "go online (apt or npm), install scikit-learn for its two photos, or train on a folder of your own",
        )
    file, caption, key = _FALLBACK[split]
    path = Path(next(iter(spec.submodule_search_locations)), "datasets", "images", file)
    return [Photo(path, key, caption, key)]
