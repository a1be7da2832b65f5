"""Train, sample and score the cells of an ablation; whatever is finished is not done again.

Everything of a cell lies in its folder: ``definition.json`` (what it was begun as), ``run/`` (as ``fit`` leaves it), a
folder of images for each set of samples, ``scores/``, and at the end ``cell.json``. A cell that was broken off goes on:
training from its checkpoint, sampling at the next image. Two processes (or two machines on one disk) may work on one
ablation: each takes the next free cell.
"""

import json
import logging
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evaluation.ablation.config import Ablation, Cell, changed, definition_sha256
from evaluation.ablation.curves import training_seconds
from evaluation.config import read_yaml
from evaluation.images import ImageSet
from evaluation.protocol import Protocol, load_protocol
from evaluation.real_images import real_images
from evaluation.record import commit, machine, read_report, write_report
from evaluation.sampling import SampleSpec, sample_folder
from evaluation.score import Work, score
from nuwa_lightning.atomic import lock, write_json
from nuwa_lightning.commands import tokenizer as fitting
from nuwa_lightning.commands.tokenizer import Refinement, TokenizerSource, fit_command, open_tokenizer
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hub import find_part
from nuwa_lightning.signals import die_with_parent

DONE: Final = "cell.json"
_BEGUN: Final = "definition.json"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer that all cells share.

    Attributes:
        path: that training reads.
        decodes: that turns tokens into pixels: the refined one, where the base recipe has one.
    """

    path: Path
    decodes: Path


def output_folder(ablation: Ablation, output: Path | None) -> Path:
    """Return where the ablation lies."""
    return output or Path(ablation.output or Path("runs") / "ablations" / ablation.name)


def finished(cell: Cell, output: Path) -> dict[str, Any] | None:
    """Return what a finished cell says of itself, or None.

    Raises:
        UsageError: if it is finished, but is another cell than the one that is asked for.
    """
    folder = cell.folder(output)
    if not (folder / DONE).is_file():
        return None
    found = read_cell(folder)
    _check_definition(cell, folder, found["definition"])
    return found


def read_cell(folder: Path) -> dict[str, Any]:
    """Return what a finished cell says of itself.

    Its digest, and those of its reports in it, guard against mix-ups, not against malice.

    Raises:
        UsageError: if it was changed since.
    """
    path = folder / DONE
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "digest" in found and found["digest"] != _digest(found):  # earlier versions wrote none
        raise UsageError("cell", str(path), "was changed by hand: remove it, and run the ablation again")
    return found


def reports_of(cell: Cell, output: Path) -> dict[str, dict[str, Any]]:
    """Return the reports of a finished cell by set of samples.

    Raises:
        UsageError: if one is not that which was made for this cell.
    """
    folder = cell.folder(output)
    told = read_cell(folder)
    if (told["name"], told["seed"]) != (cell.name, cell.seed):
        raise UsageError("cell", cell.label, f"{folder} holds {told['name']}:{told['seed']}: remove it")
    reports = {}
    for name in cell.ablation.samples:
        path = folder / "scores" / f"{name}.json"
        reports[name] = read_report(path)
        if "digest" in told and told["scores"].get(name) != reports[name]["digest"]:
            hint = f"is not the report that {folder / DONE} was made with: remove both, and run the ablation again"
            raise UsageError("cell", str(path), hint)
    return reports


def _digest(told: Mapping[str, Any]) -> str:
    return definition_sha256({key: value for key, value in told.items() if key != "digest"})


def _check_definition(cell: Cell, folder: Path, found: dict[str, Any]) -> None:
    definition = cell.definition()
    if definition_sha256(found) != definition_sha256(definition):
        differs = "; ".join(changed(found, definition))
        hint = f"was made in another way ({differs}): remove {folder} or give another `output`"
        raise UsageError("cell", cell.label, hint)


def _begin(cell: Cell, folder: Path) -> None:
    """Keep what a cell is before it is made, or refuse to finish it as another one."""
    begun = folder / _BEGUN
    if begun.is_file():
        _check_definition(cell, folder, json.loads(begun.read_text(encoding="utf-8")))
        return
    if (folder / "run").exists():
        raise UsageError("cell", cell.label, f"does not say what it was begun as: remove {folder} to make it anew")
    write_json(begun, cell.definition())


def tokenizer_source(ablation: Ablation) -> dict[str, Any]:
    """Return what the base recipe says of its tokenizer."""
    found: dict[str, Any] = read_yaml(Path(ablation.base), "ablation.base").get("tokenizer") or {}
    return found


def provide_tokenizer(ablation: Ablation) -> Tokenizer:
    """Return the shared tokenizer of the base recipe, training (and refining) it first if it is not there."""
    source = tokenizer_source(ablation)
    if "path" not in source:
        raise UsageError("ablation.base", ablation.base, "names no tokenizer: set tokenizer.path in it")
    path, refine, refined = find_part(source["path"], "tokenizer"), source.get("refine"), source.get("refined")
    named = TokenizerSource(str(path), source.get("recipe"), refine, refined, beside=False)
    fitting.provide_tokenizer(named, fast_dev_run=False)
    if not refined or not refine:
        return Tokenizer(path, path)
    Refinement.start(named, open_tokenizer(named), path.parent)
    return Tokenizer(path, Path(refined))


def cell_arguments(cell: Cell, tokenizer: Tokenizer) -> list[str]:
    """Return the options of ``fit`` that make this cell of the base recipe."""
    arguments = []
    for overlay in cell.variant.overlays:
        arguments += ["--config", overlay]
    # The tokenizer is shared and finished; sheets of samples would only cost time.
    arguments += ["--tokenizer.path", str(tokenizer.path), "--tokenizer.refine", "null", "--tokenizer.refined", "null"]
    arguments += ["--seed_everything", str(cell.seed), "--data.seed", str(cell.seed), "--trainer.callbacks", "null"]
    for name, value in {**cell.ablation.options, **cell.variant.options}.items():
        arguments += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return arguments


def run_cell(cell: Cell, output: Path, tokenizer: Tokenizer, *, work: Work) -> dict[str, Any] | None:
    """Do what is left of a cell; returns what it says of itself, or None if another process is at it."""
    folder = cell.folder(output)
    folder.mkdir(parents=True, exist_ok=True)
    import torch

    with _free(folder) as free:
        if not free:
            return None
        found = finished(cell, output)
        if found is not None:
            return found
        _begin(cell, folder)
        run = folder / "run"
        command = [*fit_command(cell.ablation.base, run), *cell_arguments(cell, tokenizer)]
        if not (run / "model" / "config.json").is_file():
            _LOG.info("%s: training", cell.label)
            _call(command, run)
        sampling, scores = {}, {}
        for name, wanted in cell.ablation.samples.items():
            _LOG.info("%s: sampling and scoring %s", cell.label, name)
            first = 1000 * cell.seed
            spec = SampleSpec(
                wanted.pixels, range(first, first + wanted.count), cell.variant.sampler, cell.ablation.temperature,
                cell.ablation.top_k, wanted.batch,
            )  # fmt: skip
            sampling[name] = sample_folder(
                run, folder / name, spec, tokenizer=tokenizer.decodes, progress=work.progress
            )
            scores[name] = _score(cell, folder, name, work)
        told = {
            "name": cell.name,
            "seed": cell.seed,
            "definition": cell.definition(),
            "definition_sha256": definition_sha256(cell.definition()),
            "command": shlex.join(["python", *command[1:]]),
            "tokenizer": next(iter(sampling.values()))["tokenizer"],
            "parameters": parameters(run / "model"),
            "training_seconds": training_seconds(run / "tensorboard"),
            "sampling": sampling,
            "scores": {name: report["digest"] for name, report in scores.items()},
            "scoring_seconds": {name: report["run"]["wall_seconds"] for name, report in scores.items()},
            "commit": commit(),
            "machine": machine() | {"threads": torch.get_num_threads()},
        }
        told["digest"] = _digest(told)
        write_json(folder / DONE, told)
        return told


def parameters(model: Path) -> int:
    """Return how many numbers a saved model learned; its code vectors are the tokenizer's."""
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", framework="numpy") as file:
        names = [name for name in file.keys() if name.rpartition(".")[2] not in ("codebook_KE", "codes_KE")]  # noqa: SIM118 - no mapping
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def _score(cell: Cell, folder: Path, name: str, work: Work) -> dict[str, Any]:
    path = folder / "scores" / f"{name}.json"
    protocol = load_protocol(cell.ablation.samples[name].protocol)
    if path.is_file():
        report = read_report(path)
        if _is_of(report, protocol, cell.ablation.real, folder / name):
            return report
    report = score(protocol, cell.ablation.real, generated=folder / name, work=work)
    command = ["score", "--real", cell.ablation.real, "--generated", str(folder / name)]
    command += ["--protocol", cell.ablation.samples[name].protocol]
    report["run"]["command"] = shlex.join(["python", "-m", "evaluation", *command])
    path.parent.mkdir(exist_ok=True)
    write_report(path, report)
    return report


