"""The commit that records and reports name: whether files differ from it, without running what a repository brings."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import evaluation.record
from nuwa_lightning import environment


def test_the_commit_is_read_and_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str, cwd: Path = tmp_path) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *who, *words], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    assert environment.commit() is None
    git("init", "-q")
    assert environment.commit() is None
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-q", "-m", "a")
    expected = git("rev-parse", "HEAD")[:12]
    assert environment.commit() == expected
    (tmp_path / "a").touch()
    (tmp_path / "beside").write_text("not tracked")
    assert environment.commit() == expected
    (tmp_path / "a").write_text("b")
    assert environment.commit() == f"{expected}-dirty" == git("describe", "--always", "--abbrev=12", "--dirty")
    git("checkout", "a")
    git("worktree", "add", "-q", "tree")
    monkeypatch.chdir(tmp_path / "tree")
    assert environment.commit() == expected
    git("pack-refs", "--all")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert environment.commit() == expected
    dead = f"touch {tmp_path / 'dead'}"
    hook = tmp_path / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{dead}\n")
    hook.chmod(0o755)
    git("config", "core.fsmonitor", f"{dead}; false")
    git("config", "diff.x.command", dead)
    git("config", "diff.x.textconv", dead)
    git("config", "diff.external", dead)
    (tmp_path / ".gitattributes").write_text("* filter=x diff=x")
    (tmp_path / "a").write_text("b")
    assert environment.commit() == f"{expected}-dirty"
    unseen = f"{expected} (changes not looked for)"
    for name, value in (
        ("filter.x.clean", f"{dead}; cat"),
        ("filter.x.process", dead),
        ("hook.x.command", dead),
        ("remote.x.promisor", "true"),
        ("extensions.partialClone", "x"),
    ):
        git("config", name, value)
        assert environment.commit() == unseen
        monkeypatch.setattr(evaluation.record, "__file__", str(tmp_path / "record.py"))
        assert evaluation.record.commit() == unseen
        git("config", "--unset", name)
    (tmp_path / "filters").write_text(f'[filter "x"]\n\tclean = {dead}\n')
    git("config", "include.path", str(tmp_path / "filters"))
    assert environment.commit() == unseen
    assert not (tmp_path / "dead").exists()
    git("config", "--unset", "include.path")
    git("checkout", "-q", "--detach")
    assert environment.commit() == f"{expected}-dirty"
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff")
    assert environment.commit() is None
