"""Reports: numbers over seeds, the best only where intervals part, one page that fetches nothing, the same bytes."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.__main__ import main
from evaluation.report.document import ImageStrips, cost_table, score_table
from evaluation.report.export import to_csv, to_latex
from evaluation.report.figures import learning_curves, quality_against_cost
from evaluation.report.image_grids import strips_of
from evaluation.report.markdown import to_markdown
from evaluation.report.page import to_html
from evaluation.report.study import Entry, Number, Result, Study, best_of, lines_of, load_study, over_seeds, student
from evaluation.table import said_of_set
from nuwa_lightning.errors import UsageError

OUTPUT = Path("runs/ablations/toy")


@pytest.fixture
def place(tmp_path: Path, ablated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ablated, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


class Page(HTMLParser):
    """What a page refers to, and whether its tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(place: Path) -> None:
    text = (OUTPUT / "report" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert all(link.startswith("data:") for link in page.links)
    assert len([link for link in page.links if link.startswith("data:image/svg")]) >= 2
    assert (
        len([link for link in page.links if link.startswith("data:image/jpeg")]) == 8
    )  # samples and nearest of each entry at each seed
    assert "default-src &#x27;none&#x27;" in text
    for said in (
        "Does it run?",
        "toy-KID",
        "nearby",
        "window: the baseline.",
        "seconds a canvas",
        "of a single seed over",
        "python -m evaluation report runs/ablations/toy",
        "python -m evaluation score --real photos --generated runs/ablations/toy/cells/nearby/seed_1/views --protocol",
        "nearby, training seed 1",
        "Nearest real images of views",
        "10 crops of 10 files (10 PNG) of 64x64 pixels",
        "sampled at 64x64, temperature 1.0, top-k 50",
    ):
        assert said in text, said


def test_markdown_and_json_say_the_same(place: Path) -> None:
    text = (OUTPUT / "report" / "report.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (OUTPUT / "report" / link).is_file(), link
    numbers = json.loads((OUTPUT / "report" / "report.json").read_text(encoding="utf-8"))
    table = {line["metric"]: line for line in numbers["tables"]["views"]}
    assert {"toy-KID", "toy-nearest real", "seam ratio", "token grid ratio", "seconds a canvas"} <= table.keys()
    kid, seconds = table["toy-KID"], table["seconds a canvas"]
    told = [json.loads(path.read_text())["sampling"]["views"] for path in OUTPUT.glob("cells/nearby/*/cell.json")]
    each = [(table["seconds_tokens"] + table["seconds_pixels"]) / 10 for table in told]
    assert seconds["numbers"]["nearby"]["value"] == pytest.approx(sum(each) / 2)
    assert seconds["best"] is None  # of one seed there is no interval
    assert len(kid["numbers"]["nearby"]["seeds"]) == 2
    assert f"{kid['numbers']['nearby']['value']:.3f}" in text
    assert "python -m nuwa_lightning fit --config two.yaml" in text
    assert {cell["name"] for cell in numbers["cells"]} == {"nearby", "empty", "window"}


def test_one_command_makes_it_again_to_the_byte(place: Path, capsys: Any) -> None:
    def content() -> dict[str, bytes]:
        return {str(p.relative_to(OUTPUT)): p.read_bytes() for p in (OUTPUT / "report").rglob("*") if p.is_file()}

    before = content()
    assert main(["report", str(OUTPUT)]) == 0
    assert capsys.readouterr().out.strip() == str(OUTPUT / "report" / "report.html")
    assert content() == before


def test_missing_cells_are_said(place: Path) -> None:
    (OUTPUT / "cells" / "empty" / "seed_0" / "cell.json").unlink()
    study = load_study([OUTPUT], "again")
    assert study.missing == ["empty:0"]
    assert [entry.name for entry in study.entries] == ["nearby", "window"]
    for path in OUTPUT.rglob("cell.json"):
        path.unlink()
    with pytest.raises(UsageError, match="no cell of it is done"):
        load_study([OUTPUT], "again")


def test_scored_folders_stand_side_by_side(place: Path, capsys: Any) -> None:
    first, second = (OUTPUT / "cells" / name / "seed_0" / "scores" / "views.json" for name in ("nearby", "empty"))
    assert main(["report", str(first), str(second), "--output", "both"]) == 0
    text = Path("both/report.md").read_text(encoding="utf-8")
    assert "| metric | views | views (2) | floor | better | note |" in text.replace("\\", "")
    shutil.copy(first, "report.json")
    report = json.loads(first.read_text())
    report["protocol"]["settings"]["seed"] = 9
    report["protocol"]["sha256"] = "0"
    from evaluation.record import digest

    report["digest"] = digest(report)
    Path("other.json").write_text(json.dumps(report))
    capsys.readouterr()
    assert main(["report", ".", "other.json", "--output", "both"]) == 2
    assert "protocols differ (seed: 0 against 9)" in capsys.readouterr().err
    assert main(["report", str(OUTPUT), str(first)]) == 2
    assert "a report of its own" in capsys.readouterr().err
    assert main(["report", "nowhere.json"]) == 2


def row(value: float, half: float, **more: Any) -> dict[str, Any]:
    return {"name": "KID", "set": "generated", "value": value, "low": value - half, "high": value + half,
            "better": "lower", "floor": 0.01, **more}  # fmt: skip


def test_best_only_where_intervals_part() -> None:
    def number(value: float, half: float) -> Number:
        return Number(value, value - half, value + half, (value,))

    apart = {"a": number(1, 0.2), "b": number(2, 0.2), "c": number(3, 0.2)}
    assert best_of(apart, "lower") == "a"
    assert best_of(apart, "higher") == "c"
    assert best_of(apart, "as real") is None
    assert best_of({**apart, "d": number(1.3, 0.2)}, "lower") is None
    assert best_of({"a": number(1, 0)}, "lower") is None


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20))
def test_students_interval_equals_scipys(values: list[float]) -> None:
    import numpy as np
    from scipy import stats

    found = student(values)
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)
    if np.std(values) > 1e-6:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        tolerance = 1e-3 if len(values) <= 11 else 0.13  # beyond the table: normal
        assert found.high - found.low == pytest.approx(high - low, rel=tolerance)


