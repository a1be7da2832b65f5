"""The laws of the plug-ins, to be run on a class of one's own; the pages of ``docs/how-to`` show each."""

from __future__ import annotations

import functools
import itertools
import random
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nuwa_lightning.data.photos import PhotoSource
from nuwa_lightning.data.sources import SPLITS
from nuwa_lightning.errors import LawError, UsageError, shown
from nuwa_lightning.planning.context.base import ContextPool, checked_extent
from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.geometry import OMEGA, SYMMETRIES, ZETA, PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import ContextTable, walk
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.writers.base import ImageWriter, Pixels, VideoWriter

if TYPE_CHECKING:
    from torch import Tensor

    from nuwa_lightning.generation.local.base import LocalDecoder

GRIDS: tuple[PatchGrid, ...] = tuple(
    PatchGrid(*shape)
    for shape in ((1, 1, 1), (1, 1, 4), (1, 4, 1), (1, 3, 3), (1, 4, 5), (2, 1, 1), (2, 2, 3), (3, 3, 2), (1, 7, 6))
)
ENDLESS: tuple[PatchGrid, ...] = tuple(
    PatchGrid(*shape)
    for shape in ((1, 1, None), (1, 3, None), (1, None, 2), (None, 1, 1), (None, 2, 3), (2, 2, None), (2, None, 2))
)
_LENGTHS = (16, 32, 64, 128, 256)


def check_context_pool(pool: ContextPool, *, seed: int = 0, trials: int = 4) -> None:
    """Hold ``pool`` to the laws of :class:`ContextPool` on small grids, in orderly and in random plans.

    Args:
        pool: an object of the class to be tested.
        seed: of the random plans.
        trials: random plans a grid.

    Raises:
        AssertionError: naming the class, the law, the grid and the patch.
    """
    rng = random.Random(seed)
    try:
        checked_extent("embedding_extent", pool.embedding_extent)
    except UsageError as error:
        raise AssertionError(f"{type(pool).__name__}: {error}") from error
    for grid in GRIDS:
        plans = [[Step(patch, symmetry) for patch in symmetry.walk(grid)] for symmetry in SYMMETRIES]
        for _ in range(trials):
            plans.append([Step(patch, OMEGA) for patch in rng.sample(list(grid), grid.size)])
        for plan in plans:
            _check_replay(pool, grid, plan, rng)
        _check_stateless(pool, grid, plans)
    if pool.bounded:
        _check_bounded(pool)


def _broken(strategy: object, law: str, grid: PatchGrid, patch: PatchIndex | None, detail: str = "") -> AssertionError:
    where = f"grid {grid.shape}" + ("" if patch is None else f", patch {tuple(patch)}")
    return AssertionError(f"{type(strategy).__name__}: {law}: {where}" + (f": {detail}" if detail else ""))


def _check_replay(pool: ContextPool, grid: PatchGrid, plan: Sequence[Step], rng: random.Random) -> None:
    canvas = pool.new_canvas(grid)
    added: list[PatchIndex] = []
    for step in plan:
        patch, live = step.patch, canvas.live
        try:
            seen = {other for other, _ in canvas.select(patch)}
        except LawError as error:
            raise _broken(
                pool, "select returns live patches of no later frame, each once", grid, patch, error.law
            ) from error
        if set(pool.select(patch, tuple(live))) != seen:
            raise _broken(pool, "select is deterministic", grid, patch)
        if set(pool.select(patch, tuple(added))) != seen:
            raise _broken(pool, "remove drops nothing that a later select returns", grid, patch)
        if pool.translation_equivariant:
            move = (rng.randrange(3), rng.randrange(9), rng.randrange(9))
            moved = pool.select(patch.shifted(move), [other.shifted(move) for other in live])
            if set(moved) != {other.shifted(move) for other in seen}:
                raise _broken(pool, "moving the canvas moves the answer", grid, patch, f"moved by {move}")
        canvas.add(patch, None)
        added.append(patch)
        try:
            canvas.remove()
        except LawError as error:
            raise _broken(pool, "remove returns live patches", grid, patch, error.law) from error


