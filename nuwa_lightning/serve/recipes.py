"""The command line and the Python lines that make a canvas again."""

import shlex
from collections.abc import Mapping
from typing import Any

from nuwa_lightning.canvas.edits import listed
from nuwa_lightning.request import GenerationRequest

_LEFT_OUT = ("task", "unprompted", "tile", "max_rows", "blend", "count")


def recipe(request: Mapping[str, Any], edits: list[Mapping[str, Any]], *, checkpoint: str, name: str) -> dict[str, str]:
    """Return ``command`` and ``python``; files of given images have to be there under the names that are told.

    Args:
        request: as ``GenerationRequest.to_options`` gives it.
        edits: as ``FinishedCanvas.edits``.
        checkpoint: the run.
        name: of the canvas.
    """
    usual = {**GenerationRequest().to_options(), "temperature": 1.0, "top_k": 50, "top_p": 1.0}
    wish = {key: value for key, value in request.items() if key not in _LEFT_OUT and value != usual.get(key)}
    wish |= {"size": request["size"]} if "size" in request else {}
    wish |= {"seed": request.get("seed", 0)}
    return {"command": _command(wish, edits, checkpoint, name), "python": _python(wish, edits, checkpoint, name)}


def _command(wish: Mapping[str, Any], edits: list[Mapping[str, Any]], checkpoint: str, name: str) -> str:
    start = ["python", "-m", "nuwa_lightning"]
    suffix = ".mp4" if "frames" in wish else ".png"
    first = [*start, "generate", "--checkpoint", checkpoint]
    for key, value in wish.items():
        for each in value if isinstance(value, list) else [value]:
            first += [f"--{key}", str(each)]
    lines = [[*first, "--canvas", name, "--output", name.removesuffix(".canvas") + suffix]]
    for edit in edits:
        if "grow" in edit:
            words = ["grow", name, *(w for side, n in edit["grow"].items() for w in (f"--{side}", str(n)))]
        else:
            words = ["redo", name]
            for box in listed(edit["redo"]):
                words += ["--box", ",".join(map(str, box))]
            words += ["--frames", ",".join(map(str, edit["frames"]))] if "frames" in edit else []
        words += ["--seed", str(edit["seed"])] if "seed" in edit else []
        for key, value in edit.get("options", {}).items():
            words += [f"--{key}", str(value)]
        lines.append([*start, "canvas", *words])
    return "\n".join(map(shlex.join, lines))


def _python(wish: Mapping[str, Any], edits: list[Mapping[str, Any]], checkpoint: str, name: str) -> str:
    given = dict(wish)
    lines = ["from nuwa_lightning import NuwaInfinityPipeline", ""]
    lines.append(f"pipe = NuwaInfinityPipeline.from_pretrained({checkpoint!r})")
    call, arguments = "pipe(", []
    if "image" in given:
        image, expand = given.pop("image"), given.pop("expand", "")
        sides = dict(part.split("=") for part in expand.split(",") if part)
        if "frames" in given:
            call = f"pipe.animate({image!r}, "
        elif "mask" in given:
            call = f"pipe.inpaint({image!r}, {given.pop('mask')!r}, "
        else:
            call = f"pipe.outpaint({image!r}, " + "".join(f"{side}={n}, " for side, n in sides.items())
    if "size" in given:
        width, height = given.pop("size").split("x")
        arguments.append(f"size=({width}, {height})")
    names = {"guidance": "guidance_scale"}
    for key, value in given.items():
        value = value[0] if key == "prompt" and len(value) == 1 else value
        arguments.append(f"{names.get(key, key)}={value!r}")
    lines.append(f"canvas = {call}{', '.join(arguments)}).canvases[0]")
    for edit in edits:
        more = {key: edit[key] for key in ("seed", "options") if key in edit}
        if "frames" in edit:
            more["frames"] = tuple(edit["frames"])
        if "grow" in edit:
            said = ", ".join(f"{key}={value!r}" for key, value in {**edit["grow"], **more}.items())
            lines.append(f"canvas.grow({said})")
        else:
            boxes = [tuple(box) for box in listed(edit["redo"])]
            said = ", ".join(
                [repr(boxes if len(boxes) > 1 else boxes[0]), *(f"{key}={value!r}" for key, value in more.items())]
            )
            lines.append(f"canvas.redo({said})")
    lines.append(f"canvas.save({name!r}).close()")
    return "\n".join(lines)
