"""Processes that start together on a machine look through a folder once, and all see what is in it then."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from nuwa_lightning.data.photos import FolderPhotos
from tests.data.conftest import Paint
from tests.together import run_together

# Two looks, and a file more before the second.
SCRIPT = """
import json, os, shutil, time
from pathlib import Path

from nuwa_lightning.data import folders, sources
from nuwa_lightning.data.photos import FolderPhotos

rank = os.environ["RANK"]
calls, found = [], []


def count(module, name):
    real = getattr(module, name)
    setattr(module, name, lambda *given: calls.append(name) or real(*given))


def meet(what):
    Path(f"{what}-{rank}").touch()
    while not (Path(f"{what}-0").exists() and Path(f"{what}-1").exists()):
        time.sleep(0.01)


count(sources, "list_files")
count(folders, "_hashed")
for look in "ab":
    meet(f"before-{look}")
    photos = FolderPhotos("photos", val_fraction=0.5)
    photos.prepare()
    listed = [[str(p.path), p.key, p.caption, p.scene] for split in ("train", "val") for p in photos.photos(split)]
    found.append([listed, photos.record()])
    meet(f"after-{look}")
    if rank == "0":
        shutil.copy("photos/a/00.png", f"photos/{time.time_ns()}.png")
Path(f"{rank}.json").write_text(json.dumps([calls, found]))
"""


def test_a_folder_is_looked_through_once(photo_folder: Path, paint: Paint) -> None:
    place = photo_folder.parent
    odd = photo_folder / os.fsdecode(b"caf\xe9.png")
    shutil.copy(paint("odd.png", seed=50), odd)
    (photo_folder / "a" / "02.txt").write_text("a lake")
    (photo_folder / "notes.pdf").touch()
    for start in range(2):
        told = run_together(["-c", SCRIPT], folder=place)
        assert [status for status, _ in told] == [0, 0], told
        (calls, found), (more_calls, others) = (json.loads((place / f"{rank}.json").read_text()) for rank in range(2))
        assert found == others
        counts = [13 + 2 * start + look for look in range(2)]
        assert [len(listed) for listed, _ in found] == counts
        assert (calls + more_calls).count("list_files") == 2
        assert (calls + more_calls).count("_hashed") == sum(counts)
        assert sum(said.count("files without a caption") for _, said in told) == 2
        for path in place.glob("*-[ab]-[01]"):
            path.unlink()
    # The last file came after the last look.
    max(photo_folder.glob("1*.png")).unlink()
    alone = FolderPhotos(str(photo_folder), val_fraction=0.5)
    expected = [[p.key, p.caption, p.scene] for split in ("train", "val") for p in alone.photos(split)]
    assert [[key, *facts] for _, key, *facts in found[-1][0]] == expected
    assert any(caption == "a lake" for _, caption, _ in expected)
    assert odd.name in {key for key, *_ in expected}
    assert found[-1][1]["left_out"] == alone.record()["left_out"] == {".pdf": 1}