def test_one_seed_keeps_its_own_interval() -> None:
    assert over_seeds([row(1.0, 0.3)]) == Number(1.0, 0.7, 1.3, (1.0,))
    assert over_seeds([row(1.0, 0.3), row(2.0, 0.3)]).seeds == (1.0, 2.0)


def study(**folders: list[dict[str, Any]]) -> Study:
    about = {"protocol": {"name": "p", "version": 1, "sha256": "x", "settings": {"name": "p"}}, "sets": {}, "run": {}}
    entries = [
        Entry(name, "", [Result(i, {"s": {**about, "metrics": [one]}}, {}) for i, one in enumerate(rows)])
        for name, rows in folders.items()
    ]
    return Study("t", "q", entries, [])


def test_the_table_marks_the_best_and_shows_the_floor() -> None:
    made = study(a=[row(1.0, 0.1)], b=[row(2.0, 0.1)])
    table = score_table(made, lines_of(made, "s"))
    assert table.rows == [["KID", "1.000 [0.900, 1.100]", "2.000 [1.900, 2.100]", "0.010", "lower"]]
    assert table.marked == {(0, 1)}
    assert learning_curves(made) is None
    assert quality_against_cost(made, "s", "KID") is None


def test_two_floors_are_no_floor() -> None:
    """Of the same real images at the same number there is one, but for the last digits of another machine."""
    lines = lines_of(study(a=[row(1.0, 0.1)], b=[row(2.0, 0.1, floor=0.010000001)]), "s")
    assert lines[0].floor == 0.01
    lines = lines_of(study(a=[row(1.0, 0.1)], b=[row(2.0, 0.1, floor=0.012)]), "s")
    assert lines[0].floor is None


def test_one_chosen_seed_is_not_better_than_three() -> None:
    """Its interval is over images: of 0.10, 0.12 and 0.14 anybody can show the first."""
    chosen, three = [row(0.10, 0.004)], [row(value, 0.004) for value in (0.118, 0.12, 0.122)]
    made = study(chosen=chosen, three=three)
    lines = lines_of(made, "s")
    assert (lines[0].best, lines[0].numbers["three"].low > 0.104) == (None, True)
    assert score_table(made, lines).head == ["metric", "chosen (1 seed)", "three (3 seeds)", "floor", "better"]
    assert lines_of(study(chosen=[row(v, 0.004) for v in (0.099, 0.1, 0.101)], three=three), "s")[0].best == "chosen"


def test_unequal_numbers_have_no_best() -> None:
    (line,) = lines_of(study(a=[row(1.0, 0.1, n=10)], b=[row(2.0, 0.1, n=10)]), "s")
    assert line.best == "a"
    (line,) = lines_of(study(a=[row(1.0, 0.1, n=10)], b=[row(2.0, 0.1, n=20)]), "s")
    assert line.best is None


