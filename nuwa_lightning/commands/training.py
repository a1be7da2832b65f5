"""``fit``, ``validate``, ``test``, ``predict``: Lightning's command line, with both stages end to end."""

import contextlib
import inspect
import logging
import os
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lightning.fabric.plugins.io import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from nuwa_lightning.atomic import write_json
from nuwa_lightning.callbacks.checkpoint_io import AtomicCheckpointIO
from nuwa_lightning.callbacks.run_files import RunCheckpoint, RunFiles
from nuwa_lightning.callbacks.sample_sheet import SampleSheet
from nuwa_lightning.callbacks.stage_bar import StageBar
from nuwa_lightning.commands.joining import watch_joining
from nuwa_lightning.commands.known_classes import known_classes
from nuwa_lightning.commands.parsing import OneLineParser, check_configs, completed, deny_imports, usage_error
from nuwa_lightning.commands.record import check_run_folder, run_record, versions
from nuwa_lightning.commands.resuming import TRAINED, check_checkpoint, find_checkpoint, unusable, what_next
from nuwa_lightning.commands.tokenizer import (
    CoarseSource,
    Refinement,
    TokenizerSource,
    check_guided,
    check_recipes,
    expected_factor,
    find_refined,
    open_tokenizer,
    provide_coarse,
    provide_guided,
    provide_tokenizer,
)
from nuwa_lightning.commands.trainer_flags import check_processes, check_steps, check_together, no_room
from nuwa_lightning.commands.watching import check_strategy, check_watched
from nuwa_lightning.data.data_module import StreamingDataModule
from nuwa_lightning.data.image_folder import PhotosDataModule
from nuwa_lightning.data.token_data import TokenDataModule
from nuwa_lightning.data.token_windows import TokenWindowsModule
from nuwa_lightning.data.video_data import VideosDataModule
from nuwa_lightning.environment import is_first
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.coarse_plan import CoarseEncoder
from nuwa_lightning.generation.pretrained import save_generator
from nuwa_lightning.legacy import upgraded_arguments
from nuwa_lightning.models.vqgan import VQGAN
from nuwa_lightning.signals import Signals, Stopped, keep_freed_memory
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.pretrained import save_pixel_guided, save_tokenizer
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
from nuwa_lightning.training.pixel_guided_module import PixelGuidedModule
from nuwa_lightning.training.vqgan_module import VQGANModule

_LOG = logging.getLogger(__name__)
_TEXT = "a lake at dusk"

MANUAL: Final[dict[type[LightningModule], dict[str, str]]] = {
    VQGANModule: {
        "accumulate_grad_batches": "optimization is manual here: give --model.accumulate_grad_batches",
        "gradient_clip_val": "optimization is manual here: give --model.gradient_clip_val",
    },
    NuwaInfinityModule: {
        "accumulate_grad_batches": "optimization is manual here: give --model.scaling.accumulate_grad_batches",
        "gradient_clip_val": "optimization is manual here: give --model.descent.gradient_clip_val",
    },
}
"""Which option of a model stands for an option of the trainer that needs automatic optimization."""


class RecipeParser(OneLineParser, LightningArgumentParser):
    """Reads recipes, overlays and flags."""

    def known(self) -> set[str]:
        """Options of classes are parsed further in; the outermost parser, where a typo may be of any, adds ours."""
        known = super().known()
        if "model" in known:
            for prefix, classes in known_classes().items():
                known |= {f"{prefix}.{name}" for cls in classes for name in inspect.signature(cls).parameters}
        return known


