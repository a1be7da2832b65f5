"""FSDP2: two processes that have half of the weights each learn what one process learns, and go on in any number."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch.utils.data import DataLoader

from nuwa_lightning.commands.watching import check_strategy
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.coarse_plan import CoarsePlan
from nuwa_lightning.generation.local import MaskedLocalDecoder
from nuwa_lightning.training.scaling import ScalingConfig
from nuwa_lightning.training.sharding import ShardedStrategy, gathered_model, is_parts, is_sharded, read_parts
from nuwa_lightning.training.vqgan_module import VQGANModule
from tests.together import run_together
from tests.training.test_two_processes import BATCH, NO_TEXT, Share, stage_2, window

RECOMPUTED = ScalingConfig(recompute_layers=True, logits_chunk=8, accumulate_grad_batches=2)
CASES: dict[str, dict[str, Any]] = {
    "joint": {"plan": CoarsePlan(dropout=0.3)},
    "recomputed": {"scaling": RECOMPUTED},
    # in raster order, plans do not share masks: processes have different numbers of groups
    "raster": {"token_order": "raster", "optimize": "accumulated"},
    "masked": {"token_order": "raster", "local_decoder": MaskedLocalDecoder(), "conditions": NO_TEXT},
    "per patch": {"token_order": "raster", "optimize": "per_patch"},
    "adamw": {"optimizer": torch.optim.AdamW},
}
GOES_ON = ("joint", "adamw")


class Watch(Callback):
    """Keeps the loss of every step, the mean over processes, and a checkpoint of the third one."""

    def __init__(self, checkpoint: Path) -> None:
        self.losses: list[float] = []
        self.checkpoint = checkpoint

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")))
        if trainer.global_step == 3 and not self.checkpoint.exists():
            trainer.save_checkpoint(self.checkpoint)


class Few(Share):
    """An epoch of three batches, so that a checkpoint stands at the end of one."""

    def __len__(self) -> int:
        return 12 // self.world


def fit(
    folder: Path, options: dict[str, Any], *, rank: int = 0, world: int = 1, sharded: bool, start: Path | None = None
) -> dict[str, Any]:
    """Train stage 2 for six batches; returns losses, and weights (of which only the first process has all)."""
    seed_everything(0, verbose=False)
    model, watch = stage_2(**options), Watch(folder / "half.ckpt")
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=world,
        strategy=ShardedStrategy() if sharded else "auto",
        callbacks=[watch],
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=6 // model.scaling.accumulate_grad_batches,
        limit_val_batches=0,
    )
    loader = DataLoader(Few(window, rank, world, torch.float64), batch_size=BATCH // world)
    trainer.fit(model, loader, ckpt_path=start, weights_only=True)
    whole = gathered_model(model.transformer) if is_sharded(model.transformer) else model.transformer
    return {"losses": watch.losses, "weights": whole.state_dict()}


def train(folder: Path, rank: int, world: int, start: Path | None, cases: Iterable[str] = CASES) -> None:
    """Train cases sharded; then go on from another number of processes' checkpoint."""
    torch.set_default_dtype(torch.float64)
    for name in cases:
        options = CASES[name]
        (folder / name).mkdir(parents=True, exist_ok=True)
        found = fit(folder / name, options, rank=rank, world=world, sharded=True)
        torch.save(found, folder / name / f"{rank}.pt")
    for name in GOES_ON if start is not None else ():
        (folder / name).mkdir(parents=True, exist_ok=True)
        found = fit(folder, CASES[name], rank=rank, world=world, sharded=True, start=start / name / "half.ckpt")
        torch.save(found, folder / name / f"again{rank}.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one process came to in parts, two, one that went on from two, and two from one or a file."""
    root = tmp_path_factory.mktemp("sharded")
    torch.set_default_dtype(torch.float64)
    for name in GOES_ON:
        fit(root / "whole" / name, CASES[name], sharded=False)
    torch.set_default_dtype(torch.float32)
    starts = ((2, "2", "none"), (1, "1", root / "2"), (2, "more", root / "1"), (2, "file", root / "whole"))
    for world, place, start in starts:
        ended = run_together([__file__, root / place, start], world=world, timeout=600)
        assert [status for status, _ in ended] == [0] * world, ended[0][1]
    return root


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("case", CASES)
def test_two_with_half_of_the_weights_learn_what_one_learns(trained: Path, case: str, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        plain = fit(tmp_path, CASES[case], sharded=False)
    finally:
        torch.set_default_dtype(torch.float32)
    for world in (1, 2):
        found = torch.load(trained / str(world) / case / "0.pt")
        assert found["losses"] == pytest.approx(plain["losses"], abs=1e-6)
        for name, value in plain["weights"].items():
            torch.testing.assert_close(found["weights"][name], value, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: n + m)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["1", "more", "file"])
@pytest.mark.parametrize("case", GOES_ON)
def test_another_number_of_processes_goes_on(trained: Path, case: str, place: str) -> None:
    whole, again = torch.load(trained / "1" / case / "0.pt"), torch.load(trained / place / case / "again0.pt")
    assert again["losses"] == pytest.approx(whole["losses"][3:], abs=1e-6)
    for name, value in whole["weights"].items():
        torch.testing.assert_close(again["weights"][name], value, rtol=1e-5, atol=1e-7)
    content = read_parts(trained / "2" / case / "half.ckpt")
    assert is_parts(trained / "2" / case / "half.ckpt")
    assert content["global_step"] == 3


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_table_of_parts_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"global_step": 3}, tmp_path / "meta.pt")
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UsageError, match="damaged one"):
        read_parts(tmp_path)
    assert not (tmp_path / "evil").exists()


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    for other in (FSDPStrategy(), ModelParallelStrategy()):
        with pytest.raises(UsageError, match="ShardedStrategy, or ddp"):
            check_strategy(other, stage_2(), None)
    with pytest.raises(UsageError, match="VQGANModule is never sharded"):
        check_strategy(ShardedStrategy(), VQGANModule(), None)
    torch.save({}, tmp_path / "meta.pt")
    with pytest.raises(UsageError, match="in parts"):
        check_strategy(object(), stage_2(), str(tmp_path))
    check_strategy(ShardedStrategy(), stage_2(), str(tmp_path))


if __name__ == "__main__":
    where, begun = Path(sys.argv[1]), None if sys.argv[2] == "none" else Path(sys.argv[2])
    train(where, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), begun, CASES if where.name in "12" else ())
