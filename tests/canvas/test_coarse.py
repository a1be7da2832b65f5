"""The coarse plan of a canvas: equal to enlarging the whole, given in part or whole, streamed, and gone on with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nuwa_lightning import NuwaInfinityPipeline, UsageError
from nuwa_lightning.canvas import coarse as module
from nuwa_lightning.canvas.coarse import CoarseOrder, coarse_grid, known_of_sketch
from nuwa_lightning.canvas.editing import FinishedCanvas
from nuwa_lightning.canvas.image_condition import ImageCondition
from nuwa_lightning.canvas.job import Order
from nuwa_lightning.generation import renderer as renderer_module
from nuwa_lightning.generation.coarse_plan import CoarsePlan
from nuwa_lightning.generation.pretrained import Generator
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TransformerConfig
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.request_fields import Expansion, InputImage, Size

PLAN = CoarsePlan(scale=2)


def planned(*, writer: bool = True) -> NuwaInfinityPipeline:
    """Return a pipeline of random weights with a plan: patches of 16 x 16 pixels, of the plan twice as large."""
    torch.manual_seed(0)
    channels = {"encoder_channels": (8, 8), "decoder_channels": (8, 8)}
    vqgan = VQGAN.build(VQGANConfig(16, 4, encoder_blocks=(1, 1), decoder_blocks=(1, 1), **channels)).eval()
    for part, std in ((vqgan.encoder, 1.0), (vqgan.decoder, 0.3)):  # so that tokens differ
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=std)
    pool, size = NearbyContextPool((0, 1, 1)), TransformerConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1)

    def generator(plan: CoarsePlan | None) -> Generator:
        patch = (vqgan.step * 2, vqgan.step * 2)
        model = PatchTransformer(
            16, 4, patch_size=patch, embedding_extent=pool.embedding_extent, size=size, coarse_plan=plan is not None
        )
        model.set_codes(vqgan.codebook_KD)
        torch.nn.init.normal_(model.code_head.weight, std=1.0)
        fingerprint = vqgan.fingerprint()
        return Generator(model.eval(), pool, ArbitraryDirectionController(), "mirrored", fingerprint, plan=plan)

    return NuwaInfinityPipeline(generator(PLAN), vqgan, coarse=generator(None) if writer else None)


@pytest.fixture(scope="module")
def pipe() -> NuwaInfinityPipeline:
    return planned()


@pytest.fixture
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE", 2)
    monkeypatch.setattr(module, "_KEPT", 2)


def orders(pipe: NuwaInfinityPipeline, **options: Any) -> Order:
    return pipe.builder.order(GenerationRequest(**options))


def laid_out(read: Callable[[PatchIndex], Tensor], grid: PatchGrid) -> Tensor:
    """Put together what is read around patches of 2 x 2 tokens, and hold the rings equal to what lies there."""
    rows, columns = grid.y or 0, grid.x or 0
    whole = torch.full((1, 2 * rows + 2, 2 * columns + 2), ABSENT)
    for patch in grid:
        whole[:, 2 * patch.y + 1 : 2 * patch.y + 3, 2 * patch.x + 1 : 2 * patch.x + 3] = read(patch)[:, 1:-1, 1:-1]
    for name, axis in (("y", 1), ("x", 2)):
        if name in grid.wrap:
            last = whole.shape[axis] - 1
            whole.index_copy_(axis, torch.tensor([0, last]), whole.index_select(axis, torch.tensor([last - 1, 1])))
    for patch in grid:
        around = whole[:, 2 * patch.y : 2 * patch.y + 4, 2 * patch.x : 2 * patch.x + 4]
        assert torch.equal(read(patch), around)
    return whole[:, 1:-1, 1:-1]


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("size", [(64, 48), (56, 40)])
def test_tiles_are_the_whole_enlarged(pipe: NuwaInfinityPipeline, size: tuple[int, int]) -> None:
    order = orders(pipe, size=Size(*size))
    assert order.coarse is not None
    canvas = order.coarse.begin(order.grid, (2, 2), (7,))
    found = laid_out(canvas.around, order.grid)
    down, across = (2 * (n or 0) for n in order.coarse.grid.shape[1:])
    coarse = canvas.read(module.Rectangle(0, 0, down, across))
    with torch.inference_mode():
        whole = PLAN.read_tokens(pipe.tokenizer, coarse)
    assert torch.equal(found, whole[:, : found.shape[1], : found.shape[2]])
    assert found.unique().numel() > 3


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("wrap", ["x", "xy"])
def test_closed_plans_are_those_of_the_canvas_repeated(pipe: NuwaInfinityPipeline, wrap: str) -> None:
    order = orders(pipe, size=Size(96, 64), wrap=wrap, blend=0)
    assert order.coarse is not None
    canvas = order.coarse.begin(order.grid, (2, 2), (7,))
    found = laid_out(canvas.around, order.grid)
    coarse = canvas.read(module.Rectangle(0, 0, 4, 6))
    times = (3, 3) if wrap == "xy" else (1, 3)
    with torch.inference_mode():
        whole = PLAN.read_tokens(pipe.tokenizer, coarse.repeat(1, *times))
    top = found.shape[1] if wrap == "xy" else 0
    middle = whole[:, top : top + found.shape[1], found.shape[2] : 2 * found.shape[2]]
    assert torch.equal(found, middle)


def test_closed_sides_are_whole_patches_of_the_plan(pipe: NuwaInfinityPipeline) -> None:
    with pytest.raises(UsageError, match="whole patches"):
        orders(pipe, size=Size(56, 48), wrap="x", blend=0)


def test_plan_of_an_endless_canvas_is_made_as_far_as_it_is_read(pipe: NuwaInfinityPipeline) -> None:
    order = orders(pipe, size=Size(None, 32))
    assert order.coarse is not None
    first, later = (order.coarse.begin(order.grid, (2, 2), (1, 2)) for _ in range(2))
    first.around(PatchIndex(0, 0, 0))
    begun = len(first._tokens)
    far = later.around(PatchIndex(0, 1, 60))
    assert begun < len(later._tokens) / 2
    for x in range(60):
        first.around(PatchIndex(0, 1, x))
    assert torch.equal(first.around(PatchIndex(0, 1, 60)), far)
    assert far.shape == (2, 4, 4)
    assert int(far[:, :3].min()) >= 0
    assert bool((far[:, 3] == ABSENT).all())  # below the canvas


def tokens(pipe: NuwaInfinityPipeline, **options: Any) -> Tensor:
    return pipe(seed=3, output_type="tokens", **options).canvases[0].tokens_TYX


def test_plans_make_canvases_and_waves_change_nothing(pipe: NuwaInfinityPipeline) -> None:
    found = tokens(pipe, size=(64, 64))
    assert torch.equal(tokens(pipe, size=(64, 64), max_rows=1), found)
    assert torch.equal(
        pipe(size=(64, 64), seed=2, num_images_per_prompt=2, output_type="tokens").canvases[1].tokens_TYX, found
    )
    assert not torch.equal(tokens(planned(writer=False), size=(64, 64)), found)


def test_kills_change_nothing(pipe: NuwaInfinityPipeline) -> None:
    request = GenerationRequest(size=Size(64, 48), seed=5)
    renderer, order = pipe.renderer(request), pipe.builder.order(request)

    def all_of(rendering: Any) -> dict[PatchIndex, Tensor]:
        return {done.patch: done.tokens_BYX for wave in rendering for done in wave}

    whole = all_of(order.rendering(renderer))
    broken = order.rendering(renderer)
    before = {done.patch: done.tokens_BYX for _ in range(4) for done in next(broken)}
    after = all_of(order.rendering(renderer, decoding_state=broken.decoding_state()))
    assert before.keys().isdisjoint(after)
    assert all(torch.equal(tokens, whole[patch]) for patch, tokens in {**before, **after}.items())


def test_plan_of_what_is_given_comes_from_the_image(pipe: NuwaInfinityPipeline, sample_photos: Any) -> None:
    pixels = sample_photos["flower.jpg"][200:232, 300:348]
    image, expansion = InputImage.open(pixels), Expansion(right=32, down=16)
    order = orders(pipe, image=image, expand=expansion, blend=0)
    assert order.coarse is not None
    assert isinstance(order.finish, ImageCondition)
    with torch.inference_mode():
        small = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1
        expected = PLAN.coarse_tokens(pipe.tokenizer, small)[0]
    known = order.coarse.known
    found = torch.full((2 * (order.coarse.grid.y or 0), 2 * (order.coarse.grid.x or 0)), ABSENT)
    for (_, y, x), patch in known.items():
        found[2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = patch[0]
    side = 2 * pipe.tokenizer.downsample_factor
    assert torch.equal(found[: 32 // side, : 48 // side], expected)
    assert int((found != ABSENT).sum()) == expected.numel()
    made = pipe.outpaint(pixels, right=32, down=16, seed=1, blend=0)
    assert np.array_equal(np.asarray(made.images[0])[:32, :48], pixels)


def test_sketch_is_the_plan() -> None:
    """Left black and right white, of any size, is black and white on a canvas of any size."""
    from tests.generation.test_coarse_plan import Squares

    plan, grid = CoarsePlan(scale=2), PatchGrid(1, 3, 5)
    for shape in ((2, 2), (90, 200)):
        sketch = np.zeros((*shape, 3), np.uint8)
        sketch[:, shape[1] // 2 :] = 255
        order = CoarseOrder(plan, Squares(), coarse_grid(grid, (2, 2), plan, (1, 1)), (1, 1))
        order = dataclasses.replace(order, known=known_of_sketch(sketch, order, size=(12, 18), origin=(0, 2)))
        found = laid_out(order.begin(grid, (2, 2), (0,)).around, grid)
        assert int(found[0, :, :3].max()) < 40
        assert int(found[0, :, 7:].min()) > 215


def test_sketch_needs_no_writer_and_changes_the_canvas() -> None:
    pipe = planned(writer=False)
    dark, light = (Image.effect_noise((20, 12), sigma).convert("RGB") for sigma in (20, 90))
    found = [tokens(pipe, size=(64, 48), plan=each) for each in (dark, light, None)]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(tokens(pipe, size=(64, 48), plan=dark), found[0])
    with pytest.raises(UsageError, match="plan"):
        pipe.builder.order(GenerationRequest(size=Size(None, 32), plan=InputImage.open(dark)))


def test_model_without_a_plan_refuses_one() -> None:
    pipe = planned()
    plain = NuwaInfinityPipeline(pipe.coarse, pipe.tokenizer)
    with pytest.raises(UsageError, match="reads no plan"):
        plain(size=(64, 64), plan=Image.new("RGB", (4, 4)))
    assert plain.builder.order(GenerationRequest(size=Size(64, 64))).coarse is None


def test_pipeline_with_a_plan_comes_back(tmp_path: Path) -> None:
    pipe = planned()
    pipe.save_pretrained(tmp_path / "run")
    back = NuwaInfinityPipeline.from_pretrained(tmp_path / "run")
    assert torch.equal(tokens(back, size=(48, 48)), tokens(pipe, size=(48, 48)))
    other = dataclasses.replace(pipe.coarse, tokenizer_fingerprint="0" * 64)
    with pytest.raises(UsageError, match="coarse model"):
        NuwaInfinityPipeline(pipe.generator, pipe.tokenizer, coarse=other)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_guidance_is_against_the_absence_of_a_plan(guidance: float) -> None:
    """At 0 it is a canvas without a plan, at 3 another one; waves and kills change nothing here either."""
    pipe = planned()
    pipe.generator.model.double()
    request = GenerationRequest(size=Size(48, 48), seed=5, plan_guidance=guidance, top_k=0)
    renderer, order = pipe.renderer(request), pipe.builder.order(request)

    def all_of(rendering: Any) -> dict[PatchIndex, Tensor]:
        return {done.patch: done.tokens_BYX for wave in rendering for done in wave}

    found = all_of(order.rendering(renderer))
    broken = order.rendering(dataclasses.replace(renderer, max_rows=1))
    found_one = {done.patch: done.tokens_BYX for _ in range(3) for done in next(broken)}
    found_one |= all_of(
        order.rendering(dataclasses.replace(renderer, max_rows=1), decoding_state=broken.decoding_state())
    )
    without = all_of(dataclasses.replace(order, coarse=None).rendering(renderer))
    as_trained = all_of(pipe.builder.order(dataclasses.replace(request, plan_guidance=1.0)).rendering(renderer))
    assert all(torch.equal(found[patch], found_one[patch]) for patch in found)
    assert all(torch.equal(found[patch], without[patch]) for patch in found) is (guidance == 0)
    assert any(not torch.equal(found[patch], as_trained[patch]) for patch in found)


def test_redo_keeps_the_plan(pipe: NuwaInfinityPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole rendering whose plan has the first seed, and those patches the other one."""
    canvas = pipe(size=(64, 64), seed=3, output_type="tokens").canvases[0]
    before, again = canvas.tokens_TYX, canvas.dependents((32, 0, 48, 16))
    assert 0 < len(again) < 16
    canvas.redo((32, 0, 48, 16), seed=7)
    plain = renderer_module.patch_uniforms

    def uniforms(seed: int, patch: PatchIndex, count: int) -> Tensor:
        return plain(7 if seed >= 0 and patch in again else seed, patch, count)

    monkeypatch.setattr(renderer_module, "patch_uniforms", uniforms)
    expected = tokens(pipe, size=(64, 64))
    assert torch.equal(canvas.tokens_TYX, expected)
    assert not torch.equal(canvas.tokens_TYX, before)