class NuwaCLI(LightningCLI):
    """LightningCLI with a run folder, a tokenizer made on demand, and resumption that obeys the command line."""

    def __init__(self, arguments: Sequence[str], *, signals: Signals, run: bool = True) -> None:
        self.options: Any = None
        self._signals = signals
        self._files: RunFiles | None = None
        self.refinement = Refinement(None)
        try:
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                parser_class=RecipeParser,
                auto_configure_optimizers=False,
                save_config_callback=None,
                seed_everything_default=0,
                args=list(arguments),
                run=run,
            )
        except UsageError as error:
            raise completed(error, {} if self.options is None else self.options.as_dict()) from error.__cause__
        except Stopped as stopped:
            signals.waiting, signals.number = True, 0  # another one does not break off what is left to do
            self._record_stop(stopped)
            raise
        finally:
            self.refinement.stop()

    def _record_stop(self, stopped: Stopped) -> None:
        """Note a signal outside of the training loop; what the folder says of an earlier run stays."""
        if self.options is None or self.subcommand != "fit" or self._trial or not is_first():
            return
        path = Path(self.options.run) / "record.json"
        with contextlib.suppress(OSError):  # no room, no right: the line tells of the signal
            if self._files is not None and self._files.begun:
                self._files.end(self.trainer.global_step, stopped.name)
            elif not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, {"versions": versions(), "ended": {"by": stopped.name, "step": 0}})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that belong to the run rather than to a class."""
        parser.add_argument("--run", type=str, default="runs/latest", help="folder of this run's results")
        parser.add_argument(
            "--tokenizer",
            type=TokenizerSource | None,
            default=None,
            help="stage 2 and videos: the tokenizer, made if missing",
        )
        parser.add_argument(
            "--coarse",
            type=CoarseSource | None,
            default=None,
            help="stage 2 with a coarse plan: the model that writes it, made if missing",
        )

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 1 << 32:
            raise UsageError("--seed_everything", seed, f"give a whole number from 0 to {(1 << 32) - 1}")
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        # Lightning lets hyper-parameters of the checkpoint win over YAML and flags, silently. Here the user wins.
        return

    def before_instantiate_classes(self) -> None:
        """Let results go to the run folder, and find the checkpoint to go on from there."""
        self.options = self.config[self.subcommand]
        if not self.options.run or "\0" in self.options.run:
            raise UsageError("--run", repr(self.options.run), "is no name of a folder: give one, such as runs/mine")
        check_processes(self.options.trainer)
        if self.subcommand == "fit":
            check_steps(self.options.trainer)
        self.run_folder = Path(self.options.run)
        if not self._trial:
            check_run_folder(self.run_folder)
        if self.options.get("weights_only") is None:
            # AtomicCheckpointIO never runs anything in a file; without this, Lightning says that it would.
            self.options.weights_only = True
        if "ckpt_path" in self.options:
            needed = self.subcommand != "fit"
            self.options.ckpt_path = find_checkpoint(self.options.ckpt_path, self.run_folder, needed=needed)

    def instantiate_classes(self) -> None:
        """Make model, data and trainer."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise usage_error(error, "--trainer") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, with logger and checkpoints in the run folder unless the recipe has its own."""
        trainer = self.options.trainer
        if trainer.default_root_dir is None:
            kwargs["default_root_dir"] = str(self.run_folder)
        if trainer.logger in (None, True) and not trainer.fast_dev_run:
            kwargs["logger"] = TensorBoardLogger(self.run_folder, name="", version="tensorboard")
        callbacks = _as_list(self._get(self.config_init, "trainer").get("callbacks"))
        # Not in a trial: its end would replace the checkpoint of the real run.
        if trainer.enable_checkpointing is not False and not trainer.fast_dev_run:
            # One file, replaced atomically: a run is gone on with from its end, and exported at its end.
            every = 0 if any(isinstance(c, ModelCheckpoint) for c in callbacks) else 100
            path = self.run_folder / "checkpoints" / "last.ckpt"
            callbacks.append(RunCheckpoint(path, self._signals, every_n_steps=every))
        if trainer.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(StageBar())
        plugins = _as_list(self._get(self.config_init, "trainer").get("plugins"))
        if not any(isinstance(p, CheckpointIO) for p in plugins):
            plugins.append(AtomicCheckpointIO())
        kwargs["plugins"] = plugins
        kwargs["callbacks"] = callbacks
        trainer = super().instantiate_trainer(**kwargs)
        watch_joining(trainer, self._leave)
        return trainer

    def _leave(self, stopped: Stopped) -> None:
        self._record_stop(stopped)
        self.refinement.stop()

    @property
    def _trial(self) -> bool:
        return bool(self.options.trainer.fast_dev_run)

    # -- the two stages -----------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        """Provide the tokenizer that stage 2 needs, training it first if it is not there.

        What can be refused at once is refused before that.
        """
        self._check_data()
        self._check_trainer()
        check_checkpoint(self.options.get("ckpt_path"), self.model, parts=TRAINED)
        if isinstance(self.model, NuwaInfinityModule):
            source = self._source()
            if not self._trial:
                check_recipes(source)
            if isinstance(self.datamodule, TokenWindowsModule):
                self.model.layouts(self.datamodule.window.shape)
                self.datamodule.source.prepare()
            self._check_sizes(expected_factor(source))
            tokenizer = self._attach_tokenizer(make=True)
            self._check_sizes(self.model.tokenizer.downsample_factor)
            if (source.refine or source.refined) and not self._trial:
                self.refinement = Refinement.start(source, tokenizer, self.run_folder, no_room=no_room(self.trainer))
        if isinstance(self.model, PixelGuidedModule):
            self._attach_to_guided(make=True)
        if isinstance(self.datamodule, StreamingDataModule):
            # Data that cannot be used must not write over what the folder says of an earlier run.
            self.datamodule.prepare_data()
            self.datamodule.train_dataloader()
        if not self._trial:
            record = run_record(self.config_init[self.subcommand], self.datamodule, networks=self._networks())
            self._files = RunFiles(self.run_folder, self._recipe(), record)
            self.trainer.callbacks.insert(0, self._files)  # type: ignore[attr-defined]

    def _check_data(self) -> None:
        """Refuse data of another stage; what a data module of the user's own gives is not known here."""
        for module, data, hint in (
            (NuwaInfinityModule, TokenWindowsModule, "TokenDataModule or TokenClipsDataModule"),
            (VQGANModule, PhotosDataModule, "ImageFolderDataModule, PhotosDataModule or LandscapeDataModule"),
        ):
            ours = isinstance(self.datamodule, StreamingDataModule)
            if isinstance(self.model, module) and ours and not isinstance(self.datamodule, data):
                name = type(self.datamodule).__name__
                raise UsageError("--data", name, f"{module.__name__} learns from other data: give {hint}")

    def _check_trainer(self) -> None:
        """Refuse options of the trainer that Lightning refuses, or forgets, only after a long time."""
        check_together(self.trainer, self.options.trainer.devices)
        own = MANUAL.get(type(self.model), {})
        for name, off in (("accumulate_grad_batches", (1,)), ("gradient_clip_val", (None, 0))):
            value = self.options.trainer.get(name)
            if not self.model.automatic_optimization and value not in off:
                hint = own.get(name, "this model optimizes by itself: give an option of the model")
                raise UsageError(f"--trainer.{name}", value, hint)
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        check_strategy(self.trainer.strategy, self.model, self.options.get("ckpt_path"), callbacks)
        check_watched(self.trainer, self.model, self.datamodule)

    def _check_sizes(self, factor: int | None) -> None:
        if factor is not None and isinstance(self.datamodule, TokenDataModule):
            self.datamodule.check_sizes(factor)

    def _networks(self) -> dict[str, str | None]:
        if not isinstance(self.model, (VQGANModule, PixelGuidedModule)):
            return {}
        perceptual = self.model.perceptual
        return {"perceptual": None if perceptual is None else perceptual.name}

    def _recipe(self) -> str:
        """Return every option of the run, as a recipe that repeats it."""
        options = self.options.clone()
        options.ckpt_path = None
        return str(self._parser(self.subcommand).dump(options, skip_unset=False))

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except (UsageError, MisconfigurationException):
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            if any(frame.filename.endswith("checkpoint_connector.py") for frame in frames[:-1]):
                raise unusable(self.options.get("ckpt_path"), error) from error
            # Lightning refuses some options only when it trains; faults of anybody else keep their traceback.
            ours = f"{os.sep}lightning{os.sep}pytorch{os.sep}" not in frames[-1].filename
            if ours or not isinstance(error, ValueError | RuntimeError):
                raise
            raise usage_error(error, "--trainer") from error

    def after_fit(self) -> None:
        """Export what was trained and say what to do with it."""
        if self._trial or self.trainer.interrupted:
            return
        generator = self.model.generator() if isinstance(self.model, NuwaInfinityModule) else None
        if not self.trainer.is_global_zero:
            return
        if isinstance(self.model, VQGANModule):
            folder = self.run_folder / "tokenizer"
            save_tokenizer(folder, self.model.finished())
            _LOG.info("tokenizer: %s", folder)
        if isinstance(self.model, PixelGuidedModule):
            folder = self.run_folder / "pixel_guided"
            save_pixel_guided(folder, self.model.finished())
            _LOG.info("pixel-guided decoder: %s", folder)
        if isinstance(self.model, NuwaInfinityModule):
            plain = open_tokenizer(self._source())
            refined = self.refinement.wait(plain)
            tokenizer = refined or plain
            save_tokenizer(self.run_folder / "tokenizer", tokenizer)
            self.model.attach_tokenizer(tokenizer)
            assert generator is not None
            save_generator(self.run_folder / "model", generator)
            if self.model.coarse is not None:
                save_generator(self.run_folder / "coarse", self.model.coarse)
            guided = provide_guided(self._source(), tokenizer, self._source().refined if refined else None)
            if guided is not None:
                save_pixel_guided(self.run_folder / "pixel_guided", guided)
            sheets = [c for c in self.trainer.callbacks if isinstance(c, SampleSheet)]  # type: ignore[attr-defined]
            for sheet in sheets:
                sheet.draw(self.trainer, self.model, generator)
            for logger in self.trainer.loggers:  # the last sheet opened it once more
                logger.finalize("success")
            if (self.run_folder / "samples.png").exists():
                _LOG.info("sample sheet: %s", self.run_folder / "samples.png")
            window = self.datamodule.window if isinstance(self.datamodule, TokenWindowsModule) else None
            text = None
            if self.model.conditions.text_encoder is not None:
                text = next((text for sheet in sheets for text in sheet.texts), _TEXT)
            what, command = what_next(self.run_folder, window, tokenizer.downsample_factor, text)
            _LOG.info("make %s:\n  %s", what, command)

    def before_validate(self) -> None:
        """Provide the tokenizer."""
        self._check_data()
        check_strategy(self.trainer.strategy, self.model, self.options.get("ckpt_path"))
        check_checkpoint(self.options.get("ckpt_path"), self.model)
        if isinstance(self.model, NuwaInfinityModule):
            self._attach_tokenizer(make=False)
        if isinstance(self.model, PixelGuidedModule):
            self._attach_to_guided(make=False)

    before_test = before_validate
    before_predict = before_validate

    def _source(self) -> TokenizerSource:
        source = self._get(self.config_init, "tokenizer")
        if source is None:
            raise UsageError("--tokenizer.path", None, "this stage needs a tokenizer: name its folder")
        assert isinstance(source, TokenizerSource)
        return source

    def _attach_tokenizer(self, *, make: bool) -> Tokenizer:
        assert isinstance(self.model, NuwaInfinityModule)
        source = self._source()
        if make:
            provide_tokenizer(source, fast_dev_run=self._trial)
        tokenizer = open_tokenizer(source)
        check_guided(source, tokenizer)
        coarse = self._get(self.config_init, "coarse")
        if coarse is not None and self.model.plan is not None and (coarse.is_there or (make and not self._trial)):
            self.model.coarse = provide_coarse(coarse, source)
        self.model.attach_tokenizer(tokenizer)
        if isinstance(self.datamodule, TokenWindowsModule):
            self.datamodule.attach_tokenizer(tokenizer)
            if self.model.conditions.text_encoder is not None:
                self.datamodule.attach_text_encoder(self.model.conditions.text_encoder)
            if self.model.plan is not None:
                self.datamodule.attach_coarse(CoarseEncoder(self.model.plan, tokenizer))
        return tokenizer

    def _attach_to_guided(self, *, make: bool) -> None:
        assert isinstance(self.model, PixelGuidedModule)
        source = self._source()
        if not isinstance(self.datamodule, VideosDataModule):
            hint = "clips of videos are needed: LandscapeClipsDataModule or VideoFolderDataModule"
            raise UsageError("--data", type(self.datamodule).__name__, hint)
        if make:
            provide_tokenizer(source, fast_dev_run=self._trial)
        plain = open_tokenizer(source)
        tokenizer = find_refined(source, plain) or plain
        if not isinstance(tokenizer, VQGAN):
            hint = "the decoder of videos begins as a VQGAN's: name the folder of one"
            raise UsageError("--tokenizer.path", source.path, hint)
        self.model.attach_tokenizer(tokenizer)
        # Once more, with the size and the tokenizer known.
        check_checkpoint(self.options.get("ckpt_path"), self.model)


def _as_list(given: Any) -> list[Any]:
    """Lightning takes one or several."""
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "💡 Tip" not in record.getMessage()


def train(arguments: list[str], signals: Signals) -> int:
    """Run one of Lightning's subcommands; returns the exit status."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for noisy in ("httpx", "fsspec", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)
    # A small CPU run on purpose: these hints would only hide the lines that matter.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than.*")
    # Nothing is held out: the data module says so by giving no loader.
    warnings.filterwarnings("ignore", message="Total length of .* across ranks is zero.*")
    # Resuming is by step; what the warning proposes would be for saving weights from before the last step.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization.*")
    keep_freed_memory()
    deny_imports()
    check_configs(arguments)
    arguments = upgraded_arguments(arguments)
    try:
        NuwaCLI(arguments, signals=signals)
    except MisconfigurationException as error:
        raise completed(usage_error(error, f"--trainer or --model of {arguments[0]}"), {}) from error
    return 0
