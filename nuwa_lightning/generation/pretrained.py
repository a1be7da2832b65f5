"""A trained patch transformer as a folder: ``config.json`` and ``model.safetensors``.

The JSON names classes by their path. Those of this package are found by it; any other has to be given by the caller, so
that a folder from a stranger cannot run code.

Shape legend: K codes, E code width.
"""

import dataclasses
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar

import torch
from torch import Tensor

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.coarse_plan import CoarsePlan
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, LocalDecoder
from nuwa_lightning.generation.processes import Processes
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.hub import Pretrained, find_run
from nuwa_lightning.legacy import upgrade_state, upgraded
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.models.unfilled import unfilled
from nuwa_lightning.plain_data import fits, from_plain, parse_json, read_json
from nuwa_lightning.planning.context.base import ContextPool
from nuwa_lightning.planning.direction.base import DirectionController
from nuwa_lightning.planning.schedule import TokenOrder
from nuwa_lightning.text import TextEncoder
from nuwa_lightning.tokenizers.base import as_own, by_path, class_path, saved_arguments
from nuwa_lightning.tokenizers.sharing import own_tokenizers, read_weights, save_folder

Strategy = ContextPool | DirectionController | LocalDecoder | TextEncoder
S = TypeVar("S", ContextPool, DirectionController, LocalDecoder, TextEncoder)

KIND = "nuwa-lightning patch transformer"
FORMAT = 1
_ABSENT: Final = ("grouped", "text_dim", "coarse_plan")
_DECODED: Final = ("bidirectional", "grouped")
"""What depends on the local decoder."""

_HOMES: dict[type[Any], str] = {
    ContextPool: "nuwa_lightning.planning.context",
    DirectionController: "nuwa_lightning.planning.direction",
    LocalDecoder: "nuwa_lightning.generation.local",
    TextEncoder: "nuwa_lightning.text",
}
"""Where a bare class name is looked up, as the first version wrote it."""
_HOME: Final = "nuwa_lightning."


@dataclass(frozen=True)
class Generator(Pretrained):
    """What it takes to write tokens: the patch transformer, and how it was trained.

    Attributes:
        model: the transformer, in evaluation mode.
        pool: what a patch may see, as in training.
        direction: in which order patches are written.
        token_order: as in training.
        tokenizer_fingerprint: which tokenizer made the tokens it learned.
        local_decoder: how the tokens of a patch are written, as in training.
        text_encoder: what turns texts into token states; None for a model without text.
        frames: of a training sample; 1 for a model of images.
        plan: the coarse plan that the model reads; None for a model without.
        sampling: how tokens are drawn where a request does not say.
        own: classes outside of this package that a request may name.
    """

    model: PatchTransformer
    pool: ContextPool
    direction: DirectionController
    token_order: TokenOrder
    tokenizer_fingerprint: str
    local_decoder: LocalDecoder = field(default_factory=AutoregressiveLocalDecoder)
    text_encoder: TextEncoder | None = None
    frames: int = 1
    plan: CoarsePlan | None = None
    sampling: Sampling = Sampling()  # noqa: RUF009 - frozen
    own: tuple[type[Any], ...] = ()
    part: ClassVar[Literal["model"]] = "model"

    @classmethod
    def _loaded(cls, folder: Path, own: Sequence[type[Any]]) -> object:
        return load_generator(folder, own=own)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """See :func:`save_generator`."""
        save_generator(Path(folder), self)

    def allowing(self, decoder: LocalDecoder | type[Any]) -> tuple["Generator", str]:
        """Return this generator, to which a local decoder of the caller's is known, and how a request names that."""
        kind = decoder if isinstance(decoder, type) else type(decoder)
        if isinstance(decoder, type):
            name = class_path(decoder)
        else:
            check_saved(local_decoder=decoder)
            said = described(decoder)
            name = json.dumps(said) if said["args"] else said["name"]
        return dataclasses.replace(self, own=(*self.own, kind)), name

    def renderer(
        self,
        sampling: Sampling,
        *,
        max_rows: int = 64,
        precision: Precision = Precision(),  # noqa: B008 - frozen
        threads: int = 1,
        processes: Processes | None = None,
    ) -> InfiniteRenderer:
        """Return the one sampler; arguments as for :class:`InfiniteRenderer`."""
        return InfiniteRenderer(
            self.model,
            self.pool,
            self.direction,
            self.token_order,
            sampling,
            max_rows,
            precision=precision,
            local_decoder=self.local_decoder,
            threads=threads,
            processes=processes,
        )


