"""``fit`` end to end in two processes, started as torchrun or as SLURM does: one makes what is missing, both train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.tokenizers.pretrained import load_tokenizer
from nuwa_lightning.training.sharding import is_parts
from tests.commands.conftest import STAGE_1, STAGE_2, write_photos
from tests.commands.test_refinement import REFINE
from tests.evaluation import toys
from tests.evaluation.ablation_toys import TOY
from tests.together import environment, free_port, run_together

GROUP = {"accelerator": "cpu", "devices": 2, "max_steps": 4, "val_check_interval": 2}


def slurm(rank: int, port: int) -> dict[str, str]:
    """Return what ``srun --ntasks 2`` tells a process."""
    told = {"JOB_ID": 7, "JOB_NAME": "fit", "NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "PROCID": rank}
    told |= {"LOCALID": rank, "NODEID": 0, "NODELIST": "localhost", "STEP_NODELIST": "localhost"}
    names = {f"SLURM_{name}": str(value) for name, value in told.items()}
    return {**names, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


# Trainings in processes of their own, which make the tokenizer and refine it, are not counted.
COUNTING = """
import sys

from nuwa_lightning.cli import main
from nuwa_lightning.models.vqgan import VQGAN

encode = VQGAN.encode


def counted(self, image_B3YX):
    with open("encoded", "ab") as file:
        file.write(b".")
    return encode(self, image_B3YX)


