"""Between the stages, for videos: train the decoder that is guided by the previous frame (paper section 2b).

The paper tells neither losses nor schedule: those are stage 1's, the rest is ours.

Shapes: B clips, T frames, N pairs of frames, Y/X rows and columns.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nuwa_lightning.batch_part import WHOLE, BatchPart
from nuwa_lightning.errors import UsageError, check_range
from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder
from nuwa_lightning.models.vqgan import VQGAN
from nuwa_lightning.training.losses import LossWeights, difference_terms, weighted_sum
from nuwa_lightning.training.optimization import (
    OptimizerConfig,
    adamw,
    check_finite,
    clip_gradients,
    cosine_schedule,
    group_options,
    prefer_options,
)
from nuwa_lightning.training.reconstruction import ReconstructionModule, psnr


@dataclass(frozen=True)
class GuideShares:
    """How often each kind of previous frame guides in training (ours); they add up to 1.

    In a video the guide is what the decoder itself made. Trained on real frames only it would trust them too much, and
    errors would grow from frame to frame.

    Attributes:
        real: the real frame, as when an image is animated.
        decoded: the frame as the tokenizer's own decoder makes it, as after the first frame of a video.
        own: the frame as this decoder has just made it; for the second frame of a clip the one before.
    """

    real: float = 0.2
    decoded: float = 0.2
    own: float = 0.6

    def __post_init__(self) -> None:
        shares = (self.real, self.decoded, self.own)
        if not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
            raise UsageError("model.guides", shares, "real, decoded and own are shares that add up to 1")


class PixelGuidedModule(ReconstructionModule):
    """Trains a :class:`PixelGuidedDecoder` on frames that follow each other; encoder and codes are frozen.

    Every pair of neighboring frames of a clip is a sample, in the order of time, so that a frame just made is at hand
    as the guide of the next; gradients stop there.

    Args:
        guide_blocks: residual blocks of each level of the guide, coarsest first.
        add_decoder_blocks: residual blocks to add to each level of the decoder, coarsest first.
        guides: what guides in training.
        loss: weights of the terms of a frame's loss; the adversarial one is not used.
        slow_share: share of batches in which a window moves over the clips' first frames by no more than 2 pixels a
            frame, or stands still. Made-up pans are fast; in a video of a landscape most of the image hardly moves,
            and there the frame before is worth most.
        change: weight of the mean absolute error of the change from the guide to the frame: against flicker.
        lr: peak learning rate of AdamW; linear warm-up, then a cosine to zero at the trainer's last step.
        descent: the rest of the optimiser's options.
        average_decay: of the moving average of the weights; 0 is off.

    Raises:
        UsageError: if an option makes no sense.
    """

    title = "pixel-guided decoder"
    metrics: ClassVar[tuple[str, ...]] = (
        *(f"train/{name}" for name in ("pixel", "squared", "colour", "perceptual", "change", "loss", "lr", "gradient")),
        *(f"val/{name}" for name in ("psnr", "psnr_plain", "change", "change_plain", "change_real")),
    )

    def __init__(
        self,
        guide_blocks: tuple[int, ...] = (1, 1, 1),
        *,
        add_decoder_blocks: tuple[int, ...] | None = None,
        guides: GuideShares = GuideShares(),
        loss: LossWeights = LossWeights(),  # noqa: B008 - frozen
        slow_share: float = 0.0,
        change: float = 0.5,
        lr: float = 1e-3,
        descent: OptimizerConfig = OptimizerConfig(weight_decay=0.01),  # noqa: B008 - frozen
        average_decay: float = 0.99,
    ) -> None:
        super().__init__("guided", loss, average_decay)
        if not 0 < lr < math.inf:
            raise UsageError("model.lr", lr, "must be above 0")
        check_range("model.change", change, 0)
        if not 0 <= slow_share <= 1:
            raise UsageError("model.slow_share", slow_share, "give a share in [0, 1]")
        if loss.adversarial.weight > 0:
            raise UsageError("model.loss.adversarial.weight", loss.adversarial.weight, "not used here: give 0")
        self.guide_blocks, self.add_decoder_blocks = guide_blocks, add_decoder_blocks
        self.guides, self.change, self.slow_share = guides, change, slow_share
        self.lr, self.descent = lr, descent
        self.guided: PixelGuidedDecoder | None = None
        self._tokenizer: tuple[VQGAN, ...] = ()  # in a tuple it is no sub-module
        self._build_perceptual()
        self._options: list[dict[str, Any]] = []

    def attach_tokenizer(self, tokenizer: VQGAN) -> None:
        """Take the frozen tokenizer, and begin as its decoder.

        Raises:
            UsageError: if the numbers of blocks do not fit its decoder.
        """
        try:
            first = tokenizer if self.add_decoder_blocks is None else tokenizer.deepened(self.add_decoder_blocks)
        except ValueError as error:
            raise UsageError("model.add_decoder_blocks", self.add_decoder_blocks, str(error)) from None
        try:
            self.guided = PixelGuidedDecoder.start(first, self.guide_blocks).train()
        except ValueError as error:
            raise UsageError("model.guide_blocks", self.guide_blocks, str(error)) from None
        self._tokenizer = (tokenizer,)

    @property
    def tokenizer(self) -> VQGAN:
        """The attached tokenizer, on the module's device."""
        self._decoder()
        return self._tokenizer[0].to(self.device)

    def _decoder(self) -> PixelGuidedDecoder:
        if self.guided is None:
            raise RuntimeError("attach_tokenizer has not been called")
        return self.guided

    def finished(self) -> PixelGuidedDecoder:
        """Return a copy of the decoder with averaged weights, frozen, for export."""
        made: PixelGuidedDecoder = self._finished(self._decoder())
        return made

    # -- training -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of all pairs of neighboring frames of the clips."""
        video_BT3YX = self._clips(batch)
        generator = self._draws(batch_idx)
        if float(torch.rand((), generator=generator)) < self.slow_share:
            video_BT3YX = slowed(
                video_BT3YX, factor=self.tokenizer.downsample_factor, generator=generator, part=self.part
            )
        made_N3YX, guide_N3YX, real_N3YX, before_N3YX = self.roll(video_BT3YX, generator)
        terms = difference_terms(made_N3YX, real_N3YX, factor=self.tokenizer.downsample_factor)
        terms |= self._perceptual_term(made_N3YX, real_N3YX, generator, batch=len(video_BT3YX))
        terms["change"] = ((made_N3YX - guide_N3YX) - (real_N3YX - before_N3YX)).abs().mean()
        total = weighted_sum(terms, self.loss_weights) + self.change * terms["change"]
        check_finite({f"the {k} loss": v for k, v in terms.items()}, step=self.global_step, lr=self.lr)
        self.log_dict({f"train/{k}": v.detach() for k, v in terms.items()}, sync_dist=True)
        self.log("train/loss", total.detach(), prog_bar=True, sync_dist=True)
        return total

    def roll(self, video_BT3YX: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Make every frame of clips but the first, one after the other.

        Args:
            video_BT3YX: real clips.
            generator: draws what guides; ``None``: always the frame just made, as in a video.

        Returns:
            For all pairs of frames (N = B (T - 1), by time): the frame made, not clamped, with gradients; what guided;
            the real frame; the real frame before it.
        """
        batch, frames = video_BT3YX.shape[:2]
        guided, tokenizer = self._decoder(), self.tokenizer
        tokens_TBYX = [tokenizer.encode(video_BT3YX[:, t]) for t in range(frames)]
        part = BatchPart() if generator is None else self.part
        shares = torch.tensor([self.guides.real, self.guides.decoded, self.guides.own], dtype=torch.float32)
        made: list[Tensor] = []
        guides: list[Tensor] = []
        last_B3YX: Tensor | None = None
        for t in range(1, frames):
            kind_B = (
                torch.full((batch,), 2)
                if generator is None
                else part.of(torch.multinomial(shares, part.world * batch, replacement=True, generator=generator))
            )
            guide_B3YX = video_BT3YX[:, t - 1].clone()
            own_B = kind_B == 2
            if last_B3YX is not None:
                guide_B3YX[own_B] = last_B3YX[own_B]
            plain_B = (kind_B == 1) if last_B3YX is not None else (kind_B >= 1)
            if plain_B.any():
                guide_B3YX[plain_B] = tokenizer.decode(tokens_TBYX[t - 1][plain_B])
            made_B3YX = guided(tokens_TBYX[t], guide_B3YX)
            last_B3YX = made_B3YX.detach().clamp(-1, 1)
            made.append(made_B3YX)
            guides.append(guide_B3YX)
        real_N3YX = video_BT3YX[:, 1:].transpose(0, 1).flatten(0, 1)
        before_N3YX = video_BT3YX[:, :-1].transpose(0, 1).flatten(0, 1)
        return torch.cat(made), torch.cat(guides), real_N3YX, before_N3YX

    def _clips(self, batch: Mapping[str, Tensor]) -> Tensor:
        if "video" not in batch:
            raise UsageError("data", sorted(batch), "clips of videos are needed: LandscapeClipsDataModule, for example")
        video_BT3YX = batch["video"]
        factor = self._decoder().downsample_factor
        if video_BT3YX.shape[1] < 2:
            raise UsageError("data.clips.frames", video_BT3YX.shape[1], "clips of 2 frames or more are needed")
        if any(side % factor for side in video_BT3YX.shape[3:]):
            raise UsageError("data.size", video_BT3YX.shape[3], f"give a multiple of {factor}, pixels of a token")
        return video_BT3YX

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip gradients; the trainer's own clipping would not say which one is not finite."""
        limit = self.descent.gradient_clip_val
        norm = clip_gradients(self._decoder().named_parameters(), limit, step=self.global_step, lr=self.lr)
        self.log("train/gradient", norm)
        self.log("train/lr", optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        """AdamW; linear warm-up, then a cosine to zero at the trainer's last step."""
        optimizer = adamw(self._decoder(), lr=self.lr, weight_decay=self.descent.weight_decay)
        total = float(self.trainer.estimated_stepping_batches)
        schedule = cosine_schedule(optimizer, warmup=self.descent.warmup_steps, total=total)
        self._options = group_options(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Let this run's options win over those of a checkpoint."""
        schedule: Any = self.lr_schedulers()
        prefer_options(self.trainer.optimizers[0], self._options, schedule)

    # -- what is watched ----------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Log PSNR and the mean change between frames, guided and frame by frame; returns the clips' last frames.

        As in a video, each frame is guided by the one made before it, the first is the tokenizer's.
        """
        return self._log_videos(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Do the same as :meth:`validation_step`."""
        return self._log_videos(batch, "test")

    def _log_videos(self, batch: dict[str, Tensor], stage: str) -> dict[str, Tensor]:
        video_BT3YX = self._clips(batch)
        made_N3YX, guide_N3YX, real_N3YX, before_N3YX = self.roll(video_BT3YX, None)
        made_N3YX = made_N3YX.clamp(-1, 1)
        tokenizer, size = self.tokenizer, len(video_BT3YX)
        plain_N3YX = tokenizer.decode(tokenizer.encode(real_N3YX))
        first_B3YX = guide_N3YX[:size]
        plain_before_N3YX = torch.cat([first_B3YX, plain_N3YX[:-size]])
        found = {
            "psnr": psnr(made_N3YX, real_N3YX),
            "psnr_plain": psnr(plain_N3YX, real_N3YX),
            "change": (made_N3YX - guide_N3YX).abs().mean(),
            "change_plain": (plain_N3YX - plain_before_N3YX).abs().mean(),
            "change_real": (real_N3YX - before_N3YX).abs().mean(),
        }
        for name, value in found.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "psnr", batch_size=size, sync_dist=True)
        return {"image": real_N3YX[-size:], "reconstruction": made_N3YX[-size:]}

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep size and tokenizer, in plain values."""
        guided = self._decoder()
        checkpoint["pixel_guided"] = {"size": guided.size.as_dict(), "tokenizer": guided.fingerprint()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what does not fit; see :meth:`check_checkpoint`."""
        self.check_checkpoint(checkpoint)

    def check_checkpoint(self, checkpoint: Mapping[str, Any], name: object = "checkpoint") -> None:
        """Refuse a checkpoint that this module cannot go on from.

        Raises:
            UsageError: if it is of another stage, another size or another tokenizer.
        """
        if "pixel_guided" not in checkpoint:
            raise UsageError("ckpt_path", name, "it is not of a PixelGuidedModule: name one of this stage")
        if self.guided is None:
            return
        stored = checkpoint["pixel_guided"]
        if stored["size"] != self.guided.size.as_dict():
            hint = f"the checkpoint {name} has {stored['size']}: use that, or start anew"
            raise UsageError("model.guide_blocks", self.guided.size, hint)
        if stored["tokenizer"] != self.guided.fingerprint():
            hint = f"the checkpoint {name} was trained with another one: name that, or start anew"
            raise UsageError("tokenizer.path", "this tokenizer", hint)


def slowed(
    video_BT3YX: Tensor, *, factor: int, generator: torch.Generator, fastest: int = 2, part: BatchPart = WHOLE
) -> Tensor:
    """Return clips as long, in which a window moves over the first frame of each at a constant slow speed.

    Its sides are multiples of ``factor``, as large as there is room. Each clip draws a limit of its own, of at most
    ``fastest`` whole pixels a frame along each axis, 0 among them, then its speed.
    """
    frames, room = video_BT3YX.shape[1], fastest * (video_BT3YX.shape[1] - 1)
    sides = [max(factor, (full - room) // factor * factor) for full in video_BT3YX.shape[3:]]
    made: list[Tensor] = []
    own = part.samples(len(video_BT3YX))
    for number in range(part.world * len(video_BT3YX)):
        limit = int(torch.randint(fastest + 1, (1,), generator=generator))
        places: list[list[int]] = []
        for full, side in zip(video_BT3YX.shape[3:], sides, strict=True):
            speed = int(torch.randint(-limit, limit + 1, (1,), generator=generator))
            way = min(abs(speed) * (frames - 1), full - side)
            start = int(torch.randint(full - side - way + 1, (1,), generator=generator))
            path = [start + min(abs(speed) * t, way) for t in range(frames)]
            places.append(path if speed >= 0 else path[::-1])
        if number not in own:
            continue
        first_3YX = video_BT3YX[number - own.start, 0]
        windows = [first_3YX[:, y : y + sides[0], x : x + sides[1]] for y, x in zip(*places, strict=True)]
        made.append(torch.stack(windows))
    return torch.stack(made)
