"""What it takes to go on after a kill, kept beside the output: which image is made, and how far it is (ours).

A journal is a folder. ``job.json`` names the image; each record is one file, written whole or not at all, with a
checksum over all of it. The last two records are kept: when the newest turns out damaged, there is one before it.

A file of a stranger cannot run code: records hold tensors (safetensors) and JSON.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.torch import load, save
from torch import Tensor

from nuwa_lightning.atomic import atomic_write, write_json
from nuwa_lightning.errors import UsageError, unwritable

_MAGIC = b"nuwa_lightning journal 1\n"
_DIGEST = 32
_KEPT = 2


@dataclass(frozen=True)
class Record:
    """How far an image is.

    Attributes:
        number: grows from record to record.
        facts: plain JSON.
        tensors: everything else.
    """

    number: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class Journal:
    """The journal of one output; only one process at a time holds it.

    Args:
        output: the image; the journal lies beside it.

    Raises:
        UsageError: if another process holds it, or the folder cannot be made.
    """

    def __init__(self, output: Path) -> None:
        self.folder = journal_folder(output)
        self._output = output
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = _locked(self.folder / "lock")
        except BlockingIOError:
            raise UsageError("--output", output, "another process is writing it: wait, or name another file") from None
        except OSError as error:
            raise _unwritable(output, error) from error

    @property
    def begun(self) -> bool:
        """Whether :meth:`begin` was ever called."""
        return (self.folder / "job.json").exists()

    def begin(self, job: Mapping[str, Any]) -> None:
        """Note which image this is, and forget every record.

        Raises:
            UsageError: if the disk is full or fails.
        """
        try:
            for path in self._records():
                path.unlink()
            write_json(self.folder / "job.json", {"job": dict(job), "sha256": _sum_of(job)})
        except OSError as error:
            raise _unwritable(self._output, error) from error

    def job(self) -> dict[str, Any]:
        """Return what :meth:`begin` noted.

        Raises:
            UsageError: if it is damaged.
        """
        try:
            found = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
            job = dict(found["job"])
            if found["sha256"] != _sum_of(job):
                raise ValueError("checksum")
        except (OSError, ValueError, KeyError, TypeError):
            hint = "the journal does not say what is made there: give --overwrite to start again"
            raise UsageError("--resume", self.folder, hint) from None
        return job

    def commit(self, record: Record) -> None:
        """Add a record and drop those before the last two.

        Raises:
            UsageError: if the disk is full or fails; the records before stay.
        """
        facts = json.dumps({"number": record.number, **record.facts})
        data = save({name: tensor.contiguous() for name, tensor in record.tensors.items()}, metadata={"facts": facts})
        try:
            with atomic_write(self.folder / f"record-{record.number:012d}") as partial, partial.open("wb") as file:
                file.write(_MAGIC + hashlib.sha256(data).digest())
                file.write(data)
        except OSError as error:
            raise _unwritable(self._output, error) from error
        for path in self._records()[_KEPT:]:
            path.unlink(missing_ok=True)

    def latest(self, *, earlier: bool = False) -> Record | None:
        """Return the newest record, or None before the first.

        Args:
            earlier: pass over damaged ones.

        Raises:
            UsageError: if it is damaged, telling whether the one before is good.
        """
        damaged: list[Path] = []
        for path in self._records():
            record = _read(path)
            if record is None:
                damaged.append(path)
                continue
            if damaged and not earlier:
                hint = f"is damaged; the record before it ({told(record.facts)}) is good: give --resume earlier"
                raise UsageError("--resume", damaged[0], hint)
            for other in damaged:  # or they would count among the two that are kept
                other.unlink(missing_ok=True)
            return record
        if damaged:
            hint = "is damaged, and there is no good one: give --overwrite to start again"
            raise UsageError("--resume", damaged[0], hint)
        return None

    def remove(self) -> None:
        """Remove the journal; killed on the way, it is one that never began."""
        (self.folder / "job.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        self._lock.close()

    def _records(self) -> list[Path]:
        """Return the files of the records, the newest first."""
        return sorted(self.folder.glob("record-" + 12 * "[0-9]"), reverse=True)


def journal_folder(output: Path) -> Path:
    """Return where the journal of an image lies."""
    return output.with_name(f"{output.name}.journal")


def told(facts: Mapping[str, Any]) -> str:
    """Return how far a record is, for messages."""
    of = f" of {facts['patches_of']}" if facts.get("patches_of") else ""
    return f"{facts.get('patches', 0)}{of} patches"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each thing in which two jobs differ."""
    names = [name for name in (*before, *(n for n in now if n not in before)) if before.get(name) != now.get(name)]
    return [f"{name} was {_short(before.get(name))}, now {_short(now.get(name))}" for name in names]


def _short(value: object) -> str:
    text = "not given" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sum_of(job: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(job), sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Record | None:
    """Return the record in a file, or None if the file is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + _DIGEST
    data = content[start:]
    if content[:start] != _MAGIC + hashlib.sha256(data).digest():
        return None
    (length,) = struct.unpack_from("<Q", data)
    facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["facts"])
    return Record(facts.pop("number"), facts, load(data))


def _locked(path: Path) -> BinaryIO:
    file = path.open("ab")
    try:
        import fcntl
    except ImportError:  # no such locks on this system: the user minds
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _unwritable(output: Path, error: OSError) -> UsageError:
    return unwritable(output, error, what="its journal", full="make room, then give --resume")
