"""CLIP score of images and their captions (Hessel et al. 2021) with any CLIP folder on disk.

The number depends on the network: its name and the hash of its weights stand in the metric's name and in the report.
Captions lie beside the images, as ``NAME.txt`` or in one ``captions.json`` (image's file name or stem to caption).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.estimates import Estimate, of_mean
from evaluation.images import Pixels
from nuwa_lightning.data.reading import read_image
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256


class ClipScore:
    """A CLIP model with its processor; scores one image and caption at a time.

    Args:
        folder: what ``save_pretrained`` writes: configuration, safetensors, tokenizer and image processor. Nothing is
            ever fetched.
        device: where it computes.

    Attributes:
        name: what its numbers are called.
        protocol: what else moves a number.

    Raises:
        UsageError: if transformers is missing, or the folder holds no CLIP model.
    """

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        try:
            from transformers import AutoModel, AutoProcessor
        except ImportError:
            raise UsageError("--clip", str(folder), "needs transformers: pip install 'transformers>=5'") from None
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            hint = "holds no *.safetensors: give the folder of a CLIP model as save_pretrained writes it"
            raise UsageError("--clip", str(folder), hint)
        try:
            # Safetensors and no remote code: a folder from a stranger cannot run anything.
            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            model = AutoModel.from_pretrained(folder, use_safetensors=True, **options)
            processors: Any = AutoProcessor
            self._processor: Any = processors.from_pretrained(folder, **options)
        except (OSError, ValueError, KeyError) as error:
            hint = f"cannot be read as a CLIP model: {' '.join(str(error).split())[:200]}"
            raise UsageError("--clip", str(folder), hint) from error
        if not callable(getattr(model, "get_image_features", None)):
            raise UsageError("--clip", str(folder), f"is a {type(model).__name__}: give a CLIP model")
        self._model: Any = model.eval().to(device)
        self._device = device
        self._most = int(model.config.text_config.max_position_embeddings)
        digests = {path.name: file_sha256(path) for path in weights}
        self.name = f"CLIP-score[{folder.resolve().name}-{next(iter(digests.values()))[:8]}]"
        self.protocol: dict[str, Any] = {
            "model": type(model).__name__,
            "weights_sha256": digests,
            "captions": f"the first {self._most} tokens, begin and end included",
        }

    def __call__(self, image_YX3: Pixels, caption: str) -> float:
        """Return 100 times the cosine of image and caption, at least 0; of a long caption, of what fits of it."""
        import torch
        from PIL import Image

        # The tokenizer cuts before the token that ends a text, at which CLIP reads it.
        texts = {"truncation": True, "max_length": self._most}
        given = self._processor(text=[caption], images=[Image.fromarray(image_YX3)], return_tensors="pt", **texts)
        with torch.inference_mode():
            found = self._model(**given.to(self._device))
        return max(0.0, 100 * float(torch.cosine_similarity(found.image_embeds, found.text_embeds)))

    def is_cut(self, caption: str) -> bool:
        """Say whether a caption has more tokens than the model reads."""
        return len(self._processor.tokenizer(caption, verbose=False)["input_ids"]) > self._most


def captions_of(files: list[Path], *, option: str) -> list[tuple[Path, str]]:
    """Return the caption of each image.

    Raises:
        UsageError: if one has none, or ``captions.json`` is no mapping of names to sentences.
    """
    found, tables = [], {}
    for path in files:
        table = path.parent / "captions.json"
        if table not in tables:
            tables[table] = _table(table, option)
        beside = path.with_suffix(".txt")
        caption = tables[table].get(path.name) or tables[table].get(path.stem)
        if caption is None and beside.is_file():
            caption = beside.read_text(encoding="utf-8").strip()
        if not caption:
            hint = f"has no caption: write {beside.name} beside it, or put it into {table.name}"
            raise UsageError(option, str(path), hint)
        found.append((path, caption))
    return found


def _table(path: Path, option: str) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(option, str(path), f"is no JSON: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise UsageError(option, str(path), 'write {"image.png": "a caption", ...}')
    return content


def clip_score(scorer: ClipScore, captions: list[tuple[Path, str]]) -> Estimate:
    """Return the mean score of whole images and their captions with the interval of its standard error."""
    values = [scorer(np.asarray(read_image(path), np.uint8), caption) for path, caption in captions]
    cut = sum(scorer.is_cut(caption) for _, caption in captions)
    said = f"; {cut} captions are longer than the model reads: of these, their beginning" if cut else ""
    return of_mean(np.array(values), how=f"mean over images; interval: Student's t{said}")
