"""The gallery: its page tells the truth, what has a run is made, and the rest is named with its recipe."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning.commands.generate_options import parser
from tests.commands.conftest import lightning_may_warn

TASKS = {
    *("unconditional", "unconditional video", "outpainting", "inpainting"),
    *("text to image", "image animation", "text to video"),
}


@pytest.fixture
def gallery(repository) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_gallery", repository / "experiments" / "make_gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_command_does(gallery, repository):
    page = (repository / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert page == gallery.document(gallery.EXHIBITS, gallery.OUTPUT)
    assert {exhibit.task for exhibit in gallery.EXHIBITS} == TASKS
    assert len({exhibit.name for exhibit in gallery.EXHIBITS}) == len(gallery.EXHIBITS)
    made = 0
    for line in re.findall(r"^python -m nuwa_lightning (generate .*)$", page, flags=re.M):
        words = shlex.split(line)
        recipe = repository / "recipes" / f"{words[words.index('--checkpoint') + 1].removeprefix('runs/')}.yaml"
        if recipe.is_file():
            assert parser().parse_args(words[1:]).seed in (0, 1)
            made += 1
    assert made >= 6


def test_what_has_a_run_is_made_and_the_rest_is_named(gallery, workplace, finished, capsys):
    (workplace / "two").symlink_to(finished / "two")
    Image.open("photos/china_0.png").crop((0, 0, 48, 40)).save("given.png")
    exhibits = [
        gallery.Exhibit("unconditional", "a.png", "one & all", "two", "--size 48x32 --seed 3"),
        gallery.Exhibit("outpainting", "b.png", "more", "two", "--image given.png --expand right=16,up=9"),
        gallery.Exhibit("text to image", "c.png", "words", "two", "--prompt lake"),
        gallery.Exhibit("text to video", "d.mp4", "video", "runs/landscape_none", "--prompt lake"),
    ]
    output = workplace / "shown"
    output.mkdir()
    Image.open("given.png").save(output / "given.png")
    gallery.write_holes(output / "given.png", output / "holes.png")
    mended = gallery.Exhibit("inpainting", "m.png", "holes", "two", "--image given.png --mask holes.png")
    with lightning_may_warn():
        assert gallery.make([mended], output) == [mended]
    given, mask, made = (np.asarray(Image.open(output / name)) for name in ("given.png", "holes.png", "m.png"))
    assert 0.05 < (mask == 255).mean() < 0.5
    assert np.array_equal(made[mask == 0], given[mask == 0])
    assert not np.array_equal(made, given)
    with lightning_may_warn():
        assert gallery.make(exhibits, output) == exhibits[:2]
    said = capsys.readouterr().err
    assert "skipped c.png: generate refused" in said
    assert "error: --prompt: lake: " in said
    assert "skipped d.mp4: there is no runs/landscape_none; train it: " in said
    assert "fit --config recipes/landscape_none.yaml" in said
    given, more = (np.asarray(Image.open(output / name)) for name in ("given.png", "b.png"))
    assert np.array_equal(more[9:, :48], given)
    page = (output / "index.html").read_text()
    assert page.count("<h2>") == 2
    assert "one &amp; all" in page
    before = (output / "a.png").read_bytes()
    (output / "b.png").write_bytes(b"kept")
    with lightning_may_warn():
        assert gallery.make(exhibits[:2], output) == exhibits[:2]
        assert (output / "b.png").read_bytes() == b"kept"
        assert gallery.make(exhibits[:2], output, overwrite=True) == exhibits[:1]  # never what is not ours
        (output / "b.png").unlink()
        assert gallery.make(exhibits[:2], output, overwrite=True) == exhibits[:2]
    assert (output / "a.png").read_bytes() == before
    assert np.array_equal(np.asarray(Image.open(output / "b.png")), more)
