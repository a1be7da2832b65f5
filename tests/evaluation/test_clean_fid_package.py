"""Scores from the command line, with planted Inception weights, against the package clean-fid from files to numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from evaluation import inception, protocol
from evaluation.__main__ import main
from evaluation.crop_spec import CropSpec
from evaluation.fid import frechet_distance
from evaluation.images import ImageSet, write_crops
from evaluation.inception import CleanInceptionFeatures, InceptionFeatures
from evaluation.record import read_report
from nuwa_lightning.hashing import file_sha256

pytestmark = pytest.mark.slow
cleanfid = pytest.importorskip("cleanfid.fid", exc_type=ImportError)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random numbers under the names of pytorch-fid's file, which torch-fidelity and clean-fid read alike."""
    from cleanfid import inception_pytorch

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        network = inception_pytorch.fid_inception_v3()
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith(("conv.weight", "fc.weight")):
            torch.nn.init.kaiming_normal_(value)
        if name.endswith("running_mean"):
            torch.nn.init.normal_(value, std=0.1)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def planted(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights, and protocols that name them instead of the published ones."""
    published, made = inception.INCEPTION, file_sha256(weights)
    monkeypatch.setattr(inception, "INCEPTION", made)
    for name in ("inception", "inception-clean"):
        monkeypatch.setitem(protocol.KNOWN_SHA256, name, made)
    (tmp_path / "protocols").mkdir()
    for path in protocol.FOLDER.glob("*.yaml"):
        text = path.read_text("utf-8").replace(published, made)
        (tmp_path / "protocols" / path.name).write_text(text, "utf-8")
    monkeypatch.setattr(protocol, "FOLDER", tmp_path / "protocols")
    return weights


def theirs(weights: Path, folder: Path) -> Any:
    """clean-fid's features of a folder: its reading and resizing, and its own network of these weights."""
    from cleanfid import inception_pytorch

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torch.load(weights, weights_only=True)
        patch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: state)
        network = inception_pytorch.InceptionV3([3], resize_input=False, normalize_input=False).eval()
        return cleanfid.get_folder_features(
            str(folder), lambda x: network((x - 128) / 128)[0].flatten(1), num_workers=0, batch_size=8, verbose=False,
            device=torch.device("cpu"), mode="clean",
        )  # fmt: skip


def changes(*more: str) -> list[str]:
    few = [
        "metrics.fid.low_rank=state",
        "metrics.kid.subset_size=10",
        "metrics.kid.subsets=2",
        "resamples=2",
        "splits=1",
    ]
    return [word for change in (*few, "metrics.inception_score.splits=1", *more) for word in ("--set", change)]


def frechet(x: Any, y: Any) -> float:
    """Of fewer images than features, where clean-fid's root of a singular matrix adds noise: by singular values."""
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x.astype(np.float64), y.astype(np.float64)))
    across = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * across)


def test_clean_fid_from_files_to_numbers(planted: Path, tmp_path: Path, sample_photos: dict[str, Any]) -> None:
    (tmp_path / "photos").mkdir()
    for name, photo in sample_photos.items():
        Image.fromarray(photo).save(tmp_path / "photos" / name)
    for name, count in (("real", 20), ("ours", 10)):
        spec = CropSpec(crop="random", count=count, side=160, short_sides=(200,), seed=count)
        write_crops(ImageSet(tmp_path / "photos", spec), tmp_path / name)
    output = tmp_path / "report.json"
    command = ["score", "--real", str(tmp_path / "real"), "--generated", str(tmp_path / "ours")]
    command += ["--protocol", "clean_fid", "--weights", str(planted), "--output", str(output), *changes()]
    assert main(command) == 0
    found = {row["name"]: row["value"] for row in read_report(output)["metrics"]}
    x, y = (theirs(planted, tmp_path / name) for name in ("real", "ours"))
    assert found["clean-FID"] == pytest.approx(frechet(x, y), rel=1e-5)
    # Where no matrix is singular, their whole distance.
    few = CleanInceptionFeatures(weights=planted)
    mine = [few(np.stack(list(ImageSet(tmp_path / name).crops())))[0][:, :6] for name in ("real", "ours")]
    files = [ImageSet(tmp_path / name).files for name in ("real", "ours")]
    order = [np.argsort([str(path) for path in paths]) for paths in files]
    for features, at, wanted in zip(mine, order, (x, y), strict=True):
        np.testing.assert_allclose(features[at], wanted[:, :6], rtol=1e-5, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scipy, which drops an argument that they give
        sides = [np.cov(z, rowvar=False) for z in (x[:, :6], y[:, :6])]
        root = np.trace(linalg.sqrtm(sides[0] @ sides[1]).real)
    wanted = ((x[:, :6].mean(0) - y[:, :6].mean(0)) ** 2).sum() + np.trace(sides[0] + sides[1]) - 2 * root
    assert frechet_distance(*mine) == pytest.approx(wanted, rel=1e-4)


def test_fid_coco30k_from_the_command_line(planted: Path, tmp_path: Path, sample_photos: dict[str, Any]) -> None:
    """Of few made images: shorter side to 256 by bicubic, center cut out, then FID as torch-fidelity has it."""
    rng, crops = np.random.default_rng(0), {}
    for name, count in (("real", 20), ("ours", 10)):
        (tmp_path / name).mkdir()
        crops[name] = []
        for i in range(count):
            y, x = int(rng.integers(80)), int(rng.integers(180))
            image = Image.fromarray(list(sample_photos.values())[i % 2][y : y + 320, x : x + 400])
            image.save(tmp_path / name / f"{i}.png")
            small = np.asarray(image.resize((320, 256), Image.Resampling.BICUBIC))
            crops[name].append(small[:, 32:288])
    output = tmp_path / "report.json"
    command = ["score", "--real", str(tmp_path / "real"), "--generated", str(tmp_path / "ours")]
    command += ["--protocol", "fid_coco30k", "--weights", str(planted), "--output", str(output)]
    assert main([*command, *changes("real.count=20", "generated.count=10")]) == 0
    found = {row["name"]: row["value"] for row in read_report(output)["metrics"]}
    network = InceptionFeatures(weights=planted)
    x, y = (network(np.stack(crops[name]))[0] for name in ("real", "ours"))
    assert found["FID"] == pytest.approx(frechet(x, y), rel=1e-5)
    assert {"KID", "MIND", "IS", "inception-precision", "inception-recall"} <= found.keys()
