"""What a user gets wrong comes back as one line: option, value, way out, status 2, nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.commands.conftest import QUICK

OWN = '''
from dataclasses import dataclass

from nuwa_lightning.planning.context import ContextPool
from nuwa_lightning.planning.direction import DirectionController, Step
from nuwa_lightning.planning.geometry import OMEGA, PatchIndex


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


class Bare(ContextPool):
    embedding_extent = (0, 1, 1)

    def select(self, patch, live):
        return [PatchIndex(0, 0, 0)]

    def remove(self, live, grid, finished):
        return []


class Nothing(MyPool):
    def select(self, patch, live):
        return None


class Raising(MyPool):
    def select(self, patch, live):
        return self.nothing


class Flat(MyPool):
    @property
    def embedding_extent(self):
        return (0, -1)


class Needs(MyPool):
    def __init__(self, reach: int):
        pass


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
        ("two.yaml", "model.transformer.widht", "model.transformer.dim"),
        ("two.yaml", "model.context_pool.extend", "model.context_pool.extent"),
        ("two.yaml", "model.contxt_pool", "model.context_pool"),
        ("two.yaml", "data.batch_sise", "data.batch_size"),
        ("two.yaml", "data.bank.phase", "data.bank.phases"),
        ("two.yaml", "data.photos.rot", "data.photos.root"),
        ("two.yaml", "seed", "seed_everything"),
        ("two.yaml", "hlep", "help"),
        ("one.yaml", "model.vqgan.codebook_siz", "model.vqgan.codebook_size"),
        ("one.yaml", "data.crops.siz", "data.crops.size"),
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
            "--model.transformer.dim",
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
        (("--model.patch_size", "[2, 4]"), ("--model.patch_size", "(2, 4)", "needs square patches")),
        (("--model.patch_size", "[3, 3]"), ("--model.patch_size", "(3, 3)", "data.grid")),
        (("--model.transformer.dim", "15"), ("--model.transformer", "15", "multiple of num_heads")),
        (
            ("--model.transformer.num_layers", "0"),
            ("--model.transformer.num_layers: 0: give a whole number from 1 up",),
        ),
        (
            ("--model.transformer.num_kv_heads", "0"),
            ("--model.transformer.num_kv_heads: 0: give a whole number from 1 up",),
        ),
        (("--model.transformer.dropout", "1"), ("--model.transformer.dropout: 1.0: give a share",)),
        (("--model.lr", "-1"), ("--model.lr: -1.0: must be above 0",)),
        (("--model.context_pool.extent", "[0, 1]"), ("--model.context_pool.extent: [0, 1]: ", "3 elements")),
        (("--model.context_pool.extent", "three"), ("--model.context_pool.extent: three: ", "tuple")),
        (("--model.context_pool.extent", "[0, -1, 1]"), ("--model.context_pool.extent: (0, -1, 1): give three",)),
        (("--model.direction.order_weights", "[1]"), ("--model.direction.order_weights: (1.0,): give 4 numbers",)),
        (("--model.context_pool=my_pools.Flat",), ("--model.context_pool: (0, -1): give three whole numbers",)),
        (("--model.context_pool=my_pools.Needs",), ("--model.context_pool.reach: missing: ", "give it a value")),
        (("--data.photos", "GiantImage"), ("--data.photos.path: missing: ", "give it a value")),
        (("--data", "ImageFolderDataModule"), ("--data.root: missing: ", "give it a value")),
        (("--data", "LandscapeDataModule"), ("--data: LandscapeDataModule: ", "give TokenDataModule or")),
        (("--run", "/proc/x"), ("--run: /proc/x: cannot be written",)),
        (("--run", "two.yaml"), ("--run: two.yaml: cannot be written (File exists)",)),
        (("--run",), ("--run", "expected one argument")),
        (("stray",), ("stray", "belongs to no option")),
        (("--trainer.accelerator", "warp"), ("--trainer", "warp")),
        (("--model", "NuwaInfinityModul"), ("--model", "NuwaInfinityModul", "did you mean NuwaInfinityModule?")),
        (("--data", "TokenData"), ("--data", "TokenData", "did you mean TokenDataModule?")),
        (("-c", "tow.yaml"), ("--config", "tow.yaml", "did you mean two.yaml?")),
        (("--model.codebook_size", "32"), ("--model.codebook_size: ", "16 codes of 4 channels")),
        (("--model.codebook_dim", "8"), ("model.codebook_dim", "16 codes of 4 channels")),
        (("--data.grid", "[40, 40]"), ("--data.grid: [40, 40]: ", "320x320 px")),
        (("--data.photos.root", "nowhere"), ("--data.photos.root: nowhere: no such folder",)),
        (("--tokenizer.path", "nowhere"), ("--tokenizer.path", "nowhere", "train it first")),
        (("--tokenizer.path", "photos"), ("--tokenizer.path", "photos", "no tokenizer")),
        (("--tokenizer", "null"), ("--tokenizer.path", "this stage needs a tokenizer")),
    ],
)
def test_a_wrong_value_is_refused(shell, options, words):
    trial = () if options[0] == "--run" else QUICK  # a trial writes nothing
    done = shell("fit", "-c", "two.yaml", *trial, *options)
    assert done.status == 2
    for word in words:
        assert word in done.error, done.error
    assert "Warning" not in done.stderr
    assert not Path("two").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NearbyPool", "did you mean NearbyContextPool?"),
        ("ContextPool", "is abstract: give EmptyContextPool, FullContextPool, NearbyContextPool, RecencyContextPool"),
        ("my_pools.Nope", "has no attribute 'Nope'"),
        ("nope.Nope", "No module named 'nope': name a class in a file of the working directory, as module.Class, or"),
        (
            "nuwa_lightning.planning.direction.RasterDirectionController",
            "context_pool: nuwa_lightning.planning.direction.RasterDirectionController: does not correspond to a"
            " subclass of ContextPool",
        ),
        ("my_pools.Liar", "breaks its law: select returns only patches that are alive"),
        ("my_pools.Bare", "--model.context_pool: my_pools.Bare at patch (0, 0, 0): breaks its law: select returns"),
        ("my_pools.Bare", ": correct the class; nuwa_lightning.testing.check_context_pool finds it"),
        ("my_pools.Nothing", "breaks its law: select returns patches, and this is an error: TypeError: 'NoneType'"),
        ("my_pools.Raising", "breaks its law: select returns patches, and this is an error: AttributeError: "),
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
    assert done.error.startswith("error: --model.direction: my_pools.Twice at patch (0, 0, 0): ")
    assert not Path("two").exists()


def test_a_model_with_a_pool_of_ones_own_is_trained_and_sampled(shell, caplog):
    short = ("--trainer.max_steps", 1, "--model.context_pool=my_pools.Late", "--run", "own")
    caplog.set_level("INFO")
    assert shell("fit", "-c", "two.yaml", *short).status == 0
    assert "generate --checkpoint own --own my_pools.Late --size" in caplog.text
    command = ("generate", "--checkpoint", "own", "--size", "32x32", "--output", "own.png")
    assert "allow by import path, --own my_pools.Late, " in shell(*command).error
    nope = shell(*command, "--own", "my_pools.Nope").error
    assert "--own: my_pools.Nope: there is no class Nope in my_pools; " in nope
    assert "did you mean my_pools.Late?" in shell(*command, "--own", "my_pools.Lat").error
    assert "the folder nofolder is missing: make it first" in shell(*command, "--canvas", "nofolder/x.canvas").error
    assert "is no ContextPool" in shell(*command, "--own", "pathlib.Path").error
    assert shell(*command, "--own", "my_pools.Late").status == 0
    wide = shell("generate", "--checkpoint", "own", "--size", "96x32", "--own", "my_pools.Late", "--output", "wide.png")
    assert (wide.status, "breaks its law" in wide.error) == (2, True)
    assert not [p for p in Path().iterdir() if "wide" in p.name]


@pytest.mark.parametrize(("recipe", "tensor"), [("one.yaml", "the pixel loss"), ("two.yaml", "the loss")])
def test_a_loss_that_is_not_finite_names_step_and_tensor(shell, recipe, tensor):
    done = shell("fit", "-c", recipe, "--run", "nan", "--model.lr", "1e30")
    assert done.status == 2
    assert done.error.startswith("error: --model.lr: 1e+30: ")
    assert f"{tensor} is not finite at step " in done.error
    assert not Path("nan/tokenizer").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--data.photos.val_fraction", 0),  # Lightning warns of a loader that is not there
        *(("--model.context_pool", f"{name}ContextPool") for name in ("Nearby", "Full", "Recency")),
    ],
)
def test_what_is_as_it_should_be_warns_of_nothing(shell, options):
    done = shell("fit", "-c", "two.yaml", "--trainer.max_steps", 1, *options)
    assert done.status == 0
    assert "Total length" not in done.stderr
    assert "round-trip" not in done.stderr


def test_an_error_of_the_machine_is_one_line_too(shell, monkeypatch):
    def full(_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/two/last.ckpt")

    monkeypatch.setattr("nuwa_lightning.commands.generate.generate", full)
    done = shell("generate")
    assert (done.status, len(done.stderr.splitlines())) == (2, 1)
    assert done.error.startswith("error: runs/two/last.ckpt: No space left on device: ")
    monkeypatch.setenv("NUWA_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(OSError, match="No space"):
        shell("generate")


def test_yaml_that_is_none_is_named_with_its_line(shell):
    Path("bad.yaml").write_text("run: x\ntrainer: {max_steps: 3\n")
    Path("text.yaml").write_text("text\n")
    done = shell("fit", "-c", "two.yaml", "-c", "bad.yaml")
    assert (done.status, "--config: bad.yaml: is no YAML" in done.error, "line 2" in done.error) == (2, True, True)
    assert "text.yaml: holds no options" in shell("fit", "--config=text.yaml").error
    assert "--config: missing" in shell("fit").error


def test_an_overlay_by_itself_is_told_from_a_recipe(shell, repository):
    full = repository / "recipes/context/full.yaml"
    done = shell("fit", "-c", full)
    assert done.error.startswith(f"error: --config: {full}: is an overlay, it names no class of model: give a recipe")
    assert "is an overlay" in shell("fit", "-c", full, "-c", "two.yaml").error
    data = overlay(data={"init_args": {"batch_size": 1}})
    assert "names no class of data" in shell("fit", "--config", data, "--model", "VQGANModule").error
    assert shell("fit", "-c", "two.yaml", "-c", full, "-c", data, *QUICK).status == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--checkpoint", "one"), "holds a tokenizer only (stage 1)"),
        (("--checkpoint", "nowhere"), "is no folder"),
        (("--checkpoint", "photos"), "config.json is missing"),
        (("--checkpoint", "two", "--sise", "3x3"), "error: --sise: 3x3: there is no such option; did you mean --size?"),
        (("--checkpoint", "two", "--sise=3x3"), "error: --sise: 3x3: there is no such option; did you mean --size?"),
        (("--hlep", "--checkpoint", "two"), "error: --hlep: unknown: there is no such option; did you mean --help?"),
        (("--checkpoint", "two", "--size", "3"), "WIDTHxHEIGHT"),
        (("--checkpoint", "two", "--size", "0x3"), "at least 1"),
        (("--checkpoint", "two", "--order", "alpha"), "error: --order: alpha: choose auto or one of"),
        (("--checkpoint", "two", "--temperature", "-1"), "--temperature: -1.0"),
        (("--checkpoint", "two", "--top_p", "2"), "--top_p: 2.0"),
        (("--checkpoint", "two", "--seed", "a"), "--seed: a"),
        (("--checkpoint", "two", "--max_rows", "0"), "--max_rows: 0"),
        (("--checkpoint", "two", "--task", "dream"), "--task: dream"),
        (("--checkpoint", "two", "--resume", "sometimes"), "--resume: sometimes: choose last, earlier"),
        (("--checkpoint", "two", "--size", "64x5000000000"), "PNG holds at most 100000000 pixels a side"),
        (("--checkpoint", "two", "--size", "70000x16", "--output", "c.jpg"), "JPEG holds at most 65500 pixels a side"),
        (("--checkpoint", "two", "--output", "/proc/c.png"), "name a file in a folder that can be written to"),
        (
            ("--checkpoint", "two", "--output", "c.gif"),
            "trained on images, not on videos: take landscape_vi",
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
    assert "did you mean --help?" in shell("--hlep").error
    assert "did you mean --version?" in shell("--verbos").error
    assert shell("--help").status == 0
    assert shell("fit", "--help").status == 0
    assert shell("--version").status == 0
