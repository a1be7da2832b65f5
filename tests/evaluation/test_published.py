"""FD-DINOv2's and CMMD's networks against the reference preprocessing, on planted weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import transforms
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

from evaluation.extractors import make_extractor
from evaluation.published import ClipFeatures, DinoFeatures, cmmd
from evaluation.score import Networks, Work, score
from nuwa_lightning.errors import UsageError

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder / "model.safetensors"


def test_dinov2_is_dgm_evals(images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**SMALL, mlp_ratio=2, image_size=518, patch_size=14)).eval()
    found = make_extractor("evaluation.published.DinoFeatures", weights=saved(model, tmp_path))
    # dgm-eval's transform of an image file.
    reference = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with torch.inference_mode():
        hidden = model(torch.stack([reference(image) for image in images])).last_hidden_state
    np.testing.assert_allclose(found(images)[0], hidden[:, 0].numpy(), atol=1e-5)
    assert found.prefix.startswith("dinov2.")
    assert found.prefix.endswith("-")


def test_clip_and_cmmd_are_the_references(images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(**SMALL, intermediate_size=32, image_size=28, patch_size=14, projection_dim=8)
    model = CLIPVisionModelWithProjection(config).eval()
    ours = make_extractor("evaluation.published.ClipFeatures", weights=saved(model, tmp_path))
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255))
    pixels = torch.nn.functional.interpolate(pixels, size=(28, 28), mode="bicubic")
    normal = transforms.Normalize([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    with torch.inference_mode():
        wanted = model(normal(pixels)).image_embeds
    found = ours(images)[0]
    np.testing.assert_allclose(found, (wanted / wanted.norm(dim=1, keepdim=True)).numpy(), atol=1e-5)
    x, y = found[:2], found[1:]

    def k(a: Any, b: Any) -> float:
        return float(np.mean([[np.exp(-((u - v) ** 2).sum() / (2 * 10**2)) for v in b] for u in a]))

    assert cmmd(x, y) == pytest.approx(1000 * (k(x, x) + k(y, y) - 2 * k(x, y)), rel=1e-5, abs=1e-9)


def test_its_row_has_no_interval(folders: dict[str, Path], tmp_path: Path) -> None:
    from evaluation.protocol import load_protocol
    from evaluation.table import text_table

    torch.manual_seed(0)
    config = CLIPVisionConfig(**SMALL, intermediate_size=32, image_size=28, patch_size=14, projection_dim=8)
    weights = saved(CLIPVisionModelWithProjection(config), tmp_path)
    report = score(
        load_protocol("cmmd"), folders["real"], generated=folders["noised"], networks=Networks(weights=weights),
        work=Work(cached=False),
    )  # fmt: skip
    (row,) = (row for row in report["metrics"] if row["name"].endswith("CMMD"))
    assert row["name"].startswith("clip.")
    assert row["low"] is None
    assert row["value"] > 0
    assert row["floor"] > 0
    assert "none" in text_table(report)


@pytest.mark.parametrize("kind", [DinoFeatures, ClipFeatures])
def test_nothing_is_downloaded(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is downloaded"):
        kind()
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match="cannot be read as"):
        kind(weights=tmp_path / "model.safetensors")
