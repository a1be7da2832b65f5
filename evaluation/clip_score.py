"""CLIP score (Hessel et al. 2021) and CLIP-SIM (Wu et al. 2021) of images or clips, with any CLIP folder on disk.

The number depends on the network: its name and the hash of its weights stand in the metric's name and in the report.
Captions lie beside the images, as ``NAME.txt`` or in one ``captions.json`` (image's file name or stem to caption).
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.estimates import Estimate, of_mean
from evaluation.images import Pixels
from nuwa_lightning.data.reading import MAX_PIXELS, ImageReadError, read_image
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256

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
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(option, str(path), f"is no JSON: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise UsageError(option, str(path), 'write {"image.png": "a caption", ...}')
    return content


def clip_scores(
    scorer: ClipScore, captions: list[tuple[Path, str]], *, max_pixels: int = MAX_PIXELS, option: str = "generated"
) -> dict[str, Estimate]:
    """Return CLIP score (100 times the cosine, at least 0 each) and CLIP-SIM (the cosine) of images and captions.

    Both are means over whole images with the interval of their standard error.

    Args:
        scorer: compares them.
        captions: images with their captions.
        max_pixels: refuse an image of more, before it is decoded.
        option: the option to name in an error.

    Raises:
        UsageError: if an image cannot be read.
    """
    found = [np.zeros(0)]
    for i in range(0, len(captions), BATCH):
        part = captions[i : i + BATCH]
        try:
            images = [np.asarray(read_image(path, max_pixels=max_pixels), np.uint8) for path, _ in part]
        except ImageReadError as error:
            way = "give a larger `max_pixels` if you trust it" if error.over_limit else "replace or remove it"
            raise UsageError(option, str(error.path), f"{error.reason}: {way}") from error
        found.append(scorer.cosines(images, [caption for _, caption in part]))
    cosines_N = np.concatenate(found)
    how = f"mean over images; interval: Student's t{said_of_cut(scorer, (caption for _, caption in captions))}"
    return {
        scorer.name: of_mean(100 * cosines_N.clip(min=0), how=how),
        scorer.similarity_name: of_mean(cosines_N, how=how),
    }


def frame_similarity(scorer: ClipScore, clip_TYX3: NDArray[np.uint8], caption: str) -> float:
    """Return CLIP-SIM of a clip: the mean cosine of its frames and its caption (Wu et al. 2021, GODIVA)."""
    parts = [clip_TYX3[i : i + BATCH] for i in range(0, len(clip_TYX3), BATCH)]
    return float(np.concatenate([scorer.cosines(list(part), [caption] * len(part)) for part in parts]).mean())


def said_of_cut(scorer: ClipScore, captions: Iterable[str]) -> str:
    """Return what to say of captions that are longer than the model reads."""
    cut = sum(scorer.is_cut(caption) for caption in captions)
    return f"; {cut} captions are longer than the model reads: of these, their beginning" if cut else ""
