"""The command line: picks a subcommand and turns user errors into one line and exit status 2.

Nothing heavy is imported before it is known to be needed, so that help comes at once.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from nuwa_lightning.environment import is_first, print_any_name
from nuwa_lightning.errors import ToldError, UsageError, shortened
from nuwa_lightning.signals import Signals, Stopped

_TRAINING = ("fit", "validate", "test", "predict")
_COMMANDS = ("generate", "canvas", "serve", "estimate", "convert-tokenizer", "make-shards")
_HELP = """\
usage: python -m nuwa_lightning COMMAND [options]

Images of any size by autoregressive over autoregressive generation (NUWA-Infinity, arXiv 2207.09814).

commands
  fit        train: python -m nuwa_lightning fit --config recipes/landscape.yaml
  generate   make an image of any size: python -m nuwa_lightning generate --size 4096x512
  canvas     export, grow and partly redo what generate --canvas kept: python -m nuwa_lightning canvas --help
  serve      the same on a local page: python -m nuwa_lightning serve --checkpoint runs/landscape
  estimate   what a recipe takes: memory, arithmetic, steps, time: ... estimate --config recipes/landscape_base.yaml
  convert-tokenizer   read a published tokenizer (taming, LDM, LlamaGen, IBQ, aMUSEd, MoVQ) for stage 2
  make-shards   encode a large set once, by many processes: ... make-shards --config RECIPE --output FOLDER
  validate   score a checkpoint on held-out data: ... validate --config RUN/config.yaml --ckpt_path last
  test, predict   as Lightning users know them

a part is swapped by
  a flag      --model.context_pool=EmptyContextPool      --model.context_pool.extent "[0,1,1]"
  an overlay  fit -c recipes/landscape.yaml -c recipes/context/full.yaml
  your class  --model.context_pool=my_pools.MyPool       (a file my_pools.py in the working directory)

more help
  python -m nuwa_lightning COMMAND --help
  python -m nuwa_lightning fit --help-all                          every option of Lightning's trainer
  python -m nuwa_lightning fit --model.help NuwaInfinityModule     the options of a model (or data module)
"""
_FIT_HELP = """\
usage: python -m nuwa_lightning {command} --config RECIPE [-c OVERLAY ...] [--OPTION VALUE ...]

Train a recipe, end to end: a tokenizer that it names and that is not there yet is trained first.
Everything lands in the run folder: config.yaml, record.json, checkpoints/, samples/, tensorboard/, model/, tokenizer/.

options that matter most (later ones win: recipe, overlays, flags)
  -c, --config FILE            a recipe or an overlay; may be repeated
  --run FOLDER                 where results go (recipes/landscape.yaml: runs/landscape)
  --ckpt_path last             go on with a run that was stopped; options given here win over those in the checkpoint
  --tokenizer.path FOLDER      use (or make) the tokenizer there
  --trainer.max_steps N        how many batches
  --seed_everything N          another random seed
  --model.context_pool CLASS   NearbyContextPool, FullContextPool, EmptyContextPool, RecencyContextPool, my_pools.MyPool
  --model.context_pool.extent "[0,2,2]"       patches (t, y, x) that a patch can look at
  --model.direction CLASS      ArbitraryDirectionController, RasterDirectionController, SpiralDirectionController, ...
  --model.token_order raster   the paper's order of tokens inside a patch (default: mirrored views)
  --model.optimize per_patch   the paper's render-and-optimize (also: accumulated; default: joint)
  --model.transformer.num_layers N  and width, heads, num_kv_heads, ...
  --data.batch_size N

more help
  {command} --help-all                            every option, Lightning's trainer included
  {command} --model.help NuwaInfinityModule       the options of a model (VQGANModule is stage 1)
  {command} --data.help TokenDataModule           the options of a data module
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 for something the user can mend.

    Set ``NUWA_LIGHTNING_TRACEBACK=1`` to see where an error comes from.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_HELP)
        return 0
    print_any_name()
    command, rest = arguments[0], arguments[1:]
    if command == "--version":
        from nuwa_lightning import __version__

        sys.stdout.write(f"{__version__}\n")
        return 0
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # my_pools.MyPool, also for the installed command
    try:
        if command in _COMMANDS:
            name = command.replace("-", "_")
            found = importlib.import_module(f"nuwa_lightning.commands.{name}")
            return int(getattr(found, name)(rest))
        if command in _TRAINING:
            return _train(command, rest)
        raise UsageError("COMMAND", command, _did_you_mean(command))
    except (UsageError, OSError) as error:
        if os.environ.get("NUWA_LIGHTNING_TRACEBACK"):
            raise
        if not isinstance(error, ToldError):
            sys.stderr.write(f"error: {_printable(' '.join(_line(error).split()))}\n")
        return 2
    except Stopped as stopped:
        if not stopped.told and is_first():
            sys.stderr.write(f"{stopped} with --ckpt_path last\n")
        return 128 + stopped.number
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def _train(command: str, rest: list[str]) -> int:
    if rest in (["-h"], ["--help"]):
        sys.stdout.write(_FIT_HELP.format(command=command))
        return 0
    with Signals() as signals:  # before what takes seconds to import
        from nuwa_lightning.commands.training import train

        return train([command, *("--help" if a == "--help-all" else a for a in rest)], signals)


def _line(error: UsageError | OSError) -> str:
    if isinstance(error, UsageError):
        return str(error)
    # Of the machine rather than of an option: a full disk, a folder without permission, no network.
    hint = "see to it and try again (NUWA_LIGHTNING_TRACEBACK=1 shows where it comes from)"
    return f"{shortened(error.filename or type(error).__name__)}: {error.strerror or error}: {hint}"


def _printable(line: str) -> str:
    """Return a line that does nothing to a terminal: names may hold anything but a zero byte, and values that, too."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _did_you_mean(word: str) -> str:
    commands = [*_TRAINING, *_COMMANDS]
    near = difflib.get_close_matches(word, [*commands, "--help", "--version"], n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(commands)}"
