"""The worked example of docs/captions.md, with recipes of toy size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from nuwa_lightning.writers import read_metadata
from tests.test_documents import commands

TOY_TEXT = {"model": {"init_args": {"conditions": {"text_encoder": {"class_path": "my_text.Letters"}}}}}
SMALL = ("--data.bank.short_sides", "[64]", "--data.grid", "[4, 4]", "--data.batch_size", "2")


def test_a_set_like_lhqc_from_an_archive_to_a_picture(workplace, shell, repository, monkeypatch, caplog):
    shutil.copy(repository / "tests" / "text" / "letters.py", "my_text.py")
    monkeypatch.syspath_prepend(str(workplace))
    Path("toy_text.yaml").write_text(yaml.safe_dump(TOY_TEXT))
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

    document = (repository / "docs" / "captions.md").read_text(encoding="utf-8")
    told = [words for words in commands(document) if words[:3] == ["python", "-m", "nuwa_lightning"]]
    assert [words[3] for words in told] == ["fit", "fit", "generate"]
    toys = {
        "recipes/landscape_vqgan.yaml": "-c one.yaml",
        "recipes/landscape_text.yaml": "-c two.yaml -c toy_text.yaml",
    }
    for words in told:
        words = words[3:]
        if words[0] == "fit":
            at = words.index("--config")
            assert (repository / words[at + 1]).is_file()
            words[at : at + 2] = toys[words[at + 1]]
            words += SMALL if "two.yaml" in words else ()
        else:
            words[words.index("4096x1024")] = "48x32"
            words += ["--own", "my_text.Letters"]
        done = shell(*words)
        assert done.status == 0, done.error
    said = [record.getMessage() for record in caplog.records]
    assert any("captions without a file" in line and "9999999.png" in line for line in said)
    assert any("1 files without a caption: 0000003.png" in line for line in said)
    assert any("leaving out 1 of 6 photos without a caption: 0000003.png" in line for line in said)
    assert np.asarray(Image.open("lake.png")).shape == (32, 48, 3)
    assert read_metadata("lake.png")["prompt"] == ["a lake at dusk"]
