"""The command from end to end on crops of real photographs: order, floors, repeatability, and every bad input."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageFilter

from evaluation.__main__ import COMMANDS, main
from evaluation.commands.score import Options
from evaluation.protocol import Protocol, load_protocol
from evaluation.record import check_comparable, read_report
from evaluation.score import Work, score
from nuwa_lightning.commands.options import parse
from nuwa_lightning.data.reading import image_size
from nuwa_lightning.errors import UsageError

Folders = dict[str, Path]
TOY = "features.name=tests.evaluation.toys.ToyFeatures"
NO_CACHE = Work(cached=False)


def protocol(tmp_path: Path, *changes: str, **metrics: Any) -> Protocol:
    """A protocol of the metrics named, with features that cost nothing."""
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump({"name": "test", "version": 1, "metrics": metrics}), encoding="utf-8")
    return load_protocol(path, [TOY, "resamples=50", *changes])


def values(report: dict[str, Any]) -> dict[str, float]:
    return {f"{row['name']} {row['set']}": row["value"] for row in report["metrics"]}


def test_real_features_order_spoilt_photographs_as_they_must(folders: Folders, tmp_path: Path) -> None:
    """Known answers: equal sets are 0 apart; blurred, noised and shuffled ones lie beyond the interval."""
    from evaluation.fid import frechet_distance
    from evaluation.kid import mmd2

    lite0 = protocol(tmp_path, "features.name=lite0", kid={}, seams={"patch": 32, "token": 8})
    work = Work(cache=tmp_path / "cache")
    found = {
        name: score(lite0, folders["real"], generated=folders[name], work=work)
        for name in ("other", "blurred", "noised", "shuffled")
    }
    kids = {name: values(report)["lite0-KID generated"] for name, report in found.items()}
    assert kids["other"] < min(kids["blurred"], kids["noised"], kids["shuffled"])
    row = found["other"]["metrics"][0]
    assert abs(row["value"]) < row["floor"] + 4 * (row["floor_std"] + row["std"])
    for name in ("blurred", "noised", "shuffled"):
        assert kids[name] > row["high"], name
    # Blur smooths borders and insides alike, and noise is everywhere; shuffled crops do not fit together.
    seams = {name: values(report)["seam ratio generated"] for name, report in found.items()}
    assert seams["blurred"] < 1.25
    assert seams["shuffled"] > 1.5 * seams["other"] > 1.5 * 0.8
    from evaluation.features_of import features_of

    same = features_of(folders["other"])
    assert abs(frechet_distance(same, same[::-1])) < 1e-6
    assert mmd2(same, same) < 0


def test_the_order_and_names_of_files_move_nothing(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "renamed").mkdir()
    for i, path in enumerate(sorted(folders["other"].iterdir(), reverse=True)):
        shutil.copy(path, tmp_path / "renamed" / f"{i}.png")
    wanted = protocol(tmp_path, kid={}, fid={"low_rank": "state"}, inception_score={}, manifold={})
    a = score(wanted, folders["real"], generated=folders["other"], work=NO_CACHE)
    b = score(wanted, folders["real"], generated=tmp_path / "renamed", work=NO_CACHE)
    for name, value in values(a).items():
        assert values(b)[name] == pytest.approx(value, rel=1e-9), name
    assert a["sets"]["generated"]["sha256"] == b["sets"]["generated"]["sha256"]


def test_all_metrics_of_a_protocol_with_interval_and_floor(folders: Folders, tmp_path: Path) -> None:
    every = protocol(
        tmp_path, "splits=4", kid={}, fid={"low_rank": "state"}, inception_score={}, manifold={},
        diversity={"pairs": 4}, blocks={"side": 32}, seams={"patch": 32}, collapse={"window": 64},
    )  # fmt: skip
    report = score(every, folders["real"], generated=folders["blurred"], work=NO_CACHE)
    shown = [row for row in report["metrics"] if not row["name"].startswith("color: ")]
    names = [row["name"] for row in shown]
    assert names == [
        "toy-KID", "toy-FID", "toy-IS", "toy-precision", "toy-recall", "toy-density", "toy-coverage",
        "toy-nearest real", "toy-authenticity", "copies of real files",
        "stlpips diversity", "toy-Block-KID (positions)", "toy-Block-KID (pooled)", "toy-Block-FID (positions)",
        "toy-Block-FID (pooled)", "seam ratio", "token grid ratio", "seam ratio, any place",
        "collapsed (64 px)",
    ]  # fmt: skip
    for row in report["metrics"]:
        assert row["low"] <= row["value"] <= row["high"], row["name"]
        assert {"floor", "floor_std", "floor_n", "how", "better", "n"} <= row.keys(), row["name"]
    assert shown[1]["low_rank"] is True
    assert shown[11]["n"] == 10  # canvases at a position
    assert shown[12]["n"] == 90  # blocks
    assert {"protocol", "versions", "commit", "machine", "sets", "digest", "run"} <= report.keys()
    assert report["protocol"]["settings"]["perceptual_network"]["weights_sha256"]
    assert report["run"]["wall_seconds"] > 0


def test_canvases_larger_than_the_real_images(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir()
    paths = sorted(folders["other"].iterdir())
    for i in range(10):
        wide = np.concatenate([np.asarray(Image.open(paths[(i + j) % 10])) for j in range(4)], axis=1)
        Image.fromarray(wide).save(tmp_path / "wide" / f"{i}.png")
    cut = ["generated.crop=windows", "generated.side=128", "splits=3"]
    wanted = protocol(tmp_path, *cut, kid={}, blocks={"side": 64, "against": "pooled"})
    report = score(wanted, folders["real"], generated=tmp_path / "wide", work=NO_CACHE)
    assert report["sets"]["generated"] | {"sha256": ""} == {
        "folder": "wide", "files": 10, "formats": {"PNG": 10}, "sizes": "512x128", "crops": 40, "skipped": [],
        "sha256": "", "repeated": 0,
    }  # fmt: skip
    assert "toy-Block-KID x7 (pooled)" in [row["name"] for row in report["metrics"]]  # 7 shifted blocks for 1
    with pytest.raises(UsageError, match=r"set metrics.blocks.against=pooled"):
        score(
            protocol(tmp_path, *cut, blocks={"side": 64}), folders["real"], generated=tmp_path / "wide", work=NO_CACHE
        )


def test_the_command_writes_the_same_bytes_twice(folders: Folders, tmp_path: Path, capsys: Any) -> None:
    protocol(tmp_path, kid={}, seams={"patch": 32})
    command = ["score", "--real", str(folders["real"]), "--generated", str(folders["blurred"]), "--set", TOY]
    command += ["--protocol", str(tmp_path / "protocol.yaml"), "--cache", str(tmp_path / "cache"), "--output"]
    assert main([*command, str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr().out
    before = (tmp_path / "a.json").read_bytes()
    assert main([*command, str(tmp_path / "a.json")]) == 0
    assert "stays as it is" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_bytes() == before
    assert main([*command, str(tmp_path / "b.json")]) == 0
    a, b = (read_report(tmp_path / name) for name in ("a.json", "b.json"))
    assert {**a, "run": 0} == {**b, "run": 0}
    assert "toy-KID" in printed
    assert " FID" not in printed
    assert a["digest"][:12] in printed
    assert a["sets"]["real"]["crops"] == 20


def test_reports_of_different_protocols_do_not_compare(folders: Folders, tmp_path: Path) -> None:
    first = score(protocol(tmp_path, kid={}), folders["real"], generated=folders["other"], work=NO_CACHE)
    other = score(protocol(tmp_path, "seed=1", kid={}), folders["real"], generated=folders["other"], work=NO_CACHE)
    check_comparable({"a": first, "b": first})
    with pytest.raises(UsageError, match=r"a and b: protocols differ \(seed: 0 against 1\)"):
        check_comparable({"a": first, "b": other})
    path = tmp_path / "report.json"
    first["metrics"][0]["value"] = 0.0
    path.write_text(json.dumps(first), encoding="utf-8")
    with pytest.raises(UsageError, match="was changed by hand"):
        read_report(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="is no report"):
        read_report(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_report(tmp_path / "none.json")


def test_reconstructions_are_paired_by_name(folders: Folders, tmp_path: Path) -> None:
    partners = tmp_path / "reconstruction"
    partners.mkdir()
    for path in sorted(folders["real"].iterdir())[:10]:
        Image.open(path).filter(ImageFilter.GaussianBlur(1)).save(partners / f"{path.stem}.bmp")
    report = score(protocol(tmp_path, kid={}), folders["real"], reconstruction=partners, work=NO_CACHE)
    rows = {row["name"]: row for row in report["metrics"]}
    assert [name for name in rows if not name.startswith("color: ")] == ["toy-KID", "PSNR", "SSIM", "stlpips"]
    assert rows["PSNR"]["n"] == report["sets"]["reconstruction"]["pairs"] == 10
    assert 15 < rows["PSNR"]["value"] < 45
    assert 0.5 < rows["SSIM"]["value"] < 1
    assert 0 < rows["stlpips"]["value"] < 0.5
    assert rows["PSNR"]["low"] < rows["PSNR"]["value"] < rows["PSNR"]["high"]


def error_of(capsys: Any, *arguments: object) -> str:
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return str(captured.err)


def test_bad_input_is_one_line(folders: Folders, tmp_path: Path, capsys: Any) -> None:
    real, other = folders["real"], folders["other"]
    protocol(tmp_path, kid={}, seams={"patch": 32})
    fixed = ["score", "--real", real, "--protocol", tmp_path / "protocol.yaml", "--set", TOY, "--no-cache"]
    empty, few, mixed, corrupt = (tmp_path / name for name in ("empty", "few", "mixed", "corrupt"))
    empty.mkdir()
    for folder in (few, mixed, corrupt):
        shutil.copytree(other, folder)
    for path in sorted(few.iterdir())[5:]:
        path.unlink()
    Image.new("RGB", (64, 64)).save(mixed / "zz.png")
    (corrupt / "00003.png").write_bytes((other / "00003.png").read_bytes()[:200])

    def refused(*more: object) -> str:
        return error_of(capsys, *fixed, *more)

    assert "--generated: missing" in refused()
    assert "is not a folder" in refused("--generated", tmp_path / "none")
    assert "holds no image" in refused("--generated", empty)
    assert "holds 5 crops, at least 10 are needed" in refused("--generated", few)
    assert "mixed sizes (00000.png is 128x128 but zz.png is 64x64)" in refused("--generated", mixed)
    for more in (["--set", "metrics.seams=null"], ["--set", "metrics.seams.patch=64"],
                 ["--set", "metrics.seams=null", "--set", "metrics.collapse={window: 64}"],
                 ["--set", "metrics.seams=null", "--set", "metrics.blocks={side: 64}"],
                 ["--set", "metrics.seams=null", "--set", "metrics.diversity={pairs: 4}"]):  # fmt: skip
        told = refused("--generated", corrupt, *more)
        assert told.startswith(f"error: --generated: {corrupt / '00003.png'}: "), told
        assert "give --skip_corrupt" in told
    assert "holds the same images as --real" in refused("--generated", real)
    assert "larger than a patch of 128" in refused("--generated", other, "--set", "metrics.seams.patch=128")
    assert "does not exist: make it first" in refused("--generated", other, "--output", tmp_path / "none" / "a.json")
    assert "protocol.metrics.fud" in refused("--generated", other, "--set", "metrics.fud={}")
    assert "there is no such file" in refused("--generated", other, "--features", "inception", "--weights", "none.pth")
    assert "there is no such file" in refused("--reconstruction", other, "--original", real, "--lpips", "alex",
                                              "--lpips-weights", "none.pth")  # fmt: skip
    assert "give the folder of a CLIP model" in refused("--generated", other, "--set", "metrics.clip=true")
    assert "holds no *.safetensors" in refused("--generated", other, "--clip", empty)
    assert "no canvas has a block of 400" in refused("--generated", other, "--set", "metrics.blocks.side=400")
    rank = refused("--generated", other, "--set", "metrics.fid={}")
    assert "10 images, toy-FID needs more than its 27 features" in rank
    assert "which is its bias" in rank
    reconstruction = tmp_path / "reconstruction"
    shutil.copytree(folders["blurred"], reconstruction)
    (reconstruction / "00000.png").rename(reconstruction / "aaaaa.png")
    assert "aaaaa: has no partner" in refused("--reconstruction", reconstruction)


def test_other_weights_are_refused(folders: Folders, tmp_path: Path, capsys: Any) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"other")
    found = error_of(
        capsys, "score", "--real", folders["real"], "--generated", folders["other"], "--protocol", "fid",
        "--weights", weights,
    )  # fmt: skip
    assert "wanted is 6726825d0af5f729" in found


def test_corrupt_files_are_skipped_and_counted(folders: Folders, tmp_path: Path, capsys: Any) -> None:
    corrupt = tmp_path / "corrupt"
    shutil.copytree(folders["other"], corrupt)
    shutil.copy(sorted(folders["blurred"].iterdir())[0], corrupt / "more.png")
    (corrupt / "00003.png").write_bytes((corrupt / "00003.png").read_bytes()[:3000])
    protocol(tmp_path, kid={})
    done = main(
        ["score", "--real", str(folders["real"]), "--generated", str(corrupt), "--skip-corrupt", "--no-cache",
         "--protocol", str(tmp_path / "protocol.yaml"), "--set", TOY, "--output", str(tmp_path / "a.json")]
    )  # fmt: skip
    assert done == 0
    assert "1 skipped as unreadable" in capsys.readouterr().out
    found = read_report(tmp_path / "a.json")["sets"]["generated"]
    assert (found["crops"], found["skipped"]) == (10, ["00003.png"])


def test_traceback_on_request(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        main(["score", "--real", str(tmp_path / "a"), "--generated", str(tmp_path), "--traceback"])


def test_options_are_refused_in_one_line(capsys: Any) -> None:
    assert "--reel: a: there is no such option; did you mean --real?" in error_of(capsys, "score", "--reel", "a")
    assert "--real: missing: there is no default" in error_of(capsys, "score", "--generated", "a")
    assert "did you mean score?" in error_of(capsys, "scor")
    assert "--count: many" in error_of(capsys, "sample", "--run", "a", "--output", "b", "--count", "many")
    assert "--lpips: squeeze" in error_of(capsys, "score", "--real", "a", "--lpips", "squeeze")


def test_options_come_from_a_file_or_flags(tmp_path: Path) -> None:
    """What follows ``--config`` wins; dashes and underscores are the same; repeated options add up."""
    given = {"real": "a", "set": ["real.count=5"], "no_cache": True, "lpips": "vgg", "device": "cuda"}
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(given))
    flags = ["--config", str(tmp_path / "options.yaml"), "--device=cpu", "--skip-corrupt", "--lpips-weights", "w.pth"]
    found = parse(Options, "score", flags, about="")
    assert found == Options("a", set=("real.count=5",), no_cache=True, lpips="vgg", skip_corrupt=True,
                            lpips_weights=Path("w.pth"))  # fmt: skip
    sets = ["--real", "a", "--set", "a=1", "--set=b=[1, 2]", "--set", "c={d: 1}"]
    assert parse(Options, "score", sets, about="").set == ("a=1", "b=[1, 2]", "c={d: 1}")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_every_option(name: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert "examples" in told
    assert f"python -m evaluation {name}" in told
    module = importlib.import_module(f"evaluation.commands.{name.replace('-', '_')}")
    documented = inspect.getdoc(module.Options) or ""
    for field in dataclasses.fields(module.Options):
        assert f"{field.name}: " in documented, field.name
        assert f"--{field.name}" in told or name == "report", field.name
    assert main(["--help"]) == 0
    assert name in capsys.readouterr().out


def test_crops_writes_the_crops_of_a_protocol(folders: Folders, tmp_path: Path, capsys: Any) -> None:
    small = ["--set", "real.side=64", "--set", "real.short_sides=[80]", "--set", "real.count=3"]
    command = ["crops", "--photos", str(folders["photos"]), *small]
    assert main([*command, "--output", str(tmp_path / "a")]) == 0
    assert "3 crops" in capsys.readouterr().out
    assert [image_size(path) for path in sorted((tmp_path / "a").iterdir())] == [(64, 64)] * 3
    assert "is not a folder" in error_of(capsys, "crops", "--photos", tmp_path / "none", "--output", tmp_path / "b")
    assert "exists already" in error_of(capsys, *command, "--output", folders["real"])
    assert "make it first" in error_of(capsys, *command, "--output", tmp_path / "none" / "b")
    assert not (tmp_path / "b").exists()