def _check_stateless(pool: ContextPool, grid: PatchGrid, plans: Sequence[Sequence[Step]]) -> None:
    alone = [[planned.context for planned in walk(plan, pool, grid)] for plan in plans]
    together = zip(*(walk(plan, pool, grid) for plan in plans), strict=True)
    for number, row in enumerate(together):
        for contexts, planned in zip(alone, row, strict=True):
            if contexts[number] != planned.context:
                raise _broken(pool, "canvases that share a pool do not disturb one another", grid, planned.patch)


def _check_bounded(pool: ContextPool) -> None:
    shapes = (((1, 2, None), OMEGA), ((1, None, 2), ZETA), ((None, 2, 1), OMEGA))
    for shape, symmetry in shapes:
        before = -1
        for length in _LENGTHS:
            grid = PatchGrid(*(length if n is None else n for n in shape))
            peak = ContextTable.from_walk(walk((Step(p, symmetry) for p in symmetry.walk(grid)), pool, grid)).peak_live
            if peak == before:
                break
            before = peak
        else:
            law = "the live set does not grow with the canvas (or say bounded = False)"
            raise _broken(pool, law, grid, None, f"{peak} patches are alive at once")


def check_direction_controller(controller: DirectionController, *, seed: int = 0, trials: int = 4) -> None:
    """Hold ``controller`` to the laws of :class:`DirectionController`: small grids, endless ones, anything known.

    Args:
        controller: an object of the class to be tested.
        seed: of the random known patches.
        trials: random known sets a grid and density.

    Raises:
        AssertionError: naming the class, the law, the grid and the patch.
    """
    rng = random.Random(seed)
    for grid in GRIDS:
        for known in _known_sets(grid, rng, trials):
            _check_plan(controller, grid, known, rng)
        total = 0.0
        for weight, steps in controller.training_plans(grid):
            _check_symmetries(controller, grid, steps)
            total += weight
            if not weight > 0:
                raise _broken(controller, "the weights of training_plans are positive", grid, None, str(weight))
        if abs(total - 1) > 1e-9:
            raise _broken(controller, "the weights of training_plans sum to 1", grid, None, str(total))
    for grid in ENDLESS:
        _check_endless(controller, grid, rng, trials)


