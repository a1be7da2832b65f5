"""Every ablation that is shipped: its cells are understood by ``fit``, and it says how to run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.ablation.config import load_ablation
from evaluation.ablation.estimating import count, resolve
from evaluation.ablation.running import Tokenizer
from evaluation.sampling import ALIASES

REPOSITORY = Path(__file__).resolve().parents[3]
FILES = sorted((REPOSITORY / "recipes" / "ablations").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_cells_are_understood_and_cost_something(path: Path) -> None:
    ablation = load_ablation(path)
    assert ablation.name == path.stem
    seen = set()
    for cell in ablation.grid():
        if cell.name in seen:
            continue
        seen.add(cell.name)
        cell.definition()
        assert cell.variant.sampler in ALIASES
        config = resolve(cell, Tokenizer(Path("tokenizer"), Path("tokenizer")))
        parameters, training, sampling = count(config, cell)
        assert parameters > 1e5
        assert training > 0
        assert sampling > 0
    assert len(seen) == len(ablation.cells)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_head_says_how_to_run_it(path: Path) -> None:
    head = path.read_text(encoding="utf-8")
    assert f"python -m evaluation ablate --config recipes/ablations/{path.name}" in head
    assert f"python -m evaluation report runs/ablations/{path.stem}" in head


def test_every_table_of_the_paper_has_its_ablation() -> None:
    names = {path.stem for path in FILES}
    theirs = {"local_decoder", "caches", "position", "optimize", "extent", "patch_size", "model_size"}
    ours = {"context", "direction", "num_kv_heads", "token_order"}
    assert names == theirs | ours
    baselines = {cell.sampler for path in FILES for cell in load_ablation(path).cells.values()} - {"patches"}
    assert baselines == {"sliding_window", "masked_view"}


def test_sampling_costs_what_the_sampler_reads() -> None:
    """Twelve steps and a reading for a patch; a window for each token, apart from where it stands still."""
    costs = {}
    for name in ("local_decoder", "context"):
        for cell in load_ablation(REPOSITORY / "recipes" / "ablations" / f"{name}.yaml").grid():
            if cell.seed == 0 and (name == "local_decoder" or cell.name in ("empty", "sliding-window")):
                config = resolve(cell, Tokenizer(Path("tokenizer"), Path("tokenizer")))
                costs[cell.name] = count(config, cell)[2]
    assert costs["masked"] == pytest.approx(13 * costs["autoregressive"], rel=0.01)
    assert costs["parallel"] == pytest.approx(2 * costs["autoregressive"], rel=0.01)
    assert 30 < costs["sliding-window"] / costs["empty"] < 128
    assert costs["masked-view"] > costs["masked"]
