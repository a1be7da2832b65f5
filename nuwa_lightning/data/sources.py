"""Where samples come from, photos and videos alike: sources with a split, and what becomes of them in preparation."""

from __future__ import annotations

import hashlib
import itertools
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Generic, Literal, Protocol, Self, TypeVar

from nuwa_lightning.data.captions import CaptionedFolders
from nuwa_lightning.data.folders import Listing, content_keys, found_once, list_files, said_of
from nuwa_lightning.errors import UsageError, some_of

Split = Literal["train", "val"]
SPLITS: Final[tuple[Split, ...]] = ("train", "val")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """A photo or a video.

    Attributes:
        path: the file.
        key: a name that is unique in its source.
        caption: a sentence that says what is seen, or "".
        scene: samples of one scene are never split between training and validation.
    """

    path: Path
    key: str
    caption: str = ""
    scene: str = ""


T = TypeVar("T", bound=Sample)


class Source(ABC):
    """A set of photos or videos with a fixed split."""

    @abstractmethod
    def prepare(self) -> None:
        """Do what needs the network or much time, once; called on one process only. Must be quick when done already.

        Raises:
            UsageError: if there is nothing to be had.
        """

    @abstractmethod
    def listed(self, split: Split) -> Sequence[Sample]:
        """Return those of ``split``, always in the same order; call `prepare` before.

        Raises:
            UsageError: if the source holds none at all.
        """

    def set_aside(self, unusable: Collection[Path]) -> bool:
        """Split anew without these files, and say whether that changes anything; a fixed split stays as it is."""
        return False

    @abstractmethod
    def option(self, split: Split) -> tuple[str, str]:
        """Return the option that says where those of ``split`` lie and its value, for error messages."""

    @abstractmethod
    def record(self) -> dict[str, object]:
        """Return what a run's record should say about the source, as JSON-able values."""


def held_out(scenes: Iterable[str], *, fraction: float) -> set[str]:
    """Choose the scenes for validation: those whose hash falls below ``fraction`` of the range.

    A scene stays on its side when others come or go. With two scenes or more, at least one is held out and at least
    one is left for training.
    """
    if not 0.0 <= fraction < 1.0:
        raise UsageError("val_fraction", fraction, "give a share of the photos in [0, 1)")
    ranked = sorted(set(scenes), key=rank_of)
    if fraction == 0.0 or len(ranked) < 2:
        return set()
    chosen = [scene for scene in ranked if rank_of(scene) < fraction]
    return set((chosen or ranked[:1])[: len(ranked) - 1])


def rank_of(scene: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(scene.encode("utf-8", "surrogatepass")).digest()[:6], "big") / 2.0**48


class FolderSource(Source, Generic[T]):
    """Every file below folders that has one of some suffixes, sub-folders included; no list files.

    Without ``val_root`` whole samples are held out, chosen by a hash of their content: equal files under two names are
    one scene and stay on one side, and renaming changes nothing. With it, files that lie there as well are taken out of
    training. Captions stand in ``NAME.txt`` beside a file, or in one file for all: see `nuwa_lightning.data.captions`.

    Args:
        root: the folder, or several.
        captions: the file with all captions; by default ``metadata.jsonl`` or the like in each folder.
        val_root: folder(s) of validation samples; when given, the rest of ``root`` is for training.
        val_fraction: share held out when there is no ``val_root``; 0 holds none out.
    """

    make: Callable[[Path, str, str, str], T]
    """Makes a sample of a path, a key, a caption and a scene."""
    noun: str
    """What one is called."""
    suffixes: Collection[str]
    hint: str
    """What to put into an empty folder."""

    def __init__(
        self,
        root: str | list[str],
        *,
        captions: str | None = None,
        val_root: str | list[str] | None = None,
        val_fraction: float = 1 / 6,
    ) -> None:
        self.roots: Final = _as_paths(root)
        self.val_roots: Final = _as_paths(val_root) if val_root is not None else []
        self._val_fraction, self._captions = val_fraction, captions
        self._all: tuple[list[T], list[T]] | None = None
        self._unusable: frozenset[Path] = frozenset()
        self._left_out: Counter[str] = Counter()

    def prepare(self) -> None:
        """Check the folders."""
        self.listed("train")

    def listed(self, split: Split) -> list[T]:
        """Return the samples of ``split``, sorted by path."""
        if self._all is None:
            roots = [[str(root) for root in some] for some in (self.roots, self.val_roots)]
            *both, left_out = found_once([*roots, self._captions, sorted(self.suffixes)], self._found)
            train, val = ([type(self).make(Path(path), *facts) for path, *facts in some] for some in both)
            self._all, self._left_out = (train, val), Counter(left_out)
            if self._left_out:
                where = ", ".join(str(root) for root in (*self.roots, *self.val_roots))
                _LOG.warning("%s: files that are no %s: %s", where, self.noun, said_of(self._left_out))
            shared = self._shared()
            if shared and len(shared) == len(self._all[0]):
                self._all = None
                hint = f"every {self.noun} of root lies there as well, none is left to train on: give another folder"
                raise UsageError("val_root", ", ".join(map(str, self.val_roots)), hint)
            if shared:
                said = "%d %ss lie in val_root as well and are taken out of training: %s"
                _LOG.warning(said, len(shared), self.noun, some_of(shared))
        train, val = self._all
        if self.val_roots:
            out = {sample.scene for sample in val}
            return list(val) if split == "val" else [sample for sample in train if sample.scene not in out]
        usable = [sample for sample in train if sample.path not in self._unusable]
        out = held_out((sample.scene for sample in usable), fraction=self._val_fraction)
        return [sample for sample in usable if (sample.scene in out) == (split == "val")]

    def set_aside(self, unusable: Collection[Path]) -> bool:
        if self.val_roots or self._unusable.issuperset(unusable):
            return False
        self._unusable |= frozenset(unusable)
        return True

    def option(self, split: Split) -> tuple[str, str]:
        if split == "val" and self.val_roots:
            return "val_root", ", ".join(map(str, self.val_roots))
        return "root", ", ".join(map(str, self.roots))

    def record(self) -> dict[str, object]:
        """Return the folders, the number of samples on each side, and what was not taken."""
        return {
            "source": "folder",
            "roots": [str(root) for root in self.roots],
            "val_roots": [str(root) for root in self.val_roots],
            "train": len(self.listed("train")),
            "val": len(self.listed("val")),
            "left_out": dict(self._left_out),
            "shared_with_val_root": self._shared(),
        }

    def _shared(self) -> list[str]:
        train, val = self._all or ([], [])
        out = {sample.scene for sample in val}
        return [sample.key for sample in train if sample.scene in out]

    def _found(self) -> list[Any]:
        """Return the path, key, caption and scene of each sample of ``root`` and of ``val_root``, and what is none."""
        captions, left_out = CaptionedFolders(self._captions), Counter[str]()
        both: list[list[list[str]]] = [[], []]
        for found, roots, option in zip(both, (self.roots, self.val_roots), ("root", "val_root"), strict=True):
            for number, root in enumerate(roots):
                listing = self._listed(root, option)
                left_out += listing.left_out
                prefix = f"{number}/" if len(roots) > 1 else ""
                said = captions.of(root, listing.files)
                keys = content_keys(listing.files)
                for path, key in zip(listing.files, keys, strict=True):
                    # What cannot be read is named and skipped when it is opened.
                    scene = str(path) if isinstance(key, OSError) else key
                    found.append([str(path), prefix + path.relative_to(root).as_posix(), said[path], scene])
        captions.tell_missing()
        return [*both, left_out]

    def _listed(self, root: Path, option: str) -> Listing:
        noun = self.noun
        try:
            listing = list_files(root, self.suffixes)
        except FileNotFoundError:
            raise UsageError(option, root, f"no such folder; give one that holds {noun}s") from None
        except NotADirectoryError:
            raise UsageError(option, root, f"not a folder; give one that holds {noun}s") from None
        except OSError as error:
            raise UsageError(option, root, f"cannot be read ({error.strerror}); check its permissions") from None
        if not listing.files:
            others = f" ({said_of(listing.left_out)})" if listing.left_out else ""
            raise UsageError(option, root, f"no {noun} in it or below{others}; put {self.hint} files there")
        return listing


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why."""

    path: Path
    reason: str


class Entry(Protocol):
    """Something that is ready for training."""

    @property
    def sample(self) -> Sample:
        """What it was made of."""


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class Prepared(Generic[E]):
    """Photos or videos of one split that are ready for training, and those that cannot be used.

    Attributes:
        entries: the usable ones.
        skipped: those that could not be read.
        left_out: those that cannot be used for another reason (``too_small``, ``too_short``), by reason.
    """

    entries: tuple[E, ...]
    skipped: tuple[Skipped, ...]
    left_out: Mapping[str, tuple[Sample, ...]]

    def __len__(self) -> int:
        """Return the number of usable ones."""
        return len(self.entries)

    @property
    def unusable(self) -> set[Path]:
        """The files that are not used."""
        left_out = itertools.chain(*self.left_out.values())
        return {entry.path for entry in self.skipped} | {sample.path for sample in left_out}

    def besides(self, others: Iterable[Prepared[E]]) -> Self:
        """Return the same, with what ``others`` found unusable told as well."""
        every: list[Prepared[E]] = [self, *others]
        left_out = {kind: tuple(itertools.chain(*(some.left_out[kind] for some in every))) for kind in self.left_out}
        return replace(self, skipped=tuple(itertools.chain(*(some.skipped for some in every))), left_out=left_out)


P = TypeVar("P", bound=Prepared[Any])


def prepared_splits(source: Source, prepare: Callable[[Split], P]) -> dict[Split, P]:
    """Prepare both splits; where all of one proves unusable, others are held out instead."""
    found = {split: prepare(split) for split in SPLITS}
    odd = set().union(*(some.unusable for some in found.values()))
    empty = [split for split in SPLITS if source.listed(split) and not found[split].entries]
    if len(empty) == 1 and any(some.entries for some in found.values()) and source.set_aside(odd):
        _LOG.warning("none held out for %s can be used: splitting the others anew", empty[0])
        again = {split: prepare(split) for split in SPLITS}
        return {"train": again["train"].besides(found.values()), "val": again["val"]}
    return found


def _as_paths(root: str | list[str]) -> list[Path]:
    names = [root] if isinstance(root, str) else root
    if not names or "" in names:
        raise UsageError("root", repr(root), "is no name: give a folder, or . for this one")
    return [Path(name).expanduser() for name in names]
