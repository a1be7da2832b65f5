"""A video is killed wherever it stands and goes on to the same bits."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder
from nuwa_lightning.tokenizers.pretrained import load_tokenizer, save_pixel_guided
from nuwa_lightning.writers import read_metadata
from tests.commands.test_going_on import Server, litter

pytest.importorskip("av")

# 3 x 2 patches, the last ones cut, in 9 frames; each frame decoded in several tiles.
SIZE = ("--seed", "4", "--max_rows", "3", "--tile", "2", "--record_every", "0", "--frames", "9")
NOTHING = ("--size", "46x30")


@pytest.fixture(scope="module")
def folder(filmed: Path, tmp_path_factory: pytest.TempPathFactory, sample_photos) -> Path:
    """Two runs: "videos", and "guided", which has a decoder that looks at the frame before."""
    made = tmp_path_factory.mktemp("killed_videos")
    (made / "videos").symlink_to(filmed / "videos")
    (made / "guided").mkdir()
    for part in ("model", "tokenizer"):
        (made / "guided" / part).symlink_to(filmed / "videos" / part)
    torch.manual_seed(0)
    decoder = PixelGuidedDecoder.start(load_tokenizer(filmed / "videos" / "tokenizer"), (1, 1))
    for parameter in decoder.guide.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # as if it had learned to look
    save_pixel_guided(made / "guided" / "pixel_guided", decoder.eval())
    Image.fromarray(sample_photos["flower.jpg"][200:230, 300:346]).save(made / "in.png")
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    made = Server(folder, folder / "stderr.log")
    yield made
    made.close()


def command(run: str, output: str, *more: str) -> list[str]:
    return ["generate", "--checkpoint", run, *SIZE, "--output", output, *more]


def content(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


CASES = [
    ("videos", ".mp4", NOTHING),
    ("guided", ".frames", NOTHING),
    ("guided", ".frames", ("--image", "in.png")),
]


@pytest.mark.parametrize(("run", "suffix", "what"), CASES, ids=["mp4", "guided", "animated"])
def test_killed_at_some_calls_that_touch_the_disk(server: Server, folder: Path, run, suffix, what) -> None:
    assert server.run(*command(run, f"whole{suffix}", "--overwrite", *what)) == 0, server.said()
    expected = content(folder / f"whole{suffix}")
    killed = 0
    for number in (1, 3, 8, 23, 55, 90):
        output = f"call{number}{suffix}"
        status = server.run(*command(run, output, *what), at=number)
        if status:
            assert status == -signal.SIGKILL, server.said()
            killed += 1
            assert server.run(*command(run, output, "--resume", *what)) == 0, server.said()
        assert content(folder / output) == expected
        assert litter(folder, output) == []
        shutil.rmtree(folder / output) if suffix == ".frames" else (folder / output).unlink()
    assert killed >= 4


def test_sigkill_at_random_points(server: Server, folder: Path) -> None:
    """Kill after random times, go on, kill again, until it is finished: the same bytes."""
    assert server.run(*command("guided", "expected.mp4", *NOTHING)) == 0, server.said()
    rng, kills, status = random.Random(7), 0, 1
    for attempt in range(40):
        more = ["--resume"] if attempt else []
        status = server.run(
            *command("guided", "random.mp4", *NOTHING, *more), kill_after=rng.uniform(0.0, 0.3) if kills < 5 else None
        )
        if status == 0:
            break
        assert status == -signal.SIGKILL, server.said()
        kills += 1
    assert (status, kills >= 1) == (0, True)
    assert content(folder / "random.mp4") == content(folder / "expected.mp4")
    assert litter(folder, "random.mp4") == []


def test_a_change_is_refused_and_named(server: Server, folder: Path) -> None:
    assert server.run(*command("videos", "changed.gif", *NOTHING), at=30) == -signal.SIGKILL
    assert server.run(*command("videos", "changed.gif", *NOTHING)) == 2
    assert "an unfinished run of it is there" in server.said()
    for more, words in (
        (("--frames", "12"), "frames was 9, now 12"),
        (("--fps", "12"), "fps was 8.0, now 12.0"),
        (("--checkpoint", "guided"), "checkpoint's pixel_guided was not given, now"),
    ):
        assert server.run(*command("videos", "changed.gif", *NOTHING, "--resume", *more)) == 2
        assert words in server.said()
    assert server.run(*command("videos", "changed.gif", *NOTHING, "--resume")) == 0
    assert read_metadata(folder / "changed.gif")["frames"] == 9
    assert server.run("generate", "--from", "changed.gif", "--output", "again.gif") == 0, server.said()
    assert content(folder / "again.gif") == content(folder / "changed.gif")
    assert server.run("generate", "--from", "changed.gif", "--checkpoint", "guided", "--output", "other.gif") == 2
    assert "made by another pixel_guided than that in guided" in server.said()
