"""The files of folders as samples, split by content into training and validation; photos and videos alike."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, Generic, Literal, Protocol, Self, TypeVar, final

from nuwa_lightning.data.captions import CaptionedFolders
from nuwa_lightning.data.folders import content_keys
from nuwa_lightning.data.listing import Listing, list_files, said_of
from nuwa_lightning.errors import UsageError, some_of

Split = Literal["train", "val"]
SPLITS: Final[tuple[Split, ...]] = ("train", "val")

_LOG = logging.getLogger(__name__)


class Sample(Protocol):
    """A photo or a video."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def key(self) -> str:
        """A name that is unique in its source."""

    @property
    def scene(self) -> str:
        """Samples of one scene are never split."""


T = TypeVar("T", bound=Sample)


def held_out(scenes: Iterable[str], *, fraction: float) -> set[str]:
    """Choose the scenes for validation: those whose hash falls below ``fraction`` of the range.

    A scene stays on its side when others come or go. With two scenes or more, at least one is held out and at least
    one is left for training.

    Raises:
        UsageError: if ``fraction`` is not in [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise UsageError("val_fraction", fraction, "give a share of the photos in [0, 1)")
    ranked = sorted(set(scenes), key=_rank)
    if fraction == 0.0 or len(ranked) < 2:
        return set()
    chosen = [scene for scene in ranked if _rank(scene) < fraction]
    return set((chosen or ranked[:1])[: len(ranked) - 1])


def _rank(scene: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(scene.encode("utf-8", "surrogatepass")).digest()[:6], "big") / 2.0**48


@final
class FolderSamples(Generic[T]):
    """Every file below folders that has one of some suffixes.

    Without ``val_root`` whole samples are held out, chosen by a hash of their content: equal files under two names are
    one scene and stay on one side, and renaming changes nothing. With it, files that lie there as well are taken out of
    training.

    Args:
        root: the folder, or several.
        val_root: folder(s) of validation samples; when given, the rest of ``root`` is for training.
        val_fraction: share held out when there is no ``val_root``; 0 holds none out.
        captions: the file with all captions; by default ``metadata.jsonl`` or the like in each folder.
        make: makes a sample of a path, a key, a caption and a scene.
        noun: what one is called.
        suffixes: of the files.
        hint: what to put into an empty folder.
    """

    def __init__(
        self,
        root: str | list[str],
        val_root: str | list[str] | None,
        val_fraction: float,
        captions: str | None,
        *,
        make: Callable[[Path, str, str, str], T],
        noun: str,
        suffixes: Collection[str],
        hint: str,
    ) -> None:
        self.roots: Final = _as_paths(root)
        self.val_roots: Final = _as_paths(val_root) if val_root is not None else []
        self._val_fraction, self._captions = val_fraction, captions
        self._make, self._noun, self._suffixes, self._hint = make, noun, suffixes, hint
        self._all: tuple[list[T], list[T]] | None = None
        self._unusable: frozenset[Path] = frozenset()
        self._left_out: Counter[str] = Counter()

    def of(self, split: Split) -> list[T]:
        """Return the samples of ``split``, sorted by path.

        Raises:
            UsageError: if a folder is missing or holds none.
        """
        if self._all is None:
            captions = CaptionedFolders(self._captions)
            self._all = self._below(self.roots, "root", captions), self._below(self.val_roots, "val_root", captions)
            captions.tell_missing()
            if self._left_out:
                where = ", ".join(str(root) for root in (*self.roots, *self.val_roots))
                _LOG.warning("%s: files that are no %s: %s", where, self._noun, said_of(self._left_out))
            if shared := self._shared():
                _LOG.warning(
                    "%d %ss lie in val_root as well and are taken out of training: %s",
                    len(shared),
                    self._noun,
                    some_of(shared),
                )
        train, val = self._all
        if self.val_roots:
            out = {sample.scene for sample in val}
            return list(val) if split == "val" else [sample for sample in train if sample.scene not in out]
        usable = [sample for sample in train if sample.path not in self._unusable]
        out = held_out((sample.scene for sample in usable), fraction=self._val_fraction)
        return [sample for sample in usable if (sample.scene in out) == (split == "val")]

    def set_aside(self, unusable: Collection[Path]) -> bool:
        """Hold out among the others from now on; say whether that changes anything."""
        if self.val_roots or self._unusable.issuperset(unusable):
            return False
        self._unusable |= frozenset(unusable)
        return True

    def option(self, split: Split) -> tuple[str, str]:
        """Return the option that says where the samples of ``split`` lie and its value."""
        if split == "val" and self.val_roots:
            return "val_root", ", ".join(map(str, self.val_roots))
        return "root", ", ".join(map(str, self.roots))

    def record(self) -> dict[str, object]:
        """Return the folders, the number of samples on each side, and what was not taken."""
        return {
            "source": "folder",
            "roots": [str(root) for root in self.roots],
            "val_roots": [str(root) for root in self.val_roots],
            "train": len(self.of("train")),
            "val": len(self.of("val")),
            "left_out": dict(self._left_out),
            "shared_with_val_root": self._shared(),
        }

    def _shared(self) -> list[str]:
        train, val = self._all or ([], [])
        out = {sample.scene for sample in val}
        return [sample.key for sample in train if sample.scene in out]

    def _below(self, roots: list[Path], option: str, captions: CaptionedFolders) -> list[T]:
        samples: list[T] = []
        for number, root in enumerate(roots):
            listing = self._listed(root, option)
            self._left_out += listing.left_out
            prefix = f"{number}/" if len(roots) > 1 else ""
            said = captions.of(root, listing.files)
            keys = content_keys(listing.files)
            for path, key in zip(listing.files, keys, strict=True):
                # What cannot be read is named and skipped when it is opened.
                scene = str(path) if isinstance(key, OSError) else key
                samples.append(self._make(path, prefix + path.relative_to(root).as_posix(), said[path], scene))
        return samples

    def _listed(self, root: Path, option: str) -> Listing:
        noun = self._noun
        try:
            listing = list_files(root, self._suffixes)
        except FileNotFoundError:
            raise UsageError(option, root, f"no such folder; give one that holds {noun}s") from None
        except NotADirectoryError:
            raise UsageError(option, root, f"not a folder; give one that holds {noun}s") from None
        except OSError as error:
            raise UsageError(option, root, f"cannot be read ({error.strerror}); check its permissions") from None
        if not listing.files:
            others = f" ({said_of(listing.left_out)})" if listing.left_out else ""
            raise UsageError(option, root, f"no {noun} in it or below{others}; put {self._hint} files there")
        return listing


class Prepared(Protocol):
    """Samples of one split that are ready for training, and those that cannot be used."""

    @property
    def entries(self) -> Sequence[object]:
        """The usable ones."""

    @property
    def unusable(self) -> set[Path]:
        """The files of the others."""

    def besides(self, *others: Self) -> Self:
        """Return the same, with what ``others`` found unusable told as well."""


P = TypeVar("P", bound=Prepared)


def prepared_splits(
    listed: Callable[[Split], Sequence[object]],
    prepare: Callable[[Split], P],
    set_aside: Callable[[Collection[Path]], bool],
) -> dict[Split, P]:
    """Prepare both splits; where all of one proves unusable, the samples are held out anew among those that are not.

    Args:
        listed: returns the samples of a split.
        prepare: prepares them.
        set_aside: splits anew without some files; returns whether that changes anything.
    """
    found = {split: prepare(split) for split in SPLITS}
    odd = set().union(*(some.unusable for some in found.values()))
    empty = [split for split in SPLITS if listed(split) and not found[split].entries]
    if len(empty) == 1 and any(some.entries for some in found.values()) and set_aside(odd):
        _LOG.warning("none held out for %s can be used: splitting the others anew", empty[0])
        again = {split: prepare(split) for split in SPLITS}
        return {"train": again["train"].besides(*found.values()), "val": again["val"]}
    return found


def _as_paths(root: str | list[str]) -> list[Path]:
    names = [root] if isinstance(root, str) else root
    if not names or "" in names:
        raise UsageError("root", repr(root), "is no name: give a folder, or . for this one")
    return [Path(name).expanduser() for name in names]
