"""Finished canvases: grown, made again in part, kept, exported; against whole renderings and brute force."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nuwa_lightning import NuwaInfinityPipeline, UsageError
from nuwa_lightning.canvas.editing import FinishedCanvas
from nuwa_lightning.generation import renderer as renderer_module
from nuwa_lightning.generation.sampling import patch_uniforms
from nuwa_lightning.models.vqgan import VQGAN
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.writers import ImageWriter, read_metadata
from nuwa_lightning.writers.base import bands
from tests.canvas.editable import same_but, tiny
from tests.strategies import CONTROLLERS, POOLS


@pytest.fixture(scope="module")
def pipe() -> NuwaInfinityPipeline:
    return tiny()


@pytest.fixture
def photo(sample_photos) -> Image.Image:
    return Image.fromarray(sample_photos["flower.jpg"][200:231, 300:345])


def made(pipe: NuwaInfinityPipeline, **options: object) -> FinishedCanvas:
    return pipe(seed=3, output_type="tokens", **options).canvases[0]  # type: ignore[arg-type]


def brute(pipe: NuwaInfinityPipeline, size: tuple[int, int], seeds: Callable[[PatchIndex], int]) -> torch.Tensor:
    """The whole canvas anew, each patch with a seed of its own."""
    before = renderer_module.patch_uniforms
    renderer_module.patch_uniforms = lambda _, patch, count: patch_uniforms(seeds(patch), patch, count)
    try:
        return pipe(size=size, seed=0, output_type="tokens").canvases[0].tokens_TYX
    finally:
        renderer_module.patch_uniforms = before


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("box", [(0, 0, 9, 9), (20, 10, 30, 12), (50, 0, 56, 40), (17, 33, 18, 34)])
def test_redo_is_what_a_whole_rendering_with_those_seeds_makes(layers: int, box: tuple[int, int, int, int]) -> None:
    """Neighbors' tokens are read by the input here, so what is left out of the replay is as little as may be."""
    pipe = tiny(layers=layers)
    canvas = made(pipe, size=(56, 40))
    before, again = canvas.tokens_TYX, canvas.dependents(box)
    canvas.redo(box, seed=7)
    expected = brute(pipe, (56, 40), lambda patch: 7 if patch in again else 3)
    assert torch.equal(canvas.tokens_TYX, expected)
    assert same_but(before, canvas.tokens_TYX, again)
    assert not torch.equal(before, canvas.tokens_TYX)


def test_growing_to_the_right_is_the_wider_image(pipe: NuwaInfinityPipeline) -> None:
    canvas = made(pipe, size=(64, 24))
    image = next(pipe.grow(pipe.grow(canvas, right=8), right=24).pixels())
    assert np.array_equal(image, np.asarray(pipe(size=(96, 24), seed=3).images[0]))


