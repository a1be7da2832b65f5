"""Which files of a folder are samples, where derived data lies, what stands for a file's content; building once."""

import errno
import hashlib
import json
import os
import platform
import re
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nuwa_lightning.atomic import atomic_write, lock, make_cache
from nuwa_lightning.environment import BEGAN, RANKS
from nuwa_lightning.plain_data import read_json

_TEXTS: Final = frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".md", ".yaml", ".yml", ".dzi"})
"""What lies beside samples on purpose: captions, notes, records."""


@dataclass(frozen=True)
class Listing:
    """The files below a folder that are samples, and how many others lie there, by suffix or by what they are."""

    files: list[Path]
    left_out: Counter[str]


def list_files(folder: str | os.PathLike[str], suffixes: Collection[str], *, natural: bool = False) -> Listing:
    """Return every file below ``folder`` that has one of ``suffixes`` (in lower case), and count the others.

    Sub-folders and linked folders are included, hidden ones (name starting with a dot) and what this program writes
    beside images (`own_kind`) are not; a folder that is linked into itself is visited once. ``natural`` sorts 2 before
    10, as frames of a video want it.

    Raises:
        FileNotFoundError: if ``folder`` is missing.
        NotADirectoryError: if it is not a folder.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(root)
    if not root.is_dir():
        raise NotADirectoryError(root)
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if "canvas.json" in files:  # a canvas of this program, which may hold a given image
            left_out[".canvas"] += 1
            folders.clear()
            continue
        own = {name: kind for name in folders if (kind := own_kind(name, files))}
        left_out.update(own.values())
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in own)
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith(".") or suffix in _TEXTS:
                continue
            path = Path(parent, name)
            if suffix not in suffixes:
                left_out[suffix or "no suffix"] += 1
            elif kind := own_kind(name, files) or ("pipe, socket or device" if _is_special(path) else None):
                left_out[kind] += 1
            else:
                found.append(path)
    return Listing(sorted(found, key=natural_key) if natural else sorted(found), left_out)


def own_kind(name: str, beside: Collection[str]) -> str | None:
    """Return what a file or folder is that no sample is made of, though image files are in it or its name says so."""
    name = name.lower()
    if name.endswith(".preview.png"):
        return "preview"
    if name.endswith("_files") and f"{name.removesuffix('_files')}.dzi" in map(str.lower, beside):
        return "Deep Zoom"
    return next((suffix for suffix in (".zarr", ".canvas", ".frames") if name.endswith(suffix)), None)


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Return what sorts names as people count: ``2.png`` before ``10.png``."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(1, int(part), part) if number % 2 else (0, 0, part) for number, part in enumerate(parts)]


def said_of(left_out: Counter[str]) -> str:
    """Return counts in words, the most frequent first."""
    return ", ".join(
        f"{count} {kind}" for kind, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    )


def _is_special(path: Path) -> bool:
    """Say whether reading it may wait forever; what is missing is told by whoever opens it."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


_SMALL: Final = 1 << 20
"""Files up to so many bytes are hashed each time."""
_SETTLED_NS: Final = 2_000_000_000
_MANY: Final = 200
"""From so many large files on a bar is shown."""


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the cache folder (not created).

    The first of these that is set: the argument, ``$NUWA_LIGHTNING_CACHE``, ``$XDG_CACHE_HOME/nuwa_lightning``,
    ``~/.cache/nuwa_lightning``.
    """
    if cache is not None:
        return Path(cache).expanduser()
    own = os.environ.get("NUWA_LIGHTNING_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that relative paths there are to be ignored.
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "nuwa_lightning"


def regular_stat(path: str | os.PathLike[str]) -> os.stat_result:
    """Return what the system knows of a file; what is no file, such as a pipe, would keep a reader waiting forever."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "a pipe, a socket or a device, no file", os.fspath(path))
    return found


def content_key(path: str | os.PathLike[str]) -> str:
    """Return 40 hexadecimal digits that stand for the content of a file, all of it; of many use `content_keys`."""
    found = content_keys([path])[0]
    if isinstance(found, OSError):
        raise found
    return found


