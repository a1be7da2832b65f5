"""A part is swapped by a flag, an overlay, a sub-file or a class of one's own, and the model that is saved has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nuwa_lightning.data.reading import read_image

OWN = """
from dataclasses import dataclass
from nuwa_lightning.planning.context import ContextPool
from nuwa_lightning.planning.direction import DirectionController, Step
from nuwa_lightning.planning.geometry import OMEGA


@dataclass(frozen=True)
class Backwards(DirectionController):
    stride: int = 1

    def supports_endless(self, grid):
        return False

    def steps(self, grid, known):
        for patch in reversed(list(grid)):
            if patch not in known:
                yield Step(patch, OMEGA)


@dataclass(frozen=True)
class Last(ContextPool):
    reach: int = 1

    @property
    def embedding_extent(self):
        return (0, 1, 1)

    def select(self, patch, live):
        return list(live)[-self.reach :]

    def remove(self, live, grid, finished):
        return list(live)[: -self.reach]
"""
POOLS = {
    "flag": (["--model.context_pool=EmptyContextPool"], "EmptyContextPool", {}),
    "overlay": (["-c", "recipes/context/full.yaml"], "FullContextPool", {"embedding_extent": [0, 3, 3]}),
    "sub-file": (["--model.context_pool=sub.yaml"], "NearbyContextPool", {"extent": [0, 1, 0]}),
    "argument": (["--model.context_pool.extent=[0,2,1]"], "NearbyContextPool", {"extent": [0, 2, 1]}),
    "own class": (["--model.context_pool=my_parts.Last", "--model.context_pool.reach=2"], "Last", {"reach": 2}),
}
DIRECTIONS = {
    "flag": (["--model.direction=SpiralDirectionController"], "SpiralDirectionController", {}),
    "overlay": (["-c", "recipes/direction/outward.yaml"], "OutwardDirectionController", {}),
    "sub-file": (["--model.direction=sub.yaml"], "ArbitraryDirectionController", {"order": "zeta*"}),
    "own class": (["--model.direction=my_parts.Backwards", "--model.direction.stride=2"], "Backwards", {"stride": 2}),
}
DECODERS = {
    name: (["-c", f"recipes/local_decoder/{name}.yaml"], f"{name.capitalize()}LocalDecoder", {})
    for name in ("autoregressive", "masked", "parallel")
}
SUB_FILES = {
    "context_pool": "class_path: NearbyContextPool\ninit_args: {extent: [0, 1, 0]}\n",
    "direction": "class_path: ArbitraryDirectionController\ninit_args: {order: zeta*}\n",
}


@pytest.mark.parametrize(
    ("part", "options", "name", "arguments"),
    [
        pytest.param(part, *ways[way], id=f"{part} by {way}")
        for part, ways in (("context_pool", POOLS), ("direction", DIRECTIONS), ("local_decoder", DECODERS))
        for way in ways
    ],
)
def test_the_saved_model_has_what_was_asked_for(shell, repository, monkeypatch, part, options, name, arguments):
    Path("my_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path().resolve()))
    Path("sub.yaml").write_text(SUB_FILES.get(part, ""))
    options = [str(repository / option) if option.startswith("recipes/") else option for option in options]
    done = shell("fit", "-c", "two.yaml", "--trainer.max_steps", 1, *options)
    assert done.status == 0, done.error
    saved = json.loads(Path("two/model/config.json").read_text())[part]
    assert saved["name"].rpartition(".")[2] == name
    assert saved["args"].items() >= arguments.items()


GREEDY = """
import torch
from nuwa_lightning.generation.local import LocalDecoder, ParallelLocalDecoder
from my_parts import Last


class Greedy(LocalDecoder):
    def draws(self, tokens):
        return 0

    def decode(self, patches, sampling, uniform_RU):
        for place in range(patches.tokens_RN.shape[1]):
            patches.set_tokens([place], patches.logits([place]).argmax(-1))


class Backwards(Greedy):
    def decode(self, patches, sampling, uniform_RU):
        for place in reversed(range(patches.tokens_RN.shape[1])):
            patches.set_tokens([place], patches.logits([place]).argmax(-1))


class Hiding(Greedy):
    def training_mask(self, shape, generator):
        return torch.ones(shape, dtype=torch.bool)
