"""Stage 1: train the tokenizer (paper section 2; losses after Esser et al. 2021, the rest ours).

Shapes: B batch, N vectors, K codes, D code dimension, Y/X rows and columns.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa_lightning.errors import UsageError, check_range
from nuwa_lightning.models.dct_init import start_spectral
from nuwa_lightning.models.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
from nuwa_lightning.models.vqgan import VQGAN, VectorQuantizer, VQGANConfig
from nuwa_lightning.tokenizers.pretrained import load_trainable
from nuwa_lightning.tokenizers.published import PublishedVQGAN
from nuwa_lightning.tokenizers.windows import WindowedTokenizer
from nuwa_lightning.training.losses import LossWeights, difference_terms, weighted_sum
from nuwa_lightning.training.optimization import (
    adamw,
    check_finite,
    clip_gradients,
    cosine_factor,
    group_options,
    mean_over_ranks,
    prefer_options,
    ramp,
    step_uncounted,
    unsynced,
)
from nuwa_lightning.training.reconstruction import ReconstructionModule, first_batch, psnr

_LOG = logging.getLogger(__name__)


class VQGANModule(ReconstructionModule):
    """Trains a :class:`VQGAN`, or only its decoder; fine-tunes a published tokenizer, whose codes stay.

    Optimisation is manual, since there may be two optimizers; hence clipping and accumulation are arguments here.

    Args:
        vqgan: the size of the tokenizer; not used with ``start_from``.
        start_from: folder of a trained or published tokenizer to go on from.
        add_decoder_blocks: with ``start_from``, residual blocks to add to each level of the decoder, coarsest first;
            they change nothing at first. A decoder that is refined for long can make use of them.
        train_only: ``decoder`` freezes encoder and codes: tokens, and what was trained on them, stay valid.
        loss: weights of the terms.
        lr: peak learning rate of AdamW; linear warm-up, then a cosine to zero at the trainer's last step.
        weight_decay: decoupled.
        warmup_steps: length of the warm-up.
        unquantized_steps: steps without the code book; it then starts from the vectors they gave.
        gradient_clip_val: clip the length of the gradient; 0 is off.
        accumulate_grad_batches: batches per step.
        average_decay: of the moving average of the weights; 0 is off.

    Raises:
        UsageError: if an option makes no sense.
    """

    title = "stage 1, tokenizer"
    metrics: ClassVar[tuple[str, ...]] = (
        *(f"train/{name}" for name in ("pixel", "squared", "colour", "commitment", "perceptual", "adversarial")),
        *("train/adaptive_weight", "train/discriminator", "train/loss", "train/lr", "train/gradient"),
        *("val/psnr", "val/pixel", "val/LPIPS(vgg)", "val/ST-LPIPS(alex)", "codebook/usage", "codebook/perplexity"),
    )

    def __init__(
        self,
        vqgan: VQGANConfig = VQGANConfig(),  # noqa: B008 - frozen
        *,
        start_from: str | None = None,
        add_decoder_blocks: tuple[int, ...] | None = None,
        train_only: Literal["all", "decoder"] = "all",
        loss: LossWeights = LossWeights(),  # noqa: B008 - frozen
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 50,
        unquantized_steps: int = 40,
        gradient_clip_val: float = 1.0,
        accumulate_grad_batches: int = 1,
        average_decay: float = 0.99,
    ) -> None:
        super().__init__("vqgan", loss, average_decay)
        self.automatic_optimization = False
        self.train_only = train_only
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps
        self.unquantized_steps = unquantized_steps
        self.gradient_clip_val, self.accumulate_grad_batches = gradient_clip_val, accumulate_grad_batches
        self._check_options(start_from)
        self._windows: tuple[int, int] | None = None
        self.vqgan = self._make_vqgan(vqgan, start_from, add_decoder_blocks)
        if train_only == "decoder":
            self.vqgan.encoder.requires_grad_(False)
            self.vqgan.quantizer.requires_grad_(False)
        adversarial = loss.adversarial
        self.discriminator = (
            PatchDiscriminator(adversarial.channels, adversarial.layers) if adversarial.weight > 0 else None
        )
        if self.discriminator is not None:
            # Outside of its own step it is frozen, so DDP, which asks once, leaves it to us: it would wait for the
            # gradients of everything in every backward pass.
            self.discriminator.requires_grad_(False)
        self._build_perceptual()
        self._first_vectors: list[Tensor] = []
        self._options: list[list[dict[str, Any]]] = []
        self.register_buffer("_count_K", torch.zeros(self.vqgan.codebook_size), persistent=False)
        self._codebook_use: tuple[float, float] | None = None

    def _check_options(self, start_from: str | None) -> None:
        if self.train_only not in ("all", "decoder"):
            raise UsageError("model.train_only", self.train_only, "use all or decoder")
        if self.train_only == "decoder" and start_from is None:
            raise UsageError("model.start_from", None, "name the tokenizer whose decoder is to be refined")
        if not 0 < self.lr < math.inf:
            raise UsageError("model.lr", self.lr, "must be above 0")
        for name in ("weight_decay", "warmup_steps", "unquantized_steps", "gradient_clip_val"):
            check_range(f"model.{name}", getattr(self, name), 0)
        if self.accumulate_grad_batches < 1:
            raise UsageError("model.accumulate_grad_batches", self.accumulate_grad_batches, "at least 1")

    def _make_vqgan(
        self, size: VQGANConfig, start_from: str | None, added: tuple[int, ...] | None
    ) -> VQGAN | PublishedVQGAN:
        if start_from is not None:
            found, self._windows = load_trainable(start_from, option="model.start_from")
            if added is not None:
                try:
                    if not isinstance(found, VQGAN):
                        raise ValueError("a published tokenizer has the blocks that it has: leave the option out")
                    found = found.deepened(added)
                except ValueError as error:
                    raise UsageError("model.add_decoder_blocks", added, str(error)) from None
            return found.train().requires_grad_(True)
        if added is not None:
            raise UsageError("model.add_decoder_blocks", added, "only with model.start_from; else say model.vqgan")
        vqgan = VQGAN.build(size)
        start_spectral(vqgan.encoder, vqgan.decoder)
        return vqgan

    def finished(self) -> VQGAN | PublishedVQGAN | WindowedTokenizer:
        """Return a copy of the tokenizer with averaged weights, frozen, for export; in the windows it came in."""
        made: VQGAN | PublishedVQGAN = self._finished(self.vqgan)
        return made if self._windows is None else WindowedTokenizer(made, *self._windows)

    def late_metrics(self, total: float) -> dict[str, float]:
        found, name = super().late_metrics(total), self.perceptual.name if self.perceptual is not None else None
        others = (metric for metric in self.metrics if "LPIPS(" in metric and metric != f"val/{name}")
        term = self.loss_weights.adversarial
        begin = first_batch(term.start, total, later=term.ramp > 0) if term.weight > 0 else math.inf
        adversarial = dict.fromkeys(("train/adversarial", "train/adaptive_weight", "train/discriminator"), begin)
        unquantized = (
            0 if self.train_only == "decoder" or bool(self.vqgan.quantizer.started) else self.unquantized_steps
        )
        use = dict.fromkeys(("codebook/usage", "codebook/perplexity"), unquantized + 1.0)
        return {**found, **dict.fromkeys(others, math.inf), **adversarial, **use}

    # -- training -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Train on one batch; returns the loss (trap: some callbacks look for it)."""
        image_B3YX = batch["image"].contiguous(memory_format=torch.channels_last)
        generator = self._draws(batch_idx)
        self._start_codes_if_due(generator)
        optimizers = self.optimizers()
        main, second = optimizers if isinstance(optimizers, list) else (optimizers, None)

        rebuilt_B3YX, terms = self._terms(image_B3YX, generator)
        total = weighted_sum(terms, self.loss_weights)
        factor = self._adversarial_factor()
        if factor > 0:
            total = total + factor * self._adversarial(rebuilt_B3YX, total, terms)
        check_finite({f"the {k} loss": v for k, v in terms.items()}, step=self.global_step, lr=self.lr)

        last = (batch_idx + 1) % self.accumulate_grad_batches == 0 or self.trainer.is_last_batch
        if batch_idx % self.accumulate_grad_batches == 0:
            main.zero_grad()
        self.manual_backward(total / self.accumulate_grad_batches)
        if factor > 0 and second is not None:
            terms["discriminator"] = self._train_discriminator(second, image_B3YX, rebuilt_B3YX.detach())
        if last:
            self._step(main)
        # Before a checkpoint of this batch is written, so that a resumed run begins to count where this one did.
        if self._counting_ends(batch_idx):
            self._close_count()
        self.log_dict({f"train/{k}": v.detach() for k, v in terms.items()}, sync_dist=True)
        self.log("train/loss", total.detach(), prog_bar=True, sync_dist=True)
        return {"loss": total.detach()}

    def _terms(self, image_B3YX: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruct and return the parts of the loss; feeds the code book's statistics."""
        vqgan = self.vqgan
        if self.train_only == "decoder":
            tokens_BYX = vqgan.encode(image_B3YX)
            self._count(vqgan.quantizer.count(tokens_BYX.flatten()))
            rebuilt_B3YX = vqgan.decode_features(vqgan.quantizer.lookup(tokens_BYX))
            commitment = rebuilt_B3YX.new_zeros(())
        else:
            started = bool(vqgan.quantizer.started)
            rebuilt_B3YX, z_BDYX, tokens_BYX_, commitment = vqgan(image_B3YX, quantize=started)
            z_ND = functional.normalize(z_BDYX.detach(), dim=1).permute(0, 2, 3, 1).flatten(0, 2)
            if tokens_BYX_ is None:
                self._first_vectors = [*self._first_vectors, z_ND][-self.unquantized_steps :]
            else:
                self._count(vqgan.quantizer.update(z_ND, tokens_BYX_.flatten(), generator))
        terms = {**difference_terms(rebuilt_B3YX, image_B3YX, factor=vqgan.downsample_factor), "commitment": commitment}
        return rebuilt_B3YX, {**terms, **self._perceptual_term(rebuilt_B3YX, image_B3YX, generator)}

    def _start_codes_if_due(self, generator: torch.Generator) -> None:
        quantizer = self.vqgan.quantizer
        if bool(quantizer.started) or self.train_only == "decoder" or len(self._first_vectors) < self.unquantized_steps:
            return
        assert isinstance(quantizer, VectorQuantizer)
        vectors_ND = torch.cat(self._first_vectors) if self._first_vectors else torch.empty(0, self.vqgan.codebook_dim)
        if len(vectors_ND) < quantizer.codebook_size:
            raise UsageError(
                "model.unquantized_steps",
                self.unquantized_steps,
                f"gave {len(vectors_ND)} vectors for {quantizer.codebook_size} codes: use more, or larger batches",
            )
        quantizer.start(vectors_ND, batches=len(self._first_vectors), generator=generator)
        self._first_vectors = []

    def _step(self, optimizer: Any) -> None:
        rate = self.lr * cosine_factor(
            self.global_step, warmup=self.warmup_steps, total=float(self.trainer.estimated_stepping_batches)
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        norm = clip_gradients(self.vqgan.named_parameters(), self.gradient_clip_val, step=self.global_step, lr=self.lr)
        self.log("train/gradient", norm)
        self.log("train/lr", rate)
        optimizer.step()

    # -- adversarial part ---------------------------------------------------------------------------------------------

    def _adversarial_factor(self) -> float:
        term = self.loss_weights.adversarial
        return term.weight * ramp(self.progress, start=term.start, length=term.ramp) if term.weight > 0 else 0.0

    def _adversarial(self, rebuilt_B3YX: Tensor, reconstruction: Tensor, terms: dict[str, Tensor]) -> Tensor:
        assert self.discriminator is not None
        adversarial = -self.discriminator(rebuilt_B3YX).mean()
        last_weight = self.vqgan.decoder.last_weight
        weight = adaptive_weight(reconstruction, adversarial, last_weight=last_weight, over_ranks=mean_over_ranks)
        terms["adversarial"], terms["adaptive_weight"] = adversarial, weight
        pull: Tensor = weight * adversarial
        return pull

    def _train_discriminator(self, optimizer: Any, real_B3YX: Tensor, fake_B3YX: Tensor) -> Tensor:
        assert self.discriminator is not None
        self.discriminator.requires_grad_(True)
        loss = hinge_loss(self.discriminator(real_B3YX), self.discriminator(fake_B3YX))
        check_finite({"the discriminator loss": loss}, step=self.global_step, lr=self.loss_weights.adversarial.lr)
        optimizer.zero_grad()
        with unsynced(self.trainer):  # DDP expects the tokenizer's gradients in each backward pass
            self.manual_backward(loss)
        for parameter in self.discriminator.parameters():
            assert parameter.grad is not None
            mean_over_ranks(parameter.grad)
        step_uncounted(optimizer)
        self.discriminator.requires_grad_(False)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW for the tokenizer and, where there is one, Adam for the discriminator."""
        optimizers: list[torch.optim.Optimizer] = [adamw(self.vqgan, lr=self.lr, weight_decay=self.weight_decay)]
        if self.discriminator is not None:
            lr = self.loss_weights.adversarial.lr
            optimizers.append(torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=(0.5, 0.9)))
        self._options = [group_options(optimizer) for optimizer in optimizers]
        return optimizers

    def on_train_start(self) -> None:
        """Let this run's options win over those of a checkpoint (the learning rate is set anew at every step)."""
        for optimizer, options in zip(self.trainer.optimizers, self._options, strict=True):
            prefer_options(optimizer, options)

    # -- what is watched ----------------------------------------------------------------------------------------------

    def _count(self, count_K: Tensor) -> None:
        assert isinstance(self._count_K, Tensor)
        self._count_K += count_K

    def on_validation_epoch_end(self) -> None:
        """Log the use of the codes as at the end of an epoch: a run of one epoch has a curve all the same."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._log_codebook()

    def on_train_epoch_end(self) -> None:
        """Log how many codes were used since the last time, and their perplexity (a single batch would mislead)."""
        self._log_codebook()

    def _counting_ends(self, batch_idx: int) -> bool:
        """Say whether validation or the end of the epoch follows this batch."""
        every = self.trainer.val_check_batch if sum(self.trainer.num_val_batches) else None
        return self.trainer.is_last_batch or (every is not None and (batch_idx + 1) % every == 0)

    def _close_count(self) -> None:
        assert isinstance(self._count_K, Tensor)
        count = int(self._count_K.sum())
        if count == 0:
            return
        self._codebook_use = usage, _ = codebook_use(self._count_K)
        self._count_K.zero_()
        # Few tokens cannot use many codes.
        if usage < 0.1 and count >= self.vqgan.codebook_size:
            _LOG.warning("the code book collapses: only %.1f %% of its codes are used", 100 * usage)

    def _log_codebook(self) -> None:
        self._close_count()
        if self._codebook_use is not None:
            # The same on every rank: counts are sums over all of them.
            self.log("codebook/usage", self._codebook_use[0], sync_dist=True)
            self.log("codebook/perplexity", self._codebook_use[1], sync_dist=True)
            self._codebook_use = None

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Log PSNR (dB, mean over images) and the perceptual distance; returns images and reconstructions."""
        return self._log_distances(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Do the same as :meth:`validation_step`; scores of folders are a callback's (``recipes/scores.yaml``)."""
        return self._log_distances(batch, "test")

    def _log_distances(self, batch: dict[str, Tensor], stage: str) -> dict[str, Tensor]:
        image_B3YX = batch["image"]
        quantize = bool(self.vqgan.quantizer.started)
        rebuilt_B3YX = self.vqgan(image_B3YX, quantize=quantize)[0].clamp(-1, 1)
        size = len(image_B3YX)
        self.log(f"{stage}/psnr", psnr(rebuilt_B3YX, image_B3YX), prog_bar=True, batch_size=size, sync_dist=True)
        self.log(f"{stage}/pixel", (rebuilt_B3YX - image_B3YX).abs().mean(), batch_size=size, sync_dist=True)
        if self.perceptual is not None:
            distance = self.perceptual(rebuilt_B3YX, image_B3YX).mean()
            self.log(f"{stage}/{self.perceptual.name}", distance, batch_size=size, sync_dist=True)
        return {"image": image_B3YX, "reconstruction": rebuilt_B3YX}

    # -- checkpoints --------------------------------------------------------------------------------------------------

    @property
    def _size(self) -> dict[str, Any]:
        return self.vqgan.config if isinstance(self.vqgan, PublishedVQGAN) else self.vqgan.size.as_dict()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the vectors gathered for the code book's start, the use of its codes, and the tokenizer's size."""
        assert isinstance(self._count_K, Tensor)
        checkpoint["vqgan_size"] = self._size
        checkpoint["first_vectors"] = list(self._first_vectors)
        checkpoint["code_count"] = self._count_K.clone()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back.

        Raises:
            UsageError: if the checkpoint does not fit; see :meth:`check_checkpoint`.
        """
        self.check_checkpoint(checkpoint)
        self._first_vectors = list(checkpoint["first_vectors"])
        assert isinstance(self._count_K, Tensor)
        if "code_count" in checkpoint:
            self._count_K.copy_(checkpoint["code_count"])

    def check_checkpoint(self, checkpoint: Mapping[str, Any], name: object = "checkpoint") -> None:
        """Refuse a checkpoint that this module cannot go on from.

        Raises:
            UsageError: if it is of another stage, of a tokenizer of another size, or refines another tokenizer.
        """
        if "vqgan_size" not in checkpoint:
            raise UsageError("ckpt_path", name, "it is not of a VQGANModule (stage 1): name one of this stage")
        if checkpoint["vqgan_size"] != self._size:
            raise UsageError("model.vqgan", self._size, f"the checkpoint {name} has {checkpoint['vqgan_size']}")
        if self.train_only == "decoder":
            theirs_KD, codebook_KD = checkpoint["state_dict"]["vqgan.quantizer.codebook_KD"], self.vqgan.codebook_KD
            if not torch.equal(theirs_KD, codebook_KD.to(theirs_KD.device)):
                hint = "refines another tokenizer than model.start_from names: name that one, or another run folder"
                raise UsageError("ckpt_path", name, hint)


def codebook_use(count_K: Tensor) -> tuple[float, float]:
    """Return the share of codes that were used and the perplexity of their use (1 to K)."""
    share_K = count_K.double() / count_K.sum()
    entropy = -torch.special.xlogy(share_K, share_K).sum()
    return float((count_K > 0).double().mean()), float(entropy.exp())
