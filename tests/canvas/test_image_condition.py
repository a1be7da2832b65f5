"""A given image on its canvas: what is known, and that none of its pixels changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nuwa_lightning.canvas.decoding import Crop, DecodedImage, TileDecoder
from nuwa_lightning.canvas.image_condition import Expansion, ImageCondition
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TransformerConfig
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.tokenizers.tiling import Rectangle, encode_tiled

SIDES = ("left", "right", "up", "down")
COMBINATIONS = [c for n in range(1, 5) for c in itertools.combinations(SIDES, n)]
PATCH = (2, 2)


@pytest.fixture(scope="module")
def tokenizer() -> VQGAN:
    torch.manual_seed(0)
    size = VQGANConfig.from_dict(
        {
            **VQGANConfig().as_dict(),
            "codebook_size": 16,
            "codebook_dim": 4,
            "encoder_channels": [8, 12],
            "encoder_blocks": [1, 1],
            "decoder_channels": [12, 8],
            "decoder_blocks": [1, 1],
        }
    )
    return VQGAN.build(size).eval()


@pytest.fixture(scope="module")
def renderer() -> InfiniteRenderer:
    torch.manual_seed(1)
    size = TransformerConfig(16, 1, num_heads=2, num_kv_heads=1)
    model = PatchTransformer(16, 4, patch_size=PATCH, embedding_extent=(0, 1, 1), size=size)
    torch.nn.init.normal_(model.head.weight)
    return InfiniteRenderer(model.eval(), NearbyContextPool((0, 1, 1)), ArbitraryDirectionController())


@pytest.fixture(scope="module")
def photo(sample_photos: dict[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return sample_photos["china.jpg"]


def finish(given: ImageCondition, tokenizer: VQGAN, renderer: InfiniteRenderer, tile: int = 64) -> NDArray[np.uint8]:
    tokens_YX = sample_tokens(renderer, given.grid, seeds=[1], known=given.known)[0]
    height, width = tokens_YX.shape

    def read(area: Rectangle) -> torch.Tensor:
        return tokens_YX[area.top : area.bottom, area.left : area.right]

    tiles = TileDecoder(tokenizer, (height, width), read, tile=tile, finish=given)
    return DecodedImage(tiles, Crop(given.size, given.origin)).rows(0, given.size[0])


@pytest.mark.parametrize("sides", COMBINATIONS, ids="+".join)
def test_known_pixels_stay_whatever_the_sides(photo, tokenizer, renderer, sides: tuple[str, ...]) -> None:
    image = photo[100:161, 200:275]  # 61 x 75: no multiple of anything
    amounts = dict(zip(SIDES, (21, 16, 9, 40), strict=True))
    grown = Expansion(**{side: amounts[side] for side in sides})
    given = ImageCondition(image, expansion=grown, tokenizer=tokenizer, patch_size=PATCH, blend=6)
    assert given.size == (61 + grown.up + grown.down, 75 + grown.left + grown.right)
    canvas = finish(given, tokenizer, renderer)
    assert np.array_equal(canvas[grown.up : grown.up + 61, grown.left : grown.left + 75], image)
    assert len(np.unique(canvas[:, : max(1, grown.left)])) > 1
    assert canvas.std() > 1


@pytest.mark.parametrize("grown", [Expansion(), Expansion(left=10, down=3)], ids=str)
def test_holes_are_written_anew_and_nothing_else(photo, tokenizer, renderer, grown: Expansion) -> None:
    image = photo[:64, 300:380]
    holes = np.zeros((64, 80), bool)
    holes[20:37, 30:70] = holes[60:, :5] = holes[3, 3] = True
    given = ImageCondition(image, holes_YX=holes, expansion=grown, tokenizer=tokenizer, patch_size=PATCH, blend=4)
    canvas = finish(given, tokenizer, renderer)[grown.up : grown.up + 64, grown.left : grown.left + 80]
    assert np.array_equal(canvas[~holes], image[~holes])
    assert not np.array_equal(canvas[holes], image[holes])
    other = image.copy()
    other[holes] = 77  # what was in the holes never shows
    blind = ImageCondition(other, holes_YX=holes, expansion=grown, tokenizer=tokenizer, patch_size=PATCH, blend=4)
    assert np.array_equal(finish(blind, tokenizer, renderer)[grown.up : grown.up + 64, grown.left :][:, :80], canvas)


def test_tokens_are_those_of_the_image_alone(photo, tokenizer) -> None:
    image, f = photo[:48, :64], tokenizer.downsample_factor
    side = PATCH[0] * f
    given = ImageCondition(image, expansion=Expansion(right=30, up=5), tokenizer=tokenizer, patch_size=PATCH)
    image = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None] / 127.5 - 1
    tokens = encode_tiled(
        tokenizer, torch.nn.functional.pad(image, (0, -image.shape[3] % f, 0, -image.shape[2] % f), mode="replicate")
    )[0]
    for patch, known in given.known.items():
        top, left = patch.y * side - given.origin[0] - 5, patch.x * side - given.origin[1]
        there = tokens[top // f : top // f + 2, left // f : left // f + 2]
        assert torch.equal(known[0], there)
    assert len(given.known) == (48 // side) * (64 // side)


def test_the_grid_follows_the_side_that_is_built_upon(photo, tokenizer) -> None:
    image, side = photo[: 3 * 8 + 5, : 4 * 8 + 3], PATCH[0] * tokenizer.downsample_factor
    height, width = image.shape[:2]

    def made(**sides: int) -> ImageCondition:
        return ImageCondition(image, expansion=Expansion(**sides), tokenizer=tokenizer, patch_size=PATCH)

    def parts(given: ImageCondition) -> list[PatchIndex]:
        return [patch for patch, tokens in given.known.items() if (tokens == ABSENT).any()]

    for sides in ({"left": 7}, {"right": 7}, {"up": 9}, {"down": 9}, {"left": 3, "up": 5}):
        given = made(**sides)
        assert parts(given) == []
        assert (given.origin[1] + sides.get("left", 0)) % side == 0 or "left" not in sides
        assert (given.origin[1] + width) % side == 0 or "right" not in sides
        assert (given.origin[0] + height) % side == 0 or "down" not in sides
    both = made(left=8, right=8)
    assert {patch.x for patch in parts(both)} <= {both.grid.x - 1 - 8 // side, both.grid.x - 2}
    assert both.origin[1] == -8 % side


def test_small_tiles_give_the_same_image(photo, tokenizer, renderer) -> None:
    given = ImageCondition(
        photo[50:90, 50:110], expansion=Expansion(20, 13, 0, 17), tokenizer=tokenizer, patch_size=PATCH, blend=8
    )
    whole = finish(given, tokenizer, renderer, tile=64).astype(int)
    pieces = finish(given, tokenizer, renderer, tile=3).astype(int)
    assert np.abs(whole - pieces).max() <= 1  # float sums in another order, rounded
    assert (whole != pieces).mean() < 1e-3


def test_blending_softens_the_border(photo, tokenizer, renderer) -> None:
    image = photo[100:164, 200:264]
    steps = []
    for blend in (0, 8):
        given = ImageCondition(image, expansion=Expansion(right=32), tokenizer=tokenizer, patch_size=PATCH, blend=blend)
        canvas = finish(given, tokenizer, renderer).astype(int)
        steps.append(np.abs(canvas[:, 64] - canvas[:, 63]).mean())
    assert steps[1] < 0.75 * steps[0]


def test_what_makes_no_sense_is_refused(photo, tokenizer) -> None:
    with pytest.raises(ValueError, match="holes of"):
        ImageCondition(photo[:32, :32], holes_YX=np.ones((3, 3), bool), tokenizer=tokenizer, patch_size=PATCH)
    with pytest.raises(ValueError, match="no pixel"):
        ImageCondition(photo[:32, :32], holes_YX=np.ones((32, 32), bool), tokenizer=tokenizer, patch_size=PATCH)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield
