"""Cells are trained, sampled and scored once each, go on where they were, and merge only with their like."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from evaluation.__main__ import main
from evaluation.ablation import running
from evaluation.ablation.config import changed, load_ablation
from evaluation.ablation.curves import read_curves, training_seconds
from evaluation.ablation.running import parameters
from evaluation.record import digest, read_report
from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.tokenizers.pretrained import save_tokenizer
from tests.commands.conftest import lightning_may_warn
from tests.evaluation.ablation_toys import ABLATION, Calls, write

OUTPUT = Path("runs/ablations/toy")


@pytest.fixture
def place(tmp_path: Path, ablated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished ablation."""
    shutil.copytree(ablated, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("NUWA_LIGHTNING_CACHE", str(tmp_path / "place" / "cache"))
    return tmp_path / "place"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made = Calls()
    monkeypatch.setattr(running, "_call", made)
    return made


def ablate(*more: str) -> int:
    with lightning_may_warn():
        return main(["ablate", "--config", "toy.yaml", *more])


def told(name: str, seed: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((OUTPUT / "cells" / name / f"seed_{seed}" / "cell.json").read_text())
    return found


def test_every_cell_is_there_with_images_scores_and_costs(place: Path) -> None:
    for name, seed in (("nearby", 0), ("nearby", 1), ("empty", 0), ("window", 0)):
        cell = OUTPUT / "cells" / name / f"seed_{seed}"
        images = sorted(path.name for path in (cell / "views").glob("*.png"))
        assert images == [f"seed_{1000 * seed + i:06d}.png" for i in range(10)]
        report = json.loads((cell / "scores" / "views.json").read_text())
        names = [row["name"] for row in report["metrics"] if not row["name"].startswith("color: ")]
        assert names == [
            "toy-KID", "toy-nearest real", "toy-authenticity", "copies of real files",
            "seam ratio", "token grid ratio", "seam ratio, any place",
        ]  # fmt: skip
        found = told(name, seed)
        assert found["parameters"] == parameters(cell / "run" / "model") > 1000
        assert found["sampling"]["views"]["images"] == 10
        assert found["training_seconds"] >= 0  # a toy may be done within one tick of the log
        assert "train/loss" in read_curves(cell / "run" / "tensorboard")
        config = yaml.safe_load((cell / "run" / "config.yaml").read_text())
        assert (config["seed_everything"], config["data"]["init_args"]["seed"]) == (seed, seed)
        assert config["trainer"]["max_steps"] == 4
    assert not list(OUTPUT.glob("**/samples.png"))  # no image grids, no refinement
    pools = {name: told(name)["command"] for name in ("nearby", "empty")}
    assert "--config empty.yaml" in pools["empty"]
    assert (OUTPUT / "report" / "report.html").is_file()


def test_what_is_done_is_not_done_again(place: Path, calls: Calls, capsys: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in OUTPUT.rglob("*.png")}
    assert ablate() == 0
    assert "all cells are done" in capsys.readouterr().err
    assert calls.commands == []
    cell = OUTPUT / "cells" / "nearby" / "seed_0"
    (cell / "cell.json").unlink()
    (cell / "views" / "seed_000003.png").unlink()
    shutil.rmtree(cell / "scores")
    assert ablate() == 0
    assert calls.commands == []  # trained already
    after = {path: path.stat().st_mtime_ns for path in OUTPUT.rglob("*.png")}
    renewed = {path.name for path in before if before[path] != after[path] and "report" not in path.parts}
    assert renewed == {"seed_000003.png"}


def test_the_same_image_comes_of_the_same_seed(place: Path, calls: Calls) -> None:
    cell = OUTPUT / "cells" / "window" / "seed_0"
    path = cell / "views" / "seed_000003.png"
    before = path.read_bytes()
    path.unlink()
    (cell / "cell.json").unlink()
    assert ablate("--only", "window", "--no-report") == 0
    assert path.read_bytes() == before


def test_a_stopped_training_goes_on(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, calls: Calls):
    write(tmp_path, finished)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUWA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    calls.fail_after = 0
    with pytest.raises(KeyboardInterrupt), lightning_may_warn():
        from evaluation.ablation.running import Tokenizer, run_cell
        from evaluation.score import Work

        cell = load_ablation("toy.yaml").grid()[0]
        run_cell(cell, OUTPUT, Tokenizer(Path("one/tokenizer"), Path("one/tokenizer")), work=Work())
    run = OUTPUT / "cells" / "nearby" / "seed_0" / "run"
    shutil.rmtree(run / "model")  # as if it had been killed before the end
    calls.fail_after = None
    assert ablate("--only", "nearby:0", "--no-report") == 0
    assert calls.commands[1][-2:] != ["--ckpt_path", "last"]
    assert "--ckpt_path" in calls.commands[1]
    assert told("nearby")["seed"] == 0


def test_a_cell_of_another_definition_is_refused(place: Path, calls: Calls, capsys: Any) -> None:
    changed_yaml = {**ABLATION, "options": {"trainer.max_steps": 5}}
    Path("toy.yaml").write_text(yaml.safe_dump(changed_yaml), encoding="utf-8")
    assert ablate() == 2
    error = capsys.readouterr().err
    assert ":0: was made in another way (options.trainer.max_steps: 4 against 5)" in error
    assert changed({"a": [1]}, {"a": [2]}) == ["a: [1] against [2]"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"options": {"trainer.max_steps": 9000}}, "options.trainer.max_steps: 4 against 9000"),
        ({"samples": {"views": {**ABLATION["samples"]["views"], "count": 14}}}, "samples.views.count: 10 against 14"),
    ],
)
def test_a_cell_is_not_finished_as_another_one(place: Path, calls: Calls, capsys: Any, change: Any, said: str) -> None:
    """Trained and scored, but not done when the file was changed."""
    for path in OUTPUT.rglob("cell.json"):
        path.unlink()
    Path("toy.yaml").write_text(yaml.safe_dump({**ABLATION, **change}), encoding="utf-8")
    assert ablate("--only", "nearby:0", "--no-report") == 2
    assert f"nearby:0: was made in another way ({said})" in capsys.readouterr().err
    cell = OUTPUT / "cells" / "nearby" / "seed_0"
    assert not (cell / "cell.json").exists()
    (cell / "definition.json").unlink()
    assert ablate("--only", "nearby:0", "--no-report") == 2
    assert "does not say what it was begun as" in capsys.readouterr().err
    assert calls.commands == []


