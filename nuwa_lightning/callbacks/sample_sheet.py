"""Samples from fixed seeds while stage 2 trains, by the one sampler."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from nuwa_lightning.callbacks.reconstruction_sheet import may_draw, show_sheet
from nuwa_lightning.errors import UsageError, check_range
from nuwa_lightning.generation.pretrained import Generator, save_generator
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.pipeline import NuwaInfinityPipeline
from nuwa_lightning.request import STRONGEST_GUIDANCE, GenerationRequest
from nuwa_lightning.request_fields import Size
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule


class SampleSheet(Callback):
    """Keep a sheet of samples in the run folder and in the logger, and the exported model beside it.

    Args:
        every_n_steps: how often it is renewed; the first one is drawn after ``first_step`` batches.
        first_step: when the first sheet is drawn.
        count: images on the sheet, from seeds 0 .. count - 1.
        size: their size in patches, rows and columns.
        temperature: see ``generate``; by default the model's own, as for the next two.
        top_k: see ``generate``.
        top_p: see ``generate``.
        prompts: texts of the images, in turn, for a model that reads text; none by default.
        guidance: see ``generate``.
        frames: 2 or more draw videos, a row of frames each.
    """

    def __init__(
        self,
        *,
        every_n_steps: int = 400,
        first_step: int = 50,
        count: int = 16,
        size: tuple[int, int] = (4, 4),
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        prompts: Sequence[str] = (),
        guidance: float = 2.0,
        frames: int = 1,
    ) -> None:
        if min(every_n_steps, count, frames, *size) < 1:
            raise UsageError("SampleSheet", (every_n_steps, count, frames, *size), "every number must be at least 1")
        check_range("guidance", guidance, 0, STRONGEST_GUIDANCE)
        # Made only to be checked now, and not when the first sheet is due.
        Sampling(1.0 if temperature is None else temperature, top_k or 0, 1.0 if top_p is None else top_p)
        self.frames = frames
        self.every_n_steps, self.first_step = every_n_steps, first_step
        self.count, self.size = count, size
        self.texts, self.guidance = tuple(prompts), guidance
        self.sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Draw when it is time."""
        step = trainer.global_step
        if step == self.first_step or step % self.every_n_steps == 0:
            self.draw(trainer, pl_module)

    def draw(self, trainer: Trainer, pl_module: LightningModule, generator: Generator | None = None) -> None:
        """Draw the sheet now; without a ``generator`` all processes have to call it, each may have a part of it."""
        if not isinstance(pl_module, NuwaInfinityModule):
            raise UsageError("SampleSheet", type(pl_module).__name__, "it draws stage 2 (NuwaInfinityModule) only")
        training = pl_module.training
        pl_module.eval()
        generator = generator or pl_module.generator()
        if not may_draw(trainer):
            pl_module.train(training)
            return
        images = self._drawn(pl_module, generator)
        pl_module.train(training)
        folder = Path(trainer.default_root_dir)
        save_generator(folder / "model", generator)
        path = folder / "samples" / f"step_{trainer.global_step:07d}.png"
        show_sheet(trainer, "samples", torch.from_numpy(contact_sheet(images)), path, folder / "samples.png")

    def _drawn(self, module: NuwaInfinityModule, generator: Generator) -> list[NDArray[np.uint8]]:
        tokenizer = module.tokenizer
        rows, columns = (cells * tokenizer.downsample_factor for cells in generator.model.patch_size)
        reads = generator.text_encoder is not None and bool(self.texts)
        request = GenerationRequest(
            size=Size(self.size[1] * columns, self.size[0] * rows),
            count=self.count,
            **self.sampling,  # type: ignore[arg-type]
            prompt_each=tuple(self.texts[i % len(self.texts)] for i in range(self.count)) if reads else (),
            unprompted=not reads,
            guidance=self.guidance if reads else None,
            frames=self.frames if self.frames > 1 else None,
        )
        # A sheet of videos may be drawn of a model of images, too: it shows what it does with them.
        generator = dataclasses.replace(generator, frames=max(generator.frames, self.frames))
        pipe = NuwaInfinityPipeline(generator, tokenizer, coarse=module.coarse)
        made = pipe.generate(request)
        if self.frames == 1:
            return [np.asarray(image) for image in made.images]
        return [np.concatenate([np.asarray(frame) for frame in frames], axis=1) for frames in made.frames]


def contact_sheet(images: list[NDArray[np.uint8]], *, gap: int = 4) -> NDArray[np.uint8]:
    """Lay images of one size ``[Y, X, 3]`` out in a grid that is about square."""
    height, width = images[0].shape[:2]
    columns = max(1, round((len(images) * height / width) ** 0.5))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet
