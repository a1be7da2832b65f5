"""The lines of docs/how-to/logger.md: each trains, and keeps the losses and the sheets of samples."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from nuwa_lightning.cli import main
from tests.commands.conftest import lightning_may_warn


@pytest.fixture
def lines(repository: Path) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (repository / "docs" / "how-to" / "logger.md").read_text(), re.DOTALL)


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("photos", "cache", "one"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copy(finished / "two.yaml", tmp_path)
    (tmp_path / "runs" / "landscape").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(line: str) -> None:
    assert len(line.strip().splitlines()) == 1
    Path("logger.yaml").write_text(line)
    with lightning_may_warn():
        assert main(["fit", "-c", "two.yaml", "-c", "logger.yaml"]) == 0


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_wandb(place: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    try:
        fit(next(line for line in lines if "WandbLogger" in line))
    finally:
        wandb.finish()
    (kept,) = (place / "runs" / "landscape" / "wandb").glob("offline-run-*/*.wandb")
    until = time.monotonic() + 60
    while b"train/loss" not in kept.read_bytes() and time.monotonic() < until:  # another process writes it
        time.sleep(0.1)
    assert b"train/loss" in kept.read_bytes()
    sheets = list(kept.parent.glob("files/media/images/samples*.png"))
    last = pixels(place / "two" / "samples.png")
    assert any(np.array_equal(pixels(sheet), last) for sheet in sheets)


def test_mlflow(place: Path, lines: list[str]) -> None:
    mlflow = pytest.importorskip("mlflow")
    line = next(line for line in lines if "MLFlowLogger" in line)
    fit(line)
    client = mlflow.MlflowClient(yaml.safe_load(line)["trainer"]["logger"]["init_args"]["tracking_uri"])
    (run,) = client.search_runs([client.get_experiment_by_name("landscapes").experiment_id])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(6))
    names = [file.path for file in client.list_artifacts(run.info.run_id, "images") if file.path.endswith(".png")]
    last = pixels(place / "two" / "samples.png")
    assert any(np.array_equal(pixels(Path(client.download_artifacts(run.info.run_id, name))), last) for name in names)
