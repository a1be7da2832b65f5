"""Names and numbers of the command line: what they ask for, or one line, and nothing left behind."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import yaml
from PIL import Image

from nuwa_lightning.callbacks.sample_sheet import SampleSheet
from nuwa_lightning.commands.canvas_options import Grown, Redone
from nuwa_lightning.commands.estimate import EstimateOptions
from nuwa_lightning.commands.generate_options import RunOptions, image_metadata
from nuwa_lightning.commands.options import parser_of
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import TransformerConfig
from nuwa_lightning.pipeline import NuwaInfinityPipeline
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.training.pixel_guided_module import GuideShares
from nuwa_lightning.writers import read_metadata
from tests.commands.conftest import Shell
from tests.commands.conftest import filmed as filmed
from tests.commands.conftest import finished as finished
from tests.commands.conftest import shell as shell
from tests.commands.conftest import workplace as workplace

SMALL = ("generate", "--checkpoint", "two", "--size", "32x32")
QUICK_FIT = ("fit", "-c", "two.yaml", "--trainer.fast_dev_run", "true")
ONE_STEP = ("fit", "-c", "two.yaml", "--trainer.max_steps", 1, "--trainer.callbacks", "[]")


@pytest.fixture(autouse=True)
def _run(workplace: Path, finished: Path) -> None:
    (workplace / "two").symlink_to(finished / "two")
    (workplace / "raises.py").write_text("1 / 0")
    (workplace / "half.py").write_text("def")
    os.mkfifo(workplace / "pipe.png")
    os.symlink("loop", workplace / "loop")
    os.symlink(".", workplace / "here")


def refused(shell: Shell, *arguments: object) -> str:
    """Run it, and return its one line; nothing is new."""
    before = sorted(Path().rglob("*"))
    done = shell(*arguments)
    assert (done.status, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert len(done.error) < 1200
    assert sorted(Path().rglob("*")) == before
    return done.error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--output", ""), "--output: '': is empty: name a file"),
        (("--output", "."), "--output: .: the name must end in one of .png"),
        (("--output", "x"), "--output: x: the name must end in one of .png"),
        (("--output", "a\0b.png"), "--output: a\\x00b.png: cannot be a file's name (embedded null byte)"),
        (("--output", 252 * "y" + ".png"), "cannot be a file's name (File name too long)"),
        (("--output", "loop/x.png"), "the folder loop is missing"),
        (("--output", "x.png", "--preview", "a\0b.png"), "--preview: a\\x00b.png: name a .png file in a folder"),
        (("--output", "x.png", "--preview", "two.yaml"), "--preview: two.yaml: name a .png file in a folder"),
        (("--output", "x.png", "--preview", "x.png"), "--preview: x.png: is the output, or a given file: give it"),
        (("--output", "x.png", "--preview", "here/x.png"), "--preview: here/x.png: is the output"),
        (("--output", "x.png", "--count", 2, "--preview", "x-1.png"), "--preview: x-1.png: is the output"),
        (("--output", "x.png", "--checkpoint", ""), "--checkpoint: "),
        (("--output", "x.png", "--checkpoint", "a\0b"), "--checkpoint: a\\x00b: is no folder"),
        (("--output", "x.png", "--checkpoint", "loop"), "--checkpoint: loop: is no folder"),
        (("--output", "x.png", "--checkpoint", 5000 * "a"), "File name too long"),
        (("--output", "x.png", "--own", "a\0b.C"), "--own: a\\x00b.C: "),
        (("--output", "x.png", "--own", ""), "--own: : ValueError: Empty module name"),
        (("--output", "x.png", "--own", "..."), "--own: ...: TypeError: "),
        (("--output", "x.png", "--own", "raises.C"), "--own: raises.C: ZeroDivisionError: division by zero"),
        (("--output", "x.png", "--own", "half.C"), "--own: half.C: SyntaxError: "),
        (("--output", "x.png", "--prompt", "a\udce4"), "--prompt: 'a\\udce4': is no UTF-8"),
        (("--output", "x.png", "--count", 1 << 40), "--count: 1099511627776: give at most 100000"),
        (("--output", "x.png", "--count", 5000 * "9"), "--count: "),
        (("--output", "x.png", "--threads", 0), "--threads: 0: give a whole number from 1 to 1024"),
        (("--output", "x.png", "--threads", 1 << 40), "--threads: 1099511627776: give a whole number"),
        (("--output", "x.png", "--temperature", "nan"), "--temperature: nan: Expected float"),
        (("--output", "x.png", "--temperature", "inf"), "--temperature: inf: Expected float"),
        (("--output", "x.png", "--top_p", "nan"), "--top_p: nan: Expected float"),
        (("--output", "x.png", "--top_k", -3), "--top_k: -3: use 0 (all tokens) or a positive number"),
        (("--output", "x.png", "--record_every", "nan"), "--record_every: nan: Expected float"),
        (("--output", "x.png", "--seed", "2026-99-99"), "--seed: 2026-99-99: Expected int"),
        (("--output", "x.png", "--device", "cuda"), '--device: cuda: there is no such option: images are made on'),
        (("--output", "x.tif", "--size", "1000000000x512"), "TIFF holds at most 100000000 pixels a side: make it"),
        (("--output", "x.tif", "--size", 5000 * "9" + "x512"), "--size: 99"),
        (("--output", "x.tif", "--size", "x1000000000"), "TIFF holds at most 100000000 pixels a side: make it"),
        (("--output", "x.tif", "--size", "100000000x100000000"), "39,062,500,000,000 patches take 937,500.0 GB of"),
    ],
)  # fmt: skip
def test_generate_refuses(shell: Shell, options: tuple[object, ...], words: str) -> None:
    assert words in refused(shell, *SMALL, *options)


FLOATS = {
    "generate": (GenerationRequest, RunOptions),
    "canvas grow": (Grown,),
    "canvas redo": (Redone,),
    "estimate": (EstimateOptions,),
}


@pytest.mark.parametrize(
    ("classes", "option"),
    [
        pytest.param(classes, name, id=f"{command} --{name}")
        for command, classes in FLOATS.items()
        for cls in classes
        for name, hint in get_type_hints(cls).items()
        if float in (hint, *get_args(hint))
    ],
)
def test_every_number_is_finite(classes: tuple[type, ...], option: str) -> None:
    for value, words in (("1e400", "is too large a number"), ("-1e400", "is too large a number"), ("inf", "Expected")):
        with pytest.raises(UsageError, match=rf"^--{option}: {value}: .*{words}"):
            parser_of("x", *classes, about="", skip={"image", "plan", "prompt_each"}).parse_args([f"--{option}", value])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_of_a_request_are_finite(value: float) -> None:
    floats = [each.name for each in dataclasses.fields(GenerationRequest) if "float" in str(each.type)]
    assert len(floats) == 5
    for name in floats:
        with pytest.raises(UsageError, match=f"^{name}: {value}: give a number that is finite"):
            GenerationRequest(**{name: value})
    with pytest.raises(UsageError, match=f"^temperature: {value}"):
        Sampling(temperature=value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(
    ("cls", "name"),
    [
        *((SampleSheet, name) for name in ("temperature", "top_p", "guidance")),
        *((GuideShares, name) for name in ("real", "decoded", "own")),
        (TransformerConfig, "layer_scale"),
    ],
)
def test_numbers_of_training_are_finite(cls: type, name: str, value: float) -> None:
    with pytest.raises(UsageError, match=str(value)):
        cls(**{name: value})


@pytest.mark.parametrize("name", ["pipe.png", "/dev/zero", "a\0b.png", "loop", "", "photos", 300 * "a"])
def test_what_is_no_image(shell: Shell, name: str) -> None:
    expected = f"error: --image: {name}".replace("\0", "\\x00")[:200]
    for more in ((), ("--mask", "photos/china_0.png")):
        options = ("--checkpoint", "two", "--image", name, "--expand", "left=9", *more, "--output", "x.png")
        assert refused(shell, "generate", *options).startswith(expected)


@pytest.mark.parametrize(
    "name", [250 * "y" + ".png", 120 * "\u6e56"[:80] + ".png", "a\udce4b.png", "#h.png", "a: b.png"]
)
def test_names_that_are_made(shell: Shell, name: str) -> None:
    name = name if len(os.fsencode(name)) <= 254 else "\u6e56" * 80 + ".png"
    assert shell(*SMALL, "--output", name).status == 0
    assert read_metadata(name)["size"] == [32, 32]
    assert shell(*SMALL, "--output", "plain.png").status == 0
    assert Path(os.fsencode(name).decode(errors="surrogateescape")).read_bytes() == Path("plain.png").read_bytes()
    assert not list(Path().glob("*.canvas"))


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".webp", ".zarr", ".dzi"])
def test_bytes_that_are_no_utf_8_name_every_format(shell: Shell, suffix: str) -> None:
    assert shell(*SMALL, "--output", f"a\udce4b{suffix}").status == 0
    assert os.fsencode(f"a\udce4b{suffix}") in os.listdir(b".")
    assert read_metadata(f"a\udce4b{suffix}")["size"] == [32, 32]


def test_an_image_whose_name_is_no_utf_8(shell: Shell) -> None:
    shutil.copy("photos/china_0.png", b"gr\xfcn.png")
    given = ("--checkpoint", "two", "--image", "gr\udcfcn.png", "--expand", "left=9", "--output", "a.png")
    assert shell("generate", *given).status == 0
    assert image_metadata("a.png")["image"] == "gr\udcfcn.png"
    kept = np.asarray(Image.open("a.png"))[:, 9:]
    assert np.array_equal(kept, np.asarray(Image.open("photos/china_0.png")))
    assert shell("generate", "--from", "a.png", "--output", "b.png").status == 0
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


def test_webp_is_an_image_of_a_model_of_images(shell: Shell) -> None:
    assert shell(*SMALL, "--output", "x.webp").status == 0
    with Image.open("x.webp") as image:
        assert (image.size, getattr(image, "n_frames", 1)) == ((32, 32), 1)
    assert "--fps" in refused(
        shell, *SMALL, "--fps", 8, "--task", "text-to-image", "--prompt", "a", "--output", "y.webp"
    )
    assert "was trained on images, not on videos" in refused(shell, *SMALL, "--frames", 4, "--output", "y.webp")


def test_webp_is_a_video_of_a_model_of_videos(shell: Shell, filmed: Path) -> None:
    Path("videos").symlink_to(filmed / "videos")
    options = ("--checkpoint", "videos", "--size", "16x16", "--output", "x.webp")
    assert shell("generate", *options).status == 0
    with Image.open("x.webp") as image:
        assert image.n_frames == 40


def test_much_work_says_what_it_takes(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuwa_lightning.commands.generate._MANY_PATCHES", 4)
    done = shell(*SMALL, "--output", "x.png")
    assert done.stderr.splitlines()[0].startswith("note: 4 patches take 0.0 GB of disk for tokens and 0.0 GB of memory")
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 90))
    hint = "--size: 32x32: 4 patches take 0.0 GB of disk for tokens and 0.0 GB of memory; 0.0 GB and "
    assert hint in refused(shell, *SMALL, "--output", "y.png")


READ_OTHERWISE = {
    "a: b": "is a file here, but a dict to the parser: write it into a YAML file, in quotes",
    "null": "is a file here, but nothing to the parser: write ./null",
    "#h": "is a file here, but nothing to the parser: write ./#h",
    "a # b": "",
}


@pytest.mark.parametrize("name", READ_OTHERWISE)
def test_roots_and_runs_that_yaml_would_read_otherwise(shell: Shell, name: str) -> None:
    os.symlink("photos", name)
    if READ_OTHERWISE[name]:
        line = refused(shell, *QUICK_FIT, "--data.photos.root", name)
        assert line == f"error: --data.photos.root: {name}: {READ_OTHERWISE[name]}"
    if name == "null":
        assert shell(*QUICK_FIT, "--data.photos.root", "./null").status == 0
    Path("root.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"photos": {"init_args": {"root": name}}}}}))
    done = shell(*ONE_STEP, "-c", "root.yaml", "--run", f"runs/{name}")
    assert done.status == 0, done.error
    kept = yaml.safe_load((Path("runs") / name / "config.yaml").read_text())
    assert kept["data"]["init_args"]["photos"]["init_args"]["root"] == name


@pytest.mark.parametrize("option", ["--data.photos.root", "--run"])
def test_a_run_over_names_that_are_no_utf_8(shell: Shell, option: str) -> None:
    os.symlink("photos", "p\udce9")
    for given in ((option, "p\udce9"), (f"{option}=p\udce9",)):
        line = refused(shell, *ONE_STEP, *given)
        assert line.startswith(f"error: {option}: 'p\\udce9': is no UTF-8, as the options of a run have to be: rename")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--run", ""), "--run: '': is no name of a folder"),
        (("--run", "a\0b"), "--run: 'a\\x00b': is no name of a folder"),
        (("--run", 300 * "x"), "cannot be written (File name too long)"),
        (("--run", "loop"), "cannot be written (File exists)"),
        (("--seed_everything", -1), "--seed_everything: -1: give a whole number from 0 to 4294967295"),
        (("--seed_everything", 1 << 32), "--seed_everything: 4294967296: give a whole number from 0"),
        (("--seed_everything", 30 * "9"), "give a whole number from 0 to 4294967295"),
        (("--trainer.devices", 99), "--trainer.devices: 99: the machine has "),
        (("--trainer.devices", 10**12), "--trainer.devices: 1000000000000: the machine has "),
        (("--trainer.log_every_n_steps", -1), "--trainer.log_every_n_steps: -1: give a number of steps, 1"),
        (("--trainer.max_epochs", 0), "--trainer.max_epochs: 0: nothing would be trained: give 1 or more"),
        (("--trainer.max_steps", 0), "--trainer.max_steps: 0: nothing would be trained: give 1 or more"),
        (("--trainer.limit_train_batches", 0), "--trainer.limit_train_batches: 0: nothing would be trained"),
        (("--data.photos.val_root", "photos"), "--data.photos.val_root: photos: every image of root lies there"),
        (("--trainer.gradient_clip_val", "1e400"), "--trainer.gradient_clip_val: 1e400: is too large a number"),
        (("--trainer.num_nodes", 10), "--trainer.num_nodes: 10: nothing says where the other machines are: start it"),
        (("--trainer.num_nodes", 0), "--trainer.num_nodes: 0: give the number of machines, 1 or more"),
        (("--trainer.accelerator", "cuda"), "--trainer"),
        (("--trainer.accelerator", "tpu"), "--trainer"),
        (("--data.batch_size", 10**12), "--data.batch_size: 1000000000000: give 1 or more, at most 65536"),
        (("--data.batch_size", 0), "--data.batch_size: 0: give 1 or more"),
        (("--data.num_workers", 64), "--data.num_workers: 64: give 0 or more, at most 4"),
        (("--data.bank.phases", 10**12), "--data.bank.phases: 1000000000000: give a number from 1 to 64"),
        (("--model.transformer.num_layers", 10**12), "--model.transformer.num_layers: 1000000000000: give 10000 or"),
        (("--model.transformer.dim", 10**12), "--model"),
        (("--model.lr", "nan"), "--model.lr: nan"),
        (("--model.lr", "inf"), "--model.lr: inf"),
        (("--model.lr", "1e400"), "--model.lr: 1e400: is too large a number"),
        (("--model.lr=1e400",), "--model.lr: 1e400: is too large a number"),
        (("--model.lr", ".inf"), "--model.lr: inf"),
        (("--model.sampling.temperature", ".inf"), "--model.sampling.temperature: inf: use 0 (best token) or"),
        (("--model.descent.weight_decay", -1), "--model.descent.weight_decay: -1.0: give a number from 0 up"),
        (("--model.descent.weight_decay", "nan"), "--model.descent.weight_decay: nan"),
        (("--model.descent.warmup_steps", -5), "--model.descent.warmup_steps: -5: give a number from 0 up"),
        (("--model.descent.gradient_clip_val", "nan"), "--model.descent.gradient_clip_val: nan"),
        (("--model.transformer.dropout", "nan"), "--model.transformer.dropout: nan"),
        (("--model.conditions.known_prob", "nan"), "--model.conditions.known_prob: nan"),
        (("--data.photos.val_fraction", "nan"), "--data.photos.val_fraction: nan"),
        (("--data.photos.root", "pipe.png"), "--data.photos.root: pipe.png"),
        (("--data.photos.root", "loop"), "--data.photos.root: loop"),
        (("--data.photos.root", "a\0b"), "--data.photos.root: a\\x00b"),
        (("--data.photos.root", ""), "--data.photos.root"),
        (("--tokenizer.path", "a\0b"), "--tokenizer.path: a\\x00b"),
        (("--tokenizer.path", "loop"), "--tokenizer.path: loop"),
        (("--ckpt_path", "pipe.png"), "--ckpt_path: pipe.png"),
        (("--ckpt_path", "/dev/zero"), "--ckpt_path: /dev/zero"),
        (("--ckpt_path", "a\0b"), "--ckpt_path: a\\x00b"),
    ],
)
def test_fit_refuses(shell: Shell, options: tuple[object, ...], words: str) -> None:
    assert words in refused(shell, *ONE_STEP, "--run", "new", *options)


def test_a_pipeline_goes_to_no_device_that_is_not_there() -> None:
    pipe = NuwaInfinityPipeline.from_folder(Path("two"))
    with pytest.raises(ValueError, match=r"device: warp: "):
        pipe.to("warp")


def test_a_home_that_cannot_be_written_to(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NUWA_LIGHTNING_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/nobody")
    line = refused(shell, *ONE_STEP, "--run", "new", "--data.cache", "null")
    assert line.startswith("error: --data.cache: /proc/nobody/.cache/nuwa_lightning")
    assert shell(*SMALL, "--output", "x.png").status == 0
