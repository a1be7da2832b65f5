"""Refining the decoder before stage 2, on all cores; beside it, see test_refinement."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from nuwa_lightning.cli import main
from nuwa_lightning.commands import tokenizer as module
from nuwa_lightning.commands.tokenizer import (
    Refinement,
    TokenizerSource,
    check_recipes,
    expected_factor,
    provide_tokenizer,
)
from nuwa_lightning.errors import ToldError, UsageError
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.signals import Stopped
from nuwa_lightning.tokenizers.pretrained import save_tokenizer

SIZE = VQGANConfig(
    16, 4, encoder_channels=(8, 8), encoder_blocks=(0, 0), decoder_channels=(8, 8), decoder_blocks=(1, 1)
)
TOKENIZER = VQGAN.build(SIZE)


@pytest.fixture
def source(tmp_path: Path) -> TokenizerSource:
    return TokenizerSource("codes", refine="refine.yaml", refined=str(tmp_path / "better" / "tokenizer"), beside=False)


def training(monkeypatch: pytest.MonkeyPatch, source: TokenizerSource, *, status: int, makes: bool) -> list[list[str]]:
    """Stand in for the process; returns the list in which its commands will be found."""
    commands: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], **options: object) -> None:
            assert options.keys() == {"env"}, "it is not to run beside stage 2"
            commands.append(command)
            if makes:
                folder = Path(str(source.refined))
                folder.mkdir(parents=True)
                (folder / "config.json").write_text("{}")

        def __enter__(self) -> Process:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self) -> int:
            return status

    def find(source: TokenizerSource, _: object) -> str | None:
        return source.refined if Path(str(source.refined), "config.json").exists() else None

    monkeypatch.setattr(module, "find_refined", find)
    monkeypatch.setattr(subprocess, "Popen", Process)
    return commands


def test_it_is_finished_before_stage_2_which_keeps_all_threads(source, monkeypatch, tmp_path):
    commands, threads = training(monkeypatch, source, status=0, makes=True), torch.get_num_threads()
    for _ in range(2):  # the second time it is there already
        refinement = Refinement.start(source, TOKENIZER, tmp_path / "run")
        assert refinement.wait(TOKENIZER) == source.refined
    (command,) = commands
    assert command[command.index("--config") + 1] == "refine.yaml"
    assert command[command.index("--run") + 1] == str(tmp_path / "better")
    assert command[-2:] == ["--model.start_from", "codes"]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("status", "makes"), [(2, False), (0, False), (1, True)])
def test_one_that_fails_stops_the_run_in_one_line(source, monkeypatch, tmp_path, status, makes):
    training(monkeypatch, source, status=status, makes=makes)
    with pytest.raises(UsageError, match=r"refine\.yaml: its training ended with status"):
        Refinement.start(source, TOKENIZER, tmp_path / "run")


def test_a_training_that_said_what_is_wrong_is_not_told_again(source, monkeypatch, tmp_path, capsys):
    training(monkeypatch, source, status=2, makes=False)
    with pytest.raises(ToldError):
        Refinement.start(source, TOKENIZER, tmp_path / "run")
    monkeypatch.setattr(
        "nuwa_lightning.commands.generate.generate", lambda _: Refinement.start(source, TOKENIZER, tmp_path)
    )
    assert (main(["generate"]), capsys.readouterr().err) == (2, "")


def test_recipes_that_will_be_needed_are_looked_for_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("made").mkdir()
    Path("made/config.json").write_text("{}")
    Path("there.yaml").write_text("")
    check_recipes(TokenizerSource("made", "no.yaml", "no.yaml", "made", guided="made", guided_recipe="no.yaml"))
    check_recipes(TokenizerSource("new", "there.yaml", "there.yaml", "new", guided="new", guided_recipe="there.yaml"))
    for name, wrong in {
        "recipe": TokenizerSource("new", "no.yaml"),
        "refine": TokenizerSource("made", refine="no.yaml", refined="new"),
        "guided_recipe": TokenizerSource("made", guided="new", guided_recipe="no.yaml"),
    }.items():
        with pytest.raises(UsageError, match=rf"^--tokenizer\.{name}: no\.yaml: there is no such file"):
            check_recipes(wrong)


def test_a_class_is_looked_for_before_it_is_told(caplog, monkeypatch, tmp_path):
    (tmp_path / "my_own.py").write_text("class Mine:\n    encode = decode = fingerprint = lambda self: None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    caplog.set_level("INFO")
    for path in ("my_own.Yours", "no_such.Mine"):
        with pytest.raises(UsageError, match=rf"^--tokenizer\.path: {path}: is no folder and no class"):
            provide_tokenizer(TokenizerSource(path), fast_dev_run=False)
    assert not caplog.records
    provide_tokenizer(TokenizerSource("my_own.Mine"), fast_dev_run=False)
    assert caplog.messages == ["tokenizer: the class my_own.Mine"]


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        ({"vqgan": {"encoder_channels": [8, 8, 8], "encoder_blocks": [1, 1, 1]}}, 16),
        ({"vqgan": {"codebook_size": 16}}, 8),
        ({}, 8),
        ({"vqgan": {"cell": 8}}, 16),
        ({"vqgan": {"cel": 8}}, None),
        ({"start_from": "other"}, None),
    ],
)
def test_the_size_of_a_token_is_read_from_the_recipe(tmp_path, model, factor):
    recipe = tmp_path / "one.yaml"
    recipe.write_text(yaml.safe_dump({"model": {"class_path": "VQGANModule", "init_args": model}}))
    assert expected_factor(TokenizerSource(str(tmp_path / "new"), str(recipe))) == factor
    assert expected_factor(TokenizerSource(str(tmp_path / "new"))) is None
    (tmp_path / "config.json").write_text("{}")
    assert expected_factor(TokenizerSource(str(tmp_path), str(recipe))) is None


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_is_passed_on(source, monkeypatch, tmp_path, name):
    training(monkeypatch, source, status=128 + signal.Signals[name], makes=False)
    with pytest.raises(Stopped, match=name):
        Refinement.start(source, TOKENIZER, tmp_path / "run")


def test_another_tokenizer_that_was_made_beside_stage_2_costs_the_model_nothing(source, caplog):
    """It shows at the end only: the run keeps the decoder that fits it."""
    save_tokenizer(str(source.refined), TOKENIZER)
    found = Refinement(None, source).wait(TOKENIZER)
    assert found is not None
    assert found.full_fingerprint() == TOKENIZER.full_fingerprint()
    assert not caplog.messages
    assert Refinement(None, source).wait(VQGAN.build(SIZE)) is None
    assert "is not codes refined, but another tokenizer" in caplog.text
    assert caplog.text.rstrip().endswith("using the decoder unrefined")
