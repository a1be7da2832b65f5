"""Make the gallery: images and videos of every task, from fixed seeds, and a page that shows them.

    python experiments/make_gallery.py              # everything whose run is there; the rest is named, with its recipe
    python experiments/make_gallery.py --only lake_at_dusk --overwrite
    python experiments/make_gallery.py --write_page     # docs/gallery.md anew, after a change here

Results: outputs/gallery/index.html and what it shows. What is there already stays, unless --overwrite is given.
"""

from __future__ import annotations

import argparse
import html
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from nuwa_lightning.cli import main as command_line
from nuwa_lightning.data.landscape_photos import LandscapePhotos
from nuwa_lightning.data.reading import read_image

PAGE = Path(__file__).parent / "gallery.md"
OUTPUT = Path("outputs/gallery")
PHOTOGRAPH = "given.png"
HOLES = "holes.png"


@dataclass(frozen=True)
class Exhibit:
    """One thing to be shown.

    Attributes:
        task: of the paper.
        name: of its file, with the suffix.
        title: one line for the page.
        run: the run folder that makes it.
        options: of ``generate``, beside checkpoint and output; ``given.png`` stands for the given photograph,
            ``holes.png`` for a mask of its size.
    """

    task: str
    name: str
    title: str
    run: str
    options: str

    @property
    def recipe(self) -> str:
        """The recipe that trains the run."""
        return f"recipes/{Path(self.run).name}.yaml"

    def arguments(self, output: Path) -> list[str]:
        """Return the command's words, from ``generate`` on."""
        words = [str(output / word) if word in (PHOTOGRAPH, HOLES) else word for word in shlex.split(self.options)]
        return ["generate", "--checkpoint", self.run, *words, "--output", str(output / self.name)]

    def command(self, output: Path) -> str:
        """Return the command as one types it."""
        return f"python -m nuwa_lightning {shlex.join(self.arguments(output))}"


TEXT = "text to image"
EXHIBITS = (
    Exhibit("unconditional", "panorama.png", "a panorama", "runs/landscape", "--size 3072x512 --seed 0"),
    Exhibit("unconditional", "around.png", "closed all around", "runs/landscape", "--size 2048x256 --wrap x --seed 1"),
    Exhibit(
        "outpainting",
        "all_sides.png",
        "a photograph that was not trained on, on all four sides",
        "runs/landscape",
        f"--image {PHOTOGRAPH} --expand left=256,right=256,up=128,down=128 --seed 0",
    ),
    Exhibit(
        "outpainting",
        "to_the_right.png",
        "the same, far to the right",
        "runs/landscape",
        f"--image {PHOTOGRAPH} --expand right=1280 --seed 1",
    ),
    Exhibit(
        "inpainting",
        "mended.png",
        "the photograph with two holes, written anew",
        "runs/landscape",
        f"--image {PHOTOGRAPH} --mask {HOLES} --seed 0",
    ),
    Exhibit(
        TEXT,
        "lake_at_dusk.png",
        "snowy mountains and a lake at dusk, under a red sky",
        "runs/landscape_text",
        '--prompt "snowy mountains and a lake at dusk, under a red sky" --guidance 3 --size 768x128 --seed 0',
    ),
    Exhibit(
        TEXT,
        "from_fields_to_mountains.png",
        "a text for each region",
        "runs/landscape_text",
        '--prompt "0,0,384,128: green open fields and no lake by day, under a blue sky"'
        ' --prompt "384,0,384,128: green mountains and a lake by day, under a blue sky"'
        " --guidance 3 --size 768x128 --seed 0",
    ),
    Exhibit(
        "unconditional video",
        "from_nothing.mp4",
        "a video from nothing",
        "runs/landscape_video",
        "--size 256x256 --frames 40 --seed 1",
    ),
    Exhibit(
        "image animation",
        "animated.mp4",
        "a photograph that begins to move",
        "runs/landscape_video",
        f"--image {PHOTOGRAPH} --frames 60 --temperature 0.8 --seed 0",
    ),
    Exhibit(
        "text to video",
        "moving_lake.mp4",
        "snowy mountains and a lake at dusk, the camera moves to the right",
        "runs/landscape_text_video",
        '--prompt "snowy mountains and a lake at dusk, under a red sky, the camera moves to the right"'
        " --guidance 2 --frames 40 --size 384x128 --seed 0",
    ),
)


