"""Videos as tokens: every window is what encoding the very frames gives, and none spans a cut."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from nuwa_lightning.data import FolderVideos, TokenClipsDataModule, TokenShardsDataModule
from nuwa_lightning.data.clips import ClipSettings, prepare_videos
from nuwa_lightning.data.shard_making import make_shards
from nuwa_lightning.data.synthetic_videos import SyntheticVideos
from nuwa_lightning.data.token_clips import build_clip_bank
from nuwa_lightning.data.video_reading import PyAvReader
from nuwa_lightning.errors import UsageError
from tests.data.test_token_data import Means
from tests.data.test_videos import Photos, pan, video_file
from tests.text.letters import Letters

CLIPS = ClipSettings(10, 3, 1, 40)


@pytest.fixture
def folder(tmp_path: Path, sample_photos: Photos) -> Path:
    """Three videos of two shots each, one dark and one bright, 9 and 7 frames long."""
    for number in range(3):
        crops = pan(sample_photos["china.jpg"], 20 * number, 16)
        frames = [(0.3 * v + (0 if n < 9 else 170)).astype(np.uint8) for n, v in enumerate(crops)]
        video_file(tmp_path / "videos" / f"{number}.mp4", frames)
        (tmp_path / "videos" / f"{number}.txt").write_text(f"video {number}")
    return tmp_path / "videos"


def module(folder: Path, cache: Path, **more: Any) -> TokenClipsDataModule:
    options: dict[str, Any] = {"clips": CLIPS, "grid": (6, 8), "batch_size": 4, "steps_per_epoch": 8, **more}
    made = TokenClipsDataModule(FolderVideos(str(folder), val_fraction=0.3), cache=str(cache), **options)
    made.attach_tokenizer(Means())
    return made


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("longest", [120, 5])
def test_bank_holds_what_encoding_each_frame_gives(folder: Path, tmp_path: Path, flips: bool, longest: int) -> None:
    videos = FolderVideos(str(folder), val_fraction=0.3)
    videos = {
        split: prepare_videos(videos.videos(split), CLIPS, reader=PyAvReader(), cache=tmp_path / "c", progress=False)
        for split in ("train", "val")
    }
    bank = build_clip_bank(
        videos,  # type: ignore[arg-type]
        Means(),
        cache=tmp_path / "c",
        clips=CLIPS,
        flips=flips,
        longest=longest,
    )
    entries = {key: [e for e in bank.entries if bank.keys[e.photo] == key] for key in bank.keys}
    assert {(bank.splits[e.photo], e.flip) for e in bank.entries} == {
        ("train", False),
        ("val", False),
        *({("train", True)} if flips else set()),
    }
    for split, some in videos.items():
        for made in some.entries:
            assert {(e.first, e.frames) for e in entries[made.sample.key]} == {
                (0, min(9, longest)),
                (9, min(7, longest)),
            }
            assert all(bank.splits[e.photo] == split for e in entries[made.sample.key])
            for entry in entries[made.sample.key]:
                tokens_TYX = bank.tokens(entry)
                assert tokens_TYX.shape == (entry.frames, 10, made.array().shape[2] // 4)
                for frame_YX3, tokens_YX in zip(made.array()[entry.first :], tokens_TYX, strict=False):
                    image = torch.from_numpy(np.array(frame_YX3)).permute(2, 0, 1)[None] / 127.5 - 1
                    image = image[..., : 4 * entry.x]
                    alone = Means().encode(image.flip(-1) if entry.flip else image)[0]
                    np.testing.assert_array_equal(tokens_YX, alone)


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_lie_in_one_shot_of_one_video(folder: Path, tmp_path: Path, stride: int) -> None:
    made = module(folder, tmp_path / "c", clips=ClipSettings(10, 3, stride, 40))
    seen = set()
    for batch in itertools.chain(made.train_dataloader(), *made.val_dataloader()):
        tokens_BTYX = batch["tokens"]
        assert (tokens_BTYX.dtype, tokens_BTYX.shape[1:]) == (torch.int64, (3, 6, 8))
        for tokens_TYX, index in zip(tokens_BTYX, batch["index"].tolist(), strict=True):
            # Dark and bright shots: tokens are means, so a window over a cut would show.
            means = tokens_TYX.float().mean((1, 2))
            assert float(means.max() - means.min()) < 100
            places = [
                (n, t, y, x)
                for n, entry in enumerate(made.bank.entries)
                if entry.photo == index
                for t in range(entry.frames - 2 * stride)
                for y in range(entry.y - 5)
                for x in range(entry.x - 7)
                if np.array_equal(
                    made.bank.tokens(entry)[t : t + 2 * stride + 1 : stride, y : y + 6, x : x + 8], tokens_TYX
                )
            ]
            assert places
            seen.add(places[0][1])
    assert len(seen) > 2


def test_batches_depend_on_seed_and_number_only(folder: Path, tmp_path: Path) -> None:
    first, again, other = (module(folder, tmp_path / "c", seed=seed) for seed in (0, 0, 1))
    for a, b, c in zip(first.train_dataloader(), again.train_dataloader(), other.train_dataloader(), strict=True):
        assert torch.equal(a["tokens"], b["tokens"])
        assert not torch.equal(a["tokens"], c["tokens"])
    assert first.state_dict() == again.state_dict()
    assert first.record()["tokens"] == len(first.bank)


def test_some_batches_are_of_single_frames(folder: Path, tmp_path: Path) -> None:
    """As many tokens, one frame a sample; which batches, the number of the step says, and all processes agree."""
    videos, mixed = (module(folder, tmp_path / "c", steps_per_epoch=60, stills=share) for share in (0.0, 0.5))
    shapes = [tuple(batch["tokens"].shape) for batch in mixed.train_dataloader()]
    assert set(shapes) == {(4, 3, 6, 8), (12, 1, 6, 8)}
    assert 15 < shapes.count((12, 1, 6, 8)) < 45
    for one, other in zip(videos.train_dataloader(), mixed.train_dataloader(), strict=True):
        same = one["tokens"].shape == other["tokens"].shape
        assert not same or torch.equal(one["tokens"], other["tokens"])  # clips are those they would have been
    frames = {(e.photo, f.tobytes()) for e in mixed.bank.entries for t in mixed.bank.tokens(e) for f in cuts(t)}
    for batch in itertools.islice(mixed.train_dataloader(), 20):
        for index, tokens_TYX in zip(batch["index"].tolist(), batch["tokens"], strict=True):
            assert all((index, t_YX.numpy().astype(np.uint16).tobytes()) in frames for t_YX in tokens_TYX)
    makers = [mixed.training_batches(rank, 2) for rank in (0, 1)]
    for step in range(20):
        first, second = (maker.batch(step)["tokens"] for maker in makers)
        assert first.shape == second.shape
        assert not torch.equal(first, second)
    with pytest.raises(UsageError, match=r"data\.stills: 1\.0"):
        module(folder, tmp_path / "c", stills=1.0)


def cuts(frame_YX: np.ndarray) -> list[np.ndarray]:
    return [
        np.ascontiguousarray(frame_YX[y : y + 6, x : x + 8]).astype(np.uint16)
        for y in range(frame_YX.shape[0] - 5)
        for x in range(frame_YX.shape[1] - 7)
    ]


def test_captions_come_along(folder: Path, tmp_path: Path) -> None:
    made = module(folder, tmp_path / "c")
    made.attach_text_encoder(Letters())
    (batch,) = itertools.islice(made.train_dataloader(), 1)
    for index, text_SE, seen_S in zip(batch["index"].tolist(), batch["text"], batch["text_mask"], strict=True):
        (states,) = Letters().states([f"video {Path(made.bank.keys[index]).stem}"])
        assert torch.equal(text_SE[seen_S], states.float())
    (folder / "1.txt").unlink()
    (folder / "0.txt").unlink()
    (folder / "2.txt").unlink()
    bare = module(folder, tmp_path / "c")
    bare.attach_text_encoder(Letters())
    with pytest.raises(UsageError, match="no video has a caption"):
        bare.train_dataloader()


def test_what_is_too_short_or_too_small_is_named_counted_and_recorded(
    folder: Path, tmp_path: Path, sample_photos: Photos, caplog: pytest.LogCaptureFixture
) -> None:
    short = video_file(folder / "short.mp4", pan(sample_photos["china.jpg"], 0, 2))
    video_file(folder / "small.mp4", pan(sample_photos["china.jpg"], 0, 4, height=16, width=64))
    made = module(folder, tmp_path / "c")
    assert "too_short" not in made.record()
    made.videos = FolderVideos(str(folder), val_fraction=0.0)
    made.train_dataloader()
    told = [record.getMessage() for record in caplog.records]
    assert f"leaving out 1 of 5 videos without 3 frames between two cuts: {short}" in told
    assert "leaving out 1 of 4 videos smaller than a window of 6x8 tokens: small.mp4" in told
    record = made.record()
    assert (record["too_short"], record["too_small"]) == ([str(short)], ["small.mp4"])


def test_what_cannot_work_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.grid: .*no video is that large"):
        module(folder, tmp_path / "c", grid=(40, 40)).train_dataloader()
    with pytest.raises(UsageError, match=r"data\.clips\.frames: 30: no video .* has 30 frames between two cuts"):
        module(folder, tmp_path / "c", clips=ClipSettings(10, 30, 1, 40)).train_dataloader()
    with pytest.raises(UsageError, match=r"data\.grid"):
        module(folder, tmp_path / "c", grid=(0, 4))
    for path in folder.glob("*.mp4"):
        path.write_bytes(b"no video")
    with pytest.raises(UsageError, match=r"^root: .*none of \d+ videos can be read"):
        module(folder, tmp_path / "c").train_dataloader()


def test_drawn_videos_move_as_their_caption_says(tmp_path: Path) -> None:
    videos = SyntheticVideos(216, frames=3, size=(32, 48), cache=str(tmp_path))
    videos.prepare()
    train, val = videos.videos("train"), videos.videos("val")
    assert (len(train), len(val)) == (180, 36)
    assert not {video.scene for video in train} & {video.scene for video in val}
    assert all(video.synthetic and video.caption for video in train)
    found = prepare_videos(
        train[:40] + val[:4], ClipSettings(8, 3, 1, 32), reader=PyAvReader(), cache=tmp_path, progress=False
    )
    assert len({entry.file for entry in found.entries}) == 44
    for entry in found.entries:
        frames_TYX3 = np.array(entry.array()).astype(float)
        assert frames_TYX3.shape == (3, 32, 48, 3)
        change = np.abs(frames_TYX3[1] - frames_TYX3[0]).mean()
        still = "left" not in entry.sample.caption and "right" not in entry.sample.caption
        assert ("pan" not in entry.sample.scene) == still
        assert (change < 2.4) == still  # grain alone is 2.26
    assert json.loads(videos.file.read_text())["version"]
    for wrong in ({"count": 5}, {"size": (4, 4)}, {"frames": 1}):
        with pytest.raises(UsageError, match=r"data\.videos"):
            SyntheticVideos(**wrong)  # type: ignore[arg-type]


def test_shards_give_the_same_batches(folder: Path, tmp_path: Path) -> None:
    clips = module(folder, tmp_path / "c", stills=0.3)
    make_shards(tmp_path / "s", clips.shard_parts(Means(), 2), Means(), progress=False)
    options: dict[str, Any] = {"grid": (6, 8), "frames": 3, "batch_size": 4, "stills": 0.3}
    shards = TokenShardsDataModule(str(tmp_path / "s"), **options)
    shards.attach_tokenizer(Means())
    assert shards.shards.text(0)["caption"].startswith("video ")
    for rank in range(2):
        one, other = clips.training_batches(rank, 2), shards.training_batches(rank, 2)
        batches = [(one.batch(step), other.batch(step)) for step in range(8)]
        assert {batch["tokens"].shape[1] for batch, _ in batches} == {1, 3}
        assert all(torch.equal(a[name], b[name]) for a, b in batches for name in ("tokens", "index"))
