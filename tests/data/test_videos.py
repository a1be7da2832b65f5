"""Videos: cuts are found where they are, clips never span one, speed is right, what is damaged is told and skipped."""

from __future__ import annotations

import itertools
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from nuwa_lightning.data import LandscapeClips, VideoFolderDataModule, VideosDataModule
from nuwa_lightning.data.clips import ClipSettings, change, find_cuts, prepare_videos, thumbnail
from nuwa_lightning.data.data_module import StreamingDataModule
from nuwa_lightning.data.landscape_clips import load_clips
from nuwa_lightning.data.packages import FetchError
from nuwa_lightning.data.skies import Drift
from nuwa_lightning.data.video_reading import PyAvReader, TorchcodecReader, VideoReadError, make_reader
from nuwa_lightning.data.videos import Motion, Pan, Video
from nuwa_lightning.errors import UsageError
from nuwa_lightning.writers import write_video

Frame = np.ndarray[Any, np.dtype[np.uint8]]
Photos = dict[str, Frame]


def pan(photo: Frame, start: int, count: int, *, step: int = 4, height: int = 120, width: int = 160) -> list[Frame]:
    """A window that moves over a photograph."""
    return [photo[40 : 40 + height, start + n * step : start + n * step + width] for n in range(count)]


def video_file(path: Path, frames: list[Frame], fps: float = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    write_video(iter(frames), path, width=width, height=height, fps=fps, overwrite=True)
    return path


def cuts_of(frames: list[Frame]) -> list[int]:
    small = [thumbnail(frame) for frame in frames]
    return find_cuts([change(a, b) for a, b in itertools.pairwise(small)])


def test_cuts_are_found_and_nothing_else(sample_photos: Photos) -> None:
    china, flower = sample_photos["china.jpg"], sample_photos["flower.jpg"]
    calm = pan(china, 0, 20)
    assert cuts_of(calm) == []
    assert cuts_of(pan(china, 0, 20, step=20)) == []  # a fast pan
    two = [*pan(china, 0, 12), *pan(flower, 0, 15), *pan(china, 200, 9)]
    assert cuts_of(two) == [12, 27]
    rng = np.random.default_rng(0)
    shaken = [china[40 + a : 160 + a, 60 + b : 220 + b] for a, b in rng.integers(0, 40, (20, 2))]
    assert cuts_of(shaken) == []  # a hand that shakes
    faded = [
        (f * (1 - n / 19) + g * (n / 19)).astype(np.uint8)
        for n, (f, g) in enumerate(zip(calm, pan(flower, 0, 20), strict=True))
    ]
    assert cuts_of(faded) == []  # a slow fade is no cut
    assert cuts_of([np.zeros((5, 7, 3), np.uint8), np.full((5, 7, 3), 255, np.uint8)]) == [1]


@pytest.mark.parametrize("fps", [5.0, 10.0, 7.3, 20.0])
def test_frames_are_those_shown_at_each_tick(tmp_path: Path, fps: float) -> None:
    """Against the definition: at each tick the last frame whose time has come."""
    grey = [np.full((32, 32, 3), 12 * n, np.uint8) for n in range(20)]
    video = Video(video_file(tmp_path / "a.mp4", grey, 10), "a")
    prepared = prepare_videos(
        [video], ClipSettings(fps, 2, short_side=32), reader=PyAvReader(), cache=tmp_path / "cache", progress=False
    )
    seen = np.rint(prepared.entries[0].array().mean((1, 2, 3)) / 12).astype(int).tolist()
    expected = [max(n for n in range(20) if n / 10 <= t / fps + 1e-6) for t in range(10**4) if t / fps <= 1.9 + 1e-6]
    assert seen == expected


COLOURS = ((200, 60, 60), (60, 60, 200), (60, 180, 60))


@pytest.fixture
def folder(tmp_path: Path, sample_photos: Photos) -> Path:
    """Two videos of three shots each, every shot with a colour of its own laid over what moves."""
    for number in range(2):
        crops = pan(sample_photos["china.jpg"], 10 * number, 42)
        shots = [*14 * [0], *16 * [1], *12 * [2]]
        frames = [(0.2 * v + 0.8 * np.array(COLOURS[s])).astype(np.uint8) for v, s in zip(crops, shots, strict=True)]
        video_file(tmp_path / "videos" / f"{number}.mp4", frames)
    return tmp_path / "videos"


def module(folder: Path, cache: Path, **more: Any) -> VideoFolderDataModule:
    clips = more.pop("clips", ClipSettings(10, 4, short_side=96))
    made = VideoFolderDataModule(str(folder), clips=clips, size=64, cache=str(cache), **more)
    made.prepare_data()
    made.setup("fit")
    return made


def spread(clip_T3YX: torch.Tensor) -> float:
    """How far the mean colours of the frames of a clip are apart; over a cut they are very far."""
    mean_T3 = clip_T3YX.mean((2, 3))
    return float((mean_T3.amax(0) - mean_T3.amin(0)).max())


@pytest.mark.parametrize("stride", [1, 3])
def test_a_clip_never_spans_a_cut(folder: Path, tmp_path: Path, stride: int) -> None:
    data = module(folder, tmp_path / "cache", clips=ClipSettings(10, 4, stride, 96), steps_per_epoch=25)
    assert [len(entry.shots) for split in ("train", "val") for entry in data.prepared(split).entries] == [3, 3]
    count = 0
    for batch in [*data.train_dataloader(), *data.val_dataloader()[0]]:
        assert batch["video"].shape[1:] == (4, 3, 64, 64)
        assert batch["video"].dtype == torch.float32
        assert batch["video"].abs().max() <= 1
        for clip_T3YX in batch["video"]:
            assert spread(clip_T3YX) < 0.2
            count += 1
    assert count >= 100
    over_TYX3 = np.array(data.prepared("train").entries[0].array()[12:16])
    assert spread(torch.from_numpy(over_TYX3).permute(0, 3, 1, 2) / 127.5 - 1) > 0.7


def test_batches_depend_on_seed_and_number_only(folder: Path, tmp_path: Path) -> None:
    first, again = (module(folder, tmp_path / "cache", steps_per_epoch=3) for _ in range(2))
    other = module(folder, tmp_path / "cache", steps_per_epoch=3, seed=1)
    for a, b, c in zip(first.train_dataloader(), again.train_dataloader(), other.train_dataloader(), strict=True):
        assert torch.equal(a["video"], b["video"])
        assert not torch.equal(a["video"], c["video"])


def test_a_second_run_decodes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(folder, tmp_path / "cache")
    monkeypatch.setattr(PyAvReader, "frames", lambda *_: pytest.fail("decoded again"))
    module(folder, tmp_path / "cache")


def damaged(path: Path, kind: str) -> None:
    whole = path.read_bytes()
    if kind == "cut short":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "no video":
        path.write_text("this is no video")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "damaged in the middle":
        at = whole.index(b"mdat") + 600
        path.write_bytes(whole[:at] + bytes(2000) + whole[at + 2000 :])


@pytest.mark.parametrize("kind", ["cut short", "no video", "empty", "damaged in the middle"])
def test_what_cannot_be_read_is_named_counted_and_skipped(
    folder: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    video_file(folder / "2.mp4", list(np.random.default_rng(0).integers(0, 255, (12, 96, 96, 3), np.uint8)))
    damaged(folder / "2.mp4", kind)
    data = module(folder, tmp_path / "cache", val_fraction=0.0)
    assert [entry.path.name for entry in data.skipped] == ["2.mp4"]
    assert str(folder / "2.mp4") in caplog.text
    assert "videos cannot be read" in caplog.text
    assert data.record()["skipped"] == [str(folder / "2.mp4")]
    with pytest.raises(VideoReadError) as caught:
        list(PyAvReader().frames(folder / "2.mp4"))
    assert "\n" not in str(caught.value)


def test_what_is_too_short_or_too_small_is_named_counted_and_recorded(
    folder: Path, tmp_path: Path, sample_photos: Photos, caplog: pytest.LogCaptureFixture
) -> None:
    short = video_file(folder / "short.mp4", pan(sample_photos["china.jpg"], 0, 3))
    small = video_file(folder / "small.mp4", pan(sample_photos["china.jpg"], 0, 8, height=48))
    data = module(folder, tmp_path / "cache", val_fraction=0.0)
    told = [record.getMessage() for record in caplog.records]
    assert f"leaving out 1 of 4 videos without 4 frames between two cuts: {short}" in told
    assert f"leaving out 1 of 4 videos below 64 px: {small}" in told
    record = data.record()
    assert (record["too_short"], record["too_small"]) == ([str(short)], [str(small)])
    assert [entry.sample.key for entry in data.prepared("train").entries] == ["0.mp4", "1.mp4"]


def sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (sound, "no video stream"),
        (lambda path: None, "No such file"),
    ],
)
def test_videos_that_are_none_are_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "a.mp4")
    with pytest.raises(VideoReadError, match=message):
        list(PyAvReader().frames(tmp_path / "a.mp4"))


