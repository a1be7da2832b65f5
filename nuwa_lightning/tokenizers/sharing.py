"""Tokenizers by themselves in folders and on the hub: ``config.json`` and ``model.safetensors``.

The JSON names a tokenizer's class by its import path and holds plain values. Only classes of this package are imported;
any other has to be given by the caller, so a folder from a stranger cannot run code.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import os
import re
import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, cast

import torch
from torch import Tensor, nn

from nuwa_lightning.atomic import atomic_folder
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hub import Pretrained, find_part
from nuwa_lightning.legacy import upgrade_state, upgraded
from nuwa_lightning.plain_data import check_plain, read_json
from nuwa_lightning.tokenizers.base import Tokenizer, as_own, by_path, class_path, is_tokenizer_class, saved_arguments

FORMAT: Final = 1
_KIND: Final = "nuwa-lightning tokenizer"
_OWN_MODULES: Final = ("nuwa_lightning.models.", "nuwa_lightning.tokenizers.")
_FIRST_NAMES: Final = {"VQGAN": "nuwa_lightning.models.vqgan.VQGAN"}


class PretrainedTokenizer(Pretrained):
    """A tokenizer that is shared by itself; a class of the user's may be one, too."""

    part: ClassVar[Literal["tokenizer"]] = "tokenizer"
    rounded: ClassVar[tuple[str, ...]] = ()
    """How the names of weights begin that decide no token, and may be saved as another type."""

    @classmethod
    def _loaded(cls, folder: Path, own: Sequence[type[Any]]) -> object:
        return load_tokenizer(folder, option="checkpoint", own=own)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """See :func:`save_tokenizer`."""
        save_tokenizer(folder, self)  # type: ignore[arg-type]  # the protocol is the subclass's to keep


class NetworkTokenizer(PretrainedTokenizer):
    """A tokenizer that takes the weights that are read for its own, so that no memory is taken before they fit."""

    def description(self) -> dict[str, Any]:
        """Return the plain values that :meth:`remade` takes."""
        return _arguments(self)  # type: ignore[arg-type]  # as above

    @classmethod
    @abstractmethod
    def remade(cls, description: Mapping[str, Any], state: dict[str, Tensor]) -> Self:
        """Return one of what :meth:`description` said, with these weights."""


