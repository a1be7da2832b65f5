"""What ``estimate`` counts: equal to formulas of its own for training, to the paper's canvas for generation."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from torch._subclasses import FakeTensorMode

from nuwa_lightning.cli import main
from nuwa_lightning.commands import costs
from nuwa_lightning.commands.costs import canvas_cost, model_of, read_recipe, training_cost
from nuwa_lightning.commands.measuring import process_bytes
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.nuwa_infinity import TransformerConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule


@pytest.fixture(scope="module")
def recipe(repository: Path) -> Any:
    options = ["--model.codebook_size", "64", "--model.codebook_dim", "8", "--model.patch_size", "[4, 4]"]
    options += ["--model.transformer.dim", "32", "--model.transformer.num_layers", "3"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_recipe(["--config", str(repository / "recipes" / "landscape.yaml"), *options])


def test_a_step_is_counted(recipe: Any) -> None:
    cost = training_cost(recipe, shape=(1, 8, 8), batch=2, precision="32-true")
    module, _ = model_of(recipe)
    d, positions, rows = 32, 17, 2 * 4
    inner = int(2.67 * d)
    layer = positions * rows * 2 * (4 * d * d + 3 * inner * d)
    # Omega over 2 x 2 patches with extent (1, 1): 0, 1, 2 and 3 patches are seen.
    seen = 2 * sum(positions * (16 * count + positions) for count in range(4))
    attention = 4 * d * seen
    head = rows * 16 * 2 * d * 64 + 2 * 64 * 8 * d
    # Backward is twice forward; attention on a CPU keeps no probabilities and makes them once more.
    least, most = 3 * (3 * layer + head), 3 * (3 * layer + head) + 3.5 * 3 * attention
    assert least < cost.flops < 1.1 * most
    weights = sum(t.numel() * 4 for t in (*module.parameters(), *module.buffers()))
    assert cost.weights == weights
    assert weights < cost.optimizer + weights < cost.peak
    twice = training_cost(recipe, shape=(1, 8, 8), batch=4, precision="32-true")
    assert twice.flops == pytest.approx(2 * cost.flops, rel=0.02)


def test_weights_in_parts(repository: Path, tmp_path: Path, recipe: Any) -> None:
    """Weights, gradients and states are divided by the devices; the rest is as large on many devices as on few."""
    strategy = {"class_path": "nuwa_lightning.training.sharding.ShardedStrategy"}
    (tmp_path / "parts.yaml").write_text(json.dumps({"trainer": {"strategy": strategy}}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = read_recipe(["-c", str(repository / "recipes" / "landscape.yaml"), "-c", str(tmp_path / "parts.yaml")])
    parts.model = recipe.model
    given: dict[str, Any] = {"shape": (1, 8, 8), "batch": 2, "precision": "32-true"}
    one, few, many = (training_cost(parts, devices=count, **given) for count in (1, 2, 8))
    module, _ = model_of(recipe)
    trained = sum(4 * p.numel() for p in module.parameters())
    assert few.peak - many.peak == pytest.approx((2 * trained + one.optimizer) * (1 / 2 - 1 / 8), abs=8)
    assert many.optimizer == one.optimizer // 8
    assert one == training_cost(recipe, **given)
    assert few.flops == one.flops
    # On no device there would be activations, the codebook, and what is whole for a while: never all of the weights.
    rest = few.peak - (2 * trained + one.optimizer) / 2
    activations = one.peak - one.weights - one.optimizer
    assert activations - trained < rest < activations + 2 * trained


def test_two_steps_tell_of_all(repository: Path) -> None:
    """Of the paper's way, counted step by step: as much arithmetic, and nearly the same memory."""
    options = ["--model.codebook_size", "64", "--model.codebook_dim", "8", "--model.patch_size", "[4, 4]"]
    options += [
        "--model.transformer.dim",
        "32",
        "--model.optimize",
        "per_patch",
        "--model.transformer.num_layers",
        "2",
        "--model.context_pool.extent",
        "[0,2,2]",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = read_recipe(["--config", str(repository / "recipes" / "landscape.yaml"), *options])
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        module, _ = model_of(config)
    written = costs._written(module, (1, 12, 12), 2, 0)
    assert len(written.layout.walked) == 9
    with fake, costs._Counter() as counter:
        marks = costs._marks(module, written, counter)
    cost = training_cost(config, shape=(1, 12, 12), batch=2, precision="32-true")
    assert cost.flops == pytest.approx(marks[-1])
    assert cost.peak - cost.weights - cost.optimizer == pytest.approx(counter.peak, rel=0.1)


STEP = """
import sys, warnings
from pathlib import Path
import torch
from nuwa_lightning.commands.costs import model_of, read_recipe
from nuwa_lightning.commands.measuring import process_bytes
warnings.simplefilter("ignore")
module, _ = model_of(read_recipe(sys.argv[1:]))
(written,) = module.draw_plans(torch.randint(4096, (4, 1, 32, 32)), None)
Path("/proc/self/clear_refs").write_text("5")
before = process_bytes("VmRSS")
module.loss(written).mean().backward()
print(process_bytes() - before)
"""


def test_memory_is_what_a_process_takes(repository: Path) -> None:
    """A step whose layers are made again one at a time; large tensors come from the system and go back."""
    options = ["--config", str(repository / "recipes" / "landscape.yaml"), "--model.scaling.recompute_layers", "true"]
    options += [
        "--model.transformer.dim",
        "256",
        "--model.transformer.num_layers",
        "3",
        "--model.scaling.logits_chunk=512",
    ]
    told = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    step = subprocess.run([sys.executable, "-c", STEP, *options], env=told, stdout=subprocess.PIPE, check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cost = training_cost(read_recipe(options), shape=(1, 32, 32), batch=4, precision="32-true")
    assert cost.peak - cost.weights - cost.optimizer == pytest.approx(int(step.stdout), rel=0.15)


def test_sheets_take_time(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = {"class_path": "SampleSheet", "init_args": {"count": 1, "size": [1, 1], "every_n_steps": 500}}
    (tmp_path / "sheets.yaml").write_text(json.dumps({"trainer": {"callbacks": [sheet]}}))
    options = ["--config", str(repository / "recipes" / "landscape.yaml"), "-c", str(tmp_path / "sheets.yaml")]
    options += ["--model.transformer.dim", "32", "--model.transformer.num_layers", "1", "--data.grid", "[8, 8]"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["estimate", *options]) == 0
    # After 50 steps, 500 and 1000, and at the end.
    assert re.search(r"time of training .*measured on this CPU; 4 sheets of [\d.]+ s", capsys.readouterr().out)


@pytest.mark.parametrize(("order", "waves"), [("omega", 461), ("zeta", 193)])
def test_the_papers_longest_canvas(order: Any, waves: int) -> None:
    """Chains of 461 and 173 patches; in zeta the renderer, which looks 1024 steps ahead, needs 20 waves more."""
    module = NuwaInfinityModule(
        16,
        4,
        patch_size=(16, 16),
        transformer=TransformerConfig(dim=24, num_layers=2, num_heads=2, num_kv_heads=2),
        context_pool=NearbyContextPool((0, 2, 2)),
        direction=ArbitraryDirectionController(order=order),
    )
    cost = canvas_cost(module, PatchGrid(1, 8, 152), rows=1000)
    assert (cost.patches, cost.tokens, cost.waves) == (1216, 311_296, waves)
    assert cost.steps == waves * 256
    assert cost.live >= (16 if order == "omega" else 2 * 152)


def test_what_the_process_takes() -> None:
    now, most = process_bytes("VmRSS"), process_bytes()
    assert now is not None
    assert most is not None
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert now == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.02)
    assert most >= now
    with mmap.mmap(-1, 1 << 28) as more:  # never memory that was freed before
        more.write(b"1" * len(more))
        assert process_bytes() >= max(most, now + 0.9 * len(more))
    assert process_bytes("nothing") is None


@pytest.mark.parametrize("flops", [(), ("--flops", "1e12")])
def test_the_process_is_counted(repository: Path, capsys: pytest.CaptureFixture[str], flops: tuple[str, ...]) -> None:
    before = process_bytes("VmRSS")
    options = ["--model.codebook_size", "64", "--model.codebook_dim", "8", "--model.transformer.dim", "32"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe = str(repository / "recipes" / "landscape.yaml")
        assert main(["estimate", "--config", recipe, *options, "--model.transformer.num_layers", "1", *flops]) == 0
    found = re.search(r"memory of the process on a CPU +([\d.]+) ([MG])B", capsys.readouterr().out)
    assert found is not None
    assert before is not None
    told = float(found[1]) * {"M": 1e6, "G": 1e9}[found[2]]
    assert 0.99 * before <= told <= 1.5 * process_bytes()


PEAK = """
import sys
from nuwa_lightning.cli import main
from nuwa_lightning.commands.measuring import process_bytes
status = main(sys.argv[1:])
print("peak", process_bytes())
raise SystemExit(status)
"""


@pytest.mark.slow
def test_memory_of_a_first_fit(repository: Path, tmp_path: Path) -> None:
    """What it says of the process is what a fit takes that prepares and encodes the photographs, too."""
    fetched, cache = cache_folder() / "landscape_photos", tmp_path / "cache"
    if fetched.is_dir():
        shutil.copytree(fetched, cache / fetched.name)
    told = {**os.environ, "NUWA_LIGHTNING_CACHE": str(cache), "PYTHONPATH": str(repository)}
    recipe = ["--config", str(repository / "recipes" / "landscape.yaml"), "--trainer.max_steps", "6"]
    said = []
    for command in (["estimate", *recipe], ["fit", *recipe, "--run", "run", "--trainer.enable_progress_bar", "false"]):
        arguments = [sys.executable, "-c", PEAK, *command]
        done = subprocess.run(arguments, cwd=tmp_path, env=told, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    found = re.search(r"memory of the process on a CPU +([\d.]+) GB", said[0])
    peak = re.search(r"^peak (\d+)$", said[1], re.MULTILINE)
    assert found is not None
    assert peak is not None
    assert float(found[1]) * 1e9 == pytest.approx(int(peak[1]), rel=0.15)


def test_an_own_text_encoder_is_asked_for_its_size(repository: Path) -> None:
    """A canvas with a text costs what the keys of that text add; a class that nobody has heard of tells its width."""

    def recipe(*options: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            few = ("--model.transformer.num_layers", "1")
            return read_recipe(["--config", str(repository / "recipes" / "landscape_text.yaml"), *few, *options])

    named = "--model.conditions.text_encoder"
    for options, width, tokens in (
        ((), 384, 77),
        ((named, "ClipTextEncoder"), 512, 77),
        ((named, "MiniLMTextEncoder", f"{named}.max_tokens", "9"), 384, 9),
        ((named, "tests.text.letters.Letters"), 8, 77),
    ):
        module, most = model_of(recipe(*options))
        assert (module.transformer.text_dim, most) == (width, tokens)
        one, none = (canvas_cost(module, PatchGrid(1, 1, 1), texts=count).flops for count in (tokens, 0))
        attended = 4.0 * module.transformer.size.dim * tokens * module.transformer.patch_tokens
        assert one - none == attended
    with pytest.raises(UsageError, match="text encoder: nowhere"):
        model_of(recipe(named, "ClipTextEncoder", f"{named}.name", "nowhere"))
