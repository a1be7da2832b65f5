"""``convert-tokenizer``: a published tokenizer, once, into a folder that every other command reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

from nuwa_lightning.commands.parsing import OneLineParser
from nuwa_lightning.errors import UsageError
from nuwa_lightning.tokenizers.conversion import convert
from nuwa_lightning.tokenizers.pretrained import save_tokenizer
from nuwa_lightning.tokenizers.published import Rule
from nuwa_lightning.tokenizers.windows import WindowedTokenizer

_EPILOG: Final = """\
It reads taming's VQGANs (f16 with 1024 or 16384 codes, f8 Gumbel), LDM's (vq-f4, f8, f16), IBQ's and LlamaGen's (VQ-8,
VQ-16) as their authors publish them, and diffusers folders of aMUSEd and MoVQ. Nothing in a file is executed.
docs/how-to/published-tokenizers.md says where they are and what to do next.
"""


def convert_tokenizer(arguments: Sequence[str]) -> int:
    """Run ``convert-tokenizer``; returns the exit status."""
    p = OneLineParser(
        "python -m nuwa_lightning convert-tokenizer",
        description="Read a published tokenizer and write it as a folder of safetensors and JSON.",
        epilog=_EPILOG,
    )
    p.add_argument("file", metavar="FILE", help="the authors' file, or a folder that diffusers wrote")
    p.add_argument("--output", metavar="FOLDER", required=True, help="a new folder")
    p.add_argument("--config", metavar="YAML", help="the authors' YAML beside a file of taming, LDM or IBQ")
    p.add_argument("--rule", choices=get_args(Rule), help="how a code is chosen, where there is no such YAML")
    p.add_argument("--window", type=int, default=16, help="tokens from window to window; 0: the whole image at once")
    p.add_argument("--overlap", type=int, default=8, help="tokens that a window sees beyond, on each side")
    options = p.parse_args(list(arguments))
    folder = Path(options.output)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError("--output", folder, "is there already: name a new folder")
    made = convert(options.file, config=options.config, rule=options.rule)
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