def save_tokenizer(folder: str | os.PathLike[str], tokenizer: Tokenizer, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the folder, whole or not at all; a folder that is there is replaced.

    A tokenizer of any class can be saved that is made again from plain values: the fields of a dataclass, or its
    attribute ``config`` (keyword arguments); with the weights of the ``nn.Module`` that it is, if it is one.

    Args:
        folder: where.
        tokenizer: what to save.
        dtype: of the weights on disk that :attr:`PretrainedTokenizer.rounded` names. What decides the tokens stays as
            it is.

    Raises:
        OSError: if it cannot be written.
        ValueError: if the tokenizer cannot be made again from plain values.
    """
    said = {**_description(tokenizer), "fingerprint": tokenizer.fingerprint()}
    state = _state(tokenizer)
    if isinstance(tokenizer, PretrainedTokenizer):
        state |= {name: value.to(dtype) for name, value in state.items() if name.startswith(tokenizer.rounded)}
    save_folder(folder, state, {"kind": _KIND, "format": FORMAT, **said})


def load_tokenizer(
    folder: str | os.PathLike[str], *, option: str = "tokenizer.path", own: Sequence[type[Any]] = ()
) -> Tokenizer:
    """Read a folder that :func:`save_tokenizer` wrote; the tokenizer comes frozen, in evaluation mode.

    Args:
        folder: the folder itself, a run that holds it as ``tokenizer``, or the name of a model of this package.
        option: what the user called it, for error messages.
        own: classes outside of this package that the folder may name.

    Raises:
        UsageError: if the folder is missing, of another kind or format, damaged, or names a class that is not given.
    """
    path, allowed = find_part(folder, "tokenizer"), by_path(own)
    config, state = read_config(path, _KIND, option), read_whole_weights(path, option)
    try:
        return _built(config, state, allowed)
    except _Unknown as error:
        hint = f"its class {error} is not of this package: give it with {as_own([str(error)])}, if you trust it"
        raise UsageError(option, path, hint) from None
    except UsageError as error:  # what it needs is not installed
        raise UsageError(option, path, error.hint) from None
    except NotItsWeights as error:
        raise UsageError(option, path, f"weights and config.json do not belong together: {error}") from None
    except Exception as error:  # of classes that are made of what anybody may have written
        raise UsageError(option, path, f"config.json makes no sense ({error!r:.200}): copy the folder again") from None


class _Unknown(ValueError):
    """A class that must not be imported."""


class NotItsWeights(ValueError):
    """Weights that are not those of a module."""


def _description(tokenizer: Tokenizer) -> dict[str, Any]:
    said = tokenizer.description() if isinstance(tokenizer, NetworkTokenizer) else _arguments(tokenizer)
    return {"class": class_path(type(tokenizer)), **said}


def _arguments(tokenizer: Tokenizer) -> dict[str, Any]:
    args = saved_arguments(tokenizer)
    parts = {name: _description(value) for name, value in args.items() if isinstance(value, Tokenizer)}
    plain = {name: value for name, value in args.items() if name not in parts}
    try:
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"{type(tokenizer).__name__}: its arguments {plain} are no plain values") from None
    return {"init_args": plain, "parts": parts}


def _state(tokenizer: Tokenizer, prefix: str = "") -> dict[str, Tensor]:
    if isinstance(tokenizer, nn.Module):
        return {f"{prefix}{name}": value for name, value in tokenizer.state_dict().items()}
    state: dict[str, Tensor] = {}
    if dataclasses.is_dataclass(tokenizer):
        for field in dataclasses.fields(tokenizer):
            part = getattr(tokenizer, field.name)
            if isinstance(part, Tokenizer):
                state |= _state(part, f"{prefix}{field.name}.")
    return state


def _built(config: Mapping[str, Any], state: dict[str, Tensor], own: Mapping[str, type[Any]]) -> Tokenizer:
    name = str(config["class"])
    name = _FIRST_NAMES.get(name, name)
    cls = own.get(name) or _class_of_package(name)
    made: Any
    if issubclass(cls, NetworkTokenizer):
        made = cls.remade(config, state)
    else:
        arguments = dict(config["init_args"])
        for key, inside in config.get("parts", {}).items():
            inner = {k.removeprefix(f"{key}."): v for k, v in state.items() if k.startswith(f"{key}.")}
            arguments[key] = _built(inside, inner, own)
        check_plain(cls, arguments)
        made = cls(**arguments)
        if isinstance(made, nn.Module):
            fill(made, state)
    if isinstance(made, nn.Module):
        made.eval().requires_grad_(False)
    return cast(Tokenizer, made)


def own_tokenizers(config: Mapping[str, Any]) -> list[str]:
    """Return the import paths of classes outside of this package that the ``config.json`` of a tokenizer names."""
    name = str(config["class"])
    own = [] if _FIRST_NAMES.get(name, name).startswith(_OWN_MODULES) else [name]
    return own + [path for part in config.get("parts", {}).values() for path in own_tokenizers(part)]


def fill(module: nn.Module, state: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Give a module its weights: copies, or these tensors themselves.

    Raises:
        NotItsWeights: if they are not those of the module.
    """
    try:
        module.load_state_dict(state, strict=True, assign=assign)
    except RuntimeError as error:
        raise NotItsWeights(" ".join(str(error).split())[:200]) from None


def _class_of_package(name: str) -> type[Any]:
    if not name.startswith(_OWN_MODULES):
        raise _Unknown(name)
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise ValueError(f"there is no class {name}") from None
    if not is_tokenizer_class(found):
        raise ValueError(f"{name} is no tokenizer")
    return cast("type[Any]", found)


def first_not_finite(state: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor of a state dict that holds NaN or infinity, or None."""
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None


def save_folder(folder: str | os.PathLike[str], state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write ``config.json`` and ``model.safetensors``, both or neither; a folder that is there is replaced."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder, overwrite=True) as partial:
        (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, partial / "model.safetensors")
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from None
        # safetensors lets only the owner read its files; whom a model is shared with is the umask's to say.
        shutil.copymode(partial / "config.json", partial / "model.safetensors")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a folder in the numbers that we calculate with, whatever they were saved in.

    Raises:
        OSError: if they are not there.
        ValueError: if they are damaged, or hold what is no number to calculate with.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    if not path.is_file():  # a pipe would keep its reader waiting
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"model.safetensors is damaged ({error})") from None
    spoiled = first_not_finite(state)
    if spoiled is not None:
        raise ValueError(f"{spoiled} holds NaN or infinity")
    strange = next((name for name, value in state.items() if value.is_complex()), None)
    if strange is not None:
        raise ValueError(f"{strange} holds complex numbers")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def read_whole_weights(path: Path, option: str) -> dict[str, Tensor]:
    """Return the weights of a folder, by the names of today; what cannot be read is told of the option."""
    try:
        state = read_weights(path)
    except FileNotFoundError:
        raise UsageError(option, path, "model.safetensors is missing: copy the folder again or retrain") from None
    except (ValueError, OSError) as error:
        raise UsageError(option, path, f"{error}: copy it again or retrain") from None
    upgrade_state(state)
    return state


def read_config(path: Path, wanted: str, option: str) -> Mapping[str, Any]:
    """Return ``config.json`` of a folder of the wanted kind; anything else is told of the option."""
    what = wanted.removeprefix("nuwa-lightning ")
    if path.is_file():
        raise UsageError(option, path, "is a file: name the folder with config.json and model.safetensors")
    try:
        config = read_json(path / "config.json")
    except FileNotFoundError:
        raise UsageError(option, path, f"there is no {what} here: name a folder with config.json") from None
    except (OSError, ValueError) as error:
        raise UsageError(option, path, f"config.json cannot be read ({error}): copy the folder again") from None
    kind = config.get("kind") if isinstance(config, Mapping) else None
    if kind != wanted:
        raise UsageError(option, path, f"holds {kind or 'something else'}, not a {wanted}: name the folder of one")
    if config.get("format") != FORMAT:
        raise UsageError(option, path, f"has format {config.get('format')}, this version reads {FORMAT}")
    return dict(upgraded(config))
