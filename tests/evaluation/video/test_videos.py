"""Clips are read in every form, measured with known answers, and scored with one line for every bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation import fid as frechet
from evaluation import kid as kernel
from evaluation.__main__ import main
from evaluation.fid import frechet_distance
from evaluation.record import read_report
from evaluation.video.clips import Clips, ClipSet
from evaluation.video.curves import curves_of
from evaluation.video.extractors import Lite0Clips, make_clip_extractor
from evaluation.video.measures import flicker, frame_difference, motion
from evaluation.video.score import VideoProtocol, load_video_protocol, score_videos
from nuwa_lightning.data.video_reading import read_clip
from nuwa_lightning.errors import UsageError
from tests.evaluation.toys import NamelessClips, ToyClips

Photos = dict[str, np.ndarray[Any, Any]]
TOY = "features=tests.evaluation.toys.ToyClips"


def pan(photo: np.ndarray[Any, Any], frames: int, *, dy: int, dx: int, at: tuple[int, int], side: int) -> Any:
    """A camera that moves by (dy, dx) a frame: what is seen moves the other way."""
    y, x = at
    return np.stack([photo[y + i * dy : y + i * dy + side, x + i * dx : x + i * dx + side] for i in range(frames)])


def save_frames(folder: Path, clip: Any) -> None:
    folder.mkdir(parents=True)
    for i, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"{i:03d}.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, sample_photos: Photos) -> dict[str, Path]:
    """Clips that pan over two photographs: ``real``, ``other`` (elsewhere), ``noised`` and ``still`` ones of these."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for name, count in (("real", 12), ("other", 6)):
        for i in range(count):
            photo = list(sample_photos.values())[i % 2]
            at = (int(rng.integers(300)), int(rng.integers(480)))
            clip = pan(photo, 8, dy=i % 3, dx=2, at=at, side=96)
            save_frames(root / name / f"clip_{i:02d}", clip)
            if name == "other":
                noise = rng.normal(0, 40, clip.shape)
                save_frames(root / "noised" / f"clip_{i:02d}", (clip + noise).clip(0, 255).astype(np.uint8))
                save_frames(root / "still" / f"clip_{i:02d}", np.repeat(clip[:1], 8, 0))
    return {name: root / name for name in ("real", "other", "noised", "still")}


def score(capsys: Any, real: Path, generated: Path, *more: str) -> tuple[int, str, str]:
    sizes = [f"{name}.{key}={value}" for name in ("real", "generated") for key, value in (("frames", 8), ("side", 64))]
    options = [
        word for change in [TOY, "block_frames=4", "resamples=20", "splits=5", *sizes] for word in ("--set", change)
    ]
    status = main(["score-videos", "--real", str(real), "--generated", str(generated), *options, *more])
    found = capsys.readouterr()
    return status, found.out, found.err


def test_flicker_of_known_clips(sample_photos: Photos) -> None:
    photo = sample_photos["china.jpg"][:40, :40]
    still = np.repeat(photo[None], 6, 0)
    assert flicker(still) == frame_difference(still) == 0
    fade = np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(6)])
    assert (frame_difference(fade), flicker(fade)) == (10, 0)
    blink = np.stack([np.full((8, 8, 3), 50 + 20 * (i % 2), np.uint8) for i in range(6)])
    assert (frame_difference(blink), flicker(blink)) == (20, 20)
    noise = np.random.default_rng(0).normal(128, 10, (30, 32, 32, 3)).astype(np.uint8)
    assert flicker(noise) == pytest.approx(9.8, rel=0.03)
    with pytest.raises(ValueError, match="three are needed"):
        flicker(blink[:2])


@pytest.mark.parametrize(("dy", "dx"), [(0, 3), (2, 0), (-2, 4), (0, 0)])
def test_motion_of_a_pan_over_a_photograph(sample_photos: Photos, dy: int, dx: int) -> None:
    found = motion(pan(sample_photos["flower.jpg"], 5, dy=dy, dx=dx, at=(100, 250), side=128), block=32)
    speed = float(np.hypot(dy, dx))
    assert found.speed == pytest.approx(speed, abs=0.35 * speed)
    assert found.moving == pytest.approx(float(speed > 0), abs=0.35)
    if speed:
        assert found.coherence > 0.8
    assert found.acceleration < 0.5


def test_a_boil_is_not_coherent() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3)).astype(np.uint8)
    assert motion(noise).coherence < 0.5
    flat = np.full((4, 64, 64, 3), 9, np.uint8)
    assert motion(flat) == motion(flat[:, :20, :20])
    assert motion(flat).speed == 0


