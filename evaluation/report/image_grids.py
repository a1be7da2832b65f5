"""Samples side by side: one strip of images for each entry, at the same seeds."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evaluation.clip_score import known_captions
from evaluation.report.study import Study
from nuwa_lightning.data.reading import list_images, read_image

_WIDTH: Final = 1100
_GAP: Final = 4


@dataclass(frozen=True)
class Strip:
    """Images of one entry.

    Attributes:
        name: of the entry.
        jpeg: the images, left to right, as a JPEG file.
        files: their names.
        captions: what each was made from, empty where nothing is known.
    """

    name: str
    jpeg: bytes
    files: tuple[str, ...]
    captions: tuple[str, ...] = ()

    @property
    def data(self) -> str:
        """The image as a data address, to be put into a page."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


def strips_of(study: Study, samples: str) -> list[Strip]:
    """Return a strip of each entry at each training seed, of the files that all entries of that seed have."""
    strips = []
    for seed in dict.fromkeys(result.seed for entry in study.entries for result in entry.results):
        folders = {
            entry.name: result.folders[samples]
            for entry in study.entries
            for result in entry.results
            if result.seed == seed and samples in result.folders and result.folders[samples].is_dir()
        }
        names = [{path.name: path for path in list_images(folder)} for folder in folders.values()]
        shared = sorted(set.intersection(*map(set, names))) if names else []
        if shared:
            strips += [
                _strip(f"{entry}, training seed {seed}", [found[name] for name in shared])
                for entry, found in zip(folders, names, strict=True)
            ]
    return strips


def nearest_strips(study: Study, samples: str) -> list[Strip]:
    """Return, of each report, the samples that lie nearest to a real image, above it."""
    return [
        Strip(
            f"{entry.name}, training seed {result.seed}",
            base64.b64decode(found["jpeg"]),
            tuple(
                f"{ours} {distance:.3g} from {real}"
                for ours, distance, real in zip(found["generated"], found["distances"], found["real"], strict=True)
            ),
        )
        for entry in study.entries
        for result in entry.results
        if (found := result.reports.get(samples, {}).get("nearest"))
    ]


def _strip(name: str, paths: list[Path]) -> Strip:
    from PIL import Image

    first = read_image(paths[0])
    # Eight small images, or as many large ones as fit at half their size.
    count = max(1, min(8, len(paths), _WIDTH // max(128, first.width // 2)))
    width = (_WIDTH - (count - 1) * _GAP) // count
    height = max(1, round(first.height * width / first.width))
    strip = Image.new("RGB", (_WIDTH, height), "white")
    for i, path in enumerate(paths[:count]):
        image = read_image(path).resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(image, (i * (width + _GAP), 0))
    out = io.BytesIO()
    strip.save(out, "JPEG", quality=88)
    known = known_captions(paths[:count], option=name)
    captions = tuple(known.values()) if any(known.values()) else ()
    return Strip(name, out.getvalue(), tuple(path.name for path in known), captions)
