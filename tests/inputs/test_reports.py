"""Reports and tables of samples that are read back: whole, or one line that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from evaluation.record import SAMPLES, digest, read_report, samples_of
from nuwa_lightning.errors import UsageError

REPORT: dict[str, Any] = {"metrics": [{"name": "KID"}], "protocol": {"sha256": "0", "settings": {}}, "sets": {}}
GOOD = json.dumps({**REPORT, "digest": digest(REPORT)})
DAMAGE: dict[str, str | bytes] = {
    "nothing": "",
    "cut": GOOD[:-9],
    "deep": "[" * 100_000,
    "deep mappings": '{"a":' * 100_000,
    "5000 digits": '{"metrics": ' + 5000 * "9" + "}",
    "binary": b"\xff\xfe\0",
    "a list": "[]",
    "null": "null",
    "a word": '"report"',
}
NO_REPORT = {
    "another value": GOOD.replace("KID", "FID"),
    "NaN": GOOD.replace('"KID"', "NaN"),
    "rows of numbers": GOOD.replace('[{"name": "KID"}]', "[1, 2]"),
    "no rows": GOOD.replace('[{"name": "KID"}]', "null"),
    "a protocol of text": GOOD.replace('{"sha256": "0", "settings": {}}', '"landscape"'),
    "settings of text": GOOD.replace('"settings": {}', '"settings": "none"'),
}


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_whole_one_is_read(tmp_path: Path) -> None:
    assert read_report(written(tmp_path / "report.json", GOOD))["metrics"] == [{"name": "KID"}]
    assert samples_of(written(tmp_path / SAMPLES, '{"images": 3}').parent) == {"images": 3}


@pytest.mark.parametrize("kind", [*DAMAGE, *NO_REPORT])
def test_reports(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "report.json", {**DAMAGE, **NO_REPORT}[kind])
    with pytest.raises(UsageError, match=r"^report: .*report.json: ") as caught:
        read_report(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", DAMAGE)
def test_tables_of_samples(tmp_path: Path, kind: str) -> None:
    written(tmp_path / SAMPLES, DAMAGE[kind])
    with pytest.raises(UsageError, match=r"^generated: .*samples.json: is damaged"):
        samples_of(tmp_path)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.json")
    with pytest.raises(UsageError, match="a pipe"):
        read_report(tmp_path / "report.json")