def shape_of(model: PatchTransformer) -> dict[str, Any]:
    """Return what :class:`PatchTransformer` is made with, in plain values."""
    return {
        "codebook_size": model.codebook_size,
        "codebook_dim": model.codebook_dim,
        "patch_size": list(model.patch_size),
        "embedding_extent": list(model.embedding_extent),
        "size": dataclasses.asdict(model.size),
        "bidirectional": model.bidirectional,
        "grouped": model.grouped,
        "text_dim": model.text_dim,
        "coarse_plan": model.coarse_plan,
    }


def begin_with(model: PatchTransformer, folder: str, *, option: str) -> None:
    """Give ``model`` the weights of a trained one of the same shape.

    It may be for another local decoder: what only the new one has stays as it is, and what it reads of neighbors that
    the trained one did not begins at zero.

    Args:
        model: what is to be trained on.
        folder: a run of stage 2, or the name of a model that comes with the package.
        option: what the user called it, for error messages.

    Raises:
        UsageError: if there is none, or it is of another shape.
    """
    trained = load_generator(find_run(folder) / "model").model
    for name, value in shape_of(trained).items():
        if name not in _DECODED and (here := shape_of(model)[name]) != value:
            raise UsageError(option, folder, f"its {name} is {value}, that of this model {here}: give the same")
    new, state = model.state_dict(), trained.state_dict()
    theirs = [kind._replace(later=False) for kind in trained.neighbors]
    for name, axis, width in (
        ("neighbor_embedding.linear.weight", 1, model.codebook_dim),
        ("copy_head.linear.weight", 0, 1),
        ("copy_head.linear.bias", 0, 1),
    ):
        if name in state:
            old, begun = (torch.unflatten(part[name], axis, (-1, width)) for part in (state, new))
            begun = torch.zeros_like(begun)
            for place, kind in enumerate(model.neighbors[: begun.shape[axis]]):
                if (known := kind._replace(later=False)) in theirs:
                    begun.select(axis, place).copy_(old.select(axis, theirs.index(known)))
            state[name] = begun.flatten(axis, axis + 1)
    model.load_state_dict({name: state.get(name, value) for name, value in new.items()})


