"""What to do with a finished run: the command that makes an image or a video of it."""

from __future__ import annotations

import shlex
from pathlib import Path

from nuwa_lightning.data.token_windows import Window
from nuwa_lightning.generation.pretrained import own_classes
from nuwa_lightning.plain_data import parse_json, read_text
from nuwa_lightning.tokenizers.pretrained import own_tokenizers

_PANORAMA = "--size 4096x512 --seed 0 --output panorama.png"
_VIDEO = "--size 256x256 --frames 40 --seed 0 --output video.mp4"


def what_next(run: Path, window: Window | None, factor: int, text: str | None) -> tuple[str, str]:
    """Return what can be made of a trained model, and the command that does.

    The model was trained on ``window``, in tokens of ``factor`` pixels, and is asked for ``text`` if it reads texts.
    """
    videos = window is not None and window.frames > 1
    what, options = ("a video", _VIDEO) if videos else ("a larger image", _PANORAMA)
    if text is not None:
        # A text tells of a whole scene: not higher than the crops in which the model saw one.
        height = 256 if window is None else factor * window.y
        size = f"{2 * height}x{height} --frames 40" if videos else f"{6 * height}x{height}"
        output = "video.mp4" if videos else "panorama.png"
        options = f"--prompt {shlex.quote(text)} --size {size} --seed 0 --output {output}"
    allowed = "".join(f"--own {path} " for path in _own_of(run))
    return what, f"python -m nuwa_lightning generate --checkpoint {run} {allowed}{options}"


def _own_of(run: Path) -> list[str]:
    """Return the import paths of the user's classes that a finished run names."""
    found: list[str] = []
    for part, classes in (("model", own_classes), ("coarse", own_classes), ("tokenizer", own_tokenizers)):
        if (run / part / "config.json").exists():
            found += classes(parse_json(read_text(run / part / "config.json")))
    return list(dict.fromkeys(found))