VQGAN.encode = counted
sys.exit(main(sys.argv[1:]))
"""


def write(folder: Path, photos: dict[str, Any], *, more: dict[str, Any] | None = None, **trainer: Any) -> None:
    """Write a recipe of stage 2 whose tokenizer a recipe of stage 1 makes."""
    write_photos(folder / "photos", photos)
    (folder / "one.yaml").write_text(yaml.safe_dump(STAGE_1))
    recipe = {**STAGE_2, "tokenizer": {"path": "one/tokenizer", "recipe": "one.yaml", **(more or {})}}
    recipe["trainer"] = {**STAGE_2["trainer"], **GROUP, **trainer}
    (folder / "two.yaml").write_text(yaml.safe_dump(recipe))


def check(folder: Path, ended: list[tuple[int, str]]) -> None:
    assert [status for status, _ in ended] == [0, 0], ended
    said = [text for _, text in ended]
    assert sum(text.count("stage 1 of 2: training the tokenizer") for text in said) >= 1
    assert json.loads((folder / "two" / "record.json").read_text())["ended"] == {"by": "finished", "step": 4}
    # Stage 1 was trained once, by one process that belongs to no group.
    assert json.loads((folder / "one" / "record.json").read_text())["ended"] == {"by": "finished", "step": 6}
    assert len(list((folder / "one" / "tensorboard").glob("events*"))) == 1
    pipe = NuwaInfinityPipeline.from_pretrained(folder / "two")
    made = pipe(size=(48, 32), seed=0).images[0]
    assert made.size == (48, 32)
    with Image.open(folder / "two" / "samples.png") as sheet:
        assert sheet.size[0] > 16


@pytest.mark.slow
@pytest.mark.parametrize("way", ["torchrun", "slurm"])
def test_two_processes(tmp_path: Path, sample_photos: dict[str, Any], way: str) -> None:
    write(tmp_path, sample_photos, strategy="ddp")
    port = free_port()
    told = [slurm(rank, port) if way == "slurm" else environment(rank, 2, port) for rank in range(2)]
    ended = run_together(["-m", "nuwa_lightning", "fit", "-c", "two.yaml"], folder=tmp_path, told=told)
    check(tmp_path, ended)


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
def test_what_is_missing_is_made_once(tmp_path: Path, sample_photos: dict[str, Any], beside: bool) -> None:
    refined = {"refine": "better.yaml", "refined": "better/tokenizer", "beside": beside}
    write(tmp_path, sample_photos, more=refined, strategy="ddp")
    (tmp_path / "better.yaml").write_text(yaml.safe_dump(REFINE))
    check(tmp_path, run_together(["-c", COUNTING, "fit", "-c", "two.yaml"], folder=tmp_path))
    records = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/record.json")}
    assert records.keys() == {"one", "better", "two"}
    assert records["better"]["ended"] == {"by": "finished", "step": 4}
    assert len(list((tmp_path / "better" / "tensorboard").glob("events*"))) == 1
    plain, better, ours = (load_tokenizer(tmp_path / name / "tokenizer") for name in ("one", "better", "two"))
    assert plain.full_fingerprint() != better.full_fingerprint() == ours.full_fingerprint()
    (bank,) = (tmp_path / "cache" / "tokens").iterdir()
    index = json.loads((bank / "index.json").read_text())
    assert (tmp_path / "encoded").stat().st_size == len(index["entries"]) > 0


@pytest.mark.slow
def test_sharded_and_gone_on_with(tmp_path: Path, sample_photos: dict[str, Any]) -> None:
    path = "nuwa_lightning.training.sharding.ShardedStrategy"
    write(tmp_path, sample_photos, strategy={"class_path": path})
    arguments = ["-m", "nuwa_lightning", "fit", "-c", "two.yaml"]
    check(tmp_path, run_together(arguments, folder=tmp_path))
    checkpoint = tmp_path / "two" / "checkpoints" / "last.ckpt"
    assert is_parts(checkpoint)
    before = torch.load(checkpoint / "meta.pt", weights_only=True)
    assert before["global_step"] == 4
    more = [*arguments, "--ckpt_path", "last", "--trainer.max_steps", "6", "--trainer.devices", "1"]
    (status, said), *_ = run_together(more, world=1, folder=tmp_path)
    assert status == 0, said
    assert torch.load(checkpoint / "meta.pt", weights_only=True)["global_step"] == 6
    assert [path.name for path in checkpoint.parent.iterdir()] == ["last.ckpt"]
    toy = {**TOY, "metrics": {"kid": {}}, "features": {"name": "toys.ToyFeatures"}}
    shutil.copy(Path(toys.__file__), tmp_path / "toys.py")
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump({**toy, "real": {**TOY["real"], "count": 30}}))
    options = {"protocol": "protocol.yaml", "real": "photos", "count": 10, "size": "64x64", "cache": "cache"}
    callback = {"class_path": "evaluation.callbacks.Scores", "init_args": options}
    (tmp_path / "scores.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    scored = ["-m", "nuwa_lightning", "test", "-c", "two.yaml", "-c", "scores.yaml", "--ckpt_path", "last"]
    ended = run_together(scored, folder=tmp_path)
    assert [status for status, _ in ended] == [0, 0], ended
    assert (tmp_path / "two" / "scores" / "step_0000006" / "report.json").is_file()
    plain = [*more[:-2], "--trainer.devices", "1", "--trainer.strategy", "auto"]
    (status, said), *_ = run_together(plain, world=1, folder=tmp_path, told=[{}])
    assert status == 2
    assert "in parts: go on from it with ShardedStrategy" in said


@pytest.mark.slow
def test_two_nodes(tmp_path: Path, sample_photos: dict[str, Any]) -> None:
    """Two agents of torchrun, each of which starts a process; they train, and then generate, together."""
    write(tmp_path, sample_photos, strategy="ddp", devices=1, num_nodes=2)
    agent = ["-m", "torch.distributed.run", "--nnodes", 2, "--nproc_per_node", 1, "--master_addr", "127.0.0.1"]
    told = [{"PET_NODE_RANK": str(rank)} for rank in range(2)]
    both = [*agent, "--master_port", free_port(), "-m", "nuwa_lightning"]
    check(tmp_path, run_together([*both, "fit", "-c", "two.yaml"], folder=tmp_path, told=told))
    wide = ["generate", "--checkpoint", "two", "--size", "96x64", "--seed", "3", "--output"]
    both[-3] = free_port()
    ended = run_together([*both, *wide, "both.png"], folder=tmp_path, told=told)
    ended += run_together(["-m", "nuwa_lightning", *wide, "alone.png"], folder=tmp_path, told=[{}])
    assert [status for status, _ in ended] == [0, 0, 0], ended
    made = [Image.open(tmp_path / name).tobytes() for name in ("both.png", "alone.png")]
    assert made[0] == made[1]
