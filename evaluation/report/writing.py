"""Write a study's report: ``report.md`` with its figures, ``report.html``, and the numbers as JSON, CSV and LaTeX."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.report.document import Figure, ImageStrips, blocks_of
from evaluation.report.export import to_csv, to_latex
from evaluation.report.markdown import to_markdown
from evaluation.report.page import to_html
from evaluation.report.study import Study, lines_of
from nuwa_lightning.atomic import atomic_folder


def write_study(study: Study, output: Path) -> Path:
    """Write the report folder, whole or not at all; returns the page. The same study gives the same bytes."""
    import json

    blocks = list(blocks_of(study))
    with atomic_folder(output, overwrite=True) as partial:
        (partial / "figures").mkdir()
        for block in blocks:
            if isinstance(block, Figure):
                (partial / "figures" / f"{block.name}.svg").write_bytes(block.data + b"\n")
            elif isinstance(block, ImageStrips):
                for i, strip in enumerate(block.strips):
                    (partial / "figures" / f"{block.name}_{i}.jpg").write_bytes(strip.jpeg)
        texts = {
            "md": to_markdown(study.title, blocks),
            "html": to_html(study.title, blocks),
            "tex": to_latex(study),
            "csv": to_csv(study),
            "json": json.dumps(numbers_of(study), indent=2, sort_keys=True) + "\n",
        }
        for suffix, text in texts.items():  # names of files may hold bytes that are no UTF-8
            (partial / f"report.{suffix}").write_text(text, encoding="utf-8", errors="backslashreplace")
    return output / "report.html"


def numbers_of(study: Study) -> dict[str, Any]:
    """Return all numbers of the report as plain values."""
    return {
        "title": study.title,
        "question": study.question,
        "missing": list(study.missing),
        "commands": list(study.commands),
        "tables": {
            samples: [
                {
                    "metric": line.name,
                    "better": line.better,
                    "floor": line.floor,
                    "best": line.best,
                    "numbers": {name: asdict(number) for name, number in line.numbers.items()},
                }
                for line in lines_of(study, samples)
            ]
            for samples in study.sample_sets()
        },
        "cells": [
            {key: result.told[key] for key in ("name", "seed", "parameters", "training_seconds", "sampling", "commit")}
            for entry in study.entries
            for result in entry.results
            if result.told
        ],
    }