def test_an_old_report_is_of_these_images_or_made_anew(place: Path, calls: Calls) -> None:
    cell = OUTPUT / "cells" / "window" / "seed_0"
    (cell / "cell.json").unlink()
    before = read_report(cell / "scores" / "views.json")
    shutil.copy(OUTPUT / "cells" / "empty" / "seed_0" / "views" / "seed_000003.png", cell / "views")
    assert ablate("--only", "window", "--no-report") == 0
    after = read_report(cell / "scores" / "views.json")
    assert after["sets"]["generated"]["sha256"] != before["sets"]["generated"]["sha256"]
    assert told("window")["scores"] == {"views": after["digest"]}


def test_reports_and_times_of_another_cell_are_refused(place: Path, capsys: Any) -> None:
    here, there = (OUTPUT / "cells" / name / "seed_0" for name in ("window", "empty"))
    report = (here / "scores" / "views.json").read_bytes()
    shutil.copy(there / "scores" / "views.json", here / "scores" / "views.json")
    assert main(["report", str(OUTPUT)]) == 2
    assert "is not the report that" in capsys.readouterr().err
    (here / "scores" / "views.json").write_bytes(report)
    faster = told("window")
    faster["sampling"]["views"]["seconds_tokens"] /= 1000
    before = (here / "cell.json").read_bytes()
    (here / "cell.json").write_text(json.dumps(faster))
    assert main(["report", str(OUTPUT)]) == 2
    assert "cell.json: was changed by hand" in capsys.readouterr().err
    (here / "cell.json").write_bytes(before)
    assert main(["report", str(OUTPUT)]) == 0
    shutil.rmtree(here)
    shutil.copytree(there, here)
    assert main(["report", str(OUTPUT)]) == 2
    assert "holds empty:0" in capsys.readouterr().err


def test_cells_made_elsewhere_are_merged(place: Path, calls: Calls, capsys: Any) -> None:
    shutil.copytree(OUTPUT, "elsewhere")
    shutil.rmtree(OUTPUT / "cells" / "empty")
    assert ablate("--merge", "elsewhere") == 0
    assert "empty:0: taken over" in capsys.readouterr().err
    assert calls.commands == []
    assert told("empty")["name"] == "empty"
    assert not list((OUTPUT / "cells" / "empty").rglob("*.ckpt"))
    other = Path("elsewhere/cells/empty/seed_0/cell.json")
    theirs = {**told("empty"), "tokenizer": "0" * 64}
    del theirs["digest"]  # as a cell of an earlier version
    other.write_text(json.dumps(theirs))
    shutil.rmtree(OUTPUT / "cells" / "empty")
    assert ablate("--merge", "elsewhere") == 2
    assert "was made with another tokenizer" in capsys.readouterr().err
    assert ablate("--merge", "nowhere") == 2
    assert "holds no cells" in capsys.readouterr().err


def test_cells_of_other_real_images_are_not_merged(place: Path, calls: Calls, capsys: Any) -> None:
    shutil.copytree(OUTPUT, "elsewhere")
    shutil.rmtree(OUTPUT / "cells" / "empty")
    cell = Path("elsewhere/cells/empty/seed_0")
    report = read_report(cell / "scores" / "views.json")
    real = report["sets"]["real"]
    report["sets"]["real"] = {**real, "folder": "lakes", "sha256": "0" * 64}
    report["digest"] = digest(report)
    (cell / "scores" / "views.json").write_text(json.dumps(report))
    theirs = json.loads((cell / "cell.json").read_text())
    del theirs["digest"]  # as a cell of an earlier version
    (cell / "cell.json").write_text(json.dumps(theirs))
    assert ablate("--merge", "elsewhere") == 2
    said = f"empty:0: was scored against other real images (lakes, ours: {real['folder']})"
    assert said in capsys.readouterr().err
    assert not (OUTPUT / "cells" / "empty").exists()


