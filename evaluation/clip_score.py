"""CLIP score (Hessel et al. 2021) and CLIP-SIM (Wu et al. 2021) of images or clips, with any CLIP folder on disk.

The number depends on the network: its name and the hash of its weights stand in the metric's name and in the report.
Captions lie beside the images, as ``NAME.txt`` or in one ``captions.json`` (image's file name or stem to caption).
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Estimate, of_mean
from evaluation.images import Pixels
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256
from nuwa_lightning.plain_data import parse_json

BATCH: Final = 16
TABLE: Final = "captions.json"


class ClipScore:
    """A CLIP model with its processor; compares images and captions.

    Args:
        folder: what ``save_pretrained`` writes: configuration, safetensors, tokenizer and image processor. Nothing is
            ever fetched.
        device: where it computes.

    Attributes:
        name: what its scores are called.
        similarity_name: what its mean cosines are called.
        protocol: what else moves a number.

    Raises:
        UsageError: if transformers is missing, or the folder holds no CLIP model.
    """

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        try:
            from transformers import AutoModel, AutoProcessor
        except ImportError:
            raise UsageError("clip", str(folder), "needs transformers: pip install 'transformers>=5'") from None
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            hint = "holds no *.safetensors: give the folder of a CLIP model as save_pretrained writes it"
            raise UsageError("clip", str(folder), hint)
        try:
            # Safetensors and no remote code: a folder from a stranger cannot run anything.
            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            model = AutoModel.from_pretrained(folder, use_safetensors=True, **options)
            processors: Any = AutoProcessor
            self._processor: Any = processors.from_pretrained(folder, **options)
        except (OSError, ValueError, KeyError) as error:
            hint = f"cannot be read as a CLIP model: {' '.join(str(error).split())[:200]}"
            raise UsageError("clip", str(folder), hint) from error
        if not callable(getattr(model, "get_image_features", None)):
            raise UsageError("clip", str(folder), f"is a {type(model).__name__}: give a CLIP model")
        self._model: Any = model.eval().to(device)
        self._device = device
        self._most = int(model.config.text_config.max_position_embeddings)
        digests = {path.name: file_sha256(path) for path in weights}
        network = f"[{folder.resolve().name}-{next(iter(digests.values()))[:8]}]"
        self.name, self.similarity_name = f"CLIP-score{network}", f"CLIP-SIM{network}"
        self.protocol: dict[str, Any] = {
            "model": type(model).__name__,
            "weights_sha256": digests,
            "captions": f"the first {self._most} tokens, begin and end included",
        }

    def cosines(self, images: Sequence[Pixels], captions: Sequence[str]) -> NDArray[np.float64]:
        """Return the cosine of each image and its caption, ``[N]``, in one batch; of a long caption, what fits of it.

        Raises:
            ValueError: if there are not as many captions as images.
        """
        import torch
        from PIL import Image

        if len(images) != len(captions):
            raise ValueError(f"{len(images)} images and {len(captions)} captions: give one of each")
        # The tokenizer cuts before the token that ends a text, at which CLIP reads it.
        texts = {"truncation": True, "max_length": self._most, "padding": True}
        shown = [Image.fromarray(image) for image in images]
        given = self._processor(text=list(captions), images=shown, return_tensors="pt", **texts)
        with torch.inference_mode():
            found = self._model(**given.to(self._device))
        cosines_N = torch.cosine_similarity(found.image_embeds, found.text_embeds)
        return np.asarray(cosines_N.double().cpu().numpy(), np.float64)

    def is_cut(self, caption: str) -> bool:
        """Say whether a caption has more tokens than the model reads."""
        return len(self._processor.tokenizer(caption, verbose=False)["input_ids"]) > self._most


def captions_of(files: list[Path], *, option: str) -> list[tuple[Path, str]]:
    """Return the caption of each image or clip."""
    found = []
    for path, caption in known_captions(files, option=option).items():
        if not caption:
            hint = f"has no caption: write {path.with_suffix('.txt').name} beside it, or put it into {TABLE}"
            raise UsageError(option, str(path), hint)
        found.append((path, caption))
    return found


def known_captions(files: Iterable[Path], *, option: str) -> dict[Path, str]:
    """Return the captions that lie beside files, empty where there is none; errors as :func:`captions_of`."""
    found, tables = {}, {}
    for path in files:
        table = path.parent / TABLE
        if table not in tables:
            tables[table] = _table(table, option)
        beside = path.with_suffix(".txt")
        caption = tables[table].get(path.name) or tables[table].get(path.stem)
        if caption is None and beside.is_file():
            caption = beside.read_text(encoding="utf-8").strip()
        found[path] = caption or ""
    return found


def _table(path: Path, option: str) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(option, str(path), f"is no JSON: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise UsageError(option, str(path), 'write {"image.png": "a caption", ...}')
    return content


class Captioned:
    """CLIP score and CLIP-SIM of whole images that are given one by one, compared in batches.

    Args:
        scorer: compares them.
    """

    def __init__(self, scorer: ClipScore) -> None:
        self._scorer = scorer
        self._waiting: list[Pixels] = []
        self._captions: list[str] = []
        self._cosines = [np.zeros(0)]

    def add(self, image_YX3: Pixels, caption: str) -> None:
        """Give an image with its caption."""
        self._waiting.append(image_YX3)
        self._captions.append(caption)
        if len(self._waiting) == BATCH:
            self._compare()

    def found(self) -> dict[str, Estimate]:
        """Return the means of CLIP score (100 times the cosine, at least 0 each) and CLIP-SIM (the cosine)."""
        self._compare()
        cosines_N = np.concatenate(self._cosines)
        how = f"mean over images; interval: Student's t{said_of_cut(self._scorer, self._captions)}"
        return {
            self._scorer.name: of_mean(100 * cosines_N.clip(min=0), how=how),
            self._scorer.similarity_name: of_mean(cosines_N, how=how),
        }

    def _compare(self) -> None:
        if self._waiting:
            self._cosines.append(self._scorer.cosines(self._waiting, self._captions[-len(self._waiting) :]))
            self._waiting = []


def captions_sha256(captions: Iterable[str]) -> str:
    """Return the hash of captions, in any order."""
    return hashlib.sha256(json.dumps(sorted(captions)).encode()).hexdigest()


def frame_similarity(scorer: ClipScore, clip_TYX3: NDArray[np.uint8], caption: str) -> float:
    """Return CLIP-SIM of a clip: the mean cosine of its frames and its caption (Wu et al. 2021, GODIVA)."""
    parts = [clip_TYX3[i : i + BATCH] for i in range(0, len(clip_TYX3), BATCH)]
    return float(np.concatenate([scorer.cosines(list(part), [caption] * len(part)) for part in parts]).mean())


def said_of_cut(scorer: ClipScore, captions: Iterable[str]) -> str:
    """Return what to say of captions that are longer than the model reads."""
    cut = sum(scorer.is_cut(caption) for caption in captions)
    return f"; {cut} captions are longer than the model reads: of these, their beginning" if cut else ""
