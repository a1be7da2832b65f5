"""``test`` with the scoring overlay: both stages, the same numbers as scoring the folder, in TensorBoard."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import yaml

from evaluation.protocol import load_protocol
from evaluation.record import read_report
from evaluation.score import Work, score
from nuwa_lightning.cli import main
from nuwa_lightning.errors import UsageError
from tests.commands.conftest import lightning_may_warn
from tests.evaluation.ablation_toys import TOY


@pytest.fixture
def place(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    protocol = {**TOY, "metrics": {"kid": {}}, "real": {**TOY["real"], "count": 30}}
    Path("protocol.yaml").write_text(yaml.safe_dump(protocol))
    options = {"protocol": "protocol.yaml", "real": "photos", "count": 10, "size": "64x64", "cache": "cache"}
    callback = {"class_path": "evaluation.callbacks.Scores", "init_args": options}
    Path("scores.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    return tmp_path / "place"


def run(*arguments: str) -> int:
    with lightning_may_warn(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The dirpath has changed")  # the run was copied
        return main([*arguments])


def logged(folder: Path) -> dict[str, tuple[int, float]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return {
        value.tag: (event.step, float(value.tensor.float_val[0]))
        for path in sorted(folder.glob("events*"))
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag.startswith("test/") and value.tensor.float_val
    }


def test_samples_of_a_checkpoint_are_scored(place: Path) -> None:
    assert run("test", "-c", "two.yaml", "-c", "scores.yaml", "--ckpt_path", "last") == 0
    folder = Path("two/scores/step_0000006")
    report = read_report(folder / "report.json")
    again = score(load_protocol("protocol.yaml"), "photos", generated=folder / "samples", work=Work(cached=False))
    assert report["metrics"] == again["metrics"]
    values = logged(Path("two/tensorboard"))
    assert values["test/toy-KID"] == (6, pytest.approx(report["metrics"][0]["value"], rel=1e-5))
    assert {"test/loss", "test/loss_first_column"} <= values.keys()


def test_reconstructions_of_a_tokenizer_are_scored(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = {**yaml.safe_load(Path("protocol.yaml").read_text()), "generated": {"crop": "whole"}, "metrics": {}}
    Path("protocol.yaml").write_text(yaml.safe_dump(protocol))
    monkeypatch.setattr("evaluation.score.LEAST", 1)  # the toy data hold out an image or two
    assert run("test", "-c", "one.yaml", "-c", "scores.yaml", "--ckpt_path", "last") == 0
    folder = Path("one/scores/step_0000006")
    report = read_report(folder / "report.json")
    pairs = len(list((folder / "original").iterdir()))
    assert report["sets"]["reconstruction"]["pairs"] == pairs > 0
    values = logged(Path("one/tensorboard"))
    rows = {row["name"]: row for row in report["metrics"]}
    assert values["test/PSNR"] == (6, pytest.approx(rows["PSNR"]["value"], rel=1e-5))
    assert values["test/psnr"][1] == pytest.approx(rows["PSNR"]["value"], abs=0.1)  # the module's own, unrounded


def test_wrong_options_are_refused() -> None:
    from evaluation.callbacks import Scores

    with pytest.raises(UsageError, match="there is no such file"):
        Scores(protocol="none")
    with pytest.raises(UsageError, match="write WIDTHxHEIGHT"):
        Scores(size="big")
