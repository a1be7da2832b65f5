"""What an ablation is: one YAML file, and the grid of cells that follows from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.config import build, flat, read_yaml
from evaluation.protocol import load_protocol, settings_sha256
from nuwa_lightning.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        overlays: files laid over the base recipe.
        options: options of ``fit`` on top of them, by their dotted names.
        sampler: how images are made of the trained model: its import path, or one of ``evaluation.sampling.ALIASES``.
        seeds: other seeds than the ablation's.
        note: a sentence for the report.
    """

    overlays: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    sampler: str = "patches"
    seeds: tuple[int, ...] | None = None
    note: str = ""


@dataclass(frozen=True)
class Samples:
    """Images that every cell makes, from the same seeds.

    Attributes:
        size: width and height in pixels, as ``1024x256``.
        count: how many for each training seed; training seed s makes those of seeds 1000 s, 1000 s + 1, ...
        protocol: what they are scored by.
        batch: how many are made side by side.
    """

    size: str
    count: int
    protocol: str
    batch: int = 16

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width."""
        found = re.fullmatch(r"(\d+)x(\d+)", self.size)
        if found is None or min(map(int, found.groups())) < 1:
            raise UsageError("samples.size", self.size, "write WIDTHxHEIGHT in pixels, such as 1024x256")
        return int(found[2]), int(found[1])


@dataclass(frozen=True)
class Ablation:
    """An ablation.

    Attributes:
        name: of its output folder and report.
        question: what it asks, in a sentence.
        base: the recipe that every cell starts from; its tokenizer is shared by all.
        cells: the variants by name.
        samples: the images by name.
        seeds: training seeds.
        options: options of ``fit`` for every cell.
        real: real images: "landscape", or a folder.
        temperature: of sampling.
        top_k: of sampling.
        output: where everything lies; by default ``runs/ablations/NAME``.
    """

    name: str
    question: str
    base: str
    cells: dict[str, Variant]
    samples: dict[str, Samples]
    seeds: tuple[int, ...] = (0, 1, 2)
    options: dict[str, Any] = field(default_factory=dict)
    real: str = "landscape"
    temperature: float = 1.0
    top_k: int = 50
    output: str | None = None

    def __post_init__(self) -> None:
        for name in (self.name, *self.cells, *self.samples):
            if not _NAME.fullmatch(name):
                raise UsageError("ablation", name, "names are of letters, digits, '-', '_' and '.'")
        if not self.cells or not self.samples or not self.seeds:
            raise UsageError("ablation", self.name, "needs cells, samples and seeds: give at least one each")
        for samples in self.samples.values():
            _ = samples.pixels

    def grid(self) -> list[Cell]:
        """Return every cell: all variants of the first seed, then of the next, so that a part tells something."""
        seeds = dict.fromkeys([*self.seeds, *(s for v in self.cells.values() for s in v.seeds or ())])
        return [
            Cell(self, name, seed)
            for seed in seeds
            for name, variant in self.cells.items()
            if seed in (self.seeds if variant.seeds is None else variant.seeds)
        ]


@dataclass(frozen=True)
class Cell:
    """One variant at one seed."""

    ablation: Ablation
    name: str
    seed: int

    @property
    def variant(self) -> Variant:
        """Its row of the table."""
        return self.ablation.cells[self.name]

    @property
    def label(self) -> str:
        """What to call it, and how to name it on the command line."""
        return f"{self.name}:{self.seed}"

    def folder(self, output: Path) -> Path:
        """Return where it lies."""
        return output / "cells" / self.name / f"seed_{self.seed}"

    def definition(self) -> dict[str, Any]:
        """Return all that decides what the cell is, as plain values: contents of recipes, not their names."""
        ablation, variant = self.ablation, self.variant
        samples = {
            name: {
                "size": wanted.size,
                "count": wanted.count,
                "protocol": settings_sha256(load_protocol(wanted.protocol).settings()),
            }
            for name, wanted in ablation.samples.items()
        }
        return {
            "base": read_yaml(Path(ablation.base), "ablation.base"),
            "overlays": [read_yaml(Path(path), f"cells.{self.name}.overlays") for path in variant.overlays],
            "options": {**ablation.options, **variant.options},
            "sampler": variant.sampler,
            "sampling": {"temperature": ablation.temperature, "top_k": ablation.top_k},
            "samples": samples,
            "real": ablation.real,
            "seed": self.seed,
        }


def definition_sha256(definition: dict[str, Any]) -> str:
    """Return the hash of a cell's definition."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def load_ablation(path: str | Path) -> Ablation:
    """Return the ablation of a file."""
    return build(Ablation, read_yaml(Path(path), "config"), "ablation")


def changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what differs between two definitions, as ``options.trainer.max_steps: 900 against 300``."""
    a, b = (flat(json.loads(json.dumps(one))) for one in (old, new))
    return [
        f"{key}: {a.get(key, 'absent')} against {b.get(key, 'absent')}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, "absent") != b.get(key, "absent")
    ]


def replaced(ablation: Ablation, changes: dict[str, Any]) -> Ablation:
    """Return the ablation with fields replaced."""
    return dataclasses.replace(ablation, **changes)
