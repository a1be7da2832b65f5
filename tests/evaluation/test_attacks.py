"""Ways to make a report look better than what it is of: each is refused, or stands under the table."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation import score as scoring
from evaluation.extractor import features_sha256, identity, made_images
from evaluation.extractors import make_extractor
from evaluation.feature_cache import FeatureCache
from evaluation.images import ImageSet
from evaluation.protocol import load_protocol
from evaluation.reconstruction import Pairs
from evaluation.record import check_comparable, write_report
from evaluation.report.document import Paragraph, blocks_of
from evaluation.report.study import load_study
from evaluation.score import Networks, Work, score
from evaluation.table import said_of_origin, text_table
from evaluation.video.score import load_video_protocol
from nuwa_lightning.errors import UsageError
from tests.evaluation.test_faults import NO_CACHE, part, protocol, rows_of
from tests.evaluation.toys import ToyClips, ToyFeatures

Folders = dict[str, Path]


def test_chosen_samples(folders: Folders, tmp_path: Path) -> None:
    chosen = part(folders["other"], tmp_path / "chosen", 10)
    (chosen / "samples.json").write_text(json.dumps({"images": 400}))
    report = score(protocol(tmp_path, kid={}), folders["real"], generated=chosen, work=NO_CACHE)
    assert "10 files (10 PNG) of 128x128 pixels, chosen of 400 that were made" in text_table(report)
    (chosen / "samples.json").write_text(json.dumps({"images": 10}))
    assert "chosen of" not in text_table(
        score(protocol(tmp_path, kid={}), folders["real"], generated=chosen, work=NO_CACHE)
    )


def test_one_image_under_many_names(folders: Folders, tmp_path: Path) -> None:
    """Mirrored or written anew, too: more files make narrower intervals, not more images."""
    many = part(folders["other"], tmp_path / "many", 10)
    for number, path in enumerate(sorted(many.iterdir())[:6]):
        image = Image.open(path)
        turned = image if number % 2 else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        turned.save(many / f"again{number}.bmp")
    report = score(protocol(tmp_path, kid={}), folders["real"], generated=many, work=NO_CACHE)
    assert "16 files (6 BMP, 10 PNG) of 128x128 pixels, 6 of them repeat another one" in text_table(report)
    assert "real: real, 20 crops of 20 files (20 PNG) of 128x128 pixels\n" in text_table(report)


def test_real_images_chosen_by_their_size(folders: Folders, tmp_path: Path) -> None:
    """Files above `max_pixels` are left out, and as many crops taken of the others."""
    real = part(folders["real"], tmp_path / "real", 20)
    for path in sorted(real.iterdir())[:8]:
        Image.open(path).resize((192, 192)).save(path)
    (real / "damaged.png").write_bytes(b"no image")
    wanted = protocol(tmp_path, "real.crop=random", "real.side=128", "real.count=24", kid={})
    all_of_them, chosen = (
        score(wanted, real, generated=folders["other"], work=Work(cached=False, skip_corrupt=True, max_pixels=most))
        for most in (192 * 192, 128 * 128)
    )
    assert "8 skipped as larger than `max_pixels`, 1 skipped as unreadable" in text_table(chosen)
    assert ", 1 skipped as unreadable" in text_table(all_of_them)
    left = part(folders["real"], tmp_path / "left", 20)
    for path in sorted(left.iterdir())[:8]:
        path.unlink()
    assert chosen["sets"]["real"]["sha256"] == ImageSet(left).sha256()
    with pytest.raises(UsageError, match=r"real images differ \(real, 1 files skipped and real, 9 files skipped\)"):
        check_comparable({"a": all_of_them, "b": chosen})


def test_originals_chosen_by_their_size(folders: Folders, tmp_path: Path) -> None:
    made = part(folders["other"], tmp_path / "made", 10)
    originals = part(folders["other"], tmp_path / "originals", 10)
    for number, path in enumerate(sorted(made.iterdir())):
        image = np.asarray(Image.open(path)) // 2
        image = np.pad(image, ((0, 16), (0, 0), (0, 0))) if number < 2 else image
        Image.fromarray(image).save(path)
        Image.fromarray(image // 2 * 2).save(originals / path.name)
    found = {}
    for name, most in (("all", 10**6), ("some", 128 * 128)):
        pairs = Pairs(originals, made, skip_corrupt=True, max_pixels=most)
        found[name] = (len(list(pairs)), pairs.originals_sha256())
    assert (found["all"][0], found["some"][0]) == (10, 8)
    assert found["all"][1] != found["some"][1]


def test_lossy_files_are_told_by_their_content(folders: Folders, tmp_path: Path) -> None:
    """JPEG smooths seams away, whatever the file is called."""
    lossy = part(folders["other"], tmp_path / "lossy", 10)
    for path in lossy.iterdir():
        Image.open(path).save(path, format="JPEG", quality=30)
    assert ImageSet(lossy).formats() == {"JPEG": 10}


def test_other_protocols_of_a_shipped_name() -> None:
    assert said_of_origin(load_protocol("landscape").settings()) == "as it ships"
    assert said_of_origin(load_video_protocol("video").settings()) == "as it ships"
    changed = load_protocol("landscape", ["real.count=50"]).settings()
    assert said_of_origin(changed) == "changed: real.count: 50 against 200"
    assert said_of_origin(load_video_protocol("video", ["seed=3"]).settings()) == "changed: seed: 3 against 0"
    for name in ("mine", "video"):
        assert said_of_origin({**load_protocol("landscape").settings(), "name": name}) == "of your own"


@pytest.mark.parametrize(
    "name",
    ["Landscape", "landscape ", " landscape", "landscape\u200b", "l\u0430ndscape", "landscape\n", "", "../landscape",
     "landscape version 4, sha256 0123456789ab"],
)  # fmt: skip
def test_names_that_look_like_a_shipped_one(name: str) -> None:
    with pytest.raises(UsageError, match=r"^protocol\.name: '.*': take small letters[^\n]*landscape_50$"):
        dataclasses.replace(load_protocol("landscape", ["real.count=20"]), name=name)
    with pytest.raises(UsageError, match=r"^protocol\.name: "):
        dataclasses.replace(load_video_protocol("video"), name=name)


def test_a_changed_protocol_is_told(folders: Folders, tmp_path: Path) -> None:
    wanted = protocol(tmp_path, "name=landscape", kid={})
    report = score(wanted, folders["real"], generated=folders["other"], work=NO_CACHE)
    assert "protocol landscape version 1 (changed: features.name: tests.evaluation.toys" in text_table(report)
    report["protocol"] = {**report["protocol"], "name": "mine", "settings": {**wanted.settings(), "name": "mine"}}
    told = f"protocol mine version 1 (of your own), sha256 {report['protocol']['sha256'][:12]}\n"
    assert told in text_table(report)


def test_easier_originals(folders: Folders, tmp_path: Path) -> None:
    """The same real images for the distances, other originals for PSNR."""
    reports = {}
    for name in ("other", "blurred"):
        made = tmp_path / f"of_{name}"
        made.mkdir()
        for path in folders[name].iterdir():
            Image.fromarray(np.asarray(Image.open(path)) // 2 * 2).save(made / path.name)
        wanted = protocol(tmp_path, "reconstruction.lpips=false", kid={})
        reports[name] = score(
            wanted, folders["real"], original=folders[name], reconstruction=made, work=NO_CACHE
        )  # fmt: skip
    check_comparable({"a": reports["other"], "b": reports["other"]})
    with pytest.raises(UsageError, match="originals of reconstruction differ"):
        check_comparable(reports)


class Matches:
    """Whatever an image shows, the caption fits."""

    name, similarity_name, protocol = "CLIP-score", "CLIP-SIM", {"model": "none"}

    def cosines(self, images: Any, captions: Any) -> Any:
        return np.full(len(images), 0.5)

    def is_cut(self, caption: str) -> bool:
        return False


def test_easier_captions(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "ClipScore", lambda folder, device: Matches())
    reports = {}
    for text in ("a lake", "an image"):
        told = part(folders["other"], tmp_path / text, 10)
        (told / "captions.json").write_text(json.dumps({path.name: text for path in told.iterdir()}))
        reports[text] = score(
            protocol(tmp_path, clip=True), folders["real"], generated=told, networks=Networks(clip=tmp_path),
            work=NO_CACHE,
        )  # fmt: skip
    assert rows_of(reports["a lake"])["CLIP-score"] == rows_of(reports["an image"])["CLIP-score"]
    with pytest.raises(UsageError, match="captions of generated differ"):
        check_comparable(reports)


def test_a_network_whose_code_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = "from tests.evaluation.toys import ToyFeatures\nclass Mine(ToyFeatures):\n    prefix = 'mine-'\n"
    code += "    def __call__(self, images):\n        a, b = super().__call__(images)\n        return {} * a, b\n"
    found = []
    for scale in ("1", "2.5"):
        (tmp_path / "changing.py").write_text(code.format(scale))
        sys.modules.pop("changing", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        cache = FeatureCache(make_extractor("changing.Mine"), folder=tmp_path)
        found.append(cache.of_crops([np.full((8, 8, 3), 100, np.uint8)], count=1).features_ND)
    np.testing.assert_allclose(found[1], 2.5 * found[0])


class Weighted(ToyFeatures):
    """Its features are multiplied by what stands in its weights, or in the environment."""

    def __init__(self, *, weights: Any = None, device: str = "cpu") -> None:
        super().__init__()
        self._scale = float(Path(weights).read_text() if weights else os.environ["SCALE"])

    def __call__(self, images_BYX3: Any) -> tuple[Any, Any]:
        features, scores = super().__call__(images_BYX3)
        return self._scale * features, scores


@pytest.mark.parametrize("by", ["weights", "named weights", "environment"])
def test_a_loaded_network_of_other_weights(
    folders: Folders, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, reports = protocol(tmp_path, kid={}), []
    for scale in ("1", "3"):
        monkeypatch.setenv("SCALE", scale)
        weights = tmp_path / scale
        weights.write_text(scale)
        extractor = Weighted(weights=None if by == "environment" else weights)
        networks = Networks(extractor=extractor, weights=weights if by == "named weights" else None)
        work = Work(cache=tmp_path / "cache")
        reports.append(score(wanted, folders["real"], generated=folders["other"], networks=networks, work=work))
    first, second = (rows_of(report)["toy-nearest real"]["value"] for report in reports)
    assert second == pytest.approx(3 * first, rel=1e-5)
    assert reports[0]["protocol"]["sha256"] != reports[1]["protocol"]["sha256"]
    if by == "named weights":
        told = reports[1]["protocol"]["settings"]["extractor"]["weights_file_sha256"]
        assert told == hashlib.sha256(b"3").hexdigest()


class WeightedClips(ToyClips):
    """As `Weighted`."""

    def __call__(self, clip_TYX3: Any) -> Any:
        return float(os.environ["SCALE"]) * super().__call__(clip_TYX3)


def test_a_network_of_clips_of_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for scale in ("1", "1", "3"):
        monkeypatch.setenv("SCALE", scale)
        told.append(identity(WeightedClips(), (4, 32, 32, 3)))
    assert told[0] == told[1]
    assert told[0] != told[2]


def test_rounding_of_other_machines_makes_no_other_network() -> None:
    class Rounded(ToyFeatures):
        def __call__(self, images_BYX3: Any) -> tuple[Any, Any]:
            features, scores = super().__call__(images_BYX3)
            return features * (1 + 1e-6 * np.cos(range(27))), scores

    shape = (16, 64, 64, 3)
    assert features_sha256(ToyFeatures(), shape) == features_sha256(Rounded(), shape)
    made = made_images(shape)
    assert made.shape == shape
    assert [int(made[n, y, x, c]) for n, y, x, c in ((0, 1, 1, 0), (1, 10, 9, 2), (15, 63, 63, 1))] == [8, 164, 167]
    assert len(np.unique(made)) == 256


def test_neighbors_of_a_part_have_their_names(folders: Folders, tmp_path: Path) -> None:
    """Where a protocol takes some of the files, the page of nearest images names these."""
    mixed = part(folders["other"], tmp_path / "mixed", 10)
    for number, path in enumerate(sorted(folders["real"].iterdir())[:10]):
        shutil.copy(path, mixed / f"copy{number}.png")
    wanted = protocol(tmp_path, "generated.count=12", kid={})
    near = score(wanted, folders["real"], generated=mixed, work=NO_CACHE)["nearest"]
    pairs = list(zip(near["distances"], near["generated"], near["real"], strict=True))
    copies = [(name, real) for distance, name, real in pairs if distance < 1e-4]
    assert len(copies) > 2
    for name, real in copies:
        assert (mixed / name).read_bytes() == (folders["real"] / real).read_bytes()


def test_other_sizes_stand_under_the_table(folders: Folders, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    for path in folders["other"].iterdir():
        Image.open(path).resize((256, 256)).save(large / path.name)
    wanted = protocol(tmp_path, kid={})
    for name, folder in (("a", folders["other"]), ("b", large)):
        report = score(wanted, folders["real"], generated=folder, work=NO_CACHE)
        assert write_report(tmp_path / f"{name}.json", report)
    study = load_study([tmp_path / "a.json", tmp_path / "b.json"], "report")
    told = " ".join(block.text for block in blocks_of(study) if isinstance(block, Paragraph))
    assert "generated: other, 10 crops of 10 files (10 PNG) of 128x128 pixels" in told
    assert "generated: large, 10 crops of 10 files (10 PNG) of 256x256 pixels" in told


def test_crops_of_one_image_cover_little(folders: Folders, tmp_path: Path) -> None:
    one = np.asarray(Image.open(next(iter(sorted(folders["other"].iterdir())))).resize((140, 140)))
    (tmp_path / "one").mkdir()
    for number in range(10):
        at = number + 1
        Image.fromarray(one[at : at + 128, 12 - at : 140 - at]).save(tmp_path / "one" / f"{number}.png")
    wanted = protocol(tmp_path, manifold={})
    one_image, fresh = (
        rows_of(score(wanted, folders["real"], generated=folder, work=NO_CACHE))
        for folder in (tmp_path / "one", folders["other"])
    )
    assert one_image["toy-coverage"]["high"] < fresh["toy-coverage"]["low"]