def _known_sets(grid: PatchGrid, rng: random.Random, trials: int) -> Iterator[frozenset[PatchIndex]]:
    """Yield known sets: none, all, the first frame, the four sides, a middle, a hole, and random ones."""
    patches = list(grid)
    height, width = grid.y or 1, grid.x or 1
    yield frozenset()
    yield frozenset(patches)
    yield frozenset(p for p in patches if p.t == 0)
    for half in range(1, 3):
        yield frozenset(p for p in patches if p.x < width // 2 * half)
        yield frozenset(p for p in patches if p.x >= width // 2 * half)
        yield frozenset(p for p in patches if p.y < height // 2 * half)
        yield frozenset(p for p in patches if p.y >= height // 2 * half)
    middle = frozenset(p for p in patches if 0 < p.y < height - 1 and 0 < p.x < width - 1)
    yield middle
    yield frozenset(patches) - middle
    for density, _ in itertools.product((0.2, 0.5, 0.8), range(trials)):
        yield frozenset(p for p in patches if rng.random() < density)


def _drawn(
    controller: DirectionController, grid: PatchGrid, known: Collection[PatchIndex], count: int | None = None
) -> list[Step]:
    """Return the steps of a plan, which holds all other laws of theirs by itself."""
    try:
        steps = list(itertools.islice(controller.plan(grid, known), count))
    except LawError as error:
        raise AssertionError(f"{type(controller).__name__}: grid {grid.shape}: {error.value}: {error.law}") from error
    _check_symmetries(controller, grid, steps)
    return steps


def _check_symmetries(controller: DirectionController, grid: PatchGrid, steps: Sequence[Step]) -> None:
    for step in steps:
        if step.symmetry not in SYMMETRIES:
            raise _broken(controller, "a symmetry is one of the eight", grid, step.patch, repr(step.symmetry))


def _check_plan(
    controller: DirectionController, grid: PatchGrid, known: frozenset[PatchIndex], rng: random.Random
) -> None:
    steps = _drawn(controller, grid, known)
    again = _drawn(controller, grid, rng.sample(sorted(known), len(known)))
    for step, other in itertools.zip_longest(steps, again):
        if step != other:
            raise _broken(controller, "the same arguments give the same plan", grid, (step or other).patch)


def _check_endless(controller: DirectionController, grid: PatchGrid, rng: random.Random, trials: int) -> None:
    if not controller.supports_endless(grid):
        try:
            controller.plan(grid)
        except UsageError:
            return
        raise _broken(controller, "a grid that supports_endless denies is refused", grid, None)
    axis = grid.shape.index(None)
    slab = PatchGrid(*(n or 1 for n in grid.shape)).size
    near = list(PatchGrid(*(n or 4 for n in grid.shape)))
    for trial in range(1 + trials):
        known = frozenset(p for p in near if trial and rng.random() < 0.4)
        steps = _drawn(controller, grid, known, 32 * slab)
        seen = {step.patch for step in steps} | known
        for patch in near:
            if patch not in seen:
                detail = f"it is not among the first {len(steps)} steps, {tuple(patch)[axis]} along the endless axis"
                raise _broken(controller, "a lazy plan reaches every patch", grid, patch, detail)


def check_photo_source(source: PhotoSource) -> None:
    """Check the laws of a source of photos; it is prepared for that.

    Args:
        source: one that holds a few photos.

    Raises:
        AssertionError: naming the law and what broke it.
    """
    import json

    from nuwa_lightning.data.reading import image_size, read_image

    name = type(source).__name__
    source.prepare()
    source.prepare()
    sides = {split: source.photos(split) for split in SPLITS}
    again = {split: source.photos(split) for split in SPLITS}
    assert sides == again, f"{name}: photos returns the same photos in the same order each time"
    assert sides["train"], f"{name}: there is a photo for training"
    keys = [photo.key for photos in sides.values() for photo in photos]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    assert not twice, f"{name}: keys are unique over both splits: {twice}"
    shared = {photo.scene or photo.key for photo in sides["train"]} & {p.scene or p.key for p in sides["val"]}
    assert not shared, f"{name}: a scene lies on one side: {sorted(shared)}"
    for photos in sides.values():
        for photo in photos:
            size = read_image(photo.path).size
            assert image_size(photo.path) == (size[1], size[0]), f"{name}: {photo.path} tells its size"
            assert isinstance(photo.caption, str), f"{name}: the caption of {photo.key} is text"
    for split in SPLITS:
        option, value = source.option(split)
        assert isinstance(option, str), f"{name}: option names an option"
        assert isinstance(value, str), f"{name}: option gives its value as text"
    json.dumps(source.record(), allow_nan=False)  # raises what is wrong with it


def check_writer(
    writer: ImageWriter | VideoWriter, suffix: str, *, read: Callable[[Path], Sequence[Pixels]] | None = None
) -> None:
    """Hold a writer of images or of videos to its laws on small outputs.

    Args:
        writer: an object of the class to be tested.
        suffix: of the outputs, such as ``.png``.
        read: returns the pixels of an output (of a video its frames) if the format gives all of them back unchanged.

    Raises:
        AssertionError: naming the class and the law.
    """
    metadata = {"prompt": "a, (b) \u5c71 ?> -->", "seed": 3, "nested": {"none": None, "list": [1, 2.5]}}
    video = isinstance(writer, VideoWriter)
    random_pixels = np.random.default_rng(0)
    for height, width in ((2, 2), (34, 58), (128, 16), (258, 130)) if video else ((1, 1), (1, 61), (53, 1), (257, 131)):
        frames_TYX3 = random_pixels.integers(0, 256, (3 if video else 1, height, width, 3), np.uint8)
        where = f"{shown(writer)}: {width}x{height}: "
        contents = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"output{suffix}"
                if isinstance(writer, VideoWriter):
                    writer.write(iter(frames_TYX3), path, metadata, fps=Fraction(12))
                else:
                    writer.write(ArraySource(frames_TYX3[0]), path, metadata)
                expected = sorted([path, *writer.companions(path)])
                assert sorted(Path(folder).iterdir()) == expected, f"{where}makes the output and nothing else"
                assert path.is_dir() == writer.folder, f"{where}is a folder where it says so"
                assert writer.read_metadata(path) == metadata, f"{where}metadata come back"
                if read is not None:
                    same = np.array_equal(np.asarray(read(path)), frames_TYX3 if video else frames_TYX3[0])
                    assert same, f"{where}pixels come back"
                files = sorted(found for found in Path(folder).rglob("*") if found.is_file())
                contents.append([(found.relative_to(folder), found.read_bytes()) for found in files])
        assert contents[0] == contents[1], f"{where}equal pixels make equal bytes"


class ArraySource:
    """An image in memory as a source of pixels.

    Args:
        pixels_YX3: uint8 sRGB.
    """

    band = 7

    def __init__(self, pixels_YX3: Pixels) -> None:
        self._pixels_YX3 = pixels_YX3
        self.height, self.width = pixels_YX3.shape[:2]

    def rows(self, start: int, stop: int) -> Pixels:
        """Return some rows."""
        return self._pixels_YX3[start:stop]


def _hold(part: object, law: str, holds: bool) -> None:
    if not holds:
        raise AssertionError(f"{type(part).__name__}: {law}")


def check_local_decoder(decoder: LocalDecoder, *, seed: int = 0) -> None:
    """Hold ``decoder`` to the laws of :class:`LocalDecoder` on small canvases of a model with random weights.

    Args:
        decoder: an object of the class to be tested.
        seed: of the model and of what is drawn.

    Raises:
        AssertionError: naming the class and the law.
    """
    import torch

    from nuwa_lightning.canvas.sample import sample_tokens
    from nuwa_lightning.generation.renderer import InfiniteRenderer
    from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TransformerConfig
    from nuwa_lightning.planning.context import NearbyContextPool
    from nuwa_lightning.planning.direction import RasterDirectionController

    hold = functools.partial(_hold, decoder)
    pool, grid, (rows, columns), K = NearbyContextPool((0, 1, 1)), PatchGrid(1, 2, 3), (2, 2), 16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PatchTransformer(
            K,
            4,
            patch_size=(rows, columns),
            embedding_extent=pool.embedding_extent,
            size=TransformerConfig(16, 1, num_heads=2, num_kv_heads=2, layer_scale=1.0),
            bidirectional=decoder.bidirectional,
            grouped=decoder.grouped,
        )
        model.set_codes(torch.randn(K, 4))
        torch.nn.init.normal_(model.head.weight, std=0.5)
    model = model.double().eval()  # rows side by side are the same in it but for the last bits

    def sampled(seeds: Sequence[int], known: Mapping[PatchIndex, Tensor] | None = None, max_rows: int = 64) -> Tensor:
        renderer = InfiniteRenderer(
            model, pool, RasterDirectionController(), "mirrored", max_rows=max_rows, local_decoder=decoder
        )
        try:
            return sample_tokens(renderer, grid, seeds=seeds, known=known)
        except RuntimeError as error:
            raise AssertionError(f"{type(decoder).__name__}: decode sets all tokens: {error}") from error

    seeds = [seed, seed + 1, seed + 2]
    tokens_BYX = sampled(seeds)
    hold("tokens are from 0 to K - 1", bool(((tokens_BYX >= 0) & (tokens_BYX < K)).all()))
    hold("decode is deterministic", torch.equal(sampled(seeds), tokens_BYX))
    apart_BYX = torch.cat([sampled([one], max_rows=1) for one in seeds])
    hold("a patch does not depend on patches beside it", torch.equal(apart_BYX, tokens_BYX))
    given_BYX = tokens_BYX[:, :rows, columns : 2 * columns].flip(0).clone()
    given_BYX[:, 0, 1] = ABSENT
    made_BYX = sampled(seeds, {PatchIndex(0, 0, 1): given_BYX})[:, :rows, columns : 2 * columns]
    hold("tokens that are given stay", bool(((made_BYX == given_BYX) | (given_BYX == ABSENT)).all()))
    for shape in ((1, 1, 1), (2, 3, 4), (3, 1, 64)):
        masks = [decoder.training_mask(shape, torch.Generator().manual_seed(seed)) for _ in range(2)]
        mask_BPN, again_BPN = masks
        if mask_BPN is None or again_BPN is None:
            hold("a bidirectional decoder hides tokens in training", not decoder.bidirectional)
            continue
        fits = mask_BPN.shape == shape and mask_BPN.dtype == torch.bool
        hold("training_mask is boolean [B, P, N]", fits)
        hold("training_mask hides something of each patch", bool(mask_BPN.any(dim=-1).all()))
        hold("training_mask draws by the generator alone", torch.equal(mask_BPN, again_BPN))


def check_tokenizer(tokenizer: Tokenizer, *, seed: int = 0, tolerance: float = 1e-4) -> None:
    """Hold ``tokenizer`` to the laws of :class:`Tokenizer` on small images.

    Args:
        tokenizer: an object of the class to be tested.
        seed: of the images.
        tolerance: how far pixels of pieces may be from those of the whole, in [-1, 1].

    Raises:
        AssertionError: naming the class and the law.
    """
    import torch

    from nuwa_lightning.tokenizers.tiling import decode_tiled, encode_tiled

    hold = functools.partial(_hold, tokenizer)
    hold("it has all members of a Tokenizer", isinstance(tokenizer, Tokenizer))
    size, factor = tokenizer.codebook_size, tokenizer.downsample_factor
    hold("codebook_KD holds K vectors of D numbers", tokenizer.codebook_KD.shape == (size, tokenizer.codebook_dim))
    hold("fingerprint stays the same", tokenizer.fingerprint() == tokenizer.fingerprint())
    generator = torch.Generator().manual_seed(seed)
    for height, width in ((1, 1), (3, 5), (2 * tokenizer.step + 3, tokenizer.step + 9)):
        image_B3YX = torch.rand(2, 3, height * factor, width * factor, generator=generator) * 2 - 1
        before = image_B3YX.clone()
        tokens_BYX = tokenizer.encode(image_B3YX)
        hold("encode leaves the image as it is", torch.equal(image_B3YX, before))
        hold(
            "encode gives one long token a square",
            tokens_BYX.shape == (2, height, width) and not tokens_BYX.is_floating_point(),
        )
        hold("tokens are from 0 to K - 1", bool(((tokens_BYX >= 0) & (tokens_BYX < size)).all()))
        hold("encode is deterministic", torch.equal(tokenizer.encode(image_B3YX), tokens_BYX))
        hold("an image is encoded by itself", torch.equal(tokenizer.encode(image_B3YX[1:]), tokens_BYX[1:]))
        drawn_BYX = torch.randint(size, (2, height, width), generator=generator)
        made_B3YX = tokenizer.decode(drawn_BYX)
        hold("decode gives factor x factor pixels a token", made_B3YX.shape == image_B3YX.shape)
        hold("pixels are finite", bool(torch.isfinite(made_B3YX).all()))
        for tile in (1, 2, 5):
            pieces_BYX = encode_tiled(tokenizer, image_B3YX, tile=tile)
            hold("pieces are encoded as the whole (encode_halo, step)", torch.equal(pieces_BYX, tokens_BYX))
            apart = float((decode_tiled(tokenizer, drawn_BYX, tile=tile) - made_B3YX).abs().max())
            hold("pieces are decoded as the whole (decode_halo, step)", apart <= tolerance)
