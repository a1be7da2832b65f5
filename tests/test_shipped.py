"""The model that comes with the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.cli import main
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hub import DEFAULT, FILES, SHIPPED, find_run, shipped

MANIFEST = Path(__file__).parents[1] / "nuwa_lightning" / "data" / "landscape_manifest.json"


@pytest.mark.parametrize("name", shipped())
def test_small_and_nothing_but_data(name: str) -> None:
    files = [path for path in (SHIPPED / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= (25e6 if name == DEFAULT else 10e6)
    assert max(path.stat().st_size for path in files) <= 16e6
    assert {str(path.relative_to(SHIPPED / name)) for path in files} <= {*FILES, "README.md"}
    assert (SHIPPED / name / "README.md").is_file()


def test_card_names_every_package_of_its_photographs() -> None:
    card = (SHIPPED / DEFAULT / "README.md").read_text("utf-8")
    packages = {photo["package"] for photo in json.loads(MANIFEST.read_text("utf-8"))["photos"]}
    assert not {name for name in packages if name not in card}


def test_taken_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--size", "192x128", "--seed", "3", "--output", "a.png"]) == 0
    pipe = NuwaInfinityPipeline.from_pretrained(DEFAULT)
    image = pipe(size=(192, 128), seed=3).images[0]
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(image))
    assert pipe.coarse is not None
    assert main(["generate", "--from", "a.png", "--output", "b.png"]) == 0
    assert np.array_equal(np.asarray(Image.open("b.png")), np.asarray(image))


def test_loading_it_is_light() -> None:
    """What PyTorch imports only to draw weights, which are read, takes seconds."""
    code = "import sys, nuwa_lightning as n; n.NuwaInfinityPipeline.from_pretrained('landscape')"
    code += "; assert 'torch' in sys.modules; assert 'sympy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_run(DEFAULT) == SHIPPED / DEFAULT
    for part in ("model", "tokenizer"):
        (tmp_path / DEFAULT / part).mkdir(parents=True)
    assert find_run(DEFAULT) == Path(DEFAULT)


def test_an_unknown_name_is_told_of_it() -> None:
    assert DEFAULT in shipped()
    with pytest.raises(UsageError, match="or landscape, landscape_text or landscape_video of this package"):
        find_run("nowhere")


def test_texts_are_obeyed() -> None:
    pipe = NuwaInfinityPipeline.from_pretrained("landscape_text")
    texts = ["green open fields and no water by day, under a blue sky", "high peaks and a wide lake at night"]
    day, night = np.asarray(pipe(texts, size=(128, 128), seed=3, guidance_scale=2).images).reshape(2, 128, 128, 3)
    assert day.mean() > 2 * night.mean()
    sky, ground = day[:32].mean(axis=(0, 1)), day[-32:].mean(axis=(0, 1))
    assert sky.argmax() == 2
    assert ground.argmax() == 1


def test_photographs_move() -> None:
    photo = Image.fromarray(np.tile(np.linspace(40, 200, 64, dtype=np.uint8)[:, None, None], (1, 64, 3)))
    frames = NuwaInfinityPipeline.from_pretrained("landscape_video").animate(photo, frames=3).frames[0]
    assert np.array_equal(frames[0], photo)
    assert all(not np.array_equal(frame, photo) and frame.size == photo.size for frame in map(_image, frames[1:]))


def _image(frame: object) -> Image.Image:
    assert isinstance(frame, Image.Image)
    return frame