def test_two_processes_do_not_take_the_same_cell(place: Path, calls: Calls, capsys: Any) -> None:
    import fcntl

    cell = OUTPUT / "cells" / "nearby" / "seed_0"
    (cell / "cell.json").unlink()
    with open(cell / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert ablate("--no-report") == 0
    told_user = capsys.readouterr().err
    assert "nearby:0: another process is at it" in told_user
    assert "left to do: nearby:0" in told_user


def test_dry_run_shows_the_grid_and_does_nothing(place: Path, calls: Calls, capsys: Any) -> None:
    shutil.rmtree(OUTPUT / "cells" / "empty")
    before = sorted(OUTPUT.rglob("*"))
    assert ablate("--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["cell", "seed", "state", "parameters"]
    states = {tuple(line.split()[:2]): line.split()[2] for line in lines[1:-1]}
    assert states[("nearby", "1")] == "done"
    assert states[("empty", "0")] == "to"
    assert lines[-1].startswith("left to do")
    assert sorted(OUTPUT.rglob("*")) == before
    assert calls.commands == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": {"a b": {}}}, "names are of letters"),
        ({"seeds": []}, "needs cells, samples and seeds"),
        ({"cells": {"x": {"overlay": []}}}, r"cells.x.overlay: .*did you mean cells.overlays\?"),
        ({"cells": {"x": {"overlays": ["none.yaml"]}}}, "there is no such file"),
        ({"cells": {"x": {"options": {"model.context_pol": 3}}}}, "cell x:0, --model.context_pol"),
        ({"samples": {"views": {"size": "64", "count": 3, "protocol": "p"}}}, "write WIDTHxHEIGHT"),
        ({"samples": {"views": {"size": "64x64", "count": 3, "protocol": "none.yaml"}}}, "there is no such file"),
        ({"base": "protocol.yaml", "cells": {"x": {}}}, "cell x:0"),
    ],
)
def test_wrong_ablations_are_one_line(
    place: Path, calls: Calls, capsys: Any, change: dict[str, Any], message: str
) -> None:
    import re

    Path("toy.yaml").write_text(yaml.safe_dump({**ABLATION, **change}), encoding="utf-8")
    assert ablate("--output", "other") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert calls.commands == []


def test_cells_are_chosen_by_name_seed_or_index(place: Path, calls: Calls, capsys: Any) -> None:
    from evaluation.commands.ablate import chosen

    cells = load_ablation("toy.yaml").grid()
    assert [cell.label for cell in cells] == ["nearby:0", "empty:0", "window:0", "nearby:1"]
    assert [cell.label for cell in chosen(cells, ["nearby"], None)] == ["nearby:0", "nearby:1"]
    assert [cell.label for cell in chosen(cells, ["nearby:1", "empty"], None)] == ["empty:0", "nearby:1"]
    assert [cell.label for cell in chosen(cells, None, 2)] == ["window:0"]
    with pytest.raises(UsageError, match="choose among nearby, empty, window"):
        chosen(cells, ["full"], None)
    with pytest.raises(UsageError, match="there are 4 cells: give 0 to 3"):
        chosen(cells, None, 4)


def test_pauses_do_not_count_as_training(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step, time in enumerate([0.0, 10.0, 20.0, 5000.0, 5010.0]):
            writer.add_scalar("train/loss", step, step, walltime=1e9 + time, new_style=True)
    assert training_seconds(tmp_path) == pytest.approx(30, abs=1)
    assert read_curves(tmp_path) == {"train/loss": [(i, float(i)) for i in range(5)]}


def test_images_of_no_run_are_refused(tmp_path: Path, capsys: Any) -> None:
    assert main(["sample", "--run", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --run: {tmp_path}: is no folder of a finished run")
    assert not (tmp_path / "out").exists()


def test_the_refined_decoder_of_another_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = {"encoder_blocks": (0, 0), "decoder_blocks": (1, 1)}
    size = VQGANConfig(16, 4, encoder_channels=(8, 8), decoder_channels=(8, 8), **blocks)
    for place in ("one", "better", "another"):
        torch.manual_seed(place == "another")
        save_tokenizer(tmp_path / place, VQGAN.build(size))
    for refined, right in (("better", True), ("another", False)):
        source = {"path": "one", "refine": "refine.yaml", "refined": refined}
        Path("base.yaml").write_text(yaml.safe_dump({"tokenizer": source}), encoding="utf-8")
        ablation: Any = SimpleNamespace(base="base.yaml")
        if right:
            assert running.provide_tokenizer(ablation) == running.Tokenizer(Path("one"), Path("better"))
        else:
            with pytest.raises(UsageError, match="another: is not one refined, but another tokenizer"):
                running.provide_tokenizer(ablation)
