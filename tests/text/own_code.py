"""Folders of models that bring code of their own, which would leave a file behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

_OF = {
    "config.json": {"AutoConfig": "own.C", "AutoModel": "own.M", "AutoTokenizer": [None, "own.T"]},
    "tokenizer_config.json": {"AutoTokenizer": [None, "own.T"], "AutoProcessor": "own.P"},
    "processor_config.json": {"AutoProcessor": "own.P"},
    "preprocessor_config.json": {"AutoProcessor": "own.P", "AutoImageProcessor": "own.I"},
}


def with_code(model: Path, tmp_path: Path, kind: str) -> Path:
    """Return a copy of a model's folder that names code of its own; run, it makes ``ran`` in ``tmp_path``.

    ``kind`` is what the model is called: one that the library does not know, it can only be read by that code.
    """
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    for name, classes in _OF.items():
        path = folder / name
        said = json.loads(path.read_text()) if path.exists() else {}
        said |= {"auto_map": classes}
        if "model_type" in said:
            said |= {"model_type": kind, "architectures": ["M"]}
        if kind == "mine":
            said |= {each: f"Own{each}" for each in ("tokenizer_class", "processor_class") if each in said}
        path.write_text(json.dumps(said))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass C: pass\nM = T = P = I = C\n")
    return folder
