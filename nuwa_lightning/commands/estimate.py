"""``estimate``: what a recipe of stage 2 takes, before anything is trained or generated."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nuwa_lightning.commands.estimate_options import EstimateOptions
from nuwa_lightning.commands.options import parser_of
from nuwa_lightning.commands.parsing import completed
from nuwa_lightning.errors import UsageError
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.request_fields import Size

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from nuwa_lightning.callbacks.sample_sheet import SampleSheet
    from nuwa_lightning.tokenizers.base import Tokenizer
    from nuwa_lightning.training.nuwa_module import NuwaInfinityModule

_MOST_FLOPS: Final = 1e12
"""Of a batch that is timed: some ten seconds of two cores."""

_ABOUT: Final = """\
Say what a recipe of stage 2 takes, before anything is trained or generated: memory, arithmetic, steps, time.
What was assumed for a time is said beside it; docs/scaling.md explains it."""
_EPILOG: Final = """\
Any option of fit may be given, too, and --config is that of fit: a recipe, and overlays.

examples
  python -m nuwa_lightning estimate --config recipes/landscape_large.yaml --devices 64 --flops 18e12
  python -m nuwa_lightning estimate --config recipes/landscape.yaml --size 4096x512
"""


def estimate(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    if "-h" in arguments or "--help" in arguments:
        parser_of("python -m nuwa_lightning estimate", EstimateOptions, about=_ABOUT, epilog=_EPILOG).print_help()
        return 0
    from nuwa_lightning.commands.costs import read_recipe  # only now what takes time to import

    config = read_recipe(arguments, EstimateOptions)
    options = EstimateOptions(**{name: config[name] for name in EstimateOptions.__dataclass_fields__})
    for name in ("devices", "frames"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name}", getattr(options, name), "give 1 or more")
    for name in ("flops", "step_seconds"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name}", value, "give a number above 0")
    try:
        lines = _training_lines(config, options) + (_canvas_lines(config, options) if options.size else [])
    except UsageError as error:
        raise completed(error, config.as_dict()) from error.__cause__
    width = max(len(name) for name, _ in lines)
    sys.stdout.writelines(f"{name:<{width}}  {value}\n" for name, value in lines)
    return 0


def _training_lines(config: Namespace, options: EstimateOptions) -> list[tuple[str, str]]:
    from lightning.pytorch import LightningDataModule
    from torch._subclasses import FakeTensorMode

    from nuwa_lightning.commands.costs import make, model_of, parameters, training_cost
    from nuwa_lightning.commands.measuring import measured_step, process_bytes
    from nuwa_lightning.data.token_windows import TokenWindowsModule
    from nuwa_lightning.signals import keep_freed_memory

    keep_freed_memory()  # as fit does
    alone = process_bytes("VmRSS")
    data = make("data", LightningDataModule, config.data)
    if not isinstance(data, TokenWindowsModule):
        raise UsageError("--data", config.data.class_path, "give a data module of stage 2, such as TokenDataModule")
    shape, batch = data.window.shape, data.batch_size
    with FakeTensorMode(allow_non_fake_inputs=True):
        module, _ = model_of(config)
    scaling = module.scaling
    precision = str(config.trainer.precision or "32-true")
    cost = training_cost(config, shape=shape, batch=batch, precision=precision, devices=options.devices)
    tokens = batch * shape[0] * shape[1] * shape[2]
    steps = config.trainer.max_steps
    batches = steps * scaling.accumulate_grad_batches if steps > 0 else 0
    whole: int | None = None
    how, sheets, drawing = "", 0, 0.0
    if options.flops is not None:
        speed, told = options.flops, "as given"
    elif cost.flops > _MOST_FLOPS:
        speed, told = 0.0, "a batch takes too long here to be timed: give --flops"
    elif 2 * cost.peak < _free_bytes():
        tokenizer = _fitting_tokenizer(config, module)
        sheet, sheets = _sheets(config, steps) if tokenizer is not None else (None, 0)
        step, drawing = measured_step(config, shape=shape, batch=batch, tokenizer=tokenizer, sheet=sheet)
        speed, told = cost.flops / step, "measured on this CPU"
        whole, how = process_bytes(), "measured over these steps"
    else:
        speed, told = 0.0, f"{_size(cost.peak)} do not fit here to be timed: give --flops"
    if whole is None and alone is not None:
        whole, how = alone + cost.peak, f"{_size(alone)} of it by itself"
    lines = [
        ("parameters", f"{parameters(module) / 1e6:.2f} million"),
        ("sample", f"{'x'.join(map(str, shape))} tokens, {batch} a device, precision {precision}"),
        ("weights", _size(cost.weights)),
        ("optimizer", _size(cost.optimizer)),
        ("memory of a device in training", _size(cost.peak)),
        ("memory of the process on a CPU", "not told here" if whole is None else f"{_size(whole)} ({how})"),
        ("arithmetic of a batch on a device", f"{cost.flops / 1e12:.3g} TFLOP"),
        ("batch of all devices", f"{batch * options.devices * scaling.accumulate_grad_batches} samples"),
    ]
    if batches:
        all_flops = cost.flops * batches * options.devices
        lines += [
            ("steps", f"{steps} ({batches} batches a device)"),
            ("tokens", f"{tokens * batches * options.devices:.3g}"),
            ("arithmetic in all", f"{all_flops:.3g} FLOP"),
        ]
    if speed and batches:
        seconds = cost.flops * batches / speed + sheets * drawing
        drawn = f"; {sheets} sheets of {_time(drawing)}" if sheets else ""
        told = f"{_time(cost.flops / speed)} a batch, {speed:.3g} FLOP/s a device, {told}{drawn}"
        lines.append(("time of training", f"{_time(seconds)} ({told})"))
        lines.append(("device-days", f"{seconds * options.devices / 86400:.3g}"))
    elif not speed:
        lines.append(("time of training", told))
    return lines


def _canvas_lines(config: Namespace, options: EstimateOptions) -> list[tuple[str, str]]:
    from nuwa_lightning.commands.costs import canvas_cost, model_of
    from nuwa_lightning.commands.measuring import measured_decoding

    factor, told = _factor(config)
    size = Size.parse(str(options.size))
    if size.width is None or size.height is None:
        raise UsageError("--size", options.size, "an endless side has no end to estimate: give WIDTHxHEIGHT")
    module, texts = model_of(config)
    rows, columns = (side * factor for side in module.transformer.patch_size)
    grid = PatchGrid(options.frames, -(-size.height // rows), -(-size.width // columns))
    cost = canvas_cost(module, grid, texts=texts)
    if options.step_seconds is None:
        fixed, row = measured_decoding(module)
        how = f"measured on this CPU: {1e3 * fixed:.3g} ms a step and {1e3 * row:.3g} ms a patch in it"
    else:
        fixed, row, how = options.step_seconds, 0.0, f"{1e3 * options.step_seconds:.3g} ms a step, as given"
    seconds = fixed * cost.steps + row * cost.tokens
    alone = (fixed + row) * cost.tokens
    return [
        ("canvas", f"{options.size} px, {options.frames} frame(s), {factor} px a token ({told}), on one device"),
        ("patches and tokens", f"{cost.patches} and {cost.tokens}"),
        ("waves", f"{cost.waves}, of {cost.rows} patches at most: {cost.patches / cost.waves:.2f} side by side"),
        ("live patches", f"{cost.live} at most"),
        ("memory in generation", f"{_size(cost.memory)}, and what the process takes by itself"),
        ("arithmetic of the canvas", f"{cost.flops:.3g} FLOP"),
        ("time of generation", f"{_time(seconds)} in waves, {_time(alone)} patch by patch ({how})"),
    ]


def _fitting_tokenizer(config: Namespace, module: NuwaInfinityModule) -> Tokenizer | None:
    """Return the tokenizer that the recipe names, if the model can draw with it, and with nothing else."""
    from nuwa_lightning.commands.tokenizer import TokenizerSource, open_tokenizer

    given = config.get("tokenizer")
    source = None if given is None else TokenizerSource(**given.as_dict())
    more = module.transformer.text_dim or module.plan is not None
    if source is None or source.is_class or not source.is_there or more:
        return None
    tokenizer = open_tokenizer(source)
    return tokenizer if tokenizer.codebook_KD.shape == module.transformer.codebook_KE.shape else None


def _sheets(config: Namespace, steps: int) -> tuple[SampleSheet | None, int]:
    """Return what draws samples while a recipe trains, if anything does, and how often it does, the end included."""
    from lightning.pytorch import Callback

    from nuwa_lightning.callbacks.sample_sheet import SampleSheet
    from nuwa_lightning.commands.costs import is_named, make

    for given in config.trainer.callbacks or ():
        if is_named(given, SampleSheet):
            sheet = make("callback", Callback, given)
            return sheet, steps // sheet.every_n_steps + (sheet.first_step <= steps) + 1
    return None, 0


def _factor(config: Namespace) -> tuple[int, str]:
    from nuwa_lightning.commands.tokenizer import TokenizerSource, expected_factor, open_tokenizer

    given = config.get("tokenizer")
    if given is not None:
        source = TokenizerSource(**given.as_dict())
        if source.is_there and not source.is_class and Path(source.path).exists():
            return open_tokenizer(source).downsample_factor, "by its tokenizer"
        expected = expected_factor(source)
        if expected is not None:
            return expected, "by the recipe of its tokenizer"
    return 16, "assumed: the tokenizer is not there"


def _free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