def test_clips_of_every_form(tmp_path: Path, sample_photos: Photos) -> None:
    clip = pan(sample_photos["china.jpg"], 6, dy=0, dx=8, at=(50, 50), side=64)
    save_frames(tmp_path / "frames", clip)
    images = [Image.fromarray(frame) for frame in clip]
    images[0].save(tmp_path / "b.webp", save_all=True, append_images=images[1:], lossless=True)
    images[0].save(tmp_path / "c.gif", save_all=True, append_images=images[1:])
    (tmp_path / "notes.txt").write_text("not a clip")
    (tmp_path / "empty").mkdir()
    found = ClipSet(tmp_path, Clips(frames=6))
    assert sorted(path.name for path in found.sources) == ["b.webp", "c.gif", "frames"]
    assert found.formats() == {"GIF": 1, "WebP": 1, "folders of PNG": 1}
    clips = {path.name: frames for path, frames in found}
    np.testing.assert_array_equal(clips["frames"], clip)
    np.testing.assert_array_equal(clips["b.webp"], clip)
    assert np.abs(clips["c.gif"].astype(int) - clip).mean() < 12  # 256 colors
    parts = list(ClipSet(tmp_path, Clips(frames=2, stride=2, all_parts=True, side=32)))
    assert len(parts) == 6  # frames 0 and 2, then 3 and 5, of each
    assert parts[0][1].shape == (2, 32, 32, 3)
    few = ClipSet(tmp_path, Clips(frames=6, count=2, seed=1))
    assert len(list(few)) == 2
    long = ClipSet(tmp_path, Clips(frames=7))
    assert list(long) == []
    assert long.short == 3
    with pytest.raises(UsageError, match="two frames or more"):
        Clips(frames=1)


def test_a_video_file_by_pyav(tmp_path: Path, sample_photos: Photos) -> None:
    av = pytest.importorskip("av")
    clip = pan(sample_photos["china.jpg"], 5, dy=0, dx=4, at=(50, 50), side=64)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "12"})
        stream.width = stream.height = 64
        for frame in clip:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    found = np.stack(list(read_clip(tmp_path / "a.mp4")))
    assert found.shape == clip.shape
    assert np.abs(found.astype(int) - clip).mean() < 12
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:300])
    with pytest.raises(UsageError, match=r"b\.mp4"):
        list(read_clip(tmp_path / "b.mp4"))


