"""Videos in the making: every frame once, in order, as decoding whole grids gives it; from any record on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from nuwa_lightning.canvas.assembler import FrameDecoder, Place, VideoAssembler
from nuwa_lightning.canvas.frame_decoder import GuidedFrames, SingleFrames
from nuwa_lightning.canvas.image_condition import ImageCondition
from nuwa_lightning.canvas.job import GenerationJob, Order, Video
from nuwa_lightning.canvas.streaming_decoder import to_uint8
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from tests.generation.small import small_model

POOL = NearbyContextPool((2, 1, 1))
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass
class Reel:
    """A sink of frames in memory."""

    frames: list[Pixels] = field(default_factory=list)

    def append(self, frame_YX3: Pixels) -> None:
        self.frames.append(frame_YX3)

    def state(self) -> dict[str, Any]:
        return {"frames": len(self.frames)}


@pytest.fixture(scope="module")
def tokenizer() -> VQGAN:
    torch.manual_seed(0)
    size = VQGANConfig(
        16, 4, encoder_channels=(8, 8), encoder_blocks=(1, 1), decoder_channels=(12, 8), decoder_blocks=(1, 1)
    )
    return VQGAN.build(size).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def guided(tokenizer: VQGAN) -> PixelGuidedDecoder:
    made = PixelGuidedDecoder.start(tokenizer, (1, 1)).eval().requires_grad_(False)
    for parameter in made.guide.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.fixture(scope="module")
def renderer() -> InfiniteRenderer:
    return InfiniteRenderer(small_model(POOL), POOL, ArbitraryDirectionController(), max_rows=5)


def tokens_of(renderer: InfiniteRenderer, grid: PatchGrid, seed: int, known: Any = None) -> torch.Tensor:
    """The video's tokens (T, Y, X), by the renderer alone."""
    assert grid.t
    assert grid.y
    assert grid.x
    rows, columns = renderer.model.patch_size
    video = torch.full((grid.t, grid.y * rows, grid.x * columns), -1)
    for done in renderer.render(grid, seeds=[seed], known=known):
        t, y, x = done.patch
        video[t, y * rows : (y + 1) * rows, x * columns : (x + 1) * columns] = done.tokens_BYX[0]
    assert int(video.min()) >= 0
    return video


def test_frames_are_whole_grids_decoded_and_cropped(renderer, tokenizer, guided) -> None:
    grid, seed = PatchGrid(6, 2, 3), 5
    tokens_TYX = tokens_of(renderer, grid, seed)
    single = SingleFrames(tokenizer, tile=3)
    order = Order(grid, (seed,), (27, 44), video=Video(8, single))
    reel = Reel()
    for _ in GenerationJob(order, renderer, tokenizer, sinks=[reel]):
        pass
    expected = [to_uint8(tokenizer.decode(tokens_YX[None])[0]) for tokens_YX in tokens_TYX]
    assert len(reel.frames) == 6
    for made, whole in zip(reel.frames, expected, strict=True):
        assert made.shape == (27, 44, 3)
        assert np.abs(made.astype(int) - whole[:27, :44]).max() <= 1

    reel = Reel()
    order = replace(order, video=Video(8, GuidedFrames(single, guided, tile=3)))
    for _ in GenerationJob(order, renderer, tokenizer, sinks=[reel]):
        pass
    previous_3YX = torch.from_numpy(expected[0].copy()).permute(2, 0, 1) / 127.5 - 1
    for made, tokens_YX in zip(reel.frames[1:], tokens_TYX[1:], strict=True):
        whole = to_uint8(guided.decode_next(tokens_YX[None], previous_3YX[None])[0])
        assert np.abs(made.astype(int) - whole[:27, :44]).max() <= 2
        previous_3YX = torch.from_numpy(whole.copy()).permute(2, 0, 1) / 127.5 - 1
    assert any(np.abs(a.astype(int) - e[:27, :44]).max() > 9 for a, e in zip(reel.frames, expected, strict=True))


@pytest.mark.parametrize("kind", ["single", "guided", "animated"])
def test_it_goes_on_from_any_record(renderer, tokenizer, guided, kind) -> None:
    decoder: FrameDecoder = SingleFrames(tokenizer)
    if kind != "single":
        decoder = GuidedFrames(SingleFrames(tokenizer), guided)
    order = Order(PatchGrid(5, 2, 2), (5, 6), (30, 32), video=Video(8, decoder))
    if kind == "animated":
        image = np.random.default_rng(0).integers(0, 256, (30, 32, 3)).astype(np.uint8)
        given = ImageCondition(image, tokenizer=tokenizer, patch_size=(2, 2), blend=0)
        known = {patch: tokens.expand(2, -1, -1) for patch, tokens in given.known.items()}
        order = replace(order, known=known, finish=given)
    whole = [Reel(), Reel()]
    waves = sum(1 for _ in GenerationJob(order, renderer, tokenizer, sinks=whole))
    assert [len(reel.frames) for reel in whole] == [5, 5]
    if kind == "animated":
        assert all(np.array_equal(reel.frames[0], image) for reel in whole)
    for stop in range(waves + 1):
        reels = [Reel(), Reel()]
        first = GenerationJob(order, renderer, tokenizer, sinks=reels)
        for _ in zip(range(stop), first, strict=False):
            pass
        record = first.record()
        assert record.facts["sinks"] == [reel.state() for reel in reels]
        assert sum(1 for _ in GenerationJob(order, renderer, tokenizer, sinks=reels, record=record)) == waves - stop
        for reel, expected in zip(reels, whole, strict=True):
            assert len(reel.frames) == 5
            assert all(np.array_equal(a, b) for a, b in zip(reel.frames, expected.frames, strict=True))


def test_frames_come_in_order_whatever_the_order_of_patches(tokenizer) -> None:
    """Patches in random order within reach of one another: what waits is given away as soon as it is its turn."""
    generator = torch.Generator().manual_seed(0)
    tokens_TYX = torch.randint(0, 16, (7, 4, 4), generator=generator)
    patches = [PatchIndex(t, y, x) for t in range(7) for y in range(2) for x in range(2)]
    patches.sort(key=lambda p: p.t + 3 * float(torch.rand((), generator=generator)))
    reel = Reel()
    made = VideoAssembler(SingleFrames(tokenizer), reel, Place((32, 32), (0, 0), 8), tokens=(4, 4))
    done: set[PatchIndex] = set()
    for t, y, x in patches:
        made.put(tokens_TYX[t, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2], PatchIndex(t, y, x))
        done.add(PatchIndex(t, y, x))
        complete = [sum(p.t == frame for p in done) == 4 for frame in range(7)]
        assert len(reel.frames) == [*complete, False].index(False)
    for frame, tokens_YX in zip(reel.frames, tokens_TYX, strict=True):
        assert np.abs(frame.astype(int) - to_uint8(tokenizer.decode(tokens_YX[None])[0])).max() <= 1
    with pytest.raises(ValueError, match="have a size"):
        made.end()
    with pytest.raises(ValueError, match="have a size"):
        _ = made.complete
