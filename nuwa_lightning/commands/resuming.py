"""Going on with a run: which checkpoint ``--ckpt_path`` means and whether it fits, and what to do when it is done."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from nuwa_lightning.callbacks.checkpoint_io import read_checkpoint
from nuwa_lightning.data.token_windows import Window
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.pretrained import own_of_run
from nuwa_lightning.training.sharding import is_parts, read_parts

_LOG = logging.getLogger(__name__)
TRAINED: Final = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""Parts of a checkpoint that a training goes on from."""


def find_checkpoint(given: str | None, run: Path, *, needed: bool) -> str | None:
    """Return the file that ``--ckpt_path`` means; None to start from the beginning.

    ``last`` is the newest ``last*.ckpt`` below the run folder; unless one is ``needed`` a first run may say it, too.
    """
    if given is None:
        return None
    if given != "last":
        if not Path(given).is_file() and not is_parts(given):
            raise UsageError(
                "--ckpt_path", given, f"there is no such file: name one in {run / 'checkpoints'}, or say last"
            )
        return given
    found = sorted(run.rglob("last*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    if found:
        _LOG.info("going on from %s", found[-1])
        return str(found[-1])
    if needed:
        raise UsageError("--ckpt_path", given, f"there is no checkpoint below {run}: name a file, or another --run")
    _LOG.info("no checkpoint below %s yet: starting from the beginning", run)
    return None


def check_checkpoint(path: str | None, model: Any, *, parts: Sequence[str] = ()) -> None:
    """Refuse a checkpoint that does not fit ``model``, or lacks one of ``parts``, before anything else is done.

    Raises:
        UsageError: if it cannot be read or is of another stage or size.
    """
    if path is None or not Path(path).exists() or not hasattr(model, "check_checkpoint"):
        return
    content = read_parts(path) if is_parts(path) else read_checkpoint(path, mapped=True)
    missing = next((name for name in parts if name not in content), None)
    if missing is not None:
        hint = f"has no {missing}, without which a training cannot go on: name last.ckpt, or an earlier one"
        raise UsageError("--ckpt_path", path, hint)
    try:
        if parts:  # Lightning counts from the beginning, without a word, where they do not say how far it was
            for name in ("epoch_progress", "epoch_loop.batch_progress"):
                content["loops"]["fit_loop"][name]["total"]["processed"]
            content["optimizer_states"][0]["param_groups"], content["lr_schedulers"]
        model.check_checkpoint(content, path)
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise unusable(path, error) from None


def unusable(path: object, error: BaseException) -> UsageError:
    """Return what to raise where a part of a checkpoint is not what this run has in its place."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    hint = f"does not fit this run, or is damaged ({reason}): name an earlier one, or start anew"
    return UsageError("--ckpt_path", path, hint)


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
    allowed = "".join(f"--own {path} " for path in own_of_run(run))
    return what, f"python -m nuwa_lightning generate --checkpoint {run} {allowed}{options}"
