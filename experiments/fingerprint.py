"""Show that a change left the numbers as they were: losses of every recipe, pixels and tokens of all that generates.

    python experiments/fingerprint.py record --output before.json --inputs inputs --tree ../before
    python experiments/fingerprint.py record --output after.json --inputs inputs
    python experiments/fingerprint.py compare before.json after.json

An item is a few commands in a process and a folder of its own: three steps of a recipe of which the sizes alone are
changed (all that is logged, to all digits), or a kind of ``generate`` or ``canvas`` (sha256 of the tokens, and of the
pixels that the files decode to). How tokens are drawn is said, so that other defaults do not show. Photographs, clips
and models that items begin with lie in ``--inputs``; what is missing there is made by the tree. Two recordings with one
such folder generate from the same models, whatever their trees do in training. Numbers are of one machine; record one
tree twice first. ``compare`` ends with status 1 if an item differs or has come to fail. Three minutes of one core.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from fingerprint_items import Item, all_items, all_models
from PIL import Image, ImageSequence

_LOG = logging.getLogger(__name__)


def make_pictures() -> None:
    """Write photographs, clips and what is given to ``generate`` into the working directory: waves and noise."""
    from nuwa_lightning.writers import write_video

    y, x = np.mgrid[:288, :640]
    for n in range(4):
        waves = [np.sin(x / (9 + 5 * n + c)) + np.cos(y / (14 + 3 * n) + c) for c in range(3)]
        noise = np.random.default_rng(n).normal(0, 8, (288, 640, 3))
        photo = np.clip(127 + 50 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)
        for folder in ("photos", "clips"):
            Path(folder).mkdir(exist_ok=True)
            Path(folder, f"{n}.txt").write_text(f"a lake and {n} hills", encoding="utf-8")
        Image.fromarray(photo[:, :400]).save(f"photos/{n}.png")
        frames = (photo[16:272, 8 * t : 8 * t + 384] for t in range(6))
        write_video(frames, Path(f"clips/{n}.mp4"), width=384, height=256, fps=8)
    for name, (height, width) in {"scroll": (256, 640), "in": (32, 48), "sketch": (24, 36)}.items():
        Image.fromarray(photo[:height, :width]).save(f"{name}.png")
    Image.fromarray(np.pad(np.full((16, 16), 255, np.uint8), ((8, 8), (16, 16)))).save("mask.png")


def pictures(path: Path) -> list[np.ndarray[Any, Any]]:
    """Return what a file of ``generate`` decodes to: images, frames or tiles."""
    if path.suffix == ".zarr":
        import zarr

        return [np.asarray(zarr.open_array(path / "0", mode="r"))]
    if path.is_dir():
        return [each for file in sorted(path.rglob("*.*g")) for each in pictures(file)]
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def look() -> dict[str, Any]:
    """Return what an item left in the working directory: numbers logged, hashes of pixels and tokens."""
    from nuwa_lightning.canvas.canvas import Canvas

    left: dict[str, Any] = {}
    for log in sorted(Path().glob("lightning_logs/*/metrics.csv")):
        for row in csv.DictReader(log.read_text(encoding="utf-8").splitlines()):
            for name, value in row.items():
                if value and name not in ("epoch", "step"):
                    left.setdefault(name, []).append(float(value))
    for path in sorted(Path().glob("out*")):
        if path.suffix != ".dzi":  # its tiles lie beside it
            digest = hashlib.sha256()
            for image in pictures(path):
                digest.update(f"{image.shape}".encode() + image.tobytes())
            left[f"pixels of {path.name}"] = digest.hexdigest()
    if Path("kept").exists():
        canvas, digest = Canvas.open(Path("kept")), hashlib.sha256()
        for patch in sorted(canvas.written()):
            digest.update(f"{tuple(patch)} {canvas.patch(patch)}".encode())
        left["tokens"] = digest.hexdigest()
    return left


def run(item: Item, folder: Path) -> None:
    """Run an item in a folder, as a process of its own, and leave there what came of it."""
    from nuwa_lightning.cli import main

    os.chdir(folder)
    with Path("said.txt").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    if all(main(words) == 0 for words in item):
        Path("left.json").write_text(json.dumps(look()), encoding="utf-8")


def record(tree: Path, inputs: Path, output: Path, only: list[str]) -> None:
    """Run the items and write what came of each."""
    if os.environ.get("PYTHONPATH") != str(tree):
        own = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **own})
    import nuwa_lightning.commands.training
    import nuwa_lightning.pipeline  # both take seconds: once for all items

    assert Path(nuwa_lightning.__file__).is_relative_to(tree)
    (inputs / "models").mkdir(parents=True, exist_ok=True)
    if not (inputs / "mask.png").exists():
        os.chdir(inputs)
        make_pictures()
    with tempfile.TemporaryDirectory() as scratch:
        (cache := Path(scratch, "cache")).mkdir()

        def run_apart(name: str, item: Item) -> dict[str, Any]:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            for path in (*inputs.iterdir(), cache, tree / "tests/text/letters.py"):
                (folder / path.name).symlink_to(path)
            process = multiprocessing.get_context("fork").Process(target=run, args=(item, folder))
            process.start()
            process.join()
            said = ["", *(folder / "said.txt").read_text(encoding="utf-8").splitlines()]
            error = {"error": next((line for line in said if line.startswith("error:")), said[-1])}
            left = folder / "left.json"
            found: dict[str, Any] = json.loads(left.read_text(encoding="utf-8")) if left.exists() else error
            _LOG.info("%s %s", name, found.get("error", ""))
            return found

        for name, item in all_models(tree / "recipes").items():
            if not (inputs / "models" / name).exists():
                run_apart(f"model {name}", item)
        wanted = {n: i for n, i in all_items(tree / "recipes").items() if not only or any(w in n for w in only)}
        results = {name: run_apart(name, item) for name, item in wanted.items()}
    output.write_text(json.dumps(results, indent=1), encoding="utf-8")


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Say of each item whether it is equal, different or missing; returns the exit status."""
    counts, lost = {"equal": 0, "different": 0, "missing": 0}, 0
    for name in {**before, **after}:
        a, b = (found.get(name, {"error": "not recorded"}) for found in (before, after))
        kind, why = "equal", [key for key in {**a, **b} if a.get(key) != b.get(key)]
        if "error" in a or "error" in b:
            kind, why = "missing", [each.get("error", "there") for each in (a, b)]
            lost += "error" not in a
        elif why:
            kind = "different"
        counts[kind] += 1
        _LOG.info("%-9s %s%s", kind, name, "".join(f"; {each[:100]}" for each in why))
    _LOG.info(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return int(counts["different"] + lost > 0)


def main() -> int:
    """Run ``record`` or ``compare``; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    recording, comparing = actions.add_parser("record"), actions.add_parser("compare")
    recording.add_argument("--output", type=Path, required=True)
    recording.add_argument("--inputs", type=Path, required=True)
    recording.add_argument("--tree", type=Path, default=Path(__file__).parents[1], help="whose code and recipes run")
    recording.add_argument("--only", nargs="*", default=[], help="items that have one of these words in their names")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    if options.action == "compare":
        return compare(*(json.loads(path.read_text(encoding="utf-8")) for path in (options.before, options.after)))
    record(options.tree.resolve(), options.inputs.resolve(), options.output.resolve(), options.only)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