def _is_of(report: Mapping[str, Any], protocol: Protocol, real: str, generated: Path) -> bool:
    """Say whether a report is what scoring these images by this protocol would give."""
    settings, sets = report["protocol"]["settings"], report["sets"]
    images = {"real": real_images(real, protocol.real), "generated": ImageSet(generated, protocol.generated)}
    return all(settings.get(key) == value for key, value in protocol.settings().items()) and all(
        sets[name]["sha256"] == found.sha256() for name, found in images.items()
    )


def _call(command: Sequence[str], run: Path) -> None:
    """Run a command as its own process: its memory is given back, and its threads and seeds touch nothing here."""
    run.mkdir(parents=True, exist_ok=True)
    # A cell is free again when this process ends, so its training must not outlive it.
    before = None if sys.platform == "win32" else die_with_parent
    done = subprocess.run(command, check=False, env=os.environ, preexec_fn=before)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        hint = f"ended with status {done.returncode}, see above; again: {shlex.join(['python', *command[1:]])}"
        raise UsageError("fit", str(run), hint)


@contextmanager
def _free(folder: Path) -> Iterator[bool]:
    """Yield whether nobody else works in this folder; holds it meanwhile. The lock goes with the process."""
    try:
        held = lock(folder / ".lock", wait=False)
    except BlockingIOError:
        yield False
        return
    with held:
        yield True
