"""The paper's numbers beside ours: every cell is there, and orderings are judged by intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.__main__ import main
from evaluation.ablation import running
from evaluation.ablation.config import Ablation, load_ablation
from evaluation.commands.paper import Options, asked, run
from evaluation.config import build
from evaluation.paper import PaperTable, comparison, load_paper
from evaluation.report.study import Entry, Result, Study
from nuwa_lightning.errors import UsageError
from tests.evaluation.ablation_toys import TOY, Calls, write

ROOT = Path(__file__).resolve().parents[2]


def test_each_of_its_cells_is_in_an_ablation_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for table in load_paper().tables:
        found = load_ablation(table.ablation)
        assert {*table.below, *table.below.values()} <= set(table.rows) <= set(found.cells)
        assert set(found.samples) == {"views", "wide"}
        made = build(Ablation, asked([table], Options(seeds=(4, 5, 6), option=("trainer.max_steps=7",))), "ablation")
        assert set(made.cells) == set(table.rows)
        assert (made.seeds, made.options["trainer.max_steps"]) == ((4, 5, 6), 7)


def test_too_few_seeds_are_refused() -> None:
    with pytest.raises(UsageError, match="needs 3 or more"):
        run(Options(seeds=(0, 0, 1)), "")
    with pytest.raises(UsageError, match="choose among local_decoder"):
        run(Options(only=("nonsense",)), "")


def entry(name: str, values: list[float]) -> Entry:
    def report(value: float) -> dict[str, Any]:
        row = {"name": "lite0-Block-FID (positions)", "set": "generated", "value": value, "low": value, "high": value,
               "better": "lower", "floor": 0.0}  # fmt: skip
        return {"protocol": {"sha256": "x"}, "sets": {}, "metrics": [row]}

    return Entry(name, "", [Result(i, {"views": report(value)}, {}) for i, value in enumerate(values)])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([30.0, 30.1, 29.9], "holds (below b)"),
        ([5.0, 5.1, 4.9], "does not hold (below b)"),
        ([11.0, 8.0, 13.0], "same order, intervals meet (below b)"),
    ],
)
def test_orderings_are_judged_by_intervals(values: list[float], said: str) -> None:
    table = PaperTable("t", "x.yaml", {"b": (20.0, None), "a": (10.0, 1.0)})
    rows = comparison(table, Study("t", "q", [entry("a", [10.0, 10.1, 9.9]), entry("b", values)], []))
    assert rows[2][:3] == ["a", "views", "10.00"]
    assert rows[2][3].startswith("10.0 [")
    assert rows[2][4:] == ["3", said]
    assert rows[1][5] == ""
    assert rows[4][2:4] == ["1.00", "not done"]
    drawn = PaperTable("t", "x.yaml", {"a": (None, None), "b": (None, None)}, below={"a": "b"})
    told = comparison(drawn, Study("t", "q", [entry("a", [10.0, 10.1, 9.9]), entry("b", values)], []))
    assert [row[5] for row in told[1:]] == [said, "", "", ""]


def test_a_single_seed_is_not_ordered_beside_several() -> None:
    table = PaperTable("t", "x.yaml", {"b": (20.0, None), "a": (10.0, None)})
    rows = comparison(table, Study("t", "q", [entry("a", [10.0]), entry("b", [30.0, 30.1, 29.9])], []))
    assert rows[2][4:] == ["1", ""]


@pytest.mark.slow
def test_a_table_from_training_to_its_lines(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Six cells of toy size: stopped after three trainings, gone on with, scored, and beside the paper's numbers."""
    write(tmp_path, finished)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    blocks = {"blocks": {"side": 16, "against": "pooled", "distances": ["fid"]}}
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump({**TOY, "metrics": blocks}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUWA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    calls = Calls()
    monkeypatch.setattr(running, "_call", calls)
    command = ["paper", "--only", "caches", "--set", "base=two.yaml", "real=photos"]
    for name, size in (("views", "64x64"), ("wide", "128x64")):
        settings = {"size": size, "count": 10, "protocol": "protocol.yaml"}
        command += [f"samples.{name}.{key}={value}" for key, value in settings.items()]
    command += ["--option", "trainer.max_steps=2"]
    calls.fail_after = 2
    assert main(command) == 130
    assert len(calls.commands) == 3
    calls.fail_after = None
    capsys.readouterr()
    assert main(command) == 0
    assert len(calls.commands) == 6
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {(line[0], line[1]): line[2:] for line in lines if line[1:2] in (["views"], ["wide"])}
    assert {key: row[0] for key, row in rows.items()} == {
        ("with", "views"): "10.21", ("without", "views"): "15.80",
        ("with", "wide"): "23.62", ("without", "wide"): "38.32",
    }  # fmt: skip
    assert all("[" in "".join(row) and "3" in row for row in rows.values())
    assert "below" in " ".join(rows["with", "views"])
    assert main([*command, "--tables_only"]) == 0
    assert len(calls.commands) == 6
