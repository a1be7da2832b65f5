"""Networks whose weights no package carries: the right files give the libraries' own numbers, others are refused.

Weights here are random: only the way from file to number is tested.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import inception, perceptual
from evaluation.clip_score import Captioned, ClipScore, captions_of, frame_similarity
from evaluation.crop_spec import CropSpec
from evaluation.extractors import make_extractor
from evaluation.images import ImageSet
from evaluation.perceptual import PerceptualDistance, diversity
from evaluation.video.clips import Clips, ClipSet
from evaluation.video.score import VideoProtocol, score_videos
from evaluation.weights import INCEPTION_FILE, hub_cache
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hashing import file_sha256
from tests.evaluation.toys import ToyClips
from tests.text.own_code import with_code


def random_images(count: int, side: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_inception_is_found_in_torchs_cache_and_is_torch_fidelitys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        # Random weights: what its constructor would download.
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *a, **k: None)
        theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert hub_cache() == tmp_path / "hub" / "checkpoints"
    hub_cache().mkdir(parents=True)
    torch.save(theirs.state_dict(), hub_cache() / INCEPTION_FILE)
    with pytest.raises(UsageError, match="wanted is 6726825d"):
        make_extractor("inception")
    monkeypatch.setattr(inception, "INCEPTION", file_sha256(hub_cache() / INCEPTION_FILE))
    ours = make_extractor("inception")
    assert (ours.prefix, ours.width) == ("", 2048)
    images = random_images(2, 40)
    features, scores = ours(images)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(features, expected[0].double().numpy())
    np.testing.assert_array_equal(scores, expected[1].double().numpy())


@pytest.mark.parametrize("kind", ["alex", "vgg"])
def test_lpips_takes_its_trunk_from_disk(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lpips
    from torchvision import models

    torch.manual_seed(0)
    maker: Callable[..., Any] = {"alex": models.alexnet, "vgg": models.vgg16}[kind]
    with torch.device("meta"):
        shapes = maker(weights=None).features.state_dict()
    state = {f"features.{key}": torch.randn(value.shape) * 0.05 for key, value in shapes.items()}
    path = tmp_path / "trunk.pth"
    torch.save(state, path)
    monkeypatch.setitem(perceptual._TRUNKS, f"lpips-{kind}", ("trunk.pth", file_sha256(path)))

    def small(*_: object, **__: object) -> Any:
        with torch.device("meta"):
            features = maker(weights=None).features
        features.load_state_dict({k.removeprefix("features."): v for k, v in state.items()}, assign=True)
        return torch.nn.ModuleDict({"features": features})

    name = "alexnet" if kind == "alex" else "vgg16"
    monkeypatch.setattr(f"lpips.pretrained_networks.tv.{name}", lambda *a, **k: _Features(small()["features"]))
    theirs = lpips.LPIPS(net=kind, verbose=False).eval()
    ours = PerceptualDistance(f"lpips-{kind}", weights=path)  # type: ignore[arg-type]
    assert ours.name == f"LPIPS({kind})"
    a, b = random_images(2, 64), random_images(2, 64, seed=1)
    both = [torch.from_numpy(z).permute(0, 3, 1, 2).float() / 127.5 - 1 for z in (a, b)]
    with torch.inference_mode():
        expected = theirs(*both).flatten().double().numpy()
    np.testing.assert_allclose(ours(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(ours(a, a), 0, atol=1e-7)
    with pytest.raises(UsageError, match=r"lpips_weights: .*there is no such file"):
        PerceptualDistance(f"lpips-{kind}", weights=tmp_path / "none")  # type: ignore[arg-type]


class _Features:
    def __init__(self, features: Any) -> None:
        self.features = features


def test_stlpips_orders_what_is_done_to_photographs(sample_photos: dict[str, Any]) -> None:
    photo = sample_photos["china.jpg"][:128, :128]
    distance = PerceptualDistance()
    noisy = (photo + np.random.default_rng(0).normal(0, 8, photo.shape)).clip(0, 255).astype(np.uint8)
    shifted = sample_photos["china.jpg"][:128, 1:129]
    other = sample_photos["flower.jpg"][:128, :128]
    values = [float(distance(photo[None], z[None])[0]) for z in (photo, shifted, noisy, other)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values == sorted(values)
    assert distance.protocol["weights_sha256"]


def test_diversity_is_of_pairs_of_different_canvases(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.full((32, 64, 3), 80 * i, np.uint8)).save(tmp_path / f"{i}.png")
    flat = ImageSet(tmp_path, CropSpec(crop="windows", side=32))
    found = diversity(PerceptualDistance(), flat.some, flat.clusters(), pairs=5, seed=0)
    assert found.n == 5
    assert found.value > 0.01
    alone = ImageSet([tmp_path / "0.png"])
    with pytest.raises(ValueError, match="two are needed for a pair"):
        diversity(PerceptualDistance(), alone.some, alone.clusters(), pairs=5, seed=0)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights, as its library saves it."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    folder.mkdir()
    letters = [chr(c) for c in range(97, 123)]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1, "pad_token_id": 0}
    config = CLIPConfig(
        text_config={**small, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 24},
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def test_clip_score_is_the_cosine(clip_folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    scorer = ClipScore(clip_folder)
    assert scorer.name == f"CLIP-score[tiny-clip-{file_sha256(clip_folder / 'model.safetensors')[:8]}]"
    captions = {"0": "a lake", "1.png": "snow", "2": "a hill at dusk"}
    images = random_images(3, 20)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "captions.json").write_text(json.dumps({"0": "a lake", "1.png": "snow"}))
    (tmp_path / "2.txt").write_text("a hill at dusk\n")
    found = captions_of(sorted(tmp_path.glob("*.png")), option="--generated")
    assert [caption for _, caption in found] == list(captions.values())
    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    expected = []
    for image, caption in zip(images, captions.values(), strict=True):
        given = processor(text=[caption], images=[Image.fromarray(image)], return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = model(**given)
        expected.append(float((out.image_embeds * out.text_embeds).sum()))
    # In one batch, padded, as one at a time.
    np.testing.assert_allclose(scorer.cosines(list(images), list(captions.values())), expected, atol=1e-5)
    captioned = Captioned(scorer)
    for path, caption in found:
        captioned.add(np.asarray(Image.open(path)), caption)
    score, similarity = captioned.found().items()
    assert score == (scorer.name, score[1])
    assert score[1].value == pytest.approx(100 * np.mean(np.maximum(expected, 0)), abs=1e-3)
    assert similarity[0].startswith("CLIP-SIM[tiny-clip-")
    assert similarity[1].value == pytest.approx(np.mean(expected), abs=1e-5)
    clip = random_images(18, 20, seed=1)
    frames = [float(scorer.cosines([frame], ["a lake"])[0]) for frame in clip]
    assert frame_similarity(scorer, clip, "a lake") == pytest.approx(np.mean(frames), abs=1e-5)
    with pytest.raises(ValueError, match="give one of each"):
        scorer.cosines(list(clip), ["a lake"])
    (tmp_path / "2.txt").unlink()
    with pytest.raises(UsageError, match=r"2\.png: has no caption"):
        captions_of(sorted(tmp_path.glob("*.png")), option="--generated")
    (tmp_path / "captions.json").write_text("[]")
    with pytest.raises(UsageError, match=r"captions\.json: write"):
        captions_of(sorted(tmp_path.glob("*.png")), option="--generated")


def test_long_captions_keep_their_end(clip_folder: Path, tmp_path: Path) -> None:
    """Of 24 tokens, 22 are letters: what comes after them changes nothing, and that it is left out is said."""
    scorer = ClipScore(clip_folder)
    image = random_images(1, 20)[0]
    fits, longer = " ".join("abcdefghijklmnopqrstuv"), " ".join("abcdefghijklmnopqrstuvwxyzabc")
    assert not scorer.is_cut(fits)
    assert scorer.is_cut(longer)
    assert scorer.cosines([image], [longer]) == pytest.approx(scorer.cosines([image], [fits]), abs=1e-6)
    captioned = Captioned(scorer)
    captioned.add(image, fits)
    captioned.add(image, longer)
    assert "; 1 captions are longer" in captioned.found()[scorer.name].how


def test_clips_are_compared_with_their_captions(clip_folder: Path, tmp_path: Path) -> None:
    for name, count in (("real", 8), ("made", 4)):
        for i in range(count):
            (tmp_path / name / f"{i}").mkdir(parents=True)
            for t, frame in enumerate(random_images(3, 32, seed=i + 50 * (name == "real"))):
                Image.fromarray(frame).save(tmp_path / name / f"{i}" / f"{t}.png")
    protocol = VideoProtocol("p", 1, Clips(frames=3), Clips(frames=3), distances=("kvd",), splits=3)
    scorer, sets = ClipScore(clip_folder), [ClipSet(tmp_path / name, Clips(frames=3)) for name in ("real", "made")]
    with pytest.raises(UsageError, match=r"has no caption: write 0\.txt"):
        score_videos(protocol, *sets, ToyClips(), clip=scorer)
    (tmp_path / "made" / "captions.json").write_text(json.dumps({f"{i}": "a lake" for i in range(4)}))
    report = score_videos(protocol, *sets, ToyClips(), clip=scorer)
    expected = [frame_similarity(scorer, frames, "a lake") for _, frames in sets[1]]
    last = report["metrics"][-1]
    assert (last["name"], last["value"]) == (scorer.similarity_name, pytest.approx(np.mean(expected)))
    assert report["protocol"]["sha256"] != score_videos(protocol, *sets, ToyClips())["protocol"]["sha256"]


@pytest.mark.parametrize("kind", ["clip", "mine"])
def test_code_in_the_folder_of_a_clip_stays_off(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = with_code(clip_folder, tmp_path, kind)
    monkeypatch.setattr(sys, "stdin", answers := io.StringIO("y\n" * 9))
    if kind == "clip":  # a model that the library knows is read by the library's own code
        assert ClipScore(folder).name == ClipScore(clip_folder).name.replace("tiny-clip", "model")
    else:
        with pytest.raises(UsageError, match=f"^clip: {folder}: cannot be read as a CLIP model: ") as caught:
            ClipScore(folder)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert answers.tell() == 0


def test_other_folders_are_no_clip(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be read as a CLIP model"):
        ClipScore(tmp_path)