def timed(name: str, seconds: Sequence[float], values: Sequence[float]) -> Entry:
    """An entry that took so long for each of two canvases."""
    tables = [{"seconds_tokens": 2 * s, "seconds_pixels": 0.0, "images": 2, "tokens": 8} for s in seconds]
    told = [{"training_seconds": 60.0, "parameters": 10, "sampling": {"s": table}} for table in tables]
    reports = [{"protocol": {"sha256": "x"}, "sets": {}, "metrics": [row(value, 0.1)]} for value in values]
    return Entry(name, "", [Result(i, {"s": r}, {}, t) for i, (r, t) in enumerate(zip(reports, told, strict=True))])


def test_generation_time_stands_beside_scores_and_in_the_cost() -> None:
    made = Study("t", "q", [timed("fast", [0.1, 0.11], [1, 1]), timed("slow", [5.0, 5.2], [2, 2])], [])
    (_, line) = lines_of(made, "s")
    assert (line.name, line.best) == ("seconds a canvas", "fast")
    table = cost_table(made)
    assert table is not None
    rows = {cells[0]: cells[1:] for cells in table.rows}
    assert rows["s: canvases while the slowest makes one"] == ["48.6", "1.0"]
    assert rows["s: seconds a canvas"] == ["0.105", "5.100"]
    drawn = quality_against_cost(made, "s", "KID")
    assert drawn is not None
    assert "10" in drawn  # decades, no crowd of labels in scientific notation
    assert "\\times" not in drawn
    near = Study("t", "q", [timed("a", [0.1, 0.1], [1, 1]), timed("b", [0.2, 0.2], [2, 2])], [])
    assert quality_against_cost(near, "s", "KID") != drawn


def test_tables_for_papers() -> None:
    made = study(**{"a_1": [row(1.0, 0.1)], "b": [row(2.0, 0.1)]})
    latex = to_latex(made)
    assert r"KID & \textbf{1.000 [0.900, 1.100]} & 2.000 [1.900, 2.100] & 0.010 & lower \\" in latex
    assert r"metric & a\_1 & b & floor & better \\" in latex
    found = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert [(one["entry"], float(one["value"]), float(one["high"])) for one in found] == [
        ("a_1", 1, 1.1),
        ("b", 2, 2.1),
    ]


def test_names_of_folders_are_no_columns(tmp_path: Path) -> None:
    name = "ours | **best** `x` \\| <b>\n| 0.0"
    made = study(**{name: [row(1.0, 0.1)], "b": [row(2.0, 0.1)]})
    text = to_markdown("t", [score_table(made, lines_of(made, "s"))])
    head, dashes, first = text.splitlines()[2:]
    assert head == r"| metric | ours \| \*\*best\*\* \`x\` \\\| \<b> \| 0.0 | b | floor | better |"
    assert [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in (head, dashes, first)] == [6, 6, 6]


def test_names_of_folders_are_no_lines() -> None:
    assert said_of_set("generated", {"folder": "a\n\x1b[AKID\u200b", "crops": 1, "files": 1}).startswith(
        "generated: a??[AKID?, 1 crops"
    )


def test_folders_of_one_name_keep_their_columns(tmp_path: Path) -> None:
    from evaluation.record import digest

    made = {"commit": "", "run": {}, "protocol": {"sha256": "x", "settings": {}}}
    for number, (name, value) in enumerate((("a", 1.0), ("a", 2.0), ("a (2)", 3.0))):
        sets = {"real": {"sha256": "r"}, "generated": {"folder": name}}
        report = {**made, "sets": sets, "metrics": [row(value, 0.1)]}
        (tmp_path / f"{number}.json").write_text(json.dumps({**report, "digest": digest(report)}))
    found = load_study([tmp_path / f"{number}.json" for number in range(3)], "again")
    (line,) = lines_of(found, "images")
    assert {name: number.value for name, number in line.numbers.items()} == {"a": 1.0, "a (2)": 2.0, "a (2) (2)": 3.0}


def test_captions_stand_below_samples(place: Path) -> None:
    (folder,) = OUTPUT.glob("cells/nearby/seed_0/views")
    first = min(folder.glob("*.png"))
    first.with_suffix(".txt").write_text("a <lake>")
    strip = next(s for s in strips_of(load_study([OUTPUT], "again"), "views") if s.name == "nearby, training seed 0")
    assert strip.captions[0] == "a <lake>"
    assert not any(strip.captions[1:])
    assert "<ol><li>a &lt;lake&gt;</li><li></li>" in to_html("t", [ImageStrips("s", [strip])])
