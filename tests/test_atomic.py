"""Atomic files and folders: whole or not at all, whatever call fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nuwa_lightning.atomic import atomic_folder, atomic_write, write_json


def test_replaces_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with atomic_write(target) as partial:
        assert partial.parent == tmp_path
        assert partial.suffix == ".json"
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_error_leaves_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(target) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_every_failing_call_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    target = tmp_path / "a"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"), atomic_write(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_follows_symbolic_links_and_umask(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    with atomic_write(link) as partial:
        partial.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    umask = os.umask(0o022)
    os.umask(umask)
    assert real.stat().st_mode & 0o777 == 0o666 & ~umask


def test_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "a"):
        pass


def test_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with atomic_folder(target) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_folder_refuses_or_replaces_what_is_there(tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.mkdir()
    with atomic_folder(target) as partial:  # an empty folder is no loss
        (partial / "a").write_text("1")
    with pytest.raises(FileExistsError), atomic_folder(target):
        pass
    with atomic_folder(target, overwrite=True) as partial:
        (partial / "b").write_text("2")
    assert [p.name for p in target.iterdir()] == ["b"]
    with pytest.raises(RuntimeError), atomic_folder(target, overwrite=True):
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [target]


def test_folder_replacement_is_undone_when_the_second_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run"
    target.mkdir()
    (target / "a").write_text("old")
    real, calls = os.replace, []

    def second_fails(source: Path, destination: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        real(source, destination)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="Input"), atomic_folder(target, overwrite=True) as partial:
        (partial / "a").write_text("new")
    assert (target / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_name_that_is_not_kept_leaves_nothing_new(
    replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run"
    if replaced:
        target.mkdir()

    def full(path: Path) -> None:
        if path == tmp_path:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("nuwa_lightning.atomic.fsync_path", full)
    with pytest.raises(OSError, match="No space"), atomic_folder(target, overwrite=True) as partial:
        (partial / "a").write_text("new")
    assert list(tmp_path.iterdir()) == [target] * replaced  # what was replaced is gone, so what replaced it stays


def test_json_is_sorted_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert path.read_text(encoding="utf-8").startswith("{")
