"""What a user gets wrong comes back as one line: option, value and cure, exit status 2, and nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from nuwa_lightning.commands.parsing import nearest
from tests.commands.conftest import QUICK

OWN = '''
from dataclasses import dataclass

from nuwa_lightning.context import ContextPool
from nuwa_lightning.direction import DirectionController, Step
from nuwa_lightning.geometry import OMEGA, PatchIndex


@dataclass(frozen=True)
class MyPool(ContextPool):
    reach: int = 1

    @property
    def embedding_extent(self):
        return (0, 1, 1)

    def select(self, patch, live):
        return list(live)[-self.reach:]

    def remove(self, live, grid, finished):
        return list(live)[:-self.reach]


class Liar(MyPool):
    def select(self, patch, live):
        return [PatchIndex(0, 0, 0)]


class Late(MyPool):
    """Keeps the law on the grids of training and breaks it on a larger canvas."""

    def select(self, patch, live):
        return [PatchIndex(0, 9, 9)] if patch.x > 2 else super().select(patch, live)


class Twice(DirectionController):
    def supports_endless(self, grid):
        return False

    def steps(self, grid, known):
        yield Step(PatchIndex(0, 0, 0), OMEGA)
        yield Step(PatchIndex(0, 0, 0), OMEGA)
'''


@pytest.fixture(autouse=True)
def _own(workplace, monkeypatch):
    (workplace / "my_pools.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(workplace))


def overlay(**content: object) -> str:
    Path("over.yaml").write_text(yaml.safe_dump(content))
    return "over.yaml"


@pytest.mark.parametrize(
    ("recipe", "wrong", "right"),
    [
        ("two.yaml", "sed_everything", "seed_everything"),
        ("two.yaml", "trainer.max_stepz", "trainer.max_steps"),
        ("two.yaml", "trainr.max_steps", "trainer.max_steps"),
        ("two.yaml", "tokeniser.path", "tokenizer.path"),
        ("two.yaml", "tokenizer.pth", "tokenizer.path"),
        ("two.yaml", "model.patch_sise", "model.patch_size"),
        ("two.yaml", "model.transformer.widht", "model.transformer.width"),
        ("two.yaml", "model.context_pool.extend", "model.context_pool.extent"),
        ("two.yaml", "model.contxt_pool", "model.context_pool"),
        ("two.yaml", "data.batch_sise", "data.batch_size"),
        ("two.yaml", "data.bank.phase", "data.bank.phases"),
        ("two.yaml", "data.photos.rot", "data.photos.root"),
        ("one.yaml", "model.vqgan.num_codez", "model.vqgan.num_codes"),
        ("one.yaml", "data.views.siz", "data.views.size"),
    ],
)
def test_a_typo_is_named_with_the_nearest_option(shell, recipe, wrong, right):
    done = shell("fit", "-c", recipe, *QUICK, f"--{wrong}", "3")
    assert done.status == 2
    assert done.error.startswith(f"error: --{wrong}: ")
    assert done.error.endswith(f"did you mean --{right}?")


@pytest.mark.parametrize(
    ("content", "wrong", "right"),
    [
        ({"trainr": {"max_steps": 3}}, "--trainr.max_steps", "--trainer.max_steps"),
        ({"trainer": {"max_stepz": 3}}, "--trainer.max_stepz", "--trainer.max_steps"),
        ({"model": {"init_args": {"patch_sise": [2, 2]}}}, "--model.patch_sise", "--model.patch_size"),
        (
            {"model": {"init_args": {"transformer": {"widht": 3}}}},
            "--model.transformer.widht",
            "--model.transformer.width",
        ),
        (
            {"model": {"init_args": {"context_pool": {"class_path": "NearbyContextPool", "init_args": {"ext": 1}}}}},
            "--model.context_pool.ext",
            "--model.context_pool.extent",
        ),
        (
            {"data": {"init_args": {"photos": {"class_path": "FolderPhotos", "init_args": {"rot": "x"}}}}},
            "--data.photos.rot",
            "--data.photos.root",
        ),
    ],
)
def test_a_typo_in_a_yaml_is_named_too(shell, content, wrong, right):
    done = shell("fit", "-c", "two.yaml", "-c", overlay(**content), *QUICK)
    assert done.status == 2
    assert done.error.startswith(f"error: {wrong}: ")
    assert done.error.endswith(f"did you mean {right}?")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model.lr", "abc"), ("--model.lr", "abc", "float")),
        (("--model.token_order", "rasta"), ("--model.token_order", "rasta", "mirrored", "raster")),
        (("--trainer.max_steps", "three"), ("--trainer.max_steps", "three", "int")),
        (("--model.patch_size", "[2]"), ("--model.patch_size", "[2]")),
        (("--model.patch_size", "[2, 4]"), ("model.patch_size", "(2, 4)", "needs square patches")),
        (("--model.patch_size", "[3, 3]"), ("model.patch_size", "(3, 3)", "data.grid")),
        (("--model.transformer.width", "15"), ("model.transformer", "15", "multiple of heads")),
        (("--model.context_pool.extent", "[0, 1]"), ("extent", "[0, 1]", "three whole numbers")),
        (("--run",), ("--run", "expected one argument")),
        (("stray",), ("stray", "belongs to no option")),
        (("--trainer.accelerator", "warp"), ("--trainer", "warp")),
        (("--model", "NuwaInfinityModul"), ("--model", "NuwaInfinityModul", "did you mean NuwaInfinityModule?")),
        (("--data", "TokenData"), ("--data", "TokenData", "did you mean TokenDataModule?")),
        (("-c", "tow.yaml"), ("--config", "tow.yaml", "did you mean two.yaml?")),
        (("--model.num_codes", "32"), ("model.num_codes", "16 codes of 4 channels")),
        (("--model.code_dim", "8"), ("model.code_dim", "16 codes of 4 channels")),
        (("--data.grid", "[40, 40]"), ("data.grid", "[40, 40]", "320x320 px")),
        (("--data.photos.root", "nowhere"), ("data.root", "nowhere", "no such folder")),
        (("--tokenizer.path", "nowhere"), ("--tokenizer.path", "nowhere", "train it first")),
        (("--tokenizer.path", "photos"), ("--tokenizer.path", "photos", "no tokenizer")),
        (("--tokenizer", "null"), ("--tokenizer.path", "this stage needs a tokenizer")),
    ],
)
def test_a_wrong_value_is_refused(shell, options, words):
    done = shell("fit", "-c", "two.yaml", *QUICK, *options)
    assert done.status == 2
    for word in words:
        assert word in done.error, done.error
    assert not Path("two").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NearbyPool", "did you mean NearbyContextPool?"),
        ("ContextPool", "is abstract: give EmptyContextPool, FullContextPool, NearbyContextPool, RecencyContextPool"),
        ("my_pools.Nope", "has no attribute 'Nope'"),
        ("nope.Nope", "No module named 'nope'"),
        ("nuwa_lightning.direction.RasterDirectionController", "does not correspond to a subclass of ContextPool"),
        ("my_pools.Liar", "breaks its law: select returns only patches that are alive"),
        # Loading by these would run code that a file brings along.
        *((name, "is not allowed") for name in ("torch.load", "torch.hub.load", "numpy.load", "pickle.loads")),
        *((name, "is not allowed") for name in ("joblib.load", "cloudpickle.load", "dill.load", "os.system")),
    ],
)
def test_a_class_that_is_no_pool_is_refused(shell, name, words):
    given = overlay(model={"init_args": {"context_pool": {"class_path": name}}})
    for option in (f"--model.context_pool={name}", f"--config={given}"):
        done = shell("fit", "-c", "two.yaml", *QUICK, option)
        assert done.status == 2
        assert "context_pool: " in done.error
        assert words in done.error, done.error


def test_a_direction_that_breaks_its_law_is_stopped(shell):
    done = shell("fit", "-c", "two.yaml", "--model.direction=my_pools.Twice")
    assert (done.status, "breaks its law: a plan names each patch once" in done.error) == (2, True)
    assert not Path("two").exists()


def test_a_model_with_a_pool_of_ones_own_is_trained_and_sampled(shell):
    short = ("--trainer.max_steps", 1, "--model.context_pool=my_pools.Late", "--run", "own")
    assert shell("fit", "-c", "two.yaml", *short).status == 0
    command = ("generate", "--checkpoint", "own", "--size", "32x32", "--output", "own.png")
    assert "--own my_file.Late" in shell(*command).error
    assert "--own: my_pools.Nope" in shell(*command, "--own", "my_pools.Nope").error
    assert "is no ContextPool" in shell(*command, "--own", "pathlib.Path").error
    assert shell(*command, "--own", "my_pools.Late").status == 0
    wide = shell("generate", "--checkpoint", "own", "--size", "96x32", "--own", "my_pools.Late", "--output", "wide.png")
    assert (wide.status, "breaks its law" in wide.error) == (2, True)
    assert not [p for p in Path().iterdir() if "wide" in p.name]


@pytest.mark.parametrize(("recipe", "tensor"), [("one.yaml", "the pixel loss"), ("two.yaml", "the loss")])
def test_a_loss_that_is_not_finite_names_step_and_tensor(shell, recipe, tensor):
    done = shell("fit", "-c", recipe, "--run", "nan", "--model.lr", "1e30")
    assert done.status == 2
    assert done.error.startswith("error: model.lr: 1e+30: ")
    assert f"{tensor} is not finite at step " in done.error
    assert not Path("nan/tokenizer").exists()


def test_photos_that_cannot_be_used_are_refused(shell):
    for name in ("empty", "broken", "small"):
        Path(name).mkdir()
    Path("broken/a.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 30)).save("small/a.png")
    cases = {
        "missing": "no such folder",
        "empty": "no picture in it",
        "broken": "none of the 1 pictures can be read",
    }
    for name, words in cases.items():
        done = shell("fit", "-c", "one.yaml", "--data.root", name, "--run", "new")
        assert (done.status, words in done.error, f"data.root: {name}" in done.error) == (2, True, True), done.error
    done = shell("fit", "-c", "one.yaml", "--data.root", "small", "--run", "new", "--data.views.size", 33)
    assert done.status == 2
    assert "at least 33 px" in done.error
    assert not Path("new/tokenizer").exists()


def test_yaml_that_is_none_is_named_with_its_line(shell):
    Path("bad.yaml").write_text("run: x\ntrainer: {max_steps: 3\n")
    Path("text.yaml").write_text("text\n")
    done = shell("fit", "-c", "two.yaml", "-c", "bad.yaml")
    assert (done.status, "--config: bad.yaml: is no YAML" in done.error, "line 2" in done.error) == (2, True, True)
    assert "text.yaml: holds no options" in shell("fit", "--config=text.yaml").error
    assert "--config: missing" in shell("fit").error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--checkpoint", "one"), "holds a tokenizer only (stage 1)"),
        (("--checkpoint", "nowhere"), "is no folder"),
        (("--checkpoint", "photos"), "config.json is missing"),
        ((), "--checkpoint"),
        (("--checkpoint", "two", "--sise", "3x3"), "did you mean --size?"),
        (("--checkpoint", "two", "--size", "3"), "WIDTHxHEIGHT"),
        (("--checkpoint", "two", "--size", "0x3"), "at least 1"),
        (("--checkpoint", "two", "--order", "alpha"), "omega, zeta"),
        (("--checkpoint", "two", "--temperature", "-1"), "--temperature: -1.0"),
        (("--checkpoint", "two", "--top_p", "2"), "--top_p: 2.0"),
        (("--checkpoint", "two", "--seed", "a"), "--seed: a"),
        (("--checkpoint", "two", "--max_rows", "0"), "--max_rows: 0"),
        (("--checkpoint", "two", "--task", "dream"), "--task: dream"),
        (("--checkpoint", "two", "--resume", "sometimes"), "--resume: sometimes: choose from"),
        (("--checkpoint", "two", "--size", "64x5000000000"), "PNG holds at most 2147483647 pixels a side"),
        (("--checkpoint", "two", "--size", "70000x16", "--output", "c.jpg"), "JPEG holds at most 65535 pixels a side"),
        (("--checkpoint", "two", "--output", "/proc/c.png"), "name a file in a folder that can be written to"),
        (
            ("--checkpoint", "two", "--output", "c.gif"),
            "trained on pictures, not on films: train one by recipes/landscape_vi",
        ),
        (("--checkpoint", "two", "--output", "no/c.png"), "the folder no is missing"),
    ],
)
def test_generate_refuses_what_it_cannot_do(shell, finished, options, words):
    Path("two").symlink_to(finished / "two")
    output = () if "--output" in options else ("--output", "c.png")
    done = shell("generate", *options, *output)
    assert done.status == 2
    assert words in done.error, done.error
    assert not [p for p in Path().iterdir() if p.name.startswith((".c", "c."))]


def test_a_folder_that_is_read_only_is_refused_before_any_work(shell, finished, monkeypatch):
    Path("two").symlink_to(finished / "two")
    Path("closed").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and access(path, mode))
    done = shell("generate", "--checkpoint", "two", "--output", "closed/c.png")
    assert (done.status, "the folder closed cannot be written to" in done.error) == (2, True)
    assert not list(Path("closed").iterdir())


def test_generate_refuses_another_tokenizer(shell, finished):
    import shutil

    shutil.copytree(finished / "two", "two")
    other = torch.load(finished / "one" / "checkpoints" / "last.ckpt", weights_only=True)
    assert other["state_dict"]
    assert shell("fit", "-c", "one.yaml", "--run", "other", "--seed_everything", 7).status == 0
    shutil.rmtree("two/tokenizer")
    shutil.copytree("other/tokenizer", "two/tokenizer")
    done = shell("generate", "--checkpoint", "two", "--output", "c.png")
    assert (done.status, "not the one that the model was trained with" in done.error) == (2, True)


def test_commands_are_told_apart(shell):
    assert "did you mean fit?" in shell("fitt").error
    assert shell("--help").status == 0
    assert shell("fit", "--help").status == 0
    assert shell("--version").status == 0


def test_nearest_name():
    known = ["model.context_pool", "model.lr", "trainer.max_steps", "run"]
    assert nearest("model.contxt_pool.extent", known) == "model.context_pool"
    assert nearest("trainer.maxsteps", known) == "trainer.max_steps"
    assert nearest("max_steps", known) == "trainer.max_steps"
    assert nearest("modle.lr", known) == "model.lr"
    assert nearest("qqqq", known) is None
