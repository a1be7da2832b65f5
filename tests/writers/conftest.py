"""What the tests of writers share."""

from __future__ import annotations

from pathlib import Path


def file_content(path: Path, folder: Path) -> dict[str, bytes]:
    """Return all that an output consists of, by name, and whatever hidden file was left in the folder."""
    own = {path.name, f"{path.stem}_files"} if path.suffix == ".dzi" else {path.name}
    found: dict[str, bytes] = {}
    for top in sorted(folder.iterdir()):
        if top.name in own or top.name.startswith("."):
            files = sorted(top.rglob("*")) if top.is_dir() else [top]
            found |= {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}
    return found