"""


def test_a_local_decoder_of_ones_own_that_takes_no_training(shell, finished, monkeypatch):
    Path("my_parts.py").write_text(OWN)
    Path("my.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(str(Path().resolve()))
    Path("two").symlink_to(finished / "two")
    make = ("generate", "--checkpoint", "two", "--size", "64x32", "--output")
    named = ("--local_decoder", "my.Greedy")
    refused = shell(*make, "a.png", *named)
    assert (refused.status, "choose Auto" in refused.error) == (2, True)
    assert "or allow one of your own, --own my.Greedy" in refused.error
    for output, options in (
        ("a.png", ("--temperature", 0)),
        ("b.png", ("--own", "my.Greedy", *named)),
        ("c.png", ("--own", "my.Last,my.Greedy", *named)),
        ("d.png", ("--own", "my.Last", "--own", "my.Greedy", "--from", "b.png")),
    ):
        done = shell(*make, output, *options)
        assert done.status == 0, done.error
    first, *others = (read_image(f"{name}.png").tobytes() for name in "abcd")
    assert others == [first] * 3
    done = shell(*make, "e.png", "--own", "my.Backwards", "--local_decoder", "my.Backwards")
    assert (done.status, "--local_decoder: my.Backwards: a causal decoder asks" in done.error) == (2, True), done.error
    done = shell("fit", "-c", "two.yaml", "--run", "hidden", "--model.local_decoder=my.Hiding")
    assert (done.status, "--model.local_decoder: my.Hiding: a causal decoder hides nothing" in done.error) == (2, True)


TOKENIZER = """
import torch


class Gray:
    downsample_factor, codebook_size, codebook_dim, encode_halo, decode_halo, step = 4, 16, 4, 0, 0, 1

    def __init__(self, reach=1.0):
        self.config = {"reach": reach}
        level_K = torch.linspace(-reach, reach, 16)
        self.codebook_KD = torch.stack([level_K, level_K**2, level_K**3, level_K**4], 1)

    def encode(self, image_B3YX):
        level_BYX = torch.nn.functional.avg_pool2d(image_B3YX, 4).mean(1)
        return (level_BYX[..., None] - self.codebook_KD[:, 0]).abs().argmin(-1)

    def decode(self, tokens_BYX):
        level_BYX = self.codebook_KD[:, 0][tokens_BYX]
        return level_BYX.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)

    def fingerprint(self):
        return f"gray {self.config}"
"""


@pytest.mark.parametrize("window", [0, 4])
def test_a_tokenizer_of_ones_own_is_trained_on_and_generates(shell, monkeypatch, window):
    Path("my_tokenizers.py").write_text(TOKENIZER)
    monkeypatch.syspath_prepend(str(Path().resolve()))
    options = ["--tokenizer.path", "my_tokenizers.Gray", "--tokenizer.arguments", '{"reach": 0.9}']
    options += ["--tokenizer.window", window, "--tokenizer.overlap", 2]
    done = shell("fit", "-c", "two.yaml", "--trainer.max_steps", 2, *options)
    assert done.status == 0, done.error
    make = ("generate", "--checkpoint", "two", "--size", "64x32", "--output", "a.png")
    refused = shell(*make)
    assert (refused.status, "give it with --own my_tokenizers.Gray" in refused.error) == (2, True), refused.error
    done = shell(*make, "--own", "my_tokenizers.Gray")
    assert done.status == 0, done.error


def test_a_token_beyond_the_codebook_is_one_line(shell, monkeypatch):
    Path("my_bright.py").write_text(TOKENIZER.replace(".argmin(-1)", ".argmin(-1) + 3"))
    monkeypatch.syspath_prepend(str(Path().resolve()))
    done = shell("fit", "-c", "two.yaml", "--tokenizer.path", "my_bright.Gray")
    law = "my_bright.Gray: tokens are from 0 up and below codebook_size=16, and 18 is not"
    assert (done.status, law in done.error) == (2, True), done.error
    assert "nuwa_lightning.testing.check_tokenizer finds it" in done.error


def test_an_optimizer_and_a_loss_term_of_ones_own(shell, monkeypatch):
    Path("my_terms.py").write_text(
        "from nuwa_lightning.training.losses import LossTerm\n\n\nclass Z(LossTerm):\n"
        "    def __init__(self, weight: float = 1.0):\n        self.weight = weight\n\n"
        "    def __call__(self, logits_MK, target_M):\n"
        "        return self.weight * logits_MK.logsumexp(dim=-1).square()\n"
    )
    monkeypatch.syspath_prepend(str(Path().resolve()))
    terms = '[{"class_path": "my_terms.Z", "init_args": {"weight": 0.5}}]'
    options = ("--model.optimizer=torch.optim.SGD", "--model.optimizer.momentum=0.5", "--model.loss_terms", terms)
    done = shell("fit", "-c", "two.yaml", "--trainer.max_steps", 2, *options)
    assert done.status == 0, done.error
    import torch

    saved = torch.load("two/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]
    assert saved["param_groups"][0]["momentum"] == 0.5
    done = shell("fit", "-c", "two.yaml", "--run", "x", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=7")
    assert (done.status, "the learning rate is model.lr" in done.error) == (2, True), done.error
