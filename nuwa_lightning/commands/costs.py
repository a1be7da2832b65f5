"""What training and generation take, counted before either: ``estimate`` tells it.

Arithmetic and memory of training are not formulas: one step is run on tensors without data (PyTorch's
``FakeTensorMode``), its arithmetic counted by PyTorch's formulas, its memory by what comes and goes. Generation follows
from the plan: waves and live patches are those that the renderer will have.
"""

import warnings
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, get_type_hints

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nuwa_lightning.commands.parsing import check_configs, deny_imports
from nuwa_lightning.commands.training import NuwaCLI
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.renderer import Rendering
from nuwa_lightning.legacy import upgraded_arguments
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.planning.schedule import ContextTable, walk, waves
from nuwa_lightning.signals import Signals
from nuwa_lightning.text.base import TextEncoder
from nuwa_lightning.training.conditioning import SampleText
from nuwa_lightning.training.muon import MuonAdamW, muon_groups
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
from nuwa_lightning.training.plans import Written
from nuwa_lightning.training.sharding import ShardedStrategy

_COUNTER: Final[Any] = flop_counter
_CPU: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_BACK: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_FORMULAS: Final[dict[Any, Any]] = {
    **_COUNTER.flop_registry,
    _CPU: _COUNTER.shape_wrapper(lambda q, k, v, *_, **__: _COUNTER.sdpa_flop_count(q, k, v)),
    _CPU_BACK: _COUNTER.shape_wrapper(lambda grad, q, k, v, *_, **__: _COUNTER.sdpa_backward_flop_count(grad, q, k, v)),
}
"""What operations compute, and what PyTorch's own table does not know: attention on a CPU."""


class TextWidth(TextEncoder):
    """Stands for a text encoder of which nothing but the width matters."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    @property
    def width(self) -> int:
        return self._dim

    def fingerprint(self) -> str:
        return "none"

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        raise NotImplementedError


@dataclass(frozen=True)
class TrainingCost:
    """One step of training on one device.

    Attributes:
        flops: of forward and backward.
        peak: bytes of weights, gradients, optimizer and activations at the worst moment.
        weights: bytes of the weights, or of the device's part of them.
        optimizer: bytes of the optimizer's states, likewise.
    """

    flops: float
    peak: int
    weights: int
    optimizer: int


@dataclass(frozen=True)
class CanvasCost:
    """A canvas to be generated.

    Attributes:
        patches: how many.
        tokens: how many.
        waves: batches of patches one after another.
        rows: patches of the widest wave.
        live: finished patches that wait for later ones, at most.
        flops: in all.
        steps: of the decoder, one after another: ``waves`` times the tokens of a patch.
        memory: bytes of weights, live patches and the keys and values of the widest wave.
    """

    patches: int
    tokens: int
    waves: int
    rows: int
    live: int
    flops: float
    steps: int
    memory: int


class _RecipeCLI(NuwaCLI):
    """Reads a recipe as ``fit`` does, and makes nothing of it."""

    def __init__(self, arguments: Sequence[str], also: type[Any] | None) -> None:
        self._also = also
        super().__init__(arguments, signals=Signals(), run=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the command to those of ``fit``."""
        super().add_arguments_to_parser(parser)
        if self._also is not None:
            parser.add_class_arguments(self._also)

    def before_instantiate_classes(self) -> None:
        return

    def instantiate_classes(self) -> None:
        return


def read_recipe(arguments: Sequence[str], also: type[Any] | None = None) -> Namespace:
    """Return what ``fit`` would read of these arguments, and the options of a dataclass beside them."""
    deny_imports()
    flags = {f"--{name}" for name, hint in (get_type_hints(also) if also else {}).items() if hint is bool}
    pairs = zip(arguments, [*arguments[1:], "--"], strict=True)
    arguments = [f"{one}=true" if one in flags and next_.startswith("--") else one for one, next_ in pairs]
    check_configs(["fit", *arguments])
    arguments = upgraded_arguments(["fit", *arguments])[1:]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended.*")
        config: Namespace = _RecipeCLI(arguments, also).config
    name = str(config.model.class_path)
    if name.rpartition(".")[2] != NuwaInfinityModule.__name__:
        raise UsageError("--model", name, "estimate knows stage 2: give a recipe of NuwaInfinityModule")
    return config


