"""What a kept canvas says of how it was made: given pixels, hashes, and the request it was begun by."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from PIL import Image

from nuwa_lightning.atomic import atomic_write
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256
from nuwa_lightning.request import GenerationRequest

if TYPE_CHECKING:
    from nuwa_lightning.canvas.order_builder import OrderBuilder

_LOG = logging.getLogger(__name__)
GIVEN: Final = ("image.png", "mask.png", "plan.png")
"""The files of given pixels."""


def keep_given(folder: Path, request: GenerationRequest) -> dict[str, str]:
    """Write the given pixels of a request, without loss, and return the hashes of their files."""
    image, plan = request.image, request.plan
    holes = None if image is None or image.holes_YX is None else image.holes_YX.astype("u1") * 255
    planes = (None if image is None else image.pixels_YX3, holes, None if plan is None else plan.pixels_YX3)
    given = {name: pixels for name, pixels in zip(GIVEN, planes, strict=True) if pixels is not None}
    for name, pixels in given.items():
        with atomic_write(folder / name) as partial:
            Image.fromarray(pixels).save(partial, "PNG")
    return {name: file_sha256(folder / name) for name in given}


def kept_request(folder: Path, how: Mapping[str, Any], *, max_pixels: int | None, option: str) -> GenerationRequest:
    """Return the request that a canvas was begun by, refused if it makes no sense or given pixels are damaged."""
    try:
        sums = dict(how.get("given") or {})
        if not how["metadata"]:
            raise KeyError("metadata")
        options = {name: value for name, value in dict(how["request"]).items() if name not in ("image", "mask", "plan")}
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
        for name in GIVEN:
            path = folder / name
            if name in sums and (not path.is_file() or file_sha256(path) != sums[name]):
                raise UsageError(option, path, "is damaged: put back the one that was there")
            if name in sums:
                options[path.stem] = path
        return GenerationRequest.from_options(options, max_pixels=max_pixels)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, UsageError) and error.option in (option, "image"):
            raise
        hint = f"does not say how it was made ({error}): name the folder of a canvas that was kept"
        raise UsageError(option, folder, hint) from error


def hashes(builder: OrderBuilder) -> dict[str, str]:
    """Return what tells a model, the tokenizer of its tokens, and what decodes them from others."""
    model = hashlib.sha256()
    for name, tensor in sorted(builder.generator.model.state_dict().items()):
        model.update(name.encode())
        model.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    tokenizer, guided = builder.tokenizer, builder.pixel_guided
    whole: Callable[[], str] = getattr(tokenizer, "full_fingerprint", tokenizer.fingerprint)
    decoder = hashlib.sha256((whole() + ("" if guided is None else guided.fingerprint())).encode())
    parts = {"model": model.hexdigest(), "tokenizer": tokenizer.fingerprint(), "decoder": decoder.hexdigest()}
    return {name: value[:32] for name, value in parts.items()}


def check_hashes(shown: object, how: Mapping[str, Any], found: Mapping[str, str], *, of: str, option: str) -> None:
    """Refuse a canvas of another model, or of other tokens; its pixels may come from a decoder refined since.

    Args:
        shown: what the canvas is called in errors.
        how: it was made.
        found: `hashes` of the pipeline that opens it.
        of: the run of that pipeline.
        option: the option to name in errors.
    """
    for name in ("model", "tokenizer"):
        if how.get(name) != found[name]:
            hint = f"was made with another {name} than that of {of}: open it with the run that made it"
            raise UsageError(option, shown, hint)
    if how.get("decoder") != found["decoder"]:
        _LOG.warning("%s: its tokens stay, its pixels come from another decoder now, that of %s", shown, of)
