"""What stage 2 names beside itself: the tokenizer, its refined decoder, the decoder of videos; trained if missing."""

from __future__ import annotations

import importlib
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from nuwa_lightning.data.folders import locked
from nuwa_lightning.environment import RANKS, is_first
from nuwa_lightning.errors import ToldError, UsageError
from nuwa_lightning.generation.pretrained import Generator, load_generator
from nuwa_lightning.hub import find_part
from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder
from nuwa_lightning.models.vqgan import VQGANConfig
from nuwa_lightning.plain_data import parse_yaml, read_text
from nuwa_lightning.signals import STOPPED, Stopped, die_with_parent
from nuwa_lightning.tokenizers.base import Tokenizer, is_tokenizer_class
from nuwa_lightning.tokenizers.pretrained import load_pixel_guided, load_tokenizer
from nuwa_lightning.tokenizers.windows import WindowedTokenizer

_LOG = logging.getLogger(__name__)
_TOGETHER: tuple[str, ...] = (*RANKS, "GROUP_", "ROLE_", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_")
_TOGETHER += ("TORCHELASTIC_", "SLURM_", "PMI_", "OMPI_")
"""Beginnings of names of what torchrun, SLURM and MPI tell each process."""


@dataclass(frozen=True)
class TokenizerSource:
    """Where the tokenizer of stage 2 comes from.

    Args:
        path: folder of the trained tokenizer, the name of a model that comes with the package (``landscape``), or the
            import path of a class (``my_tokenizers.Mine``).
        recipe: stage-1 recipe that makes it when it is missing; its run folder must be the parent of ``path``.
        refine: recipe that refines its decoder, with frozen codes.
        beside: refine it on half of the cores while stage 2 trains on the others, instead of before, on all of them.
            Only beside a single process on a CPU: otherwise it is refined before, whatever is said here.
        refined: folder of the refined tokenizer, made by ``refine``; the decoder of videos begins as its decoder.
        guided: folder of the pixel-guided decoder of videos that goes with the tokenizer, put into the run at its end.
        guided_recipe: recipe that makes it when it is missing; its run folder must be the parent of ``guided``.
        arguments: of the class that ``path`` names.
        window: where the tokenizer is not local (attention or norms over the whole image), it is shown windows of so
            many tokens; 0 leaves it as it is.
        overlap: how far a window reaches beyond these, in tokens, on each side.
        own: classes outside of this package that a folder may name, by import path.
    """

    path: str
    recipe: str | None = None
    refine: str | None = None
    refined: str | None = None
    beside: bool = True
    guided: str | None = None
    guided_recipe: str | None = None
    arguments: dict[str, Any] | None = None
    window: int = 0
    overlap: int = 4
    own: tuple[str, ...] = ()

    @property
    def is_class(self) -> bool:
        """Whether ``path`` names a class."""
        return bool(re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", self.path)) and not Path(self.path).exists()

    @property
    def is_there(self) -> bool:
        """Whether nothing has to be trained first."""
        return self.is_class or (find_part(self.path, "tokenizer") / "config.json").exists()


@dataclass(frozen=True)
class CoarseSource:
    """Where the model that writes coarse plans comes from.

    Args:
        path: folder of the trained model, or the name of a model that comes with the package (``landscape``).
        recipe: recipe that makes it when it is missing; its run folder must be the parent of ``path``.
    """

    path: str
    recipe: str | None = None

    @property
    def is_there(self) -> bool:
        """Whether it is trained."""
        return (self.folder / "config.json").exists()

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return find_part(self.path, "coarse")


def provide_coarse(source: CoarseSource, tokenizer: TokenizerSource) -> Generator:
    """Return the model that writes coarse plans, trained first if it is not there; refused if of another tokenizer."""
    if not source.is_there:
        if source.recipe is None:
            hint = "there is no model of coarse plans; train it first: --config recipes/plan/coarse_model.yaml"
            raise UsageError("--coarse.path", source.path, hint)
        _LOG.info("training the model of coarse plans %s by %s", source.path, source.recipe)
        command = fit_command(source.recipe, Path(source.path).parent, "--tokenizer.path", tokenizer.path)
        _make(source.path, command, "--coarse.recipe", source.recipe)
    found = load_generator(source.folder)
    if found.tokenizer_fingerprint != open_tokenizer(tokenizer).fingerprint():
        hint = "was trained with another tokenizer: name the one made with this, a new folder, or null"
        raise UsageError("--coarse.path", source.path, hint)
    return found


def open_tokenizer(source: TokenizerSource) -> Tokenizer:
    """Return the tokenizer that ``source`` names, which is there."""
    if not source.is_class:
        own = [_imported(path, "--tokenizer.own") for path in source.own]
        tokenizer = load_tokenizer(source.path, own=own)
    else:
        try:
            tokenizer = _imported(source.path, "--tokenizer.path")(**(source.arguments or {}))
        except (TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError("--tokenizer.arguments", source.arguments, f"{source.path}: {error}") from error
        if not isinstance(tokenizer, Tokenizer):
            lacks = ", ".join(sorted(name for name in dir(Tokenizer) if name[0] != "_" and name not in dir(tokenizer)))
            raise UsageError("--tokenizer.path", source.path, f"lacks {lacks}: see docs/how-to/tokenizer.md")
    if source.window == 0:
        return tokenizer
    whole = tokenizer.whole if isinstance(tokenizer, WindowedTokenizer) else tokenizer
    try:
        return WindowedTokenizer(whole, source.window, source.overlap)
    except ValueError as error:
        raise UsageError("--tokenizer.window", source.window, str(error)) from None


def _imported(path: str, option: str) -> type[Any]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(option, path, f"is no folder and no class ({error}): name one of them") from None
    if not is_tokenizer_class(found):
        raise UsageError(option, path, "is no tokenizer: see docs/how-to/tokenizer.md")
    return cast("type[Any]", found)


def check_recipes(source: TokenizerSource) -> None:
    """Refuse a recipe that will be needed and is not there, before anything is trained."""
    for name, recipe, makes in (
        ("recipe", source.recipe, source.path),
        ("refine", source.refine, source.refined),
        ("guided_recipe", source.guided_recipe, source.guided),
    ):
        made = source.is_there if name == "recipe" else makes is not None and (Path(makes) / "config.json").exists()
        if recipe is not None and not made and not Path(recipe).is_file():
            raise UsageError(f"--tokenizer.{name}", recipe, "there is no such file: name a recipe, or null")


def expected_factor(source: TokenizerSource) -> int | None:
    """Return how many pixels a token will have along each side, by the recipe of a tokenizer that is still to be made.

    None where that cannot be seen without making it.
    """
    if source.recipe is None or source.is_there:
        return None
    try:
        given = parse_yaml(read_text(source.recipe))["model"]["init_args"]
        return None if given.get("start_from") else VQGANConfig.from_dict(given.get("vqgan") or {}).downsample_factor
    except (OSError, KeyError, TypeError, AttributeError, ValueError):
        return None  # its own training will say it


def provide_tokenizer(source: TokenizerSource, *, fast_dev_run: bool) -> None:
    """Train the tokenizer that ``source`` names if it is not there."""
    if source.is_class:
        _imported(source.path, "--tokenizer.path")
        _LOG.info("tokenizer: the class %s", source.path)
        return
    if source.is_there:
        _LOG.info("tokenizer: %s (trained before)", source.path)
        return
    if source.recipe is None or fast_dev_run:
        hint = (
            f"train it first: python -m nuwa_lightning fit --config {source.recipe or 'recipes/landscape_vqgan.yaml'}"
        )
        raise UsageError("--tokenizer.path", source.path, f"there is no tokenizer; {hint}")
    run = Path(source.path).parent
    _LOG.info("stage 1 of 2: training the tokenizer %s by %s", source.path, source.recipe)
    _make(source.path, fit_command(source.recipe, run), "--tokenizer.recipe", source.recipe)
    _LOG.info("stage 2 of 2: training the patch transformer")


def find_refined(source: TokenizerSource, tokenizer: Tokenizer) -> Tokenizer | None:
    """Return the refined tokenizer that ``source`` names: the same tokens, better seen; None if it is not there.

    Another tokenizer, whose codes mean something else, is refused.
    """
    if source.refined is None or not (Path(source.refined) / "config.json").exists():
        return None
    refined = load_tokenizer(source.refined, option="--tokenizer.refined")
    if refined.fingerprint() != tokenizer.fingerprint():
        hint = f"is not {source.path} refined, but another tokenizer: name the one made from it, a new folder, or null"
        raise UsageError("--tokenizer.refined", source.refined, hint)
    return refined


def check_guided(source: TokenizerSource, tokenizer: Tokenizer) -> None:
    """Refuse a decoder of videos that is there but does not fit, or that is missing and cannot be made."""
    if source.guided is None:
        return
    if (Path(source.guided) / "config.json").exists():
        load_pixel_guided(source.guided, tokenizer=tokenizer)
    elif source.guided_recipe is None:
        hint = "train it first: python -m nuwa_lightning fit --config recipes/landscape_pixel_guided.yaml"
        raise UsageError("--tokenizer.guided", source.guided, f"there is no pixel-guided decoder; {hint}")


def provide_guided(source: TokenizerSource, tokenizer: Tokenizer, refined: str | None) -> PixelGuidedDecoder | None:
    """Return the decoder of videos that ``source`` names, trained first if it is not there.

    It comes after all else, since it begins as the refined decoder. If it cannot be trained the run is whole without:
    videos are then decoded frame by frame.
    """
    if source.guided is None:
        return None
    if not (Path(source.guided) / "config.json").exists():
        assert source.guided_recipe is not None, "check_guided comes first"
        _LOG.info("training the pixel-guided decoder %s by %s", source.guided, source.guided_recipe)
        options = ("--tokenizer.path", source.path, "--tokenizer.refined", refined or "null")
        command = fit_command(source.guided_recipe, Path(source.guided).parent, *options)
        status = _run(command)
        if status or not (Path(source.guided) / "config.json").exists():
            _LOG.warning("the pixel-guided decoder's training ended with status %d: videos will flicker", status)
            _LOG.warning("to try again: %s", shlex.join(["python", *command[1:]]))
            return None
    return load_pixel_guided(source.guided, tokenizer=tokenizer)


def _make(folder: str, command: Sequence[str], option: str, recipe: str) -> None:
    """Run a training that makes a tokenizer.

    In a process of its own: its memory is given back, and its threads and seeds do not touch those of stage 2.
    """
    made = Path(folder) / "config.json"
    with locked(Path(folder).parent):  # of processes that train together one makes it, the others wait
        status = 0 if made.exists() else _run(command)
    if status or not made.exists():
        # Status 2: it has named its option, value and way out.
        fault = ToldError if status == 2 else UsageError
        raise fault(option, recipe, f"its training ended with status {status}; see above")


def _run(command: Sequence[str]) -> int:
    """Return the status of a training in a process of its own; a signal to one of the two ends both."""
    with subprocess.Popen(command, env=alone()) as process:
        try:
            status = process.wait()
        except Stopped as stopped:
            stopped.told = _stop(process, stopped.number) in STOPPED
            raise
    if status in STOPPED:
        raise Stopped(status - 128, told=True)
    return status


def _stop(process: subprocess.Popen[bytes], number: int) -> int:
    """Pass a signal on, and each later one; return the status of the process."""
    process.send_signal(number)
    try:
        return process.wait()
    except Stopped as again:
        return _stop(process, again.number)


def alone() -> dict[str, str]:
    """Return the environment without what makes a process one of many, for a process that trains by itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_TOGETHER)}


def fit_command(recipe: str, run: Path, *options: str) -> list[str]:
    """Return the command that trains a recipe into a run folder, or goes on with it."""
    command = [sys.executable, "-m", "nuwa_lightning", "fit", "--config", recipe, "--run", str(run), *options]
    if (run / "checkpoints" / "last.ckpt").exists():
        command += ["--ckpt_path", "last"]
    return command


class Refinement:
    """A process that refines the decoder before or while stage 2 trains (ours): codes are frozen, tokens stay valid."""

    def __init__(self, process: subprocess.Popen[bytes] | None, source: TokenizerSource | None = None) -> None:
        self._process = process
        self._source = source

    @classmethod
    def start(
        cls, source: TokenizerSource, tokenizer: Tokenizer, run_folder: Path, *, no_room: str | None = None
    ) -> Refinement:
        """Start it, or return at once if the refined tokenizer is there; its log goes to the run folder.

        ``no_room`` says why there is none beside stage 2, if there is none.
        """
        if source.refine is None:
            if find_refined(source, tokenizer) is None:
                _LOG.warning("--tokenizer.refined %s is not there: images are decoded without it", source.refined)
            return cls(None, source)
        if source.refined is None:
            raise UsageError(
                "--tokenizer.refined", source.refined, "--tokenizer.refine needs it: name a folder to make"
            )
        finished = find_refined(source, tokenizer) is not None
        run, start_from = Path(source.refined).parent, ("--model.start_from", source.path)
        if no_room or not source.beside:
            if not finished:
                if source.beside:
                    _LOG.info("refining before stage 2 instead of beside it: %s", no_room)
                _LOG.info("refining the decoder of %s by %s", source.path, source.refine)
                _make(source.refined, fit_command(source.refine, run, *start_from), "--tokenizer.refine", source.refine)
                find_refined(source, tokenizer)
            return cls(None, source)
        half = max(1, (os.cpu_count() or 2) // 2)
        # Fixed, also when nothing is refined this time: sums in another number of threads may differ in the last bit.
        torch.set_num_threads(half)
        if finished or not is_first():
            return cls(None, source)
        log = run_folder / "refinement.log"
        run_folder.mkdir(parents=True, exist_ok=True)
        command = fit_command(source.refine, run, "--trainer.enable_progress_bar", "false", *start_from)
        environment = {**alone(), "OMP_NUM_THREADS": str(half), "MKL_NUM_THREADS": str(half)}
        with log.open("ab") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, preexec_fn=die_with_parent)
        _LOG.info("refining the decoder beside stage 2, on %d core(s); its log: %s", half, log)
        return cls(process, source)

    def stop(self) -> None:
        """End it, if it runs still; it leaves a checkpoint to go on with."""
        if self._process is not None and self._process.poll() is None:
            _stop(self._process, signal.SIGTERM)

    def wait(self, tokenizer: Tokenizer) -> Tokenizer | None:
        """Wait for the end; returns the refined ``tokenizer``, or None if there is none."""
        if self._process is not None:
            if self._process.poll() is None:
                _LOG.info("waiting for the decoder's refinement")
            status = self._process.wait()
            if status:
                _LOG.warning(
                    "the decoder's refinement ended with status %d (see refinement.log); using it unrefined", status
                )
        if self._source is None:
            return None
        try:
            return find_refined(self._source, tokenizer)
        except UsageError as error:
            # What was trained meanwhile is whole without it.
            _LOG.warning("%s; using the decoder unrefined", error)
            return None
