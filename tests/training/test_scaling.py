"""What makes a large model fit changes neither losses nor gradients, and saves what it says."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor import config as inductor
from torch.utils._python_dispatch import TorchDispatchMode

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local import (
    AutoregressiveLocalDecoder,
    LocalDecoder,
    LocalityLocalDecoder,
    MaskedLocalDecoder,
)
from nuwa_lightning.models.nuwa_infinity import TransformerConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.training.conditioning import Conditions, SampleText
from nuwa_lightning.training.losses import LossTerm
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
from nuwa_lightning.training.optimization import OptimizerConfig, cosine_factor
from nuwa_lightning.training.scaling import ScalingConfig
from tests.text.letters import Letters
from tests.training.small import trainer

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
SIZE = TransformerConfig(dim=24, num_layers=3, num_heads=2, num_kv_heads=1, dropout=0.2, copy_head=True)
PLAIN = ScalingConfig()
AR = AutoregressiveLocalDecoder()


class Entropy(LossTerm):
    def __call__(self, logits_MK: Tensor, target_M: Tensor) -> Tensor:
        return 0.1 * (logits_MK.softmax(-1) * logits_MK.log_softmax(-1)).sum(-1)


def module(scaling: ScalingConfig = PLAIN, *, decoder: LocalDecoder = AR, text: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    symmetries = ("omega",) if options.pop("one", False) else ("omega", "omega*", "zeta", "zeta*")
    codes = options.pop("codes", 16)
    made = NuwaInfinityModule(
        codes,
        4,
        patch_size=(2, 2),
        transformer=options.pop("size", SIZE),
        context_pool=NearbyContextPool((0, 1, 1)),
        direction=ArbitraryDirectionController(symmetries=symmetries),  # type: ignore[arg-type]
        local_decoder=decoder,
        conditions=Conditions(text_encoder=Letters()) if text else Conditions(),
        scaling=scaling,
        **options,
    )
    made.transformer.set_codes(torch.randn(codes, 4))
    return made


def learned(made: Any, *, text: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and gradients of a batch under several plans."""
    tokens = torch.randint(0, 16, (4, 1, 6, 4), generator=torch.Generator().manual_seed(1))
    said = None
    if text:
        said = SampleText(torch.ones(4, 3, Letters().width), torch.ones(4, 3, dtype=torch.bool))
    torch.manual_seed(2)
    groups = made.draw_plans(tokens, torch.Generator().manual_seed(3), text=said)
    losses = torch.cat([made.loss(g, [Entropy()], label_smoothing=0.1).flatten() for g in groups])
    losses.mean().backward()
    return losses.detach(), {n: p.grad for n, p in made.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler's own
@pytest.mark.parametrize("optimize", ["joint", "accumulated"])
@pytest.mark.parametrize(
    ("decoder", "text"),
    [(AR, False), (AR, True), (MaskedLocalDecoder(), False), (LocalityLocalDecoder(), False)],
    ids=["ar", "text", "masked", "locality"],
)
@pytest.mark.parametrize(
    "scaling",
    [
        ScalingConfig(logits_chunk=7),
        ScalingConfig(recompute_layers=True),
        ScalingConfig(logits_chunk=16, recompute_layers=True),
        ScalingConfig(compile="aot_eager"),
        pytest.param(ScalingConfig(compile="inductor"), marks=pytest.mark.slow),
    ],
    ids=["chunk", "recompute", "both", "compile", "inductor"],
)
def test_losses_and_gradients_agree(scaling: ScalingConfig, decoder: LocalDecoder, text: bool, optimize: Any) -> None:
    expected, slopes = learned(module(decoder=decoder, text=text, optimize=optimize), text=text)
    other = module(scaling, decoder=decoder, text=text, optimize=optimize)
    scaling.compile_layers(other.transformer)
    with inductor.patch(fallback_random=True):  # dropout's numbers are those of a run without it
        found, their = learned(other, text=text)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert their.keys() == slopes.keys()
    for name, value in slopes.items():
        torch.testing.assert_close(their[name], value, rtol=1e-5, atol=1e-6, msg=name)


def dense(q: Tensor, k: Tensor, v: Tensor, *, score_mod: Any, block_mask: Any, enable_gqa: bool) -> Tensor:
    """What FlexAttention says that it computes, for all queries and keys at once, with gradients."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    place = torch.meshgrid(*map(torch.arange, (*q.shape[:3], k.shape[2])), indexing="ij")
    score = score_mod(q @ k.mT / q.shape[-1] ** 0.5, *place)
    return score.masked_fill(~block_mask.mask_mod(*place), float("-inf")).softmax(-1) @ v


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")
@pytest.mark.parametrize("feed", ["key", "head", "logit"])
@pytest.mark.parametrize("optimize", ["joint", "accumulated"])
@pytest.mark.parametrize("decoder", [AR, MaskedLocalDecoder()], ids=["ar", "masked"])
def test_flex_attention_agrees(feed: Any, decoder: LocalDecoder, optimize: Any, monkeypatch: Any) -> None:
    """Its losses on a CPU, where it has no gradients; gradients by its definition in its place."""
    flex, plain = ScalingConfig(flex_attention=True), TransformerConfig(dim=24, num_heads=2, num_kv_heads=1)
    size = replace(plain, num_layers=2, position_feed=feed, symmetry_embedding=feed != "head")
    options: Any = {"decoder": decoder, "optimize": optimize, "size": size}
    ours, expected = module(**options), module(flex, **options)
    with pytest.raises(UsageError, match=r"flex_attention.* on a CPU"):
        learned(expected)
    if feed == "key" and optimize == "joint":  # its own code takes seconds to be made
        losses = []
        for made in (ours, expected):
            generator = torch.Generator().manual_seed(3)
            with torch.no_grad():
                some = made.draw_plans(torch.arange(48).view(2, 1, 6, 4) % 16, generator)
                losses.append(torch.cat([made.loss(written).flatten() for written in some]))
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("nuwa_lightning.models.rows._flex", lambda device: dense)
    (found, slopes), (theirs, their) = learned(ours), learned(module(flex, **options))
    torch.testing.assert_close(theirs, found, rtol=1e-5, atol=1e-6)
    assert their.keys() == slopes.keys()
    for name, value in slopes.items():
        torch.testing.assert_close(their[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: n + m)


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_no_tensor_holds_all_logits() -> None:
    sizes = {}
    for chunk in (0, 8):
        small = TransformerConfig(dim=8, num_layers=1, num_heads=1, num_kv_heads=1)
        made = module(ScalingConfig(logits_chunk=chunk), codes=1024, size=small)
        with Largest() as largest:
            learned(made)
        sizes[chunk] = largest.numbers
    assert sizes[0] >= 24 * 1024  # the tokens of one sample at least
    assert sizes[8] < 16 * 1024


def saved_numbers(made: Any) -> int:
    """How many numbers wait for the backward pass."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    (written,) = made.draw_plans(torch.zeros(1, 1, 8, 8, dtype=torch.long), None)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        made.loss(written)
    return sum(seen.values())


def test_recomputed_layers_keep_little() -> None:
    deep = TransformerConfig(dim=24, num_layers=8, num_heads=2, num_kv_heads=2)
    kept = [saved_numbers(module(ScalingConfig(recompute_layers=again), size=deep)) for again in (False, True)]
    assert kept[1] < 0.3 * kept[0]


def batches(size: int) -> list[dict[str, Tensor]]:
    tokens = torch.randint(0, 16, (16, 1, 4, 4), generator=torch.Generator().manual_seed(4))
    return [{"tokens": tokens[n : n + size]} for n in range(0, 16, size)]


class _Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, rows: list[dict[str, Tensor]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.rows[index]


def trained(folder: Path, every: int, *, size: int, steps: int = 4, **options: Any) -> tuple[Any, Any]:
    plain = TransformerConfig(dim=24, num_layers=2, num_heads=2, num_kv_heads=2)
    made = module(ScalingConfig(accumulate_grad_batches=every), size=plain, one=True, lr=1e-2)
    done = trainer(folder, max_steps=steps, max_epochs=1, **options)
    done.fit(made, torch.utils.data.DataLoader(_Rows(batches(size)), batch_size=None))
    return made, done


def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    whole, one = trained(tmp_path / "a", 1, size=4)
    parts, two = trained(tmp_path / "b", 2, size=2)
    assert one.global_step == two.global_step == 4
    assert one.lr_scheduler_configs[0].scheduler.last_epoch == two.lr_scheduler_configs[0].scheduler.last_epoch
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_an_incomplete_accumulation_at_the_end_of_an_epoch_is_stepped(tmp_path: Path) -> None:
    made, done = trained(tmp_path, 3, size=4, steps=2)
    assert done.global_step == 2
    assert not made.mid_step


def test_bfloat16_trains_as_float32_does(tmp_path: Path) -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        made, done = trained(tmp_path / precision, 1, size=4, precision=precision)
        assert made.transformer.bos.dtype == torch.float32
        losses.append(float(done.callback_metrics["train/loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("optimize", ["joint", "per_patch"])
def test_label_smoothing_mixes_in_the_mean_over_codes(optimize: Any) -> None:
    made = module(
        one=True, size=TransformerConfig(dim=24, num_layers=1, num_heads=2, num_kv_heads=2), optimize=optimize
    )
    made.descent = OptimizerConfig(label_smoothing=0.25)
    (written,) = made.draw_plans(torch.randint(0, 16, (2, 1, 2, 2)), None)
    log_p = made.transformer(
        written.read_BPN, written.entry_BP, neighbors_BPNK=written.neighbors_BPNK, groups=written.layout.groups
    ).log_softmax(-1)
    right = log_p.gather(-1, written.tokens_BPN[..., None])[..., 0]
    expected = -(0.75 * right + 0.25 * log_p.mean(-1)).mean()
    if optimize == "joint":
        found = made.loss(written, label_smoothing=0.25).mean()
    else:
        ((_, found),) = made.step_losses(written)
    torch.testing.assert_close(found, expected)


def test_the_linear_descent_is_a_line_to_zero() -> None:
    rates = [cosine_factor(step, warmup=4, total=10, peak_early=True, linear=True) for step in range(11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert [a - b for a, b in itertools.pairwise(rates[4:])] == pytest.approx([1 / 6] * 6)
    assert rates[-1] == 0


@pytest.mark.parametrize(
    ("options", "optimize", "named"),
    [
        ({"accumulate_grad_batches": 0}, "joint", "accumulate_grad_batches"),
        ({"accumulate_grad_batches": 2}, "per_patch", "accumulate_grad_batches"),
        ({"logits_chunk": -1}, "joint", "logits_chunk"),
        ({"compile": "nonsense"}, "joint", "compile"),
        ({"flex_attention": True}, "per_patch", "flex_attention"),
    ],
)
def test_what_makes_no_sense_is_refused(options: Any, optimize: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        module(ScalingConfig(**options), optimize=optimize)