def save_generator(folder: str | Path, generator: Generator, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the folder, whole or not at all."""
    config: dict[str, Any] = {
        "kind": KIND,
        "format": FORMAT,
        # What is not there is not said, as in the first version's folders.
        "model": {name: value for name, value in shape_of(generator.model).items() if value or name not in _ABSENT},
        "context_pool": described(generator.pool),
        "direction": described(generator.direction),
        "local_decoder": described(generator.local_decoder),
        "token_order": generator.token_order,
        "tokenizer_fingerprint": generator.tokenizer_fingerprint,
        "frames": generator.frames,
    }
    if generator.text_encoder is not None:
        config["text_encoder"] = described(generator.text_encoder)
        config["text_fingerprint"] = generator.text_encoder.fingerprint()
    if generator.plan is not None:
        config["plan"] = dataclasses.asdict(generator.plan)
    if generator.sampling != Sampling():
        config["sampling"] = dataclasses.asdict(generator.sampling)
    save_folder(folder, {name: value.to(dtype) for name, value in generator.model.state_dict().items()}, config)


def load_generator(
    folder: str | Path, *, direction: DirectionController | None = None, own: Sequence[type[Strategy]] = ()
) -> Generator:
    """Read the folder.

    Args:
        folder: what :func:`save_generator` wrote.
        direction: instead of the one it was trained with.
        own: the user's classes, for a model that was trained with a strategy or a text encoder of the user's own.

    Raises:
        UsageError: if the folder is missing, of another kind or format, or damaged.
    """
    folder, allowed = Path(folder), tuple(by_path(own).values())
    try:
        config = upgraded(read_json(folder / "config.json"))
        if config["kind"] != KIND:
            raise UsageError("checkpoint", folder, f"holds a {config['kind']}, not a {KIND}: name a stage-2 run")
        if config["format"] != FORMAT:
            raise UsageError("checkpoint", folder, f"has format {config['format']}, this version reads {FORMAT}")
        model = _model_of(config["model"], read_weights(folder))
        asked = config if direction is None else {name: part for name, part in config.items() if name != "direction"}
        _check_own(asked, own, folder.parent)
        pool = _build(config["context_pool"], ContextPool, own)
        direction = direction or _build(config["direction"], DirectionController, own)
        # Folders from before there was a choice do not say it.
        before = {"name": "AutoregressiveLocalDecoder", "args": {}}
        local_decoder = _build(config.get("local_decoder", before), LocalDecoder, own)
        if (local_decoder.bidirectional, local_decoder.grouped) != (model.bidirectional, model.grouped):
            raise ValueError(f"{local_decoder} is not what the model was trained for")
        encoder = _build(config["text_encoder"], TextEncoder, own) if "text_encoder" in config else None
        order, fingerprint, frames = (
            config.get(name, 1) for name in ("token_order", "tokenizer_fingerprint", "frames")
        )
        if not fits((order, fingerprint, frames), tuple[TokenOrder, str, int]):
            raise ValueError(f"token_order {order!r}, tokenizer {fingerprint!r} or frames {frames!r} makes no sense")
        plan = _plan_of(config, model)
        sampling = from_plain(Sampling, config.get("sampling", {}))
    except FileNotFoundError as error:
        raise UsageError(
            "checkpoint", folder, f"{error.filename} is missing: name the folder of a finished run"
        ) from None
    except UsageError:
        raise
    except Exception as error:  # of classes that are made of what anybody may have written
        reason = " ".join(f"{error or type(error).__name__}".split())[:200]
        raise UsageError("checkpoint", folder, f"is damaged ({reason}): train it again or name another run") from None
    if pool.embedding_extent != model.embedding_extent:
        raise UsageError(
            "own", pool, f"the model was trained for offsets up to {model.embedding_extent}: train with this pool first"
        )
    if encoder is not None and encoder.fingerprint() != config.get("text_fingerprint"):
        raise UsageError("checkpoint", folder, f"{encoder} is not what it was in training: install that one again")
    return Generator(
        model.eval(), pool, direction, order, fingerprint, local_decoder, encoder, frames, plan, sampling, allowed
    )


def _model_of(said: Any, state: dict[str, Tensor]) -> PatchTransformer:
    size = {**said, "size": from_plain(TransformerConfig, said["size"])}
    numbers = (size["codebook_size"], size["codebook_dim"], *size["patch_size"], size["size"].dim)
    if not fits(numbers, tuple[int, ...]) or min(numbers) < 1 or size["size"].num_layers > len(state):
        raise ValueError("its sizes make no sense")
    with unfilled():  # no memory is taken before the weights turn out to fit
        model = from_plain(PatchTransformer, size)
    upgrade_state(state)
    model.load_state_dict(state, strict=True, assign=True)
    return model


def _plan_of(config: Mapping[str, Any], model: PatchTransformer) -> CoarsePlan | None:
    plan = from_plain(CoarsePlan, config["plan"]) if "plan" in config else None
    if (plan is not None) is not model.coarse_plan:
        raise ValueError("whether it reads a coarse plan is said in two ways")
    return plan


def named_local_decoder(name: str, own: Sequence[type[Any]] = ()) -> LocalDecoder:
    """Return the local decoder that a request names.

    Args:
        name: of a class of this package, or the import path of one of ``own``: it is made without arguments; or, with
            arguments, as :meth:`Generator.allowing` writes it.
        own: classes outside of this package that may be named.

    Raises:
        UsageError: if there is none of that name, or it cannot be made.
    """
    ours = {each.__name__: each for each in LocalDecoder.__subclasses__() if each.__module__.startswith(_HOME)}
    known = by_path([*ours.values(), *(each for each in own if issubclass(each, LocalDecoder))])
    known |= ours | {f"{_HOMES[LocalDecoder]}.{last}": each for last, each in ours.items()}
    try:
        said = parse_json(name) if name.startswith("{") else {"name": name, "args": {}}
        found, arguments = known.get(str(said["name"])), said["args"]
        if found is not None:
            made: LocalDecoder = from_plain(found, arguments)
            return made
    except UsageError:
        raise
    except Exception as error:  # of a class of the user's, or of what anybody may have written
        hint = f"cannot be made ({type(error).__name__}: {error}): give an object of it, from Python"
        raise UsageError("local_decoder", name, hint) from error
    mine = f", or allow one of your own, {as_own([name])}" if "." in name else ""
    raise UsageError("local_decoder", name, f"choose {', '.join(sorted(ours))}{mine}")


def described(strategy: Strategy) -> dict[str, Any]:
    """Return what a saved model says of a part: its class and the arguments that make it again."""
    arguments = saved_arguments(strategy)
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"{type(strategy).__name__}: its arguments {arguments} are no plain values") from None
    return {"name": class_path(type(strategy)), "args": arguments}


def check_saved(before: str = "", /, **parts: Strategy) -> None:
    """Refuse parts that could not be made again from what is saved of them, before hours go into training with them.

    Args:
        before: the beginning of the names of their options.
        parts: by the rest of it.
    """
    for name, part in parts.items():
        try:
            described(part)
        except ValueError as error:
            raise UsageError(f"{before}{name}", type(part).__name__, str(error).partition(": ")[2]) from None


def _own_classes(config: Mapping[str, Any]) -> list[str]:
    """Return the import paths of classes outside of this package that the ``config.json`` of a model names."""
    parts = ("context_pool", "direction", "local_decoder", "text_encoder")
    names = [str(config[part]["name"]) for part in parts if part in config]
    return [name for name in names if "." in name and not name.startswith(_HOME)]


def own_of_run(run: Path) -> list[str]:
    """Return the import paths of the user's classes that a finished run names, of its tokenizer, too."""
    found: list[str] = []
    for part, classes in (("model", _own_classes), ("coarse", _own_classes), ("tokenizer", own_tokenizers)):
        if (run / part / "config.json").exists():
            found += classes(read_json(run / part / "config.json"))
    return list(dict.fromkeys(found))


def _check_own(config: Mapping[str, Any], own: Sequence[type[Any]], run: Path) -> None:
    """Refuse a model whose classes are not all allowed, naming each that is missing, of all parts of its run."""
    allowed = {name for cls in own for name in (cls.__name__, class_path(cls))}
    if set(_own_classes(config)) - allowed:
        names = dict.fromkeys([*_own_classes(config), *own_of_run(run)])
        raise _not_allowed([name for name in names if name not in allowed])


def _not_allowed(names: Sequence[str]) -> UsageError:
    what = "this class" if len(names) == 1 else "these classes"
    hint = (
        f"the model was trained with {what} of somebody's own: allow by import path, {as_own(names)}, if you trust it"
    )
    return UsageError("own", ", ".join(names), hint)


def _build(description: Mapping[str, Any], kind: Callable[..., S], own: Sequence[type[Strategy]]) -> S:
    made: S = from_plain(_class(str(description["name"]), kind, own), description["args"])
    return made


def _class(name: str, kind: Any, own: Sequence[type[Strategy]]) -> Any:
    """Return the class of a saved name: one that the caller allows, else one of this package, never another."""
    for given in own:
        if issubclass(given, kind) and name in (given.__name__, f"{given.__module__}.{given.__qualname__}"):
            return given
    module, _, last = name.rpartition(".")
    module = module or _HOMES[kind]
    if module.startswith("nuwa_lightning."):
        try:
            found = getattr(importlib.import_module(module), last, None)
        except ImportError:
            found = None
        if isinstance(found, type) and issubclass(found, kind) and found.__module__.startswith("nuwa_lightning."):
            return found
    raise _not_allowed([name if "." in name else f"my_file.{name}"])