def test_spoilt_clips_are_farther_and_flicker(folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    reports = {}
    for name in ("other", "noised", "still"):
        path = tmp_path / f"{name}.json"
        status, printed, _ = score(capsys, folders["real"], folders[name], "--output", str(path))
        assert status == 0
        assert "toy-FVD" in printed
        reports[name] = {row["name"]: row for row in read_report(path)["metrics"]}
    assert list(reports["other"]) == [
        "toy-FVD", "toy-KVD", "toy-Block-FVD-4", "toy-nearest real", "toy-authenticity", "copies of real frames",
        "frame difference", "flicker", "motion speed", "motion moving", "motion coherence", "motion acceleration",
    ]  # fmt: skip
    value = {name: {key: row["value"] for key, row in rows.items()} for name, rows in reports.items()}
    assert value["still"]["flicker"] == value["still"]["motion speed"] == 0
    assert value["noised"]["flicker"] > 2 * value["other"]["flicker"]
    assert value["noised"]["toy-KVD"] > value["other"]["toy-KVD"]
    row = reports["other"]["flicker"]
    assert row["low"] <= row["value"] <= row["high"]
    assert row["floor"] > 0
    assert reports["other"]["toy-FVD"]["low_rank"] is True


def test_fvd_is_the_frechet_distance_of_the_features(folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a.json"
    assert score(capsys, folders["real"], folders["other"], "--output", str(path))[0] == 0
    toy = ToyClips()
    spec = Clips(frames=8, side=64)
    sets = [np.stack([toy(clip) for _, clip in ClipSet(folders[name], spec)]) for name in ("real", "other")]
    row = read_report(path)["metrics"][0]
    assert row["value"] == pytest.approx(frechet_distance(*sets), rel=1e-9)
    before = path.read_bytes()
    assert score(capsys, folders["real"], folders["other"], "--output", str(path))[0] == 0
    assert path.read_bytes() == before


def test_bad_input_is_one_line(folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    def refused(generated: Path, *more: str) -> str:
        status, out, err = score(capsys, folders["real"], generated, *more)
        assert (status, out, err.count("\n")) == (2, "", 1)
        return err

    assert "is not a folder" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no clip" in refused(tmp_path / "empty")
    assert "holds the same clips as --real" in refused(folders["real"])
    assert "at least 4 are needed" in refused(folders["other"], "--set", "generated.count=3")
    short = refused(folders["other"], "--set", "generated.frames=20")
    assert "(6 are shorter than 20 frames)" in short
    assert "give lite0t, or the import path" in refused(folders["other"], "--features", "i3d")
    assert "choose of fvd, fvd_over_n, kvd, jedi" in refused(folders["other"], "--set", "distances=[fid]")
    assert "make it first" in refused(folders["other"], "--output", str(tmp_path / "none" / "a.json"))
    damaged = tmp_path / "damaged"
    for i in range(5):
        save_frames(damaged / f"{i}", np.random.default_rng(i).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8))
    (damaged / "2" / "004.png").write_bytes(b"no image")
    assert "--skip_corrupt" in refused(damaged)
    path = tmp_path / "a.json"
    assert score(capsys, folders["real"], damaged, "--skip-corrupt", "--output", str(path))[0] == 0
    assert json.loads(path.read_text())["sets"]["generated"]["skipped"] == ["2"]
    save_frames(damaged / "9", np.zeros((8, 32, 48, 3), np.uint8))
    mixed = refused(damaged, "--skip-corrupt", "--set", "generated.side=null")
    assert "mixed sizes" in mixed


def test_lite0t_knows_what_is_shown_and_that_it_moves(sample_photos: Photos) -> None:
    extractor = make_clip_extractor("lite0t")
    assert isinstance(extractor, Lite0Clips)
    clip = pan(sample_photos["flower.jpg"], 2, dy=0, dx=16, at=(100, 200), side=128)
    found, still = extractor(clip), extractor(clip[[0, 0]])
    assert found.shape == (extractor.width,)
    assert still[1280:].max() < 1e-4 < found[1280:].mean()
    assert load_video_protocol("video").features == "lite0t"


def test_a_network_of_ones_own_may_not_say_fvd(folders: dict[str, Path], tmp_path: Path) -> None:
    """Whichever weights it claims: nobody can check."""
    (tmp_path / "weights").write_bytes(b"weights")
    with pytest.raises(UsageError, match="prefix ''"):
        make_clip_extractor("tests.evaluation.toys.NamelessClips", weights=tmp_path / "weights")
    spec = Clips(frames=8, side=64)
    sets = [ClipSet(folders[name], spec) for name in ("real", "other")]
    wanted = VideoProtocol("mine", 1, spec, spec)
    with pytest.raises(UsageError, match="prefix ''"):
        score_videos(wanted, sets[0], sets[1], NamelessClips(weights=tmp_path / "weights"))


def test_floors_of_clips_part_files(tmp_path: Path) -> None:
    """Each file shows its scene twice, which says no more than once: the floors are those of one clip of each."""
    rng = np.random.default_rng(0)
    for name, count in (("real", 12), ("ours", 4)):
        for i in range(count):
            scene = rng.integers(0, 256, (2, 1, 2, 3)).astype(np.uint8).repeat(16, 1).repeat(8, 2)
            save_frames(tmp_path / name / f"{i}", np.concatenate([scene, scene]))
    spec = Clips(frames=2, all_parts=True)
    real, ours = (ClipSet(tmp_path / name, spec) for name in ("real", "ours"))
    wanted = VideoProtocol("mine", 1, spec, spec, distances=("fvd_over_n", "kvd"), motion_block=None, curves=False)
    rows = {row["name"]: row for row in score_videos(wanted, real, ours, ToyClips())["metrics"]}
    features = np.stack([ToyClips()(clip) for _, clip in real])
    np.testing.assert_array_equal(features[::2], features[1::2])
    for name, floor in (
        ("toy-KVD", kernel.real_floor(features[::2], 4, splits=20)),
        ("toy-FVD", frechet.real_floor(features[::2], 4, splits=20, ddof=0)),
    ):
        assert rows[name]["floor"] == pytest.approx(floor.value, rel=1e-9)
        assert rows[name]["floor_std"] == pytest.approx(floor.std, rel=1e-9)
    # With a scene on both sides it is far less.
    assert rows["toy-FVD"]["floor"] > 1.3 * frechet.real_floor(features, 8, splits=20, ddof=0).value


def test_curves_of_known_clips() -> None:
    fade = np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(5)])
    drift, sharpness, distance, flickers = curves_of(fade)
    np.testing.assert_allclose(drift, [0, 10, 20, 30, 40])
    np.testing.assert_allclose(distance, drift)
    np.testing.assert_array_equal(sharpness, 0)
    np.testing.assert_array_equal(flickers, [np.nan, np.nan, 0, 0, 0])
    blink = np.stack([np.full((8, 8, 3), 50 + 20 * (i % 2), np.uint8) for i in range(5)])
    np.testing.assert_allclose(curves_of(blink)[3, 2:], 20)
    stripes = np.zeros((3, 8, 8, 3), np.uint8)
    stripes[..., ::2, :] = 100  # one neighbor in two directions differs
    np.testing.assert_allclose(curves_of(stripes)[1], 50)


def test_curves_stand_in_the_report_and_on_its_page(folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "report.json"
    assert score(capsys, folders["real"], folders["still"], "--output", str(path))[0] == 0
    curves = read_report(path)["curves"]
    assert curves["generated"]["distance to the first frame"]["value"] == [0.0] * 8
    real = curves["real"]["distance to the first frame"]
    assert all(low <= value <= high for low, value, high in zip(real["low"], real["value"], real["high"], strict=True))
    assert real["value"][-1] > 5
    assert main(["report", str(path), "--output", str(tmp_path / "page")]) == 0
    assert "distance to the first frame" in (tmp_path / "page/figures/over_time_images.svg").read_text()
    assert "over_time" in (tmp_path / "page/report.md").read_text()
