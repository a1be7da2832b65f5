"""Measure videos: the numbers of docs/results.md, "Videos".

    python experiments/measure_videos.py runs/landscape_video --output measured_videos

Memory: the largest memory of ``generate`` for 10 and for 200 frames. Videos: the first frame of each held-out video of
`LandscapeClips` begins to move, 60 frames of each are scored beside the real ones by ``python -m evaluation
score-videos`` (flicker, frame difference, motion, distances of clips of 16 frames). Writes ``numbers.json``, the
report, the videos as folders of frames and a sheet of frames. About half an hour on two cores; ``--videos 4`` and
``--no-memory`` shorten it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from nuwa_lightning.data.clips import ClipSettings
from nuwa_lightning.data.landscape_clips import LandscapeClips
from nuwa_lightning.data.video_data import LandscapeClipsDataModule

ROOT = Path(__file__).parents[1]
SHOWN = (0, 1, 2, 4, 8, 16, 32, 59)
"""Frames on the sheet."""


def generate(run: Path, *options: str) -> int:
    """Run the command; returns the largest memory in bytes."""
    command = [sys.executable, "-m", "nuwa_lightning", "generate", "--checkpoint", str(run.resolve()), "--unprompted"]
    command += options
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}:\n{said[-2000:]}")
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory(run: Path, output: Path) -> dict[str, float]:
    """Return the largest memory for a short and for a long video, and the ratio."""
    peaks = {}
    for frames in (10, 200):
        target = str((output / f"memory{frames}.frames").resolve())
        peaks[frames] = generate(run, "--size", "128x128", "--frames", str(frames), "--output", target, "--overwrite")
    return {"bytes_10": peaks[10], "bytes_200": peaks[200], "ratio": peaks[200] / peaks[10]}


def held_out(clips: ClipSettings, count: int | None, cache: str | None) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return the name and the frames ``(T, Y, X, 3)`` of each held-out video up to its first cut, sides even."""
    videos = LandscapeClips(seconds=2, pans=0.3, drifts=0.8, cache=cache)  # those of the recipe
    data = LandscapeClipsDataModule(videos, clips=clips, size=64, cache=cache)
    data.prepare_data()
    found = []
    for entry in data.prepared("val").entries[:count]:
        shot = entry.shots[0]
        height, width = (side // 2 * 2 for side in entry.array().shape[1:3])
        found.append((entry.sample.key, entry.array()[shot.start : min(shot.stop, 60), :height, :width]))
    return found


def save(folder: Path, frames_TYX3: NDArray[np.uint8]) -> None:
    """Write frames as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame_YX3 in enumerate(frames_TYX3):
        Image.fromarray(np.ascontiguousarray(frame_YX3)).save(folder / f"{number:06d}.png")


def animate(run: Path, output: Path, videos: list[tuple[str, NDArray[np.uint8]]], frames: int, more: list[str]) -> None:
    """Write real and generated videos side by side as folders of frames, and a sheet of the generated ones."""
    rows = []
    for key, real_TYX3 in videos:
        save(output / "real" / key, real_TYX3)
        made = output / "generated" / f"{key}.frames"
        made.parent.mkdir(exist_ok=True)
        image = (output / "real" / key / "000000.png").resolve()
        options = ("--image", str(image), "--frames", str(frames), "--output", str(made.resolve()), "--overwrite")
        generate(run, *options, *more)
        sys.stderr.write(f"{key}\n")
        shown = [np.asarray(Image.open(made / f"{n:06d}.png"))[:, :240] for n in SHOWN if n < frames]
        rows.append(np.concatenate(shown, axis=1))
    width = max(row.shape[1] for row in rows)
    sheet = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(sheet)).save(output / "sheet.png")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=Path("measured_videos"))
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--videos", type=int, help="how many; default: all that are held out")
    parser.add_argument("--short_side", type=int, default=256)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--cache", default=None)
    parser.add_argument("--option", action="append", default=[], help="more for generate, such as --option=--top_k=20")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, Any] = {}
    if not options.no_memory:
        numbers["memory"] = memory(options.run, options.output)
    videos = held_out(ClipSettings(8, 4, short_side=options.short_side), options.videos, options.cache)
    animate(options.run, options.output, videos, options.frames, options.option)
    report = options.output / "report.json"
    command = [sys.executable, "-m", "evaluation", "score-videos", "--output", str(report.resolve())]
    command += ["--real", str((options.output / "real").resolve())]
    command += ["--generated", str((options.output / "generated").resolve())]
    for name in ("real", "generated"):
        command += ["--set", f"{name}.side={options.short_side}"]
    subprocess.run(command, cwd=ROOT, check=True)
    numbers["rows"] = json.loads(report.read_text(encoding="utf-8")).get("rows")
    (options.output / "numbers.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
