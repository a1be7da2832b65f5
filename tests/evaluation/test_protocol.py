"""Protocols: nothing is guessed, nothing is ignored, and a changed setting changes the hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.config import build, flat, set_option
from evaluation.crop_spec import CropSpec
from evaluation.extractor import Extractor
from evaluation.extractors import make_extractor
from evaluation.protocol import FOLDER, Protocol, differences, load_protocol, settings_sha256
from evaluation.video.score import load_video_protocol
from evaluation.weights import LITE0
from nuwa_lightning.errors import UsageError
from tests.evaluation.toys import ToyFeatures

SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))
GOLDEN = {
    "clean_fid": (2, "796dfac9e82444a1"),
    "fid_coco30k": (2, "d6a611cc7bb9a57d"),
    "fd_dinov2": (2, "4888db3eb5206bb6"),
    "cmmd": (2, "7acd4403e38c8fd4"),
    "fid": (5, "c42bd3dc326364b6"),
    "landscape": (5, "3a62cb9ebe9cf7d3"),
    "landscape_wide": (5, "00958a36ebf84ec6"),
    "video": (5, "a880f71e5c5b044e"),
    "fvd": (2, "4bac0d697d0f6c91"),
    "fvd_videomae": (2, "1670469ace4c2de5"),
    "jedi": (2, "9f5e8d80118f35f9"),
}
"""Version and hash of each protocol: who changes a protocol (or what it means) raises its version here and there."""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_changed_protocol_has_a_new_version(name: str) -> None:
    protocol = load_video_protocol(name) if name in ("video", "fvd", "fvd_videomae", "jedi") else load_protocol(name)
    assert (protocol.version, settings_sha256(protocol.settings())[:16]) == GOLDEN[name]
    assert protocol.name == name
    head = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"--protocol {name}" in head


def write(tmp_path: Path, **settings: Any) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "version": 1, **settings}), encoding="utf-8")
    return path


def test_defaults_are_part_of_the_hash_and_names_are_not(tmp_path: Path) -> None:
    short = load_protocol(write(tmp_path))
    long = load_protocol(write(tmp_path, resamples=200, real={"crop": "whole"}, features={"name": "lite0"}))
    assert settings_sha256(short.settings()) == settings_sha256(long.settings())
    assert short.features.weights_sha256 == LITE0
    renamed = {**short.settings(), "name": "other"}
    assert settings_sha256(renamed) == settings_sha256(short.settings())
    changed = load_protocol(write(tmp_path), ["seed=3", "metrics.kid={}"])
    assert settings_sha256(changed.settings()) != settings_sha256(short.settings())
    found = differences(short.settings(), changed.settings())
    assert "seed: 0 against 3" in found
    assert any(line.startswith("metrics.kid") for line in found)
    assert len(found) == 4  # kid, kid.subset_size, kid.subsets, seed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resample": 3}, r"protocol.resample: .*did you mean resamples\?"),
        ({"real": {"count": "many"}}, "protocol.real.count: many: Expected int"),
        ({"real": {"count": True}}, "protocol.real.count: True: Expected int"),
        ({"real": {"count": 0}}, "must be at least 1"),
        ({"real": {"crop": "window"}}, "real.crop: window: choose whole, center, windows, random"),
        ({"real": {"crop": "windows"}}, "crop windows needs the side"),
        ({"real": {"crop": "random", "side": 8}}, "random crops need a number"),
        ({"real": {"crop": "center", "side": 300, "short_sides": [288]}}, "smaller than the crops of 300"),
        ({"real": {"short_sides": 3}}, "Expected tuple"),
        ({"real": {"antialias": False}}, "real.antialias: False: choose True"),
        ({"metrics": {"blocks": {}}}, "protocol.metrics.blocks.side: missing"),
        ({"metrics": 3}, "holds a single value: write its settings below it"),
        ({"real": "a\0b"}, "holds a single value: write its settings below it"),
        ({"resamples": 10**400}, "protocol.resamples: 1000"),
        ({"features": {"weights_sha256": "00"}}, "lite0 stands for weights of sha256"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_protocol(write(tmp_path, **settings))
    assert "\n" not in str(caught.value)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean .*landscape.yaml"):
        load_protocol("landscap")
    path = tmp_path / "a.yaml"
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(UsageError, match="is no YAML"):
        load_protocol(path)
    path.write_text("3", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no options"):
        load_protocol(path)
    with pytest.raises(UsageError, match="write NAME=VALUE"):
        load_protocol("landscape", ["seed"])
    with pytest.raises(UsageError, match=r"protocol\.name: missing"):
        build(Protocol, {"version": 1}, "protocol")


def test_options_set_nested_values() -> None:
    content: dict[str, Any] = {"a": {"b": 1}, "c": None}
    for text in ("a.b=[1, 2]", "c.d.e=null", "f=x"):
        set_option(content, text)
    assert flat(content) == {"a.b": [1, 2], "c.d.e": None, "f": "x"}


def test_images_say_what_they_take() -> None:
    assert build(CropSpec, {"short_sides": [3, 4]}, "real").short_sides == (3, 4)


def test_an_extractor_of_ones_own_is_named_by_its_import_path(tmp_path: Path) -> None:
    weights = tmp_path / "w"
    weights.write_bytes(b"w")
    mine = make_extractor("tests.evaluation.toys.ToyFeatures", weights=weights)
    assert isinstance(mine, Extractor)
    assert mine.protocol["weights"] == str(weights)
    assert type(mine).__name__ == ToyFeatures.__name__
    with pytest.raises(UsageError, match="give lite0, inception, or the import path"):
        make_extractor("lite1")
    with pytest.raises(UsageError, match="has no prefix, width or protocol"):
        make_extractor("tests.evaluation.toys.NoExtractor")
    with pytest.raises(UsageError, match="prefix ''"):
        make_extractor("tests.evaluation.toys.NamelessFeatures")