def content_keys(
    paths: Sequence[str | os.PathLike[str]], *, cache: str | os.PathLike[str] | None = None
) -> list[str | OSError]:
    """Return for each file `content_key`, or why it cannot be read; files are hashed in threads.

    The keys of files above 1 MiB are remembered in the cache folder for as long as neither the file's number, nor its
    length, nor the times of its last changes of content (mtime) and of state (ctime, which no tool can set) differ.
    """
    from tqdm.auto import tqdm

    states: list[os.stat_result | OSError] = []
    for path in paths:
        try:
            states.append(regular_stat(path))
        except OSError as error:
            states.append(error)
    large = [state for state in states if not isinstance(state, OSError) and state.st_size > _SMALL]
    with _remembered(large, cache) as keys:

        def key_of(place: int) -> str | OSError:
            path, state = paths[place], states[place]
            if isinstance(state, OSError):
                return state
            if (known := keys.get(_mark(state))) is not None:
                return known
            try:
                return _hashed(path, state)
            except OSError as error:
                return error

        now = time.time_ns()
        with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
            made = pool.map(key_of, range(len(paths)))
            quiet = None if len(large) - len(keys) > _MANY else True
            found = list(tqdm(made, total=len(paths), desc="hashing", unit="file", disable=quiet))
        for state, key in zip(states, found, strict=True):
            # A file that was changed a moment ago may be changed once more without its times telling.
            if isinstance(state, OSError) or isinstance(key, OSError) or state.st_size <= _SMALL:
                continue
            if max(state.st_mtime_ns, state.st_ctime_ns) < now - _SETTLED_NS:
                keys[_mark(state)] = key
    return found


def _hashed(path: str | os.PathLike[str], state: os.stat_result) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.sha256(str(state.st_size).encode()))
        if _mark(os.fstat(file.fileno())) != _mark(state):
            raise OSError(errno.EBUSY, "changes while it is read", os.fspath(path))
    return digest.hexdigest()[:40]


def _mark(state: os.stat_result) -> str:
    return f"{state.st_dev}-{state.st_ino}-{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}"


@contextmanager
def _remembered(states: Sequence[os.stat_result], cache: str | os.PathLike[str] | None) -> Iterator[dict[str, str]]:
    """Yield the keys that are known of files in ``states``, by mark; those added are kept.

    Nothing depends on it but time: a store that is damaged or cannot be written to is left alone.
    """
    keys: dict[str, str] = {}
    if not states:
        yield keys
        return
    file = cache_folder(cache) / "content-keys.sqlite"
    marks = [_mark(state) for state in states]
    with suppress(OSError, sqlite3.Error), closing(sqlite3.connect(file, timeout=10)) as store:
        rows = (store.execute("SELECT mark, key FROM keys WHERE mark = ?", (mark,)).fetchone() for mark in marks)
        keys |= {row[0]: row[1] for row in rows if row and re.fullmatch("[0-9a-f]{40}", str(row[1]))}
    before = len(keys)
    yield keys
    if len(keys) == before:
        return
    with suppress(OSError, sqlite3.Error):
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=10)) as store, store:
            store.execute("CREATE TABLE IF NOT EXISTS keys (mark TEXT PRIMARY KEY, key TEXT)")
            store.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?)", keys.items())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (created if missing) for one builder at a time, across processes; others wait."""
    make_cache(folder)
    with lock(folder / ".lock", wait=True):
        yield


_LONGEST: Final = 1 << 34
_taken: dict[Path, float] = {}


def found_once(decides: Sequence[Any], find: Callable[[], Any]) -> Any:
    """Return what ``find`` returns, plain JSON; of processes that torchrun or SLURM start on a machine one calls it.

    The others wait and read. A process takes only what was begun after its own start, and never the same twice: asked
    again, it looks again.
    """
    if not any(name in os.environ for name in RANKS):
        return find()
    said = json.dumps([platform.node(), os.getcwd(), *decides])
    folder = cache_folder() / "found" / hashlib.sha256(said.encode()).hexdigest()[:24]
    with locked(folder):
        with suppress(OSError, ValueError, KeyError, TypeError):
            before = read_json(folder / "found.json", longest=_LONGEST)
            if before["begun"] > _taken.get(folder, BEGAN):
                _taken[folder] = before["begun"]
                return before["found"]
        _taken[folder] = time.time()
        found = find()
        with atomic_write(folder / "found.json") as partial:
            partial.write_text(json.dumps({"begun": _taken[folder], "found": found}), encoding="utf-8")
        return found
