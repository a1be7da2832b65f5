"""Making shards: many processes, each some parts of a source; what is finished stays (ours)."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, final

from nuwa_lightning.atomic import write_json
from nuwa_lightning.data.folders import locked
from nuwa_lightning.data.reading import MediaReadError
from nuwa_lightning.data.sources import SPLITS
from nuwa_lightning.data.token_bank import BankItem, Encode, Fits, TokenizerLike, checked_tokens
from nuwa_lightning.data.token_shards import VERSION, ShardBuilder
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256
from nuwa_lightning.plain_data import read_json

_LOG = logging.getLogger(__name__)
_NAMED: Final = 100
"""So many files that were left out are named in the index, the others are counted."""


class ShardItem(BankItem, Protocol):
    """A photo or a video with what is said of it."""

    @property
    def caption(self) -> str:
        """A sentence, or ""."""


@final
@dataclass(frozen=True)
class ShardParts:
    """What shards are made of, in parts that are read independently of each other.

    Attributes:
        count: how many parts.
        read: returns the photos or videos of a part, one after another.
        decides: plain JSON of what decides about them, besides the tokenizer.
        fits: says whether a grid is kept.
        about: of the source, for the index.
    """

    count: int
    read: Callable[[int], Iterator[ShardItem]]
    decides: Mapping[str, Any]
    fits: Fits
    about: Mapping[str, Any]


def make_shards(
    folder: Path,
    parts: ShardParts,
    tokenizer: TokenizerLike,
    *,
    rank: int = 0,
    world: int = 1,
    encode: Encode | None = None,
    captioned: bool = False,
    progress: bool = True,
) -> bool:
    """Make the shards that this process has to make, and the index if they are the last ones.

    Each part is a shard of training and one of validation. A process makes parts ``rank``, ``rank + world``, ... and
    needs no other one. What is there with the right checksum stays.

    Args:
        folder: where they lie.
        parts: what they are made of.
        tokenizer: writes the tokens.
        rank: number of this process.
        world: number of processes.
        encode: how to encode an image_B3YX, if not by ``tokenizer.encode``.
        captioned: leave out what has no caption.
        progress: show a bar.

    Returns:
        Whether all parts are there.

    Raises:
        UsageError: if the folder holds shards of another tokenizer, of other data or settings.
    """
    from tqdm.auto import tqdm

    if not 0 <= rank < world:
        raise UsageError("rank", rank, f"give a number from 0 to {world - 1}")
    fingerprint = tokenizer.fingerprint()
    about = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "factor": tokenizer.downsample_factor,
        "codebook_size": tokenizer.codebook_size,
        "parts": parts.count,
        "captioned": captioned,
        **parts.decides,
    }
    about = json.loads(json.dumps(about))
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _begin(folder, about)
    own = range(rank, parts.count, world)
    for number in tqdm(own, desc="shards", unit="shard", disable=None if progress else True):
        told = folder / "parts" / f"{number:06d}.json"
        if not _is_made(told):
            write_json(told, _made(folder, number, parts, tokenizer, encode or tokenizer.encode, captioned))
    with locked(folder):
        return _finish(folder, parts, about)


def _begin(folder: Path, about: dict[str, Any]) -> None:
    """Write what decides about the shards, or refuse to mix others with those that are there."""
    path = folder / "about.json"
    if not path.exists():
        write_json(path, about)
        return
    try:
        there = read_json(path)
        changed = sorted(key for key in {*there, *about} if there.get(key) != about.get(key))
    except (OSError, ValueError, TypeError, AttributeError):
        raise UsageError("output", path, "damaged; name a new folder") from None
    if "fingerprint" in changed:
        hint = "holds shards of another tokenizer: give the one that they were made with, or name a new folder"
        raise UsageError("output", folder, hint)
    if changed:
        hint = f"holds shards of other data or settings ({', '.join(changed)} differ): name a new folder"
        raise UsageError("output", folder, hint)


def _is_made(told: Path) -> bool:
    try:
        made = read_json(told)
        shards = [made[split] for split in SPLITS if made[split] is not None]
        return all(file_sha256(told.parent.parent / shard["file"]) == shard["sha256"] for shard in shards)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        _LOG.warning("%s is damaged: making the part anew", told)
        return False


def _made(
    folder: Path, number: int, parts: ShardParts, tokenizer: TokenizerLike, encode: Encode, captioned: bool
) -> dict[str, Any]:
    builders = {split: ShardBuilder(tokenizer.fingerprint(), tokenizer.codebook_size) for split in SPLITS}
    left_out: dict[str, list[str]] = {"skipped": [], "too_small": [], "no_caption": []}
    for item in parts.read(number):
        if captioned and not item.caption:
            left_out["no_caption"].append(item.key)
            continue
        try:
            planned = [entry for entry in item.plan(0, 0) if parts.fits(entry)]
            grids = [(entry, checked_tokens(item.encoded(entry, encode), entry, tokenizer)) for entry in planned]
        except MediaReadError as error:
            _LOG.warning("skipping %s: %s", error.path, error.reason)
            left_out["skipped"].append(item.key)
            continue
        if grids:
            builders[item.split].add(item.key, item.caption, grids)
        else:
            left_out["too_small"].append(item.key)
    shards: dict[str, Any] = {
        split: builders[split].write(folder / f"{split}-{number:06d}.safetensors") for split in SPLITS
    }
    return {**shards, "left_out": left_out}


def _finish(folder: Path, parts: ShardParts, about: dict[str, Any]) -> bool:
    """Write the index if all parts are there."""
    files = [folder / "parts" / f"{number:06d}.json" for number in range(parts.count)]
    if not all(file.exists() for file in files):
        return False
    made = [read_json(file) for file in files]
    shards = {split: [one[split] for one in made if one[split] is not None] for split in SPLITS}
    left_out: dict[str, Any] = {}
    for kind in ("skipped", "too_small", "no_caption"):
        keys = [key for one in made for key in one["left_out"][kind]]
        left_out |= {kind: keys[:_NAMED], f"{kind}_count": len(keys)}
    if not shards["train"]:
        counts = ", ".join(f"{left_out[f'{kind}_count']} {words}" for kind, words in _WORDS.items())
        raise UsageError("config", parts.about.get("source"), f"nothing for training is left: {counts}")
    smallest = [one["smallest"] for some in shards.values() for one in some]
    said = json.dumps([about, shards]).encode()
    index = {
        **about,
        "name": hashlib.sha256(said).hexdigest()[:24],
        "smallest": [min(axis) for axis in zip(*smallest, strict=True)],
        "shards": shards,
        "left_out": left_out,
        "source": dict(parts.about),
    }
    write_json(folder / "index.json", index)
    for kind, words in _WORDS.items():
        if left_out[f"{kind}_count"]:
            _LOG.warning("%d %s left out, such as %s", left_out[f"{kind}_count"], words, left_out[kind][0])
    return True


_WORDS: Final = {
    "skipped": "that cannot be read",
    "too_small": "smaller than a window",
    "no_caption": "without a caption",
}


def in_chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Return stretches of ``size``, the last one shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def digest(values: object) -> str:
    """Return a hash of plain JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