def test_growth_goes_on_from_the_plan(pipe: NuwaInfinityPipeline) -> None:
    canvas = pipe(size=(64, 48), seed=3, output_type="tokens").canvases[0]
    before, plan = canvas.tokens_TYX, canvas._history.coarse(0)
    canvas.grow(left=20, down=32)
    after = canvas.tokens_TYX
    assert torch.equal(after[:, : before.shape[1], -before.shape[2] :], before)
    grown, facts = canvas._history.coarse(1), canvas._store.facts
    assert plan is not None
    assert grown is not None
    old, new = (p.begin(s.grid, (2, 2), (3,)) for p, s in zip((plan, grown), facts.stages, strict=True))
    # 64 x 48 pixels are 4 x 3 coarse tokens, and 20 pixels to the left two patches, of which each is one.
    assert torch.equal(old.read(module.Rectangle(0, 0, 3, 4)), new.read(module.Rectangle(0, 2, 3, 6)))
    again = pipe(size=(64, 48), seed=3, output_type="tokens").canvases[0].grow(left=20, down=32)
    assert torch.equal(again.tokens_TYX, after)
    without = pipe(size=(64, 48), seed=3, output_type="tokens", plan=Image.new("RGB", (4, 4))).canvases[0]
    assert without.grow(right=16).size == (80, 48)
    sketched = planned(writer=False)(size=(64, 48), seed=3, output_type="tokens", plan=Image.new("RGB", (4, 4)))
    with pytest.raises(UsageError, match="no model of coarse plans"):
        sketched.canvases[0].grow(right=16)