def model_of(config: Namespace) -> tuple[NuwaInfinityModule, int]:
    """Make the model of a recipe, text encoder left out; returns it and the most tokens of its texts."""
    given, tokens = config.model.clone(), 0
    named = given.init_args.conditions.text_encoder
    if named is not None:
        parser = LightningArgumentParser()
        parser.add_subclass_arguments(TextEncoder, "text_encoder")
        width, tokens = parser.instantiate(_namespace(text_encoder=named))["text_encoder"].expected_size()
        path = f"{TextWidth.__module__}.{TextWidth.__name__}"
        given.init_args.conditions.text_encoder = _namespace(class_path=path, init_args=_namespace(dim=width))
    made = make("model", LightningModule, given)
    assert isinstance(made, NuwaInfinityModule)
    return made, tokens


def make(name: str, base: type[Any], given: Namespace) -> Any:
    """Make what a recipe names as ``name``."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(base, name, subclass_mode=True)
    return parser.instantiate(_namespace(**{name: given}))[name]


def parameters(module: nn.Module) -> int:
    """Return how many numbers are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is computed inside of it, and the bytes of storages that are made there while they live.

    In place of PyTorch's ``FlopCounterMode``, whose hooks on modules keep all that a backward pass makes again alive.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: set[int] = set()
        self._now = self.peak = 0
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **kwargs)
        formula = _FORMULAS.get(func._overloadpacket)
        self.flops += 0 if formula is None else formula(*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            place = storage._cdata
            if place in given or place in self._known:
                continue
            self._known.add(place)
            self._now += storage.nbytes()
            weakref.finalize(storage, self._gone, place, storage.nbytes())
        self.peak = max(self.peak, self._now)
        return out

    def _gone(self, place: int, count: int) -> None:
        self._known.discard(place)
        self._now -= count


def training_cost(
    config: Namespace, *, shape: tuple[int, int, int], batch: int, precision: str, devices: int = 1
) -> TrainingCost:
    """Count one step: all samples of a batch under the same plan, which takes the most memory.

    A sample has ``(t, y, x)`` tokens. With more devices than one gradients are there twice (DDP's buckets), or, under
    ``ShardedStrategy``, weights, gradients and states in parts.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        module, texts = model_of(config)
    sharded = devices > 1 and is_named(config.trainer.strategy, ShardedStrategy)
    if sharded:
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(_sent_away)  # type: ignore[no-untyped-call]
    written = _written(module, shape, batch, texts)
    few = _few_steps(written) if module.optimize == "per_patch" else written
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision.startswith("bf16"))
    with fake, _Counter() as counter, half:
        marks = _marks(module, few, counter)
    flops, peak, model = marks[-1], counter.peak, module.transformer
    if module.optimize == "per_patch":  # arithmetic is a straight line over what is seen; all states wait until the end
        seen = [len(context) for _, _, context, _ in written.layout.walked]
        slope = (marks[-1] - len(marks) * marks[0]) / max(1, max(seen))
        flops = sum(marks[0] + slope * count for count in seen)
        state = model.num_layers * batch * model.patch_tokens * model.size.dim * 4
        peak += state * (len(seen) - len(marks))
    states, trained, fixed = sum(_state_bytes(module)), _bytes(module.parameters()), _bytes(module.buffers())
    if sharded:
        branches = () if model.text is None else model.text.layers
        sizes = [[_bytes(part.parameters()) for part in parts] for parts in (model.layers, branches)]
        # Whole, with its gradient, is what belongs to no layer, the layer that computes, and the next, fetched early.
        whole = trained - sum(map(sum, sizes)) + 2 * sum(max(some, default=0) for some in sizes)
        gradients, states, weights = trained // devices, states // devices, trained // devices + fixed
        return TrainingCost(flops, weights + gradients + states + 2 * whole + peak, weights, states)
    weights = trained + fixed
    twice = weights if devices > 1 else 0
    return TrainingCost(flops, weights + peak + states + twice, weights, states)


def is_named(given: Any, wanted: type[Any]) -> bool:
    """Say whether a recipe names a class, by its path or its name alone."""
    return str(getattr(given, "class_path", given)).rpartition(".")[2] == wanted.__name__


def _sent_away(parameter: Tensor) -> None:
    """What a process does with a gradient of which it keeps a part only."""
    parameter.grad = None


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _few_steps(written: Written) -> Written:
    """Return the first step, which sees nothing, and one that sees the most: as often the first one's states."""
    groups = sorted(written.layout.groups, key=lambda group: group.context_PC.shape[1])
    pair = [
        replace(
            group,
            steps_P=torch.tensor([place]),
            context_PC=torch.zeros_like(group.context_PC[:1]),
            offset_PC=group.offset_PC[:1],
            symmetry_PC=group.symmetry_PC[:1],
        )
        for place, group in enumerate((groups[0], groups[-1]))
    ]
    known_P = written.layout.known_P[:2]
    layout = replace(written.layout, groups=tuple(pair[: len(known_P)]), known_P=known_P)
    assert layout.walked  # made here, since tensors without data do not tell their numbers
    return replace(written, layout=layout)


def _marks(module: NuwaInfinityModule, written: Written, counter: _Counter) -> list[float]:
    """Take a step; returns what had been computed after each backward pass."""
    if module.optimize != "per_patch":
        module.loss(written, label_smoothing=module.descent.label_smoothing).mean().backward()  # type: ignore[no-untyped-call]
        return [counter.flops]
    marks = []
    for _, loss in module.step_losses(written):
        loss.backward()  # type: ignore[no-untyped-call]
        marks.append(counter.flops)
    return marks


def _written(module: NuwaInfinityModule, shape: tuple[int, int, int], samples: int, texts: int) -> Written:
    """Return samples that all follow the first plan."""
    said = None
    if texts:
        said = SampleText(torch.zeros(1, texts, module.transformer.text_dim), torch.ones(1, texts, dtype=torch.bool))
    coarse = torch.zeros(1, *shape, dtype=torch.long) if module.plan is not None else None
    (one,) = module.draw_plans(torch.zeros(1, *shape, dtype=torch.long), None, text=said, coarse_BTYX=coarse)

    def more(x: Tensor) -> Tensor:
        return x.expand(samples, *x.shape[1:]).clone()

    return replace(
        one,
        tokens_BPN=more(one.tokens_BPN),
        read_BPN=more(one.read_BPN),
        neighbors_BPNK=more(one.neighbors_BPNK),
        entry_BP=more(one.entry_BP),
        token_mask=one.token_mask and one.token_mask.of(more),
        text=one.text and SampleText(*map(more, one.text)),
    )


def _optimizer(module: NuwaInfinityModule) -> torch.optim.Optimizer:
    groups = muon_groups(module.transformer, *module.transformer.stacks)
    make = module._make_optimizer
    return MuonAdamW(groups, lr=module.lr, weight_decay=0.0) if make is None else make(groups)


def _state_bytes(module: NuwaInfinityModule) -> list[int]:
    """Return the bytes of the optimizer's states: one number a parameter of Muon, two of AdamW."""
    optimizer = _optimizer(module)
    muon = isinstance(optimizer, MuonAdamW)
    return [
        p.numel() * p.element_size() * (1 if muon and group.get("muon") else 2)
        for group in optimizer.param_groups
        for p in group["params"]
    ]


def canvas_cost(module: NuwaInfinityModule, grid: PatchGrid, *, texts: int = 0, rows: int = 64) -> CanvasCost:
    """Follow the plan of a canvas."""
    model = module.transformer
    steps = list(walk(module.direction.plan(grid), module.context_pool, grid, token_order=module.token_order))
    table = ContextTable.from_walk(steps)
    schedule = list(waves(steps, max_width=rows, lookahead=Rendering.lookahead(grid, rows)))
    tokens, layers, W = model.patch_tokens, model.num_layers, model.size.dim
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    if model.text is not None:  # read once a canvas, not once a token
        linear -= model.text.project.weight.numel()
        linear -= sum(m.key.weight.numel() + m.value.weight.numel() for m in map(model.text.layer, range(layers)))
    seen = sum(len(step.context) for step in steps) * tokens + len(steps) * (tokens + 1) / 2
    flops = 2.0 * linear * tokens * len(steps) + 4.0 * W * layers * tokens * (seen + texts * len(steps))
    kept = 2 * layers * model.layer(0).attention.num_kv_heads * model.layer(0).attention.head_dim * tokens * 4
    widest = max(len(wave.steps) for wave in schedule)
    memory = _bytes(model.parameters()) + kept * (table.peak_live + widest * (table.max_context + 1))
    count = len(schedule)
    return CanvasCost(
        len(steps), tokens * len(steps), count, widest, table.peak_live, flops, count * tokens, int(memory)
    )


def _namespace(**given: Any) -> Namespace:
    return Namespace(**given)  # type: ignore[no-untyped-call]
