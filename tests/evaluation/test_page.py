"""docs/evaluation.md tells of every metric what it sees, what it does not, its unit, its source and its cost."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from evaluation.protocol import FOLDER, Metrics, Reconstruction
from evaluation.video import curves
from evaluation.video.measures import Motion
from evaluation.video.score import _KINDS, VideoProtocol

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
ROWS = {
    "kid": "KID", "fid": "FID", "mind": "MIND", "cmmd": "CMMD", "inception_score": "IS", "clip": "CLIP-score",
    "manifold": "precision, recall, density, coverage", "diversity": "diversity", "blocks": "Block-KID, Block-FID",
    "seams": "seam ratio, token grid ratio, any place", "collapse": "collapsed", "color": "color",
    "memorization": "authenticity, nearest real, copies of real files",
    "psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS",
    "fvd": "FVD", "fvd_over_n": "FVD", "kvd": "KVD", "jedi": "JEDi", "block_frames": "Block-FVD",
    "flicker": "frame difference, flicker", "motion_block": "motion speed", "curves": "curves",
}  # fmt: skip
"""What a setting adds to a report."""


def table() -> list[list[str]]:
    """The page's first table, cell by cell."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = lines.index("| row | sees | does not see | unit | source | cost beside features |")
    rows = lines[first + 2 :]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows[: rows.index("")]]


def test_each_metric_has_a_line() -> None:
    switches = {field.name for kind in (Metrics, Reconstruction) for field in dataclasses.fields(kind)}
    fixed = {"name", "version", "real", "generated", "features", "distances", "resamples", "splits", "seed"}
    switches |= {*_KINDS, *(field.name for field in dataclasses.fields(VideoProtocol))} - fixed
    assert ROWS.keys() == switches
    named = {name.strip(' "`') for row in table() for name in re.split("[,;:()]", row[0])}
    assert {name for row in ROWS.values() for name in row.split(", ")} <= named
    parts = {field.name for field in dataclasses.fields(Motion)} - {"speed"} | set(curves.NAMES)
    assert parts | {"motion speed"} <= named


def test_each_line_is_whole() -> None:
    rows = table()
    assert all(len(row) == 6 and all(row) for row in rows), [row[0] for row in rows if len(row) != 6 or not all(row)]


def test_each_shipped_protocol_is_named() -> None:
    text = (PAGE.parents[1] / "evaluation/README.md").read_text(encoding="utf-8")
    assert {path.stem for path in FOLDER.glob("*.yaml")} <= set(re.findall(r"`(\w+)`", text))
