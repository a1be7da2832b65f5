"""``fit`` end to end in two processes, started as torchrun or as SLURM does: one makes what is missing, both train."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.generation.pretrained import load_generator
from nuwa_lightning.tokenizers.pretrained import load_pixel_guided, load_tokenizer
from nuwa_lightning.training.sharding import is_parts
from tests.commands.conftest import GUIDED, STAGE_1, STAGE_2, write_clips, write_photos
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
    (folder / "counting.py").write_text(COUNTING)
    (folder / "one.yaml").write_text(yaml.safe_dump(STAGE_1))
    recipe = {**STAGE_2, "tokenizer": {"path": "one/tokenizer", "recipe": "one.yaml", **(more or {})}}
    recipe["trainer"] = {**STAGE_2["trainer"], **GROUP, **trainer}
    (folder / "two.yaml").write_text(yaml.safe_dump(recipe))


def assert_trained_once(folder: Path, **steps: int) -> None:
    """These runs beside stage 2, so many steps each, were trained by one process that belongs to no group."""
    assert {path.parent.name for path in folder.glob("*/record.json")} == {"two", *steps}
    for run, step in steps.items():
        assert json.loads((folder / run / "record.json").read_text())["ended"] == {"by": "finished", "step": step}
        assert len(list((folder / run / "tensorboard").glob("events*"))) == 1


def check(folder: Path, ended: list[tuple[int, str]], **more: int) -> None:
    assert {status for status, _ in ended} == {0}, ended
    said = [text for _, text in ended]
    assert sum(text.count("stage 1 of 2: training the tokenizer") for text in said) >= 1
    assert json.loads((folder / "two" / "record.json").read_text())["ended"] == {"by": "finished", "step": 4}
    assert_trained_once(folder, one=6, **more)
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
@pytest.mark.parametrize("way", ["before", "beside", "lightning"])
def test_what_is_missing_is_made_once(tmp_path: Path, sample_photos: dict[str, Any], way: str) -> None:
    """The decoder is refined before stage 2, also if it is to be beside; and if Lightning starts the second process."""
    refined = {"refine": "better.yaml", "refined": "better/tokenizer", "beside": way != "before"}
    write(tmp_path, sample_photos, more=refined, strategy="ddp")
    (tmp_path / "better.yaml").write_text(yaml.safe_dump(REFINE))
    told = [{}] if way == "lightning" else None
    ended = run_together(["-m", "counting", "fit", "-c", "two.yaml"], folder=tmp_path, told=told)
    check(tmp_path, ended, better=4)
    said = "refining before stage 2 instead of beside it: that is 2 processes"
    assert any(said in text for _, text in ended) == (way != "before")
    assert not (tmp_path / "two" / "refinement.log").exists()
    plain, better, ours = (load_tokenizer(tmp_path / name / "tokenizer") for name in ("one", "better", "two"))
    assert plain.full_fingerprint() != better.full_fingerprint() == ours.full_fingerprint()
    (bank,) = (tmp_path / "cache" / "tokens").iterdir()
    index = json.loads((bank / "index.json").read_text())
    assert (tmp_path / "encoded").stat().st_size == len(index["entries"]) > 0


@pytest.mark.slow
def test_plans_and_videos(tmp_path: Path, sample_photos: dict[str, Any]) -> None:
    """The coarse model is trained by one before stage 2; the decoder of videos after it, by the first."""
    pytest.importorskip("av")
    guided = {"guided": "guided/pixel_guided", "guided_recipe": "guided.yaml"}
    write(tmp_path, sample_photos, more=guided, strategy="ddp")
    write_clips(tmp_path / "clips", sample_photos)
    (tmp_path / "guided.yaml").write_text(yaml.safe_dump(GUIDED))
    coarse = copy.deepcopy(STAGE_2)
    coarse["data"]["init_args"]["bank"]["short_sides"] = [32]
    coarse["trainer"] |= {"callbacks": [], "max_steps": 2}
    (tmp_path / "coarse.yaml").write_text(yaml.safe_dump(coarse))
    recipe = yaml.safe_load((tmp_path / "two.yaml").read_text())
    recipe["model"]["init_args"]["plan"] = {"scale": 2}
    recipe["coarse"] = {"path": "coarse/model", "recipe": "coarse.yaml"}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["-m", "nuwa_lightning", "fit", "-c", "two.yaml"]
    ended = run_together(arguments, folder=tmp_path, timeout=600)  # four trainings, one after the other
    check(tmp_path, ended, coarse=2, guided=6)
    assert any("training the model of coarse plans" in text for _, text in ended)
    assert ["training the pixel-guided decoder" in text for _, text in ended] == [True, False]
    made, ours = (load_generator(tmp_path / name).model.state_dict() for name in ("coarse/model", "two/coarse"))
    torch.testing.assert_close(ours, made, rtol=0, atol=0)
    tokenizer = load_tokenizer(tmp_path / "two" / "tokenizer")
    made, ours = (load_pixel_guided(tmp_path / run, tokenizer=tokenizer).state_dict() for run in ("guided", "two"))
    torch.testing.assert_close(ours, made, rtol=0, atol=0)


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
