"""What each number is of stands below every table, and goes with it into a paper."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from evaluation.record import write_report
from evaluation.report.study import Line, Number, load_study
from evaluation.report.writing import write_study
from evaluation.score import score
from evaluation.table import text_table
from tests.evaluation.test_faults import NO_CACHE, part, protocol

FEW = "of so few (below 20) it holds some 92 %, not 95 %"
LOW_RANK = "Frechet distances are of fewer images than features"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> tuple[dict[str, Any], Path]:
    """A report of ten images chosen of 400, and the folder of its page."""
    place = tmp_path_factory.mktemp("notes")
    chosen = part(folders["other"], place / "chosen", 10)
    (chosen / "samples.json").write_text(json.dumps({"images": 400, "size": "1", "temperature": 1, "top_k": 2}))
    wanted = protocol(place, "splits=2", kid={}, mind={"projections": 20}, fid={"low_rank": "state"}, manifold={})
    report = score(wanted, folders["real"], generated=chosen, work=NO_CACHE)
    write_report(place / "report.json", report)
    write_study(load_study([place / "report.json"], "again"), place / "page")
    return report, place / "page"


def test_every_row_leads_to_what_it_is_of(made: tuple[dict[str, Any], Path]) -> None:
    text = text_table(made[0])
    notes = dict(re.findall(r"^\[(\d+)\] (.+)$", text, re.M))
    assert len(set(notes.values())) == len(notes) == len({row["how"] for row in made[0]["metrics"]})
    for row in made[0]["metrics"]:
        (number,) = re.findall(rf"^{re.escape(row['name'])}  .*\[(\d+)\]$", text, re.M)
        assert notes[number] == row["how"]
    assert FEW in text


def test_the_page_and_markdown_say_it(made: tuple[dict[str, Any], Path]) -> None:
    page = html.unescape((made[1] / "report.html").read_text("utf-8"))
    markdown = (made[1] / "report.md").read_text("utf-8")
    for row in made[0]["metrics"]:
        (number,) = re.findall(rf"^\| {re.escape(row['name'])} \|.* (\d+) \|$", markdown, re.M)
        assert f"\n{number}. {row['how']}\n" in markdown
        assert f"<li>{row['how']}</li>" in page
    for text in (page, markdown):
        assert FEW in text
        assert LOW_RANK in text
        assert "chosen of 400 that were made" in text


def test_tables_for_papers_say_what_they_are_of(made: tuple[dict[str, Any], Path]) -> None:
    report, folder = made
    comments = [line for line in (folder / "report.tex").read_text().splitlines() if line.startswith("%")]
    told = "\n".join(comments)
    sha256 = report["protocol"]["sha256"]
    for said in (f"test version 1 (of your own), sha256 {sha256[:12]}", "10 crops", "chosen of 400", LOW_RANK, FEW):
        assert said in told
    assert "% toy-precision, toy-recall: 3 neighbors; interval: Wilson" in told
    rows = {row["metric"]: row for row in csv.DictReader((folder / "report.csv").read_text().splitlines())}
    for row in report["metrics"]:
        found = rows[row["name"]]
        assert (found["n"], found["how"], found["protocol"]) == (str(row["n"]), row["how"], f"test {sha256}")


def test_notes_name_the_entries_that_they_are_of() -> None:
    def line(*how: str) -> Line:
        numbers = {name: Number(1, 0, 2, (1,), 10, one) for name, one in zip("abc", how, strict=True)}
        return Line("KID", "lower", numbers, None, None)

    assert line("x", "x", "x").notes() == ["x"]
    assert line("x", "y", "x").notes() == ["a, c: x", "b: y"]
    assert line("", "", "").notes() == []