def write_photograph(path: Path) -> None:
    """Write the photograph that is gone on from: the middle of one that was not trained on."""
    photos = LandscapePhotos()
    photos.prepare()
    image = read_image(photos.photos("val")[0].path)
    scale = 288 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = ((length - 256) // 2 for length in image.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.crop((left, top, left + 256, top + 256)).save(path)


def write_holes(photograph: Path, path: Path) -> None:
    """Write a mask for the photograph, white where it is to be written anew: a disc of the sky, and a piece of land."""
    width, height = read_image(photograph).size
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    draw.ellipse([width // 8, height // 8, width // 8 + width // 4, height // 8 + height // 4], fill=255)
    draw.rectangle([width // 2, height // 2, width * 7 // 8, height * 3 // 4], fill=255)
    mask.save(path)


def make(exhibits: Sequence[Exhibit], output: Path, *, overwrite: bool = False) -> list[Exhibit]:
    """Make what can be made, say what cannot and why, write the page, and return what is there."""
    shown = []
    for exhibit in exhibits:
        target = output / exhibit.name
        if target.exists() and not overwrite:
            shown.append(exhibit)
        elif not (Path(exhibit.run) / "model").is_dir():
            fit = f"python -m nuwa_lightning fit --config {exhibit.recipe}"
            sys.stderr.write(f"skipped {exhibit.name}: there is no {exhibit.run}; train it: {fit}\n")
        elif command_line([*exhibit.arguments(output), *(["--overwrite"] if overwrite else [])]):
            sys.stderr.write(f"skipped {exhibit.name}: generate refused, see the line above\n")
        else:
            shown.append(exhibit)
    (output / "index.html").write_text(html_page(shown, output), encoding="utf-8")
    return shown


def html_page(exhibits: Sequence[Exhibit], output: Path) -> str:
    """Return the page that shows what is there."""
    parts = ['<!doctype html><meta charset="utf-8"><title>nuwa_lightning</title>']
    parts.append("<style>body{font:16px sans-serif;margin:2em}img,video{max-width:100%}code{font-size:80%}</style>")
    for exhibit in exhibits:
        name, title = html.escape(exhibit.name), html.escape(f"{exhibit.task}: {exhibit.title}")
        video = exhibit.name.endswith(".mp4")
        show = f'<video src="{name}" controls loop></video>' if video else f'<img src="{name}" alt="{title}">'
        command = html.escape(exhibit.command(output))
        parts.append(f"<h2>{title}</h2><p>{show}</p><p><code>{command}</code></p>")
    return "\n".join(parts) + "\n"


def document(exhibits: Sequence[Exhibit], output: Path) -> str:
    """Return docs/gallery.md."""
    lines = [
        "# Gallery",
        "",
        "Its images and videos are not in this repository: one command makes them from fixed seeds, and a page that"
        f" shows them, `{output / 'index.html'}`. What has no run yet is skipped, and named with its recipe.",
        "",
        "```",
        "python experiments/make_gallery.py",
        "```",
        "",
        "The given photograph (`given.png`) is one of the default photographs that training never saw;"
        " `--photograph FILE` takes another. `holes.png`, white where it is to be written anew, is drawn beside it."
        " This page is written by `python experiments/make_gallery.py --write_page`.",
    ]
    for task in dict.fromkeys(exhibit.task for exhibit in exhibits):
        lines += [*([] if lines[-1] == "" else [""]), f"## {task.capitalize()}"]
        for run in dict.fromkeys(exhibit.run for exhibit in exhibits if exhibit.task == task):
            some = [exhibit for exhibit in exhibits if (exhibit.task, exhibit.run) == (task, run)]
            lines += [f"Trained by `{some[0].recipe}`.", ""]
            for exhibit in some:
                lines += [f"`{exhibit.name}`: {exhibit.title}.", "", "```", exhibit.command(output), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Make it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FOLDER")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument("--overwrite", action="store_true", help="make again what is there")
    parser.add_argument("--photograph", type=Path, metavar="FILE", help="to go on from, 256 x 256 pixels at best")
    parser.add_argument("--write_page", action="store_true", help="write docs/gallery.md and nothing else")
    options = parser.parse_args()
    if options.write_page:
        PAGE.write_text(document(EXHIBITS, OUTPUT), encoding="utf-8")
        return 0
    names = [Path(exhibit.name).stem for exhibit in EXHIBITS]
    for name in options.only:
        if name not in names:
            parser.error(f"--only: {name}: choose from {', '.join(names)}")
    options.output.mkdir(parents=True, exist_ok=True)
    given = options.output / PHOTOGRAPH
    if options.photograph is not None:
        read_image(options.photograph).save(given)
    elif not given.exists():
        write_photograph(given)
    write_holes(given, options.output / HOLES)
    chosen = [exhibit for exhibit in EXHIBITS if not options.only or Path(exhibit.name).stem in options.only]
    shown = make(chosen, options.output, overwrite=options.overwrite)
    sys.stdout.write(f"{len(shown)} of {len(chosen)}: {options.output / 'index.html'}\n")
    return 0 if shown else 1


if __name__ == "__main__":
    raise SystemExit(main())
