"""Stage 2, autoregressive over autoregressive: train the patch transformer on the tokens of a frozen tokenizer.

Shape legend: B samples, P steps of a plan, N tokens per patch, K codes, T/Y/X token axes.
"""

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from nuwa_lightning.batch_part import WHOLE, BatchPart
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.coarse_plan import CoarsePlan
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, LocalDecoder
from nuwa_lightning.generation.pretrained import Generator, begin_with, check_saved, save_generator, shape_of
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.layout import PlanLayout, lay_out
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TextStates, TransformerConfig
from nuwa_lightning.planning.context.base import ContextPool, checked_extent
from nuwa_lightning.planning.context.nearby import NearbyContextPool
from nuwa_lightning.planning.direction.arbitrary import ArbitraryDirectionController
from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.planning.schedule import TokenOrder
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.training.conditioning import Conditions, SampleText, reach_of, token_noise
from nuwa_lightning.training.losses import LossTerm
from nuwa_lightning.training.muon import MuonAdamW, muon_groups
from nuwa_lightning.training.optimization import (
    OptimizerConfig,
    check_finite,
    check_rate,
    clip_gradients,
    cosine_schedule,
    group_options,
    prefer_options,
    unsynced,
)
from nuwa_lightning.training.plans import TrainingPlans, Whole, Written, check_hiding, gathered, hide, no_loss
from nuwa_lightning.training.scaling import ScalingConfig, TokenLosses, patch_loss
from nuwa_lightning.training.sharding import ShardedStrategy, gathered_model, is_sharded, shard

Optimize = Literal["joint", "accumulated", "per_patch"]
"""``joint``: all patches in one forward, gradients flow through the pool (ours). ``accumulated``: the same with
detached context. ``per_patch``: an optimizer step after every patch, the paper's render-and-optimize."""

_OPTIONS = {
    "size": "model.transformer",
    "embedding_extent": "model.context_pool",
    "bidirectional": "model.local_decoder",
    "grouped": "model.local_decoder",
    "text_dim": "model.conditions.text_encoder",
    "coarse_plan": "model.plan",
}


