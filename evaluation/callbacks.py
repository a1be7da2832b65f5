"""Scores of a checkpoint in the loop, by the same code that scores folders: a callback that a recipe names.

The package itself never imports this: ``recipes/scores.yaml`` gives the import path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nuwa_lightning.errors import UsageError

if TYPE_CHECKING:
    from nuwa_lightning.generation.pretrained import Generator


class Scores(Callback):
    """Make images, score them by a protocol, and log every number under ``test/``.

    Of stage 2, samples from fixed seeds; of stage 1, reconstructions of the held-out images, paired with them. Both
    lie in the run folder, ``scores/step_N``, with the report beside them.

    Args:
        protocol: all that moves a number; a name in ``evaluation/protocols`` or a file.
        real: real images: "landscape", or a folder.
        count: samples.
        size: their width and height in pixels.
        temperature: of sampling.
        top_k: of sampling.
        features: another extractor than the protocol's ("inception").
        weights: its weights.
        cache: folder of the feature cache; by default the user's.
    """

    def __init__(
        self,
        *,
        protocol: str = "landscape",
        real: str = "landscape",
        count: int = 48,
        size: str = "256x256",
        temperature: float = 1.0,
        top_k: int = 50,
        features: str | None = None,
        weights: str | None = None,
        cache: str | None = None,
    ) -> None:
        from evaluation.ablation.config import Samples
        from evaluation.protocol import load_protocol
        from evaluation.sampling import SampleSpec

        changes = [f"features.name={features}", "features.weights_sha256=null"] if features else []
        self.protocol = load_protocol(protocol, changes)
        self.real, self.weights, self.cache = real, weights, cache
        self.spec = SampleSpec(
            Samples(size, count, protocol).pixels, range(count), temperature=temperature, top_k=top_k
        )
        self._pairs = self._step = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the step of the checkpoint, which a test does not go on counting from."""
        self._step = int(checkpoint["global_step"])

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._pairs = 0

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep pairs of originals and reconstructions as files."""
        from PIL import Image

        from nuwa_lightning.canvas.decoding import to_uint8

        if not isinstance(outputs, dict) or "reconstruction" not in outputs or not trainer.is_global_zero:
            return
        for pair in zip(outputs["image"].cpu(), outputs["reconstruction"].cpu(), strict=True):
            for kind, image in zip(("original", "reconstruction"), pair, strict=True):
                folder = self._folder(trainer) / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(to_uint8(image)).save(folder / f"{self._pairs:05d}.png")
            self._pairs += 1

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score, log, and write the report."""
        from evaluation.record import write_report
        from evaluation.score import Networks, Work, score
        from nuwa_lightning.training.nuwa_module import NuwaInfinityModule

        # Of a model in parts all processes are asked for theirs.
        generator = pl_module.generator() if isinstance(pl_module, NuwaInfinityModule) else None
        if not trainer.is_global_zero:
            return
        folder = self._folder(trainer)
        if self._pairs:
            where: dict[str, Path] = {"reconstruction": folder / "reconstruction", "original": folder / "original"}
        else:
            self._sample(trainer, pl_module, generator, folder / "samples")
            where = {"generated": folder / "samples"}
        report = score(
            self.protocol,
            self.real,
            **where,
            networks=Networks(weights=self.weights),
            work=Work(cache=Path(self.cache) if self.cache else None),
        )
        write_report(folder / "report.json", report)
        # TensorBoard allows no brackets in a name.
        plain = str.maketrans(" ([", "_--", ")]")
        values = {f"test/{row['name'].translate(plain)}": float(row["value"]) for row in report["metrics"]}
        for name, value in values.items():
            pl_module.log(name, value, rank_zero_only=True, logger=False)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self._step)

    def _sample(self, trainer: Trainer, pl_module: LightningModule, generator: Generator | None, folder: Path) -> None:
        from evaluation.sampling import make_images
        from nuwa_lightning.pipeline import NuwaInfinityPipeline
        from nuwa_lightning.tokenizers.pretrained import load_tokenizer
        from nuwa_lightning.training.nuwa_module import NuwaInfinityModule

        if not isinstance(pl_module, NuwaInfinityModule) or generator is None:
            raise UsageError("Scores", type(pl_module).__name__, "it scores NuwaInfinityModule and VQGANModule")
        decoder = pl_module.tokenizer
        refined = Path(trainer.default_root_dir) / "tokenizer"
        if (refined / "config.json").is_file():
            finished = load_tokenizer(refined)
            decoder = finished if finished.fingerprint() == decoder.fingerprint() else decoder
        pipe = NuwaInfinityPipeline(generator, decoder, coarse=pl_module.coarse)
        make_images(pipe, folder, self.spec)

    def _folder(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "scores" / f"step_{self._step:07d}"
