"""Peak memory of ``canvas info``, ``redo`` and ``grow`` on a canvas of 10,000 and one of 100,000 x 512 pixels.

    python experiments/measure_canvas_memory.py              (minutes, most of them the coarse plan of the long one)
    python experiments/measure_canvas_memory.py --widths 2000 4000

The canvases hold random tokens under the model that comes with the package. Each action is a process of its own, whose
peak the kernel tells; a process counts what started it, too, so this one loads nothing. The box of ``redo`` lies at the
right end, where few patches depend on it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_AT_ONCE = 1000


def make(folder: Path, width: int, height: int) -> None:
    """Write a finished canvas of random tokens."""
    from dataclasses import replace

    import torch

    from nuwa_lightning import GenerationRequest, NuwaInfinityPipeline
    from nuwa_lightning.canvas.history import begun
    from nuwa_lightning.request_fields import Size

    pipe = NuwaInfinityPipeline.from_pretrained("landscape")
    store = begun(folder, pipe, GenerationRequest(size=Size(width, height), unprompted=True, seed=1))
    facts, generator = store.facts, torch.Generator().manual_seed(0)
    patches = list(facts.grid)
    for first in range(0, len(patches), _AT_ONCE):
        store.put(
            (patch, torch.randint(facts.codebook_size, (1, *facts.patch_size), generator=generator))
            for patch in patches[first : first + _AT_ONCE]
        )
    store.amend(replace(facts, finished=True, log=store.length))
    store.close()


def peak(*arguments: str) -> tuple[float, float]:
    """Return the MB and the seconds of a command."""
    began = time.monotonic()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{' '.join(arguments)}: failed")
    return round(used.ru_maxrss / 1024, 1), round(time.monotonic() - began, 1)


def main() -> None:
    """Print a line for each canvas and action, and all as JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--make", type=Path, help="only write a canvas of the first width into this folder")
    options = parser.parse_args()
    if options.make is not None:
        make(options.make, options.widths[0], options.height)
        return
    found: dict[str, dict[int, tuple[float, float]]] = {"info": {}, "redo": {}, "grow": {}}
    with tempfile.TemporaryDirectory() as folder:
        for width in options.widths:
            canvas, height = f"{folder}/{width}.canvas", options.height
            peak(__file__, "--make", canvas, "--widths", str(width), "--height", str(height))
            box = f"{width - 40},{height - 40},{width},{height}"
            for name, more in (("info", ()), ("redo", ("--box", box, "--seed", "5")), ("grow", ("--right", "64"))):
                found[name][width] = peak("-m", "nuwa_lightning", "canvas", name, canvas, *more)
                sys.stdout.write("{}: {}x{}: {} MB, {} s\n".format(name, width, height, *found[name][width]))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