class NuwaInfinityModule(LightningModule):
    """Train ``p(token | earlier tokens of the patch, context patches)`` over plans of a direction controller.

    Args:
        codebook_size: code book size of the tokenizer that made the tokens.
        codebook_dim: width of its code vectors.
        patch_size: tokens of a patch, rows and columns.
        transformer: size of the model.
        context_pool: what a patch may look at.
        direction: in which order patches are written; one plan is drawn per sample.
        token_order: "mirrored" writes tokens in the direction of travel (ours), "raster" row by row (paper).
        local_decoder: how the tokens of a patch are written, and so what is learned.
        optimize: "joint", "accumulated" or "per_patch".
        conditions: what samples are conditioned on beside their context: a text, parts of them that are given.
        plan: the coarse plan that the model reads; None for a model without.
        sampling: how tokens are drawn of the trained model where nobody says otherwise.
        start_from: a run of stage 2 whose weights this one begins with, or ``landscape``, which comes with the package;
            its shape has to be the same.
        lr: peak learning rate of Muon (layer matrices) and AdamW (the rest).
        descent: the rest of the optimiser's options; its weight decay is the default optimizer's.
        optimizer: another optimizer, called with groups of parameters: a class path with its arguments in a recipe. Its
            learning rate is ``lr``. None: :class:`MuonAdamW`.
        loss_terms: what is added to the cross-entropy in training, see :class:`LossTerm`; validation goes without.
        scaling: how a large model is made to fit.

    The paper's section is "Training"; joint optimisation and mirrored crops are ours.
    """

    title = "stage 2, patch transformer"
    metrics: ClassVar[tuple[str, ...]] = ("train/loss", "train/lr", "val/loss", "val/loss_first_column")

    def __init__(  # noqa: PLR0913 - what may be swapped is an argument each
        self,
        codebook_size: int = 1024,
        codebook_dim: int = 16,
        *,
        patch_size: tuple[int, int] = (8, 8),
        transformer: TransformerConfig = TransformerConfig(),  # noqa: B008 - frozen
        context_pool: ContextPool = NearbyContextPool(),  # noqa: B008 - frozen
        direction: DirectionController = ArbitraryDirectionController(),  # noqa: B008 - frozen
        token_order: TokenOrder = "mirrored",
        local_decoder: LocalDecoder = AutoregressiveLocalDecoder(),  # noqa: B008 - frozen
        optimize: Optimize = "joint",
        conditions: Conditions = Conditions(),  # noqa: B008 - frozen
        plan: CoarsePlan | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        start_from: str | None = None,
        lr: float = 2e-3,
        descent: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
        optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer] | None = None,
        loss_terms: list[LossTerm] | None = None,
        scaling: ScalingConfig = ScalingConfig(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self._make_optimizer, self.loss_terms = optimizer, tuple(loss_terms or ())
        self.automatic_optimization = False
        self.context_pool, self.direction, self.local_decoder = context_pool, direction, local_decoder
        check_saved("model.", context_pool=context_pool, direction=direction, local_decoder=local_decoder)
        check_hiding(local_decoder)
        self.token_order, self.optimize = token_order, optimize
        self.conditions, self.plan, self.lr, self.descent, self.scaling = conditions, plan, lr, descent, scaling
        self.sampling = sampling
        self.coarse: Generator | None = None  # writes the plans of what is sampled while it trains
        self.mid_step = False  # whether gradients of some batches wait for more
        if not 0 < lr < math.inf:
            raise UsageError("model.lr", lr, "must be above 0")
        scaling.check(optimize, grouped=local_decoder.grouped)
        try:
            self.transformer = PatchTransformer(
                codebook_size,
                codebook_dim,
                patch_size=patch_size,
                embedding_extent=checked_extent("model.context_pool", context_pool.embedding_extent),
                size=transformer,
                bidirectional=local_decoder.bidirectional,
                grouped=local_decoder.grouped,
                text_dim=conditions.text_dim,
                coarse_plan=plan is not None,
            )
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError("model.transformer", transformer, str(error)) from None
        if start_from is not None:
            begin_with(self.transformer, start_from, option="model.start_from")
        self._tokenizer: tuple[Tokenizer, ...] = ()
        self._plans = TrainingPlans(direction, conditions, patch_size=patch_size, lay_out=self._lay_out)
        self._options: list[dict[str, Any]] = []

    # -- data ---------------------------------------------------------------------------------------------------------

    def attach_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Take the frozen tokenizer: its code vectors go into the model, itself it stays outside of it.

        Raises:
            UsageError: if the recipe's numbers do not fit it.
        """
        have, want = tuple(tokenizer.codebook_KD.shape), tuple(self.transformer.codebook_KE.shape)
        if have != want:
            hint = f"the tokenizer has {have[0]} codes of {have[1]} channels: set model.codebook_size={have[0]} and "
            hint += f"model.codebook_dim={have[1]}, or name another tokenizer"
            raise UsageError("model.codebook_size", want, hint)
        self.transformer.set_codes(tokenizer.codebook_KD)
        # In a tuple it is no sub-module: not trained, not saved twice, not moved.
        self._tokenizer = (tokenizer,)

    @property
    def tokenizer(self) -> Tokenizer:
        """The attached tokenizer."""
        if not self._tokenizer:
            raise RuntimeError("attach_tokenizer has not been called")
        return self._tokenizer[0]

    def layouts(self, shape: tuple[int, int, int]) -> tuple[Tensor, list[PlanLayout]]:
        """Return the weights and layouts of the plans that a sample of ``(t, y, x)`` tokens may follow.

        Raises:
            UsageError: if the sample is no whole number of patches, or a crop transposes patches that are not square.
            LawError: if the pool or the direction breaks a law.
        """
        return self._plans.layouts(shape)

    def _lay_out(self, plan: Iterable[Step], grid: PatchGrid) -> PlanLayout:
        try:
            return lay_out(
                plan,
                self.context_pool,
                grid=grid,
                patch_size=self.transformer.patch_size,
                embedding=self.transformer.layer(0).embedding,
                token_order=self.token_order,
                neighbors=self.transformer.neighbors,
            )
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError("model.patch_size", self.transformer.patch_size, str(error)) from None

    def draw_plans(
        self,
        tokens_BTYX: Tensor,
        generator: torch.Generator | None,
        *,
        text: SampleText | None = None,
        coarse_BTYX: Tensor | None = None,
        reach_B2: Tensor | None = None,
        part: BatchPart = WHOLE,
    ) -> list[Written]:
        """Give each sample a plan and put samples that share all masks together.

        Args:
            tokens_BTYX: a batch.
            generator: draws plans and what is hidden; without one, samples take plans in turn (validation).
            text: of the samples.
            coarse_BTYX: their coarse plans, ``ABSENT`` where there is none, for a model that reads them.
            reach_B2: how high the top and the bottom of each sample lie in its image; None or NaN: nothing is told.
            part: which part of the batch the samples are.
        """
        hiding = generator or torch.Generator().manual_seed(0)
        B, T, Y, X = tokens_BTYX.shape
        own, sharded = part.samples(B), is_sharded(self.transformer)
        every = self.local_decoder.bidirectional or self.optimize == "per_patch" or sharded
        drawn, patches = self._plans.draw((T, Y, X), part.world * B, generator, needed=None if every else own)
        same: dict[tuple[object, ...], list[int]] = defaultdict(list)
        laid_out = {number: layout for number, layout in enumerate(drawn) if layout is not None}
        for number, layout in laid_out.items():
            same[layout.key].append(number)
        flat = read = tokens_BTYX.flatten(1)
        if generator is not None and (share := self.conditions.token_noise):
            read = token_noise(flat, self.transformer.codebook_KE, share=share, generator=generator, part=part)
        seen = read if coarse_BTYX is None else torch.cat([read, coarse_BTYX.flatten(1)], dim=1)
        groups, heights = [], self.transformer.size.heights
        for numbers in same.values():
            alike = {number: laid_out[number] for number in numbers}
            chosen, layout = {n - own.start: p for n, p in alike.items() if n in own}, alike[numbers[0]]
            mine, idle = own, sharded and not chosen
            if idle:  # weights are gathered by all processes at once, so this one has to compute something
                chosen, mine = {0: layout}, range(numbers[0], numbers[0] + 1)
            read_as = gathered(chosen, layout, flat, read, seen, reach_B2=reach_B2, heights=heights)
            masks = hide(read_as[2], alike, mine, self.local_decoder, self.transformer, self.token_order, hiding)
            if not chosen and self.optimize != "per_patch":
                continue  # else, where another process takes a step, this one takes it, too
            whole = Whole(len(numbers), patches * self.transformer.patch_tokens, masks[1])
            groups.append(Written(layout, *read_as, whole, masks[0], text and text.rows([*chosen]), idle))
        return groups

    def _of_batch(self, batch: dict[str, Tensor], draws: torch.Generator | None, part: BatchPart) -> list[Written]:
        text = self.conditions.text_of(batch, draws, part)
        coarse_BTYX = self.plan.of_batch(batch, draws, part) if self.plan else None
        reach_B2 = reach_of(batch, draws, part) if self.transformer.size.heights else None
        return self.draw_plans(batch["tokens"], draws, text=text, coarse_BTYX=coarse_BTYX, reach_B2=reach_B2, part=part)

    # -- training -----------------------------------------------------------------------------------------------------

    def loss(self, written: Written, terms: Sequence[LossTerm] = (), *, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of every token ``[B, P, N]``, and ``terms``; see :meth:`Written.weighted`."""
        loss_BPN = self.transformer(
            written.read_BPN,
            written.entry_BP,
            neighbors_BPNK=written.neighbors_BPNK,
            groups=written.layout.groups,
            token_mask=written.token_mask,
            text=self._text_states(written),
            detach_context=self.optimize != "joint",
            score=TokenLosses(self.transformer, written.tokens_BPN, terms, label_smoothing, self.scaling.logits_chunk),
            recompute=self.scaling.recompute_layers,
            flex=self.scaling.flex_attention,
        )
        return written.weighted(loss_BPN)

    def _text_states(self, written: Written) -> TextStates | None:
        return self.transformer.text_states(*written.text) if self.transformer.text and written.text else None

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Take one optimizer step (or, with ``per_patch``, one a patch) and return the mean loss."""
        every = self.scaling.accumulate_grad_batches
        batches = self.global_step * every + batch_idx % every
        generator = torch.Generator().manual_seed((torch.initial_seed() ^ (batches * 2654435761)) & ((1 << 63) - 1))
        part = BatchPart(self.global_rank, self.trainer.world_size)
        groups = self._of_batch(batch, generator, part)
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        if self.optimize == "per_patch":
            mean = self._render_and_optimize(groups, optimizer, part.world)
        else:
            if not self.mid_step:
                optimizer.zero_grad()
            mean = torch.zeros((), device=self.device)
            for written in groups:
                loss_BPN = self.loss(written, self.loss_terms, label_smoothing=self.descent.label_smoothing)
                loss = loss_BPN[:, ~written.layout.known_P].sum() / written.whole.total * part.world
                check_finite({"the loss": loss}, step=self.global_step, lr=self.lr)
                # Processes may have different numbers of groups, and DDP waits for all of them after each.
                with nullcontext() if written is groups[-1] else unsynced(self.trainer):
                    self.manual_backward(loss / every if every > 1 else loss)
                mean = mean + loss.detach()
            self.mid_step = (batch_idx + 1) % every != 0 and not self.trainer.is_last_batch
            if not self.mid_step:
                self._clip_and_step(optimizer)
        if not self.mid_step:
            scheduler.step()
        self.log("train/loss", mean, prog_bar=True, sync_dist=True)
        self.log("train/lr", scheduler.get_last_lr()[0])
        return {"loss": mean}

    def _render_and_optimize(self, groups: list[Written], optimizer: Any, world: int) -> Tensor:
        total, count = torch.zeros((), device=self.device), 0
        for place, written in enumerate(groups):
            for step, own in self.step_losses(written):
                loss = own * (written.share(step) * world)
                check_finite({"the loss": loss}, step=self.global_step, lr=self.lr)
                optimizer.zero_grad()
                self.manual_backward(loss)
                last = place == len(groups) - 1 and step == written.tokens_BPN.shape[1] - 1
                # Only the last step goes through Lightning, so that global_step counts batches.
                self._clip_and_step(optimizer if last else optimizer.optimizer)
                total, count = total + loss.detach(), count + 1
        return total / count

    def step_losses(self, written: Written) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(step, mean loss)`` patch by patch with detached cached context (paper, Algorithm 1)."""
        states: dict[int, list[Tensor]] = {}
        tokens_BPN, smoothing, B = written.tokens_BPN, self.descent.label_smoothing, len(written.tokens_BPN)
        if B == 0:  # other processes have such samples; gradients of zero keep them company
            steps = [step for step, (*_, given) in enumerate(written.layout.walked) if not given]
            yield from ((step, no_loss(self.transformer)) for step in steps)
            return
        for step, (group, i, context, given) in enumerate(written.layout.walked):
            token_mask = written.token_mask and written.token_mask.of(operator.itemgetter((slice(None), step)))
            logits_BNK, states[step] = self.transformer.forward_step(
                written.read_BPN[:, step],
                written.entry_BP[:, step],
                neighbors_RNK=written.neighbors_BPNK[:, step],
                context=[states[c] for c in context],
                offset_RC=group.offset_PC[i].expand(B, -1),
                symmetry_RC=group.symmetry_PC[i].expand(B, -1),
                token_mask=token_mask,
                text=self._text_states(written),
            )
            if not given:
                yield step, patch_loss(logits_BNK, tokens_BPN[:, step], token_mask, self.loss_terms, smoothing)

    def _clip_and_step(self, optimizer: Any) -> None:
        limit = self.descent.gradient_clip_val
        clip_gradients(self.transformer.named_parameters(), limit, step=self.global_step, lr=self.lr)
        optimizer.step()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss on held-out images: the mean, and that of the tokens where a patch begins.

        The mean hides whether context works; the first tokens of a patch show it.
        """
        self._log_losses(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the same as :meth:`validation_step`; scores of images are a callback's (``recipes/scores.yaml``)."""
        self._log_losses(batch, "test")

    def _log_losses(self, batch: dict[str, Tensor], stage: str) -> None:
        losses, first = [], []
        for written in self._of_batch(batch, None, WHOLE):
            loss_BPN = self.loss(written)
            losses.append(loss_BPN.flatten())
            first.append(loss_BPN[:, :, : self.transformer.patch_size[0]].flatten())
        self.log(
            f"{stage}/loss", torch.cat(losses).mean(), prog_bar=True, batch_size=len(batch["tokens"]), sync_dist=True
        )
        self.log(f"{stage}/loss_first_column", torch.cat(first).mean(), batch_size=len(batch["tokens"]), sync_dist=True)

    def configure_model(self) -> None:
        """Give each process its part of the weights, under a strategy that shards."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy) and not is_sharded(self.transformer):
            shard(self.transformer, strategy.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """Muon with AdamW, or what was given; linear warm-up, then a cosine to zero at the trainer's last batch."""
        groups = muon_groups(self.transformer, *self.transformer.stacks)
        if self._make_optimizer is None:
            optimizer: torch.optim.Optimizer = MuonAdamW(groups, lr=self.lr, weight_decay=self.descent.weight_decay)
        else:
            optimizer = self._make_optimizer([{**group, "lr": self.lr} for group in groups])
            check_rate(optimizer, self.lr)
        total = float(self.trainer.estimated_stepping_batches)
        schedule = cosine_schedule(optimizer, total=total, peak_early=True, **self.descent.curve)
        self._options = group_options(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Let this run's options win over those of a checkpoint."""
        self.scaling.compile_layers(self.transformer)
        schedule: Any = self.lr_schedulers()
        prefer_options(self.trainer.optimizers[0], self._options, schedule)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the model's shape and the tokenizer's fingerprint, in plain values."""
        checkpoint["patch_transformer"] = shape_of(self.transformer)
        checkpoint["tokenizer_fingerprint"] = self.tokenizer.fingerprint() if self._tokenizer else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what does not fit; see :meth:`check_checkpoint`."""
        self.check_checkpoint(checkpoint)

    def check_checkpoint(self, checkpoint: Mapping[str, Any], name: object = "checkpoint") -> None:
        """Refuse a checkpoint that this module cannot go on from.

        Raises:
            UsageError: if it is of another stage, another shape or another tokenizer.
        """
        if "patch_transformer" not in checkpoint:
            raise UsageError("ckpt_path", name, "it is not of stage 2 (NuwaInfinityModule): name one of this stage")
        # Checkpoints from before there was a choice do not say it.
        stored: dict[str, Any] = {"bidirectional": False, "grouped": False, "text_dim": 0, "coarse_plan": False}
        stored |= checkpoint["patch_transformer"]
        first = {"ahead": False, "copy_head": False, "code_head": True, "symmetry_embedding": True, "heights": 0}
        stored["size"] = first | stored["size"]
        for key, value in shape_of(self.transformer).items():
            if stored.get(key) != value:
                hint = f"the checkpoint {name} has {stored.get(key)}: use that, or start anew"
                raise UsageError(_OPTIONS.get(key, key), value, hint)
        known = checkpoint.get("tokenizer_fingerprint")
        if self._tokenizer and known is not None and known != self.tokenizer.fingerprint():
            hint = f"the checkpoint {name} was trained with another one: name that, or start anew"
            raise UsageError("tokenizer.path", "this tokenizer", hint)

    # -- export -------------------------------------------------------------------------------------------------------

    def generator(self) -> Generator:
        """Return what it takes to generate with this model, as it is now; where it is sharded all have to ask."""
        return Generator(
            gathered_model(self.transformer) if is_sharded(self.transformer) else self.transformer,
            self.context_pool,
            self.direction,
            self.token_order,
            self.tokenizer.fingerprint(),
            self.local_decoder,
            self.conditions.text_encoder,
            self._plans.frames,
            self.plan,
            self.sampling,
        )

    def save(self, folder: str | Path) -> None:
        """Export what ``generate`` needs (see ``generation.export``)."""
        save_generator(folder, self.generator())
