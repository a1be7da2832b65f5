"""The whole path with each family of published tokenizers: convert, train stage 2, generate, outpaint, fine-tune."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nuwa_lightning.tokenizers.pretrained import load_tokenizer, save_tokenizer
from nuwa_lightning.tokenizers.windows import WindowedTokenizer
from tests.commands.conftest import write_clips

pytest.importorskip("diffusers")


def _families():
    """Return the module with small files in the authors' layouts."""
    path = Path(__file__).parents[1] / "tokenizers" / "test_published.py"
    spec = importlib.util.spec_from_file_location("published_families", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAMILIES = _families()


@pytest.fixture
def folder(request, workplace, monkeypatch) -> Path:
    """A converted tokenizer of a family, in windows."""
    torch.manual_seed(0)
    (workplace / "authors").mkdir()
    whole = FAMILIES.published(request.param, workplace / "authors", monkeypatch)
    save_tokenizer(workplace / "published", WindowedTokenizer(whole, 4, 2))
    return workplace / "published"


CODES = ("--model.codebook_size", "32", "--model.codebook_dim", "4")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES.FAMILIES if name not in ("taming", "llamagen")]


@pytest.mark.parametrize("folder", ["taming", "llamagen", *SLOW], indirect=True)
def test_stage_2_learns_its_tokens_and_canvases_decode(folder, shell):
    stage_2 = ("fit", "-c", "two.yaml", "--tokenizer.path", folder, *CODES, "--trainer.max_steps", "1")
    assert shell(*stage_2, "--run", "run").error == ""
    assert load_tokenizer("run/tokenizer").fingerprint() == load_tokenizer(folder).fingerprint()
    assert shell("generate", "--checkpoint", "run", "--size", "72x40", "--output", "a.png", "--tile", "8").error == ""
    with Image.open("a.png") as image:
        assert image.size == (72, 40)
        image.crop((0, 0, 32, 32)).save("in.png")
    # Tiles of another size are the same image.
    assert shell("generate", "--checkpoint", "run", "--size", "72x40", "--output", "b.png", "--tile", "5").error == ""
    with Image.open("a.png") as one, Image.open("b.png") as other:
        apart = torch.tensor(list(one.tobytes())).sub(torch.tensor(list(other.tobytes()))).abs()
    assert apart.max() <= 1
    out = ("generate", "--checkpoint", "run", "--image", "in.png", "--expand", "left=16,down=8", "--output", "out.png")
    assert shell(*out).error == ""
    with Image.open("out.png") as image, Image.open("in.png") as given:
        assert image.size == (48, 40)
        assert image.crop((16, 0, 48, 32)).tobytes() == given.convert("RGB").tobytes()
    # Row by row into a file of tiles, as canvases are written that fit no memory.
    assert shell("generate", "--checkpoint", "run", "--size", "72x40", "--output", "a.tif", "--tile", "3").error == ""
    streamed, whole = tifffile.imread("a.tif"), np.asarray(Image.open("a.png"))
    assert streamed.shape == whole.shape
    assert np.abs(streamed.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("folder", ["taming", *SLOW, pytest.param("llamagen", marks=pytest.mark.slow)], indirect=True)
def test_an_image_begins_to_move(folder, shell, sample_photos):
    pytest.importorskip("av")
    write_clips(folder.parent / "clips", sample_photos)
    videos = ("fit", "-c", "videos.yaml", "--tokenizer.path", folder, *CODES, "--trainer.max_steps", "1")
    assert shell(*videos, "--run", "moving").error == ""
    given = sample_photos["flower.jpg"][200:232, 300:344]
    Image.fromarray(given).save("in.png")
    moves = ("generate", "--checkpoint", "moving", "--image", "in.png", "--frames", "3", "--output", "out.frames")
    assert shell(*moves).error == ""
    first, second, _ = (np.asarray(Image.open(path)) for path in sorted(folder.parent.glob("out.frames/*.png")))
    assert np.array_equal(first, given)
    assert second.shape == given.shape
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("folder", ["llamagen", *SLOW, pytest.param("taming", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("what", ["all", "decoder"])
def test_it_is_fine_tuned(folder, what, shell):
    before = load_tokenizer(folder)
    line = ("fit", "-c", "one.yaml", "--model.start_from", folder, "--model.train_only", what)
    assert shell(*line, "--run", "tuned", "--trainer.max_steps", "2").error == ""
    after = load_tokenizer("tuned/tokenizer")
    assert isinstance(after, WindowedTokenizer)
    assert torch.equal(after.codebook_KD, before.codebook_KD)
    assert (after.fingerprint() == before.fingerprint()) is (what == "decoder")
    assert after.full_fingerprint() != before.full_fingerprint()
    # A run that was stopped goes on.
    assert shell(*line, "--run", "tuned", "--trainer.max_steps", "3", "--ckpt_path", "last").error == ""
