"""The worked examples of docs/captions.md, with recipes of toy size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from nuwa_lightning.writers import read_metadata
from tests.commands.conftest import write_clips
from tests.test_documents import commands

TOY_TEXT = {"model": {"init_args": {"conditions": {"text_encoder": {"class_path": "my_text.Letters"}}}}}
SMALL = ("--data.bank.short_sides", "[64]", "--data.grid", "[4, 4]", "--data.batch_size", "2")


TEXT = ["-c", "toy_text.yaml"]
TOYS = {
    "recipes/landscape_vqgan.yaml": ["-c", "one.yaml"],
    "recipes/landscape_text.yaml": ["-c", "two.yaml", *TEXT],
    "recipes/landscape_text_video.yaml": ["-c", "videos.yaml", *TEXT],
    "4096x1024": ["48x32"],
    "512x256": ["48x32"],
    "40": ["3"],
}


@pytest.fixture
def example(workplace, shell, repository, monkeypatch):
    """Run the commands below a heading of the document, each word that is too large for a test replaced."""
    shutil.copy(repository / "tests" / "text" / "letters.py", "my_text.py")
    monkeypatch.syspath_prepend(str(workplace))
    Path("toy_text.yaml").write_text(yaml.safe_dump(TOY_TEXT))
    document = (repository / "docs" / "captions.md").read_text(encoding="utf-8")

    def run(heading: str) -> list[str]:
        part = next(part for part in document.split("\n## ") if part.startswith(heading))
        told = [words for words in commands(part) if words[:3] == ["python", "-m", "nuwa_lightning"]]
        for _, _, _, name, *words in told:
            assert all((repository / word).is_file() for word in words if word.startswith("recipes/"))
            toy = [small for word in words if word != "--config" for small in TOYS.get(word, [word])]
            toy += SMALL if "two.yaml" in toy else ["--own", "my_text.Letters"] if name == "generate" else []
            done = shell(name, *toy)
            assert done.status == 0, done.error
        return [words[3] for words in told]

    return run


def test_a_set_like_lhqc_from_an_archive_to_a_image(example, caplog):
    rows = ["file_name,caption"]
    for number, photo in enumerate(sorted(Path("photos").iterdir())):
        folder = Path("lhq_test" if number == 5 else "lhq")
        folder.mkdir(exist_ok=True)
        name = f"{number:07d}.png"
        shutil.copy(photo, folder / name)
        if number != 3:
            rows.append(f'{name},"a lake, with {number} mountains"')
    rows.append("9999999.png,a waterfall in a forest")
    Path("lhqc.csv").write_text("\n".join(rows) + "\n")
    assert example("A set like LHQC") == ["fit", "fit", "generate"]
    said = [record.getMessage() for record in caplog.records]
    assert any("1 captions without a file: 9999999.png" in line for line in said)
    assert any("1 files without a caption: 0000003.png" in line for line in said)
    assert any("leaving out 1 of 6 photos without a caption: 0000003.png" in line for line in said)
    assert np.asarray(Image.open("lake.png")).shape == (32, 48, 3)
    assert read_metadata("lake.png")["prompt"] == ["a lake at dusk"]


def test_videos_with_captions(example, sample_photos):
    pytest.importorskip("av")
    write_clips(Path("videos"), sample_photos)
    Path("videos_test").mkdir()
    Path("videos/flower.mp4").rename("videos_test/flower.mp4")
    Path("videos.csv").write_text("file_name,caption\nchina.mp4,a temple\nflower.mp4,a flower\n")
    assert example("Videos with captions") == ["fit", "generate"]
    said = read_metadata("video.mp4")
    assert (said["prompt"], said["frames"], said["size"]) == (["waves roll onto a beach"], 3, [48, 32])
