"""What the rest of the program asks of a tokenizer.

Shapes: B batch, K codes, D code dimension, Y/X rows and columns.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from nuwa_lightning.errors import UsageError


@runtime_checkable
class Tokenizer(Protocol):
    """Turns images into grids of tokens and back."""

    @property
    def downsample_factor(self) -> int:
        """Pixels per side of the square that one token stands for."""

    @property
    def codebook_size(self) -> int:
        """How many different tokens there are (K)."""

    @property
    def codebook_dim(self) -> int:
        """Length of a code vector (D)."""

    @property
    def codebook_KD(self) -> Tensor:
        """The code vectors."""

    @property
    def encode_halo(self) -> int:
        """How many tokens beyond its own square a token depends on."""

    @property
    def decode_halo(self) -> int:
        """How many tokens away a token still changes pixels."""

    @property
    def step(self) -> int:
        """A piece of a canvas that is encoded or decoded by itself begins at a multiple of so many tokens."""

    def encode(self, image_B3YX: Tensor) -> Tensor:
        """Return the tokens (long, BYX) of images in [-1, 1] whose sides are multiples of the factor."""

    def decode(self, tokens_BYX: Tensor) -> Tensor:
        """Return images in [-1, 1], ``downsample_factor`` times larger than the token grid."""

    def fingerprint(self) -> str:
        """Return a hash of everything that decides which tokens an image gets."""


def class_path(cls: type[Any]) -> str:
    """Return the import path of a class, such as ``my_tokenizers.Mine``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def by_path(own: Sequence[type[Any]]) -> dict[str, type[Any]]:
    """Return classes that a file may name, by their import paths.

    Raises:
        UsageError: if they are none.
    """
    given = own if isinstance(own, list | tuple) else [own]
    strange = [each for each in given if not isinstance(each, type)]
    if strange or given is not own:
        raise UsageError("own", strange[0] if strange else own, "give a list of classes, such as own=[my_pools.MyPool]")
    return {class_path(cls): cls for cls in own}


def as_own(paths: Sequence[str]) -> str:
    """Return how classes are allowed, for a hint: from Python; the command line completes it."""
    return f"`own=[{', '.join(paths)}]`"


def saved_arguments(part: Any) -> dict[str, Any]:
    """Return the arguments that an object of the user's is made again from.

    They are the fields of a dataclass; else the attribute ``config``; else the attributes named as the constructor's
    parameters are, with or without a leading underscore.

    Raises:
        ValueError: if an argument is nowhere, so that what is loaded would differ from what was saved.
    """
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.init}
    if isinstance(getattr(part, "config", None), Mapping):
        return dict(part.config)
    kept = vars(part) if hasattr(part, "__dict__") else {}
    arguments = {}
    for name, parameter in inspect.signature(type(part)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name not in kept and f"_{name}" not in kept:
            how = f"make the class a dataclass, or keep the argument as self.{name}"
            raise ValueError(f"{type(part).__name__}: its argument {name} cannot be saved: {how}")
        arguments[name] = kept.get(name, kept.get(f"_{name}"))
    return arguments


def is_tokenizer_class(found: object) -> bool:
    """Say whether ``found`` is a class with a tokenizer's methods (its numbers may be made by the constructor)."""
    methods = ("encode", "decode", "fingerprint")
    return isinstance(found, type) and all(callable(getattr(found, name, None)) for name in methods)
