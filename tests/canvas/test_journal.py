"""The journal: whole records or none, every damage seen, one process at a time."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nuwa_lightning.canvas.journal import Journal, Record, differences, journal_folder
from nuwa_lightning.errors import UsageError


def record(number: int) -> Record:
    tensors = {"a": torch.arange(number).float(), "b": torch.full((2, 3), number).to(torch.bfloat16)}
    return Record(number, {"patches": 3 * number, "patches_of": 99, "sinks": [{"deep": [None, "ü"]}]}, tensors)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "a.tif")
    made.begin({"seed": 3, "size": [None, 4]})
    yield made
    made.close()


def test_the_newest_record_comes_back_and_two_are_kept(journal: Journal) -> None:
    assert journal.job() == {"seed": 3, "size": [None, 4]}
    assert journal.latest() is None
    for number in (0, 9, 10, 100):
        journal.commit(record(number))
        found = journal.latest()
        assert found is not None
        assert (found.number, found.facts) == (number, record(number).facts)
        assert {name: t.dtype for name, t in found.tensors.items()} == {"a": torch.float32, "b": torch.bfloat16}
        assert all(torch.equal(found.tensors[name], t) for name, t in record(number).tensors.items())
    names = sorted(p.name for p in journal.folder.iterdir())
    assert names == ["job.json", "lock", "record-000000000010", "record-000000000100"]
    journal.begin({})
    assert journal.latest() is None
    journal.remove()
    assert not journal.folder.exists()


def test_every_single_byte_counts(journal: Journal) -> None:
    journal.commit(record(1))
    path = journal.folder / "record-000000000001"
    whole = path.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(UsageError, match="is damaged, and there is no good one"):
            journal.latest()
    for length in (0, 5, 60, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="is damaged"):
            journal.latest(earlier=True)
    path.write_bytes(whole)
    assert journal.latest() is not None


def test_the_record_before_is_offered_and_taken(journal: Journal) -> None:
    journal.commit(record(1))
    journal.commit(record(2))
    newest = journal.folder / "record-000000000002"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"the record before it \(3 of 99 patches\) is good: give --resume earlier"):
        journal.latest()
    found = journal.latest(earlier=True)
    assert found is not None
    assert found.number == 1
    assert not newest.exists(), "or it would be in the way of new ones"
    assert journal.latest() is not None


def test_a_damaged_job_is_seen(journal: Journal) -> None:
    path = journal.folder / "job.json"
    for content in (path.read_text().replace("3", "4", 1), "{", "[]", ""):
        path.write_text(content)
        with pytest.raises(UsageError, match="does not say what is made there"):
            journal.job()


def test_one_process_at_a_time(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another process is writing it"):
        Journal(tmp_path / "a.tif")
    Journal(tmp_path / "b.tif").close()
    journal.close()
    Journal(tmp_path / "a.tif").close()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_records_before(journal: Journal, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    journal.commit(record(1))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UsageError, match=r"its journal cannot be written \(No space left on device\)"):
        journal.commit(record(2))
    found = journal.latest()
    assert found is not None
    assert found.number == 1
    assert not [p for p in journal.folder.iterdir() if "partial" in p.name]


def test_differences_are_named() -> None:
    assert differences({"seed": 1, "a": [1]}, {"a": [1], "seed": 1}) == []
    found = differences({"seed": 1, "old": "x"}, {"seed": 2, "new": "y" * 99})
    assert found[:2] == ["seed was 1, now 2", 'old was "x", now not given']
    assert found[2].startswith('new was not given, now "yyy')
    assert len(found[2]) < 90


def test_where_it_lies() -> None:
    assert journal_folder(Path("a/b.tif")) == Path("a/b.tif.journal")
