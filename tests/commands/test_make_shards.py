"""``make-shards`` on the command line, and a run of stage 2 on what it made."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nuwa_lightning.data.token_shards import TokenShards
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.tokenizers.pretrained import save_tokenizer

MAKE = ("make-shards", "--config", "two.yaml", "--output", "shards", "--photos_per_shard", "2", "--device", "cpu")
CHANNELS = {"encoder_channels": (8, 8), "encoder_blocks": (0, 0), "decoder_channels": (8, 8), "decoder_blocks": (1, 1)}


def test_two_processes_make_shards_and_a_run_learns_from_them(workplace, shell, monkeypatch):
    assert "there is no tokenizer yet" in shell(*MAKE, "--tokenizer.path", "none/tokenizer").error
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = shell(*MAKE)
    assert done.status == 0, done.error
    monkeypatch.delenv("RANK")
    assert not Path("shards/index.json").exists()
    assert shell(*MAKE, "--rank", "0", "--world", "2").status == 0
    shards = TokenShards("shards")
    assert shards.count("train") + shards.count("val") == len(list(Path("photos").iterdir()))
    learn = ("fit", "--config", "two.yaml", "--data", "TokenShardsDataModule", "--data.shards", "shards")
    learn += ("--run", "shard_run")
    done = shell(*learn, "--trainer.max_steps", "3")
    assert done.status == 0, done.error
    said = yaml.safe_load(Path("shard_run/config.yaml").read_text())["data"]
    assert (said["init_args"]["grid"], said["init_args"]["batch_size"]) == ([4, 4], 2)
    save_tokenizer(Path("three"), VQGAN.build(VQGANConfig(16, 4, **CHANNELS)).eval())
    done = shell(*learn, "--tokenizer.path", "three", "--run", "other")
    assert (done.status, "--data.shards: shards: was made with another tokenizer" in done.error) == (2, True)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--photos_per_shard", "0", "--photos_per_shard: 0"),
        ("--rank", "2", "give a number from 0 to 0"),
        ("--device", "abacus", "--device: abacus"),
    ],
)
def test_one_line(workplace, shell, option, value, words):
    done = shell(*MAKE, option, value)
    assert done.status == 2
    assert words in done.error
