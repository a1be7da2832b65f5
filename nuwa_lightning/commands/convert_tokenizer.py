"""``convert-tokenizer``: a published tokenizer, once, into a folder that every other command reads."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from nuwa_lightning.commands.options import completed, parse
from nuwa_lightning.errors import UsageError

_EPILOG: Final = """\
It reads taming's VQGANs (f16 with 1024 or 16384 codes, f8 Gumbel), LDM's (vq-f4, f8, f16), IBQ's and LlamaGen's (VQ-8,
VQ-16) as their authors publish them, and diffusers folders of aMUSEd and MoVQ. Nothing in a file is executed.
docs/how-to/published-tokenizers.md says where they are and what to do next.
"""


@dataclass(frozen=True)
class Options:
    """A file, and what becomes of it.

    Args:
        file: the authors' file, or a folder that diffusers wrote; the first word, with or without its name
        output: a new folder
        config: the authors' YAML beside a file of taming, LDM or IBQ
        rule: how a code is chosen, where there is no such YAML
        window: tokens from window to window; 0: the whole image at once
        overlap: tokens that a window sees beyond, on each side
    """

    file: Path
    output: Path
    config: Path | None = None
    rule: Literal["nearest", "dot", "gumbel"] | None = None
    window: int = 16
    overlap: int = 8


def convert_tokenizer(arguments: Sequence[str]) -> int:
    """Run ``convert-tokenizer``; returns the exit status."""
    about = "Read a published tokenizer and write it as a folder of safetensors and JSON."
    prog = "python -m nuwa_lightning convert-tokenizer"
    options = parse(Options, prog, arguments, about=about, epilog=_EPILOG, positional=("file",))
    folder = options.output
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError("--output", folder, "is there already: name a new folder")

    # Only now what takes time to import.
    from nuwa_lightning.tokenizers.conversion import convert
    from nuwa_lightning.tokenizers.pretrained import save_tokenizer
    from nuwa_lightning.tokenizers.windows import WindowedTokenizer

    try:
        made = convert(options.file, config=options.config, rule=options.rule)
    except UsageError as error:
        raise completed(error, Options) from error.__cause__
    try:
        shown = WindowedTokenizer(made, options.window, options.overlap) if options.window else made
    except ValueError as error:
        raise UsageError("--window", options.window, str(error)) from None
    save_tokenizer(folder, shown)
    codes = f"--model.codebook_size {made.codebook_size} --model.codebook_dim {made.codebook_dim}"
    sys.stdout.write(
        f"{folder}: {made.codebook_size} codes of {made.codebook_dim} numbers by the rule {made.quantizer.rule}, "
        f"{made.downsample_factor}x{made.downsample_factor} pixels a token\n"
        f"train stage 2:  fit --config RECIPE --tokenizer.path {folder} {codes}\n"
        f"fine-tune it:   fit --config recipes/landscape_decoder.yaml --model.start_from {folder} --model.lr 1e-4\n"
    )
    return 0