def test_a_given_plan_is_kept_with_the_canvas(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    sketch = Image.fromarray(np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8))
    canvas = pipe(size=(64, 48), seed=3, output_type="tokens", plan=sketch).canvases[0]
    canvas.save(tmp_path / "c").close()
    before = canvas.tokens_TYX
    assert (np.asarray(Image.open(tmp_path / "c" / "plan.png")) == np.asarray(sketch)).all()
    with pipe.open_canvas(tmp_path / "c") as kept:
        for each in (canvas, kept):
            each.redo((16, 0, 32, 16), seed=7).grow(right=16)
        assert torch.equal(kept.tokens_TYX, canvas.tokens_TYX)
        assert torch.equal(kept.undo().undo().tokens_TYX, before)
    Image.new("RGB", (8, 6)).save(tmp_path / "c" / "plan.png")
    with pytest.raises(UsageError, match="is damaged"):
        pipe.open_canvas(tmp_path / "c")


def test_a_kept_canvas_draws_its_plan_once(
    pipe: NuwaInfinityPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edits of a folder are those in memory, and read the plan of what was there; damaged, it is drawn again."""
    request = GenerationRequest(size=Size(64, 48), seed=3)
    drawn, begin = [], module.Rendering

    def counted(renderer: Any, grid: PatchGrid, **options: Any) -> Any:
        drawn.append(len(list(grid)) - len(options["known"]))
        return begin(renderer, grid, **options)

    monkeypatch.setattr(module, "Rendering", counted)
    in_memory = pipe.generate(request, output_type="tokens").canvases[0]
    with FinishedCanvas.begin(tmp_path / "c", pipe, request).resume() as kept:
        assert (tmp_path / "c" / "coarse-0").is_file()
        for edit, left in (
            (lambda canvas: canvas.redo((16, 0, 32, 16), seed=7), []),
            (lambda canvas: canvas.grow(right=40), [4]),  # two columns of two coarse patches are new
            (lambda canvas: canvas.redo((80, 0, 96, 16), seed=8), []),
        ):
            edit(in_memory)
            drawn.clear()
            edit(kept)
            assert drawn == left
            assert torch.equal(kept.tokens_TYX, in_memory.tokens_TYX)
        kept.undo().undo().grow(down=40)  # another second stage, in the place of the first one
        other = pipe.generate(request, output_type="tokens").canvases[0].redo((16, 0, 32, 16), seed=7).grow(down=40)
        assert torch.equal(kept.tokens_TYX, other.tokens_TYX)
        for number in (0, 1):
            path = tmp_path / "c" / f"coarse-{number}"
            path.write_bytes(path.read_bytes()[:-1])
        drawn.clear()
        kept.redo((0, 64, 16, 80), seed=8)
        assert drawn
        assert torch.equal(kept.tokens_TYX, other.redo((0, 64, 16, 80), seed=8).tokens_TYX)