def test_frames_that_change_their_size_are_refused() -> None:
    from nuwa_lightning.data.video_reading import _in_time

    sizes = iter([(0.0, np.zeros((4, 4, 3), np.uint8)), (0.1, np.zeros((4, 6, 3), np.uint8))])
    with pytest.raises(VideoReadError, match="change their size from 4x4 to 6x4"):
        list(_in_time(Path("a"), sizes))
    backwards = iter([(0.0, np.zeros((4, 4, 3), np.uint8)), (0.0, np.zeros((4, 4, 3), np.uint8))])
    with pytest.raises(VideoReadError, match="backwards"):
        list(_in_time(Path("a"), backwards))


def test_captions_come_from_beside_or_from_one_file(folder: Path, tmp_path: Path) -> None:
    (folder / "0.txt").write_text("a temple\nand a flower\n")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "1.mp4", "text": "the other one"}) + "\n")
    data = module(folder, tmp_path / "cache", steps_per_epoch=3)
    found = {v.key: v.caption for split in ("train", "val") for v in data.videos.videos(split)}  # type: ignore[arg-type]
    assert found == {"0.mp4": "a temple and a flower", "1.mp4": "the other one"}
    for split, batches in (("train", data.train_dataloader()), ("val", data.val_dataloader()[0])):
        for batch in batches:
            keys = [data.prepared(split).entries[index].sample.key for index in batch["index"]]
            assert batch["caption"] == [found[key] for key in keys]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": ClipSettings(fps=0)}, "data.clips.fps"),
        ({"clips": ClipSettings(frames=0)}, "data.clips.frames"),
        ({"size": 200}, "data.size: 200"),
        ({"flip": 2}, "data.flip"),
        ({"batch_size": 0}, "data.batch_size"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        VideoFolderDataModule(str(tmp_path), **options)


def test_folders_that_give_no_clip(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        module(tmp_path / "none", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no video in it"):
        module(tmp_path / "empty", tmp_path / "cache")
    with pytest.raises(UsageError, match="between two cuts: use longer videos or shorter clips"):
        module(folder, tmp_path / "cache", clips=ClipSettings(10, 40, short_side=96))
    for path in folder.iterdir():
        path.write_text("no video")
    with pytest.raises(UsageError, match="none of 2 videos can be read"):
        module(folder, tmp_path / "cache2", val_fraction=0.0)


def test_torchcodec_reads_the_same_where_it_is_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchcodec itself is no dependency: a stand-in with its interface shows that the adapter keeps to it."""
    with pytest.raises(UsageError, match="torchcodec is not installed"):
        make_reader("torchcodec")
    expected = list(PyAvReader().frames(folder / "0.mp4"))

    class VideoDecoder:
        def __init__(self, source: str, *, dimension_order: str, num_ffmpeg_threads: int) -> None:
            assert dimension_order == "NHWC"

        def __len__(self) -> int:
            return len(expected)

        def get_frame_at(self, index: int) -> types.SimpleNamespace:
            time, frame = expected[index]
            return types.SimpleNamespace(pts_seconds=time, data=torch.from_numpy(frame))

    decoders = types.ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = VideoDecoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    found = list(TorchcodecReader().frames(folder / "0.mp4"))
    assert [time for time, _ in found] == [time for time, _ in expected]
    damaged(folder / "0.mp4", "damaged in the middle")
    with pytest.raises(VideoReadError, match="damaged: a stretch of zeros"):  # torchcodec itself paints over it
        list(TorchcodecReader().frames(folder / "0.mp4"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "torchcodec" else None)
    with pytest.raises(UsageError, match="needs PyAV, too"):
        TorchcodecReader()
    with pytest.raises(UsageError, match="choose pyav or torchcodec"):
        make_reader("other")  # type: ignore[arg-type]


def test_made_up_motion_moves_over_the_photograph(tmp_path: Path, sample_photos: Photos) -> None:
    from PIL import Image

    Image.fromarray(sample_photos["china.jpg"]).save(tmp_path / "china.png")
    motion = Motion(1.0, 12, (0.6, 0.6), (0.0, 0.0), (0.0, 1.0))
    video = Video(tmp_path / "china.png", "china-motion", motion=motion)
    assert video.synthetic
    frames = list(video.frames(PyAvReader()))
    assert [time for time, _ in frames] == pytest.approx([n / 12 for n in range(12)])
    assert len({frame.shape for _, frame in frames}) == 1
    first, last = frames[0][1], frames[-1][1]
    rows, columns = first.shape[:2]
    assert np.abs(first.astype(int) - sample_photos["china.jpg"][:rows, :columns]).mean() < 6
    assert np.abs(last.astype(int) - sample_photos["china.jpg"][:rows, -columns:]).mean() < 6
    assert cuts_of([frame for _, frame in frames]) == []
    still = Video(tmp_path / "none.png", "none", motion=motion)
    with pytest.raises(VideoReadError):
        list(still.frames(PyAvReader()))


def shifts(frames: list[Any], size: tuple[int, int], rows: int | None = None) -> list[tuple[int, float]]:
    """Return by how many pixels each frame, scaled, lies to the left of the one before, and what is left then."""
    from PIL import Image

    small = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)).astype(int)[:rows] for f in frames]
    found = []
    for before, after in itertools.pairwise(small):
        apart = {by: float(np.abs(np.roll(before, -by, axis=1) - after)[:, 16:-16].mean()) for by in (-8, -4, 0, 4, 8)}
        best = min(apart, key=lambda by: apart[by])
        found.append((best, apart[best]))
    return found


@pytest.mark.parametrize("speed", [0.4, -0.4])
def test_a_pan_moves_by_whole_tokens(tmp_path: Path, sample_photos: Photos, speed: float) -> None:
    """At 8 frames a second and 160 rows each frame is the one before, 8 pixels further."""
    from PIL import Image

    Image.fromarray(sample_photos["china.jpg"]).save(tmp_path / "china.png")
    video = Video(tmp_path / "china.png", "pan", motion=Pan(3.0, 24, 0.6, speed, (0.5, 0.0)))
    taken = [frame for number, (_, frame) in enumerate(video.frames(PyAvReader())) if number % 3 == 0]
    assert len(taken) == 24
    assert all(best == (8 if speed > 0 else -8) and apart < 2 for best, apart in shifts(taken, (284, 160)))
    for zoom, count in ((0.6, 72), (0.9, 12)):  # the second photograph ends before the time does
        whole = Video(tmp_path / "china.png", "short", motion=Pan(3.0, 24, zoom, speed, (0.5, 1.0)))
        assert len(list(whole.frames(PyAvReader()))) == count


class FakeSource:
    """A package source that has one video, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, package: Any) -> tuple[Path, str]:
        if package.name != "vide":
            raise FetchError("offline")
        (self._folder / "vide").write_bytes(b"")
        return self._folder / "vide", package.version

    def members(self, archive: Path, names: Any) -> Any:
        yield next(iter(names)), b"the video"


def test_default_videos_are_fetched_once_and_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nuwa_lightning.data.packages.Fetcher", FakeSource)
    photos = types.SimpleNamespace(
        prepare=lambda: None,
        record=dict,
        photos=lambda split: [types.SimpleNamespace(key="p", path=Path("p.jpg"), caption="c", scene="s")],
    )
    clips = LandscapeClips(cache=str(tmp_path), photos=photos, motions=2)  # type: ignore[arg-type]
    clips.prepare()
    assert "skipping renpy-demo: offline" in caplog.text
    train = clips.videos("train")
    assert [(video.key, video.synthetic) for video in train] == [
        ("ocean", False), ("p-motion0", True), ("p-motion1", True)
    ]  # fmt: skip
    assert clips.videos("train") == train
    panned = LandscapeClips(cache=str(tmp_path), photos=photos, motions=8, pans=1.0)  # type: ignore[arg-type]
    pans = [video.motion for video in panned.videos("train") if video.synthetic]
    assert {pan.speed for pan in pans if isinstance(pan, Pan)} == {-0.25, 0.25}
    assert len(pans) == 8
    assert all(isinstance(pan, Pan) for pan in pans)
    drifting = LandscapeClips(cache=str(tmp_path), photos=photos, motions=8, drifts=1.0)  # type: ignore[arg-type]
    assert all(isinstance(video.motion, Drift) for video in drifting.videos("train") if video.synthetic)
    record = json.loads(json.dumps(clips.record()))
    assert record["videos"]["ocean"]["changed"] is True
    assert record["not_fetched"] == sorted(clip.key for clip in load_clips() if clip.key != "ocean")
    (tmp_path / "landscape_clips" / "ocean.mp4").write_bytes(b"torn")
    assert next(video.key for video in clips.videos("train")) == "p-motion0"
    with pytest.raises(UsageError, match="motions"):
        LandscapeClips(real=False, motions=0)
    with pytest.raises(UsageError, match="pans"):
        LandscapeClips(pans=1.5)
    with pytest.raises(UsageError, match="speed"):
        LandscapeClips(speed=0.0)
    none = LandscapeClips(cache=str(tmp_path / "none"), motions=0, sources=("pip",))
    with pytest.raises(UsageError, match="no video could be fetched"):
        none.prepare()


def test_both_sides_have_real_videos() -> None:
    assert {clip.split for clip in load_clips()} == {"train", "val"}
    assert len({clip.key for clip in load_clips()}) == len(load_clips())


def test_command_line(folder: Path) -> None:
    """Any source of videos, by class name, and the options that all data modules have."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_subclass_arguments(StreamingDataModule, "data")
    own = ["--data=VideosDataModule", "--data.videos=FolderVideos", f"--data.videos.root={folder}"]
    made = parser.instantiate(parser.parse_args([*own, "--data.num_workers=1", "--data.clips.frames=2"])).data
    assert isinstance(made, VideosDataModule)
    assert (made.num_workers, made.batch_size, made.clips.frames) == (1, 4, 2)
    assert len(made.videos.videos("train")) == 1
    first_version = f"--data=nuwa_lightning.data.video_data.VideoFolderDataModule --data.root={folder} --data.flip=0"
    made = parser.instantiate(parser.parse_args(first_version.split())).data
    assert (type(made), made.flip, made.steps_per_epoch) == (VideoFolderDataModule, 0.0, 200)
    with pytest.raises(SystemExit):
        parser.parse_args(
            ["--data=nuwa_lightning.data.TokenDataModule", "--data.photos=LandscapePhotos", "--data.stills=0.5"]
        )
