"""A folder of numbered PNG files, one a frame, and a JSON file that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuwa_lightning.atomic import fsync_path
from nuwa_lightning.writers.base import Pixels
from nuwa_lightning.writers.video import VideoWriter

ABOUT = "video.json"
"""The file beside the frames: frames a second, how many, and the metadata."""


class FramesWriter(VideoWriter):
    """Writes a folder ``NAME.frames`` with ``000000.png``, ``000001.png`` and so on: lossless, for further work."""

    folder = True
    format_name = "PNG frames"
    longest_side = 2**31 - 1
    fastest = 1_000_000

    def _start(self, partial: Path, description: str, state: Mapping[str, Any] | None) -> None:
        self._new: list[Path] = []

    def _append(self, frame_YX3: Pixels) -> None:
        from PIL import Image

        path = self._file.path / f"{self.frames:06d}.png"
        Image.fromarray(frame_YX3).save(path, format="PNG")
        self._new.append(path)

    def _force(self) -> Mapping[str, Any]:
        for path in self._new:
            fsync_path(path)
        fsync_path(self._file.path)
        self._new = []
        return {}

    def _end(self) -> None:
        about = {"fps": [self.fps.numerator, self.fps.denominator], "frames": self.frames}
        path = self._file.path / ABOUT
        path.write_text(json.dumps({**about, "metadata": json.loads(self.description)}, indent=2), encoding="utf-8")
        self._new.append(path)
        self._force()

    def _release(self) -> None:
        """Nothing is open between two frames."""
