"""Stage 2 with moving averages of its weights: one line of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from nuwa_lightning.commands.watching import check_strategy
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.pretrained import load_generator
from nuwa_lightning.training.ema import SubmoduleAveraging
from nuwa_lightning.training.sharding import ShardedStrategy
from tests.commands.conftest import Shell
from tests.training.test_two_processes import stage_2

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "optimizer.md"


class Watch(Callback):
    """Keeps the weights that are trained, before the first step and after each."""

    weights: list[dict[str, Tensor]] = []  # noqa: RUF012 - of the class: the recipe makes the object

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights[:] = [copied(pl_module)]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.weights.append(copied(pl_module))


def copied(module: LightningModule) -> dict[str, Tensor]:
    return {f"transformer.{name}": p.detach().clone() for name, p in module.transformer.named_parameters()}


@pytest.mark.parametrize("optimize", ["joint", "per_patch"])
def test_the_run_has_the_averages_and_goes_on_from_what_was_trained(optimize: str, shell: Shell) -> None:
    (line,) = (line for line in DOCUMENT.read_text().splitlines() if "SubmoduleAveraging" in line and "{" in line)
    recipe = yaml.safe_load(line)
    (averaging,) = recipe["trainer"]["callbacks"]
    decay = averaging["init_args"]["decay"] = 0.6
    recipe["trainer"]["callbacks"].append({"class_path": f"{__name__}.Watch"})
    Path("averages.yaml").write_text(yaml.safe_dump(recipe))
    command = ("fit", "-c", "two.yaml", "-c", "averages.yaml", "--model.optimize", optimize)
    done = shell(*command)
    assert (done.status, done.error) == (0, "")
    start, *steps = Watch.weights
    assert len(steps) == 6
    average = start
    for number, weights in enumerate(steps, 1):
        keep = min(decay, (1 + number) / (10 + number))
        average = {name: keep * average[name] + (1 - keep) * value for name, value in weights.items()}
    kept = torch.load("two/checkpoints/last.ckpt", weights_only=True)
    exported = load_generator("two/model").model.state_dict()
    for name, value in average.items():
        assert torch.equal(kept["current_model_state"][name], steps[-1][name])
        for found in (kept["state_dict"][name], exported[name.removeprefix("transformer.")]):
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(steps[-1][name], value) for name, value in average.items())
    assert shell(*command, "--ckpt_path", "last", "--trainer.max_steps", "8").status == 0
    assert all(torch.equal(Watch.weights[0][name], value) for name, value in steps[-1].items())


def test_not_of_weights_in_parts() -> None:
    with pytest.raises(UsageError, match="averages whole weights"):
        check_strategy(ShardedStrategy(), stage_2(), None, [SubmoduleAveraging("transformer")])
