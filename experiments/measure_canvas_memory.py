"""Peak memory of ``canvas info``, ``redo`` and ``grow`` on a canvas of 10,000 and one of 100,000 x 512 pixels.

    python experiments/measure_canvas_memory.py              (five minutes, most of it the coarse plan of the long one)
    python experiments/measure_canvas_memory.py --widths 2000 4000

The canvases hold random tokens under the model that comes with the package. Each action is a process of its own, whose
peak the kernel tells. The box of ``redo`` lies at the right end, where few patches depend on it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from nuwa_lightning import GenerationRequest, NuwaInfinityPipeline
from nuwa_lightning.canvas.canvas import Canvas
from nuwa_lightning.canvas.history import begun
from nuwa_lightning.request_fields import Size

_AT_ONCE = 1000


def make(folder: Path, pipe: NuwaInfinityPipeline, width: int, height: int) -> Canvas:
    """Write a finished canvas of random tokens."""
    store = begun(folder, pipe, GenerationRequest(size=Size(width, height), unprompted=True, seed=1))
    facts, generator = store.facts, torch.Generator().manual_seed(0)
    patches = list(facts.grid)
    for first in range(0, len(patches), _AT_ONCE):
        store.put(
            (patch, torch.randint(facts.codebook_size, (1, *facts.patch_size), generator=generator))
            for patch in patches[first : first + _AT_ONCE]
        )
    store.amend(replace(facts, finished=True, log=store.length))
    return store


def peak(*arguments: str) -> tuple[float, float]:
    """Return the MB and the seconds of a command."""
    began = time.monotonic()
    command = [sys.executable, "-m", "nuwa_lightning", "canvas", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = process.stderr.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise RuntimeError(f"{' '.join(arguments)}: {said.strip()}")
    return used.ru_maxrss / 1024, time.monotonic() - began


def main() -> None:
    """Print a line for each canvas and action, and all as JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--height", type=int, default=512)
    options = parser.parse_args()
    pipe = NuwaInfinityPipeline.from_pretrained("landscape")
    found: dict[str, dict[int, list[float]]] = {"info": {}, "redo": {}, "grow": {}}
    with tempfile.TemporaryDirectory() as folder:
        for width in options.widths:
            canvas = Path(folder) / f"{width}.canvas"
            make(canvas, pipe, width, options.height).close()
            box = f"{width - 40},{options.height - 40},{width},{options.height}"
            actions = {"info": (), "redo": ("--box", box, "--seed", "5"), "grow": ("--right", "64")}
            for name, more in actions.items():
                found[name][width] = [round(number, 1) for number in peak(name, str(canvas), *more)]
                size = f"{width} x {options.height}"
                sys.stdout.write("{}: {}: {} MB, {} s\n".format(name, size, *found[name][width]))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