@pytest.mark.parametrize("sides", [{"left": 11}, {"up": 3, "right": 20}, {"left": 9, "right": 1, "up": 8, "down": 30}])
def test_growing_keeps_every_token(pipe: NuwaInfinityPipeline, sides: dict[str, int]) -> None:
    canvas = made(pipe, size=(45, 30))
    before, (width, height) = canvas.tokens_TYX, canvas.size
    canvas.grow(**sides)
    assert canvas.size == (
        width + sides.get("left", 0) + sides.get("right", 0),
        height + sides.get("up", 0) + sides.get("down", 0),
    )
    after = canvas.tokens_TYX
    assert int(after.min()) >= 0
    y, x = ((sides.get(name, 0) + 7) // 8 * 2 for name in ("up", "left"))
    assert torch.equal(after[:, y : y + before.shape[1], x : x + before.shape[2]], before)
    y, x = (sides.get(name, 0) for name in ("up", "left"))
    assert (canvas.origin[0] + y) % 8 == 0
    assert (canvas.origin[1] + x) % 8 == 0


def test_growing_does_not_repeat_random_numbers(pipe: NuwaInfinityPipeline) -> None:
    """To the left, too, each position of the lattice has its own."""
    canvas, seen = made(pipe, size=(32, 32)), []
    before = renderer_module.patch_uniforms
    renderer_module.patch_uniforms = lambda seed, patch, count: (
        seen.append((seed, *patch)),
        before(seed, patch, count),
    )[1]
    try:
        canvas.grow(left=20, up=10)
        canvas.grow(right=8)
    finally:
        renderer_module.patch_uniforms = before
    assert len(seen) == len(set(seen)) == 8 * 6 - 16
    assert all(t == 0 and s == 3 and (y < 0 or x < 0 or x > 3) for s, t, y, x in seen)


def test_redo_after_growing_leaves_what_was_there_before(pipe: NuwaInfinityPipeline) -> None:
    """What was made first does not depend on what was grown, wherever that lies; but the other way round."""
    canvas = made(pipe, size=(32, 32)).grow(left=16)
    new, old = canvas.dependents((0, 0, 8, 8)), canvas.dependents((16, 0, 24, 8))
    assert all(patch.x < 2 for patch in new)
    assert {patch.x for patch in old} >= {0, 1, 2}
    before = canvas.tokens_TYX
    canvas.redo((0, 0, 8, 8), seed=9)
    assert same_but(before, canvas.tokens_TYX, new)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_dependents_are_those_of_brute_force(data: st.DataObject) -> None:
    """Over pools, directions and stages: who sees whom, closed over everything that came later."""
    pipe = tiny(pool=data.draw(st.sampled_from(POOLS)), direction=data.draw(st.sampled_from(CONTROLLERS)))
    canvas = made(pipe, size=(32, 24))
    for side in data.draw(st.lists(st.sampled_from(["left", "right", "up", "down"]), max_size=2)):
        canvas.grow(**{side: 8})
    x, y = data.draw(st.integers(0, canvas.size[0] // 8 - 1)), data.draw(st.integers(0, canvas.size[1] // 8 - 1))
    found = canvas.dependents((8 * x, 8 * y, 8 * x + 8, 8 * y + 8))
    facts, before, changed = canvas._store.facts, None, {facts_position(canvas, PatchIndex(0, y, x))}
    for stage in facts.stages:
        whole = frozenset() if before is None else frozenset(stage.patch(before.position(p)) for p in before.grid)
        seen: dict[int, set[int]] = {}
        at, known = {}, set()
        for planned in pipe.renderer(canvas.request).walk(stage.grid, whole):
            seen[planned.number] = set(planned.context)
            at[planned.number] = stage.position(planned.patch)
            if planned.step.known:
                known.add(planned.number)
        reached = {n for n, position in at.items() if position in changed}
        while more := {n for n in seen if n not in reached and seen[n] & reached}:
            reached |= more
        changed |= {at[n] for n in reached - known}
        before = stage
    assert {facts_position(canvas, patch) for patch in found} == changed


def facts_position(canvas: FinishedCanvas, patch: PatchIndex) -> PatchIndex:
    return canvas._store.facts.stage.position(patch)


def test_given_pixels_stay_through_everything(pipe: NuwaInfinityPipeline, photo: Image.Image, tmp_path: Path) -> None:
    given_YX3 = np.asarray(photo)
    canvas = pipe.outpaint(photo, left=10, down=7, seed=1).canvases[0]
    saved = canvas.save(tmp_path / "c")
    saved.close()
    with pipe.open_canvas(tmp_path / "c") as found:
        found.export(tmp_path / "a.png")
        image_YX3 = np.asarray(Image.open(tmp_path / "a.png"))
        assert np.array_equal(image_YX3, next(canvas.pixels()))
        assert np.array_equal(image_YX3[:31, 10:], given_YX3)
        found.grow(right=21, up=5, left=3)
        found.redo((0, 0, 20, 40), seed=5)
        found.export(tmp_path / "b.tif")
    canvas.grow(right=21, up=5, left=3).redo((0, 0, 20, 40), seed=5)
    canvas.export(tmp_path / "c.tif")
    import tifffile

    image_YX3 = tifffile.imread(tmp_path / "b.tif")
    assert image_YX3.shape == (43, 79, 3)
    assert np.array_equal(image_YX3[5:36, 13:58], given_YX3)
    assert np.array_equal(tifffile.imread(tmp_path / "c.tif"), image_YX3), "in memory as in a folder"
    said = read_metadata(tmp_path / "b.tif")
    assert said["size"] == [79, 43]
    assert ["grow" in edit for edit in said["edits"]] == [True, False]
    assert said["edits"][1] == {"redo": [0, 0, 20, 40], "seed": 5, "patches": found.edits[1]["patches"]}


def test_a_patch_that_a_given_image_ends_in_is_completed(pipe: NuwaInfinityPipeline, photo: Image.Image) -> None:
    """Beyond its edge were its last pixels, repeated, as long as it was the edge of the canvas."""
    canvas = pipe.outpaint(photo, left=16, seed=1).canvases[0]  # 45 pixels: the last patch is given in part
    last = canvas.tokens_TYX[0, :6, -2:]
    canvas.grow(right=30)
    completed = canvas.tokens_TYX[0, :6, 14:16]
    assert torch.equal(completed[:, 0], last[:, 0]), "4 of its 8 columns are the image's"
    assert not torch.equal(completed[:, 1], last[:, 1])


def test_holes_are_made_again_and_nothing_else(pipe: NuwaInfinityPipeline, photo: Image.Image) -> None:
    mask = np.zeros((31, 45), bool)
    mask[5:20, 12:30] = True
    canvas = pipe.inpaint(photo, mask, seed=1).canvases[0]
    before = next(canvas.pixels())
    after = next(canvas.redo((0, 0, 45, 31), seed=2).pixels())
    assert np.array_equal(before[~mask], after[~mask])
    assert not np.array_equal(before, after)
    with pytest.raises(UsageError, match="holds given pixels alone"):
        canvas.redo((40, 24, 45, 31), seed=2)


def test_closed_canvases_grow_along_the_open_axis(pipe: NuwaInfinityPipeline) -> None:
    canvas = made(pipe, size=(32, 16), wrap="x", blend=4)
    with pytest.raises(UsageError, match="grow: along x: the canvas is closed there"):
        canvas.grow(left=8)
    canvas.grow(down=8)
    assert canvas.size == (32, 24)
    image = next(canvas.pixels())
    assert np.abs(image[:, 0].astype(int) - image[:, -1]).max() <= 1, "there is no step across the seam"
    assert all(PatchIndex(0, y, 3) in canvas.dependents((0, 8, 8, 9)) for y in (1, 2))


def test_videos_grow_in_space_and_time(photo: Image.Image, tmp_path: Path) -> None:
    pipe = tiny(frames=3)
    canvas = pipe.animate(photo, frames=2, seed=0).canvases[0]
    before = canvas.tokens_TYX
    canvas.grow(frames=1)
    assert torch.equal(canvas.tokens_TYX[:2], before)
    assert canvas.tokens_TYX.shape[0] == 3
    again = canvas.dependents((0, 0, 8, 8), frames=(1, 2))
    assert {patch.t for patch in again} == {1, 2}
    canvas.redo((0, 0, 8, 8), seed=4, frames=(1, 2)).grow(right=8)
    frames = list(canvas.pixels())
    assert [frame.shape for frame in frames] == [(31, 53, 3)] * 3
    assert np.array_equal(frames[0][:, :45], np.asarray(photo))
    canvas.export(tmp_path / "a.frames")
    assert np.array_equal(np.asarray(Image.open(sorted((tmp_path / "a.frames").glob("*.png"))[2])), frames[2])


class RawWriter(ImageWriter):
    format_name, longest_side = "raw", 1 << 20

    def write(self, source, path, metadata):
        path.write_bytes(b"".join(map(bytes, bands(source))))

    def read_metadata(self, path):
        return {}


def test_a_writer_of_ones_own_exports(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    canvas = made(pipe, size=(24, 16))
    canvas.export(tmp_path / "a.raw", writer=RawWriter())
    assert (tmp_path / "a.raw").read_bytes() == next(canvas.pixels()).tobytes()
    frames = "nuwa_lightning.writers.FramesWriter"
    video = made(tiny(frames=3), size=(16, 16), frames=2)
    video.export(tmp_path / "a.own", writer=frames)
    assert read_metadata(tmp_path / "a.own", writer=frames)["seed"] == 3
    with pytest.raises(UsageError, match=r"writer: .*FramesWriter: is no writer of images"):
        canvas.export(tmp_path / "b.own", writer=frames)


def test_texts_stay_where_they_were(tmp_path: Path) -> None:
    from nuwa_lightning.request import Region

    pipe = tiny(text=True)
    regions = [Region(0, 0, 16, 16, "a lake"), Region(16, 0, 16, 16, "dunes")]
    canvas = pipe(regions=regions, size=(32, 16), seed=0).canvases[0]
    canvas.grow(left=16, right=8)
    prompts = canvas._history.order(texts=True).prompts
    assert prompts is not None
    assert [prompts.choose(PatchIndex(0, 0, x)) for x in range(7)] == [(1,)] * 4 + [(2,)] * 3
    several = pipe(["a", "b"], size=(16, 16), seed=0, output_type="tokens").canvases[1]
    one = several._history.order(texts=True).prompts
    whole = pipe.builder.order(several.request).prompts
    assert one is not None
    assert whole is not None
    assert one.choose(PatchIndex(0, 0, 0)) == whole.choose(PatchIndex(0, 0, 0))[1:]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.redo((0, 0, 0, 8), seed=1), "box: 0,0,0,8: give left,top,right,bottom"),
        (lambda c: c.redo((0, 0, 33, 8), seed=1), "inside the 32x16 of the canvas"),
        (lambda c: c.redo((0, 0, 8, 8), seed=1, frames=(0, 2)), "frames: 0,2"),
        (lambda c: c.grow(left=-1), "left: -1: give how many more"),
        (lambda c: c.grow(), "grow: nothing: say how many pixels"),
        (lambda c: c.grow(frames=2), "frames: 2: the canvas is an image"),
        (lambda c: c.export("a.xyz"), "output: a.xyz"),
        (lambda c: c.export("a.png", number=1), "number: 1: the canvas holds 1 images"),
        (lambda c: c.resume(), "there is no growth to go on with"),
        (lambda c: c.undo(), "there is nothing to undo"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    pipe: NuwaInfinityPipeline, edit: Callable[[FinishedCanvas], object], words: str
) -> None:
    canvas = made(pipe, size=(32, 16))
    before = canvas.tokens_TYX
    with pytest.raises(UsageError) as error:
        edit(canvas)
    assert words in str(error.value)
    assert torch.equal(canvas.tokens_TYX, before)
    assert canvas.edits == []


class Broken(Exception):
    pass


@pytest.mark.parametrize("wave", [0, 2])
@pytest.mark.parametrize("edit", [{"right": 24}, None])
def test_what_breaks_in_memory_leaves_the_canvas(
    pipe: NuwaInfinityPipeline, wave: int, edit: dict[str, int] | None
) -> None:
    canvas, waves = made(pipe, size=(48, 32)), itertools.count()
    before, info = canvas.tokens_TYX, canvas.info()

    def broken(_: object) -> None:
        if next(waves) == wave:
            raise Broken

    with pytest.raises(Broken):
        canvas.grow(**edit, callback=broken) if edit else canvas.redo((0, 0, 8, 8), seed=1, callback=broken)
    assert torch.equal(canvas.tokens_TYX, before)
    assert canvas.info() == info


def test_growing_in_a_folder_goes_on_or_is_undone(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    whole = made(pipe, size=(32, 24)).grow(left=20, down=9)
    for stop in range(12):
        folder, waves = tmp_path / str(stop), itertools.count(1)
        with made(pipe, size=(32, 24)).save(folder) as canvas:
            before = canvas.tokens_TYX
            canvas.grow(left=20, down=9, record_every=0, stop=lambda w=waves, s=stop: next(w) > s)
            if canvas.finished:
                break
            with pytest.raises(UsageError, match="is not finished: go on by `resume`, or `undo`"):
                canvas.export(tmp_path / "a.png")
        with pipe.open_canvas(folder) as canvas:
            assert torch.equal(canvas.resume().tokens_TYX, whole.tokens_TYX)
            assert canvas.edits == whole.edits
        with pipe.open_canvas(folder) as canvas:
            assert torch.equal(canvas.tokens_TYX, whole.tokens_TYX)
            canvas.grow(right=8, record_every=0, stop=lambda: True)
            assert torch.equal(canvas.undo().tokens_TYX, whole.tokens_TYX)
            canvas.redo((0, 0, 8, 8), seed=9).redo((0, 0, 8, 8), seed=3)
        with pipe.open_canvas(folder) as canvas:
            assert canvas.size == (52, 33)
            assert torch.equal(canvas.tokens_TYX[:, -2:], whole.tokens_TYX[:, -2:]), (
                "dependents got the first seed again"
            )
    assert stop > 3
    assert before.shape == (1, 6, 8), "8 x 8 pixels a patch"


def test_a_stranger_is_refused(pipe: NuwaInfinityPipeline, photo: Image.Image, tmp_path: Path) -> None:
    pipe.outpaint(photo, left=8, seed=0).canvases[0].save(tmp_path / "c").close()
    with pytest.raises(UsageError, match="is there already"):
        made(pipe, size=(16, 16)).save(tmp_path / "c")
    with pytest.raises(UsageError, match="was made with another model"):
        tiny(layers=2).open_canvas(tmp_path / "c")
    path = tmp_path / "c" / "image.png"
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    with pytest.raises(UsageError, match=r"image\.png: is damaged"):
        pipe.open_canvas(tmp_path / "c")
    with pytest.raises(UsageError, match="holds no canvas"):
        pipe.open_canvas(tmp_path / "gone")


def test_a_decoder_refined_since(pipe: NuwaInfinityPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The tokens stay and go on; what decodes them is said."""
    with made(pipe, size=(24, 16)).save(tmp_path / "c") as canvas:
        before, tokens = next(canvas.pixels()), canvas.tokens_TYX
    vqgan = copy.deepcopy(pipe.tokenizer)
    assert isinstance(vqgan, VQGAN)
    for parameter in vqgan.decoder.parameters():
        parameter.data += 0.1
    refined = NuwaInfinityPipeline(pipe.generator, vqgan)
    assert not caplog.messages
    with refined.open_canvas(tmp_path / "c") as canvas:
        assert torch.equal(canvas.tokens_TYX, tokens)
        canvas.export(tmp_path / "a.png")
        assert not np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), before)
        assert torch.equal(canvas.grow(right=8).tokens_TYX[..., :6], tokens)
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path / 'c'}: its tokens stay, its pixels come from another decoder now")
    vqgan.codebook_KD.mul_(-1)
    other = dataclasses.replace(pipe.generator, tokenizer_fingerprint=vqgan.fingerprint())
    with pytest.raises(UsageError, match="was made with another tokenizer"):
        NuwaInfinityPipeline(other, vqgan).open_canvas(tmp_path / "c")


def test_every_edit_of_a_kept_canvas_is_taken_back_in_turn(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    made(pipe, size=(40, 24)).save(tmp_path / "c").close()
    looks = []
    edits = [lambda c: c.redo((8, 8, 16, 16), seed=5), lambda c: c.grow(left=9, up=8),
             lambda c: c.redo((0, 0, 40, 8), seed=6), lambda c: c.grow(right=8, seed=2)]  # fmt: skip
    for edit in edits:
        with pipe.open_canvas(tmp_path / "c") as canvas:
            looks.append((canvas.tokens_TYX, canvas.size, canvas.edits))
            edit(canvas)
    for tokens_TYX, size, done in reversed(looks):
        with pipe.open_canvas(tmp_path / "c") as canvas:
            canvas.undo()
        with pipe.open_canvas(tmp_path / "c") as canvas:
            assert torch.equal(canvas.tokens_TYX, tokens_TYX)
            assert (canvas.size, canvas.edits) == (size, done)
    with pipe.open_canvas(tmp_path / "c") as canvas:
        with pytest.raises(UsageError, match="nothing to undo"):
            canvas.undo()
        again = canvas.redo((8, 8, 16, 16), seed=5).tokens_TYX
    assert torch.equal(again, looks[1][0])


def test_a_candidate_is_what_redo_makes_once_it_is_kept(pipe: NuwaInfinityPipeline) -> None:
    canvas, box, seen = made(pipe, size=(40, 24)), (16, 0, 24, 8), []
    before = canvas.tokens_TYX
    candidates = [canvas.candidate(box, seed=seed, look=lambda: seen.append(canvas.tokens_TYX)) for seed in (5, 6)]
    assert torch.equal(canvas.tokens_TYX, before)
    canvas.keep(candidates[0])
    direct = made(pipe, size=(40, 24)).redo(box, seed=5)
    assert torch.equal(canvas.tokens_TYX, direct.tokens_TYX)
    assert torch.equal(canvas.tokens_TYX, seen[0])
    assert canvas.edits == direct.edits
    with pytest.raises(UsageError, match="make it again"):
        canvas.keep(candidates[1])


def test_an_edit_may_be_drawn_otherwise(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    options = {"temperature": 0.5, "top_k": 2, "top_p": 0.9}
    cold = pipe(size=(56, 24), seed=3, output_type="tokens", **options).canvases[0]
    canvas = made(pipe, size=(40, 24))
    plain = made(pipe, size=(40, 24)).grow(right=16).tokens_TYX
    canvas.grow(right=16, options=options)
    assert torch.equal(canvas.tokens_TYX[:, :, :10], plain[:, :, :10])
    assert not torch.equal(canvas.tokens_TYX, plain)
    canvas.redo((0, 0, 56, 24), seed=3, options=options)
    assert torch.equal(canvas.tokens_TYX, cold.tokens_TYX)
    made(pipe, size=(40, 24)).save(tmp_path / "c").close()
    with pipe.open_canvas(tmp_path / "c") as kept:  # stopped after the first wave, it goes on by the same options
        kept.grow(right=16, options=options, seed=8, record_every=0, stop=lambda: True)
    with pipe.open_canvas(tmp_path / "c") as kept:
        kept.resume()
        expected = made(pipe, size=(40, 24)).grow(right=16, options=options, seed=8)
        assert torch.equal(kept.tokens_TYX, expected.tokens_TYX)
