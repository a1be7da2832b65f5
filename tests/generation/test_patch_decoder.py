"""What a local decoder has in hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nuwa_lightning.generation.fast_transformer import DecodingTransformer
from nuwa_lightning.generation.patch_batch import RowBatch
from nuwa_lightning.generation.patch_decoder import GuidanceBatch, PatchDecoder, own_neighbors, readers
from nuwa_lightning.models.layout import neighbor_positions
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TransformerConfig
from nuwa_lightning.planning.geometry import SYMMETRIES

PATCH, R = (2, 2), 3


class Nothing:
    valid_RC = torch.ones(R, 0, dtype=torch.bool)

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        return torch.empty(R, 0, 1, 4, 8), torch.empty(R, 0, 1, 4, 8)


def writer(given: Tensor | None = None) -> PatchDecoder:
    torch.manual_seed(0)
    model = PatchTransformer(
        16, 4, patch_size=PATCH, size=TransformerConfig(16, 2, num_heads=2, num_kv_heads=1, layer_scale=1.0)
    )
    model = model.double().eval()
    model.set_codes(torch.randn(16, 4).double())
    none = torch.zeros(R, 0, dtype=torch.long)
    with torch.inference_mode():
        rows = RowBatch(
            DecodingTransformer(model),
            torch.tensor([0, 1, 2]),
            context=Nothing(),
            offset_RC=none,
            relative_symmetry_RC=none,
        )
    neighbors = torch.randint(-1, 16, (R, 4, 8))
    neighbors[:, own_neighbors(PATCH, "mirrored") != ABSENT] = ABSENT
    given = torch.full((R, 4), ABSENT) if given is None else given
    return PatchDecoder(rows, neighbors=neighbors, given=given, guidance=GuidanceBatch(None, R), token_order="mirrored")


@pytest.mark.parametrize("order", ["mirrored", "raster"])
def test_neighbours_inside_a_patch_are_the_same_in_every_view(order):
    size = (3, 3)
    for symmetry in SYMMETRIES:
        assert torch.equal(neighbor_positions(symmetry, (), size, order)[0], own_neighbors(size, order))
    flat = torch.full((10, 9), ABSENT)
    for place, inputs in enumerate(readers(size, order)):
        flat.flatten()[inputs] = place
    assert torch.equal(flat[:-1, 1:], own_neighbors(size, order))
    assert flat[1:, 0].tolist() == list(range(9))


@torch.inference_mode()
def test_tokens_one_by_one_together_and_drafted_give_the_same_scores():
    tokens = torch.randint(0, 16, (R, 4))
    one, all_at_once, drafted = writer(), writer(), writer()
    scores = []
    for n in range(4):
        scores.append(one.logits([n])[:, 0])
        one.set_tokens([n], tokens[:, n : n + 1])
    exact = torch.stack(scores, dim=1)
    all_at_once.set_tokens(range(4), tokens)
    torch.testing.assert_close(all_at_once.logits(range(4)), exact, rtol=0, atol=1e-12)
    # A draft of four tokens, two of them wrong: its first two scores hold, then it is written anew from there.
    wrong = tokens.clone()
    wrong[:, 1:3] = (wrong[:, 1:3] + 1) % 16
    drafted.set_tokens(range(4), wrong)
    torch.testing.assert_close(drafted.logits(range(4))[:, :2], exact[:, :2], rtol=0, atol=1e-12)
    drafted.set_tokens([1], tokens[:, 1:2])
    drafted.set_tokens([2], tokens[:, 2:3])
    torch.testing.assert_close(drafted.logits([2, 3]), exact[:, 2:], rtol=0, atol=1e-12)
    states = [made.states() for made in (one, all_at_once, drafted)]
    for other in states[1:]:
        for a, b in zip((*states[0].keys, *states[0].values), (*other.keys, *other.values), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@torch.inference_mode()
def test_given_tokens_stay():
    given = torch.full((R, 4), ABSENT)
    given[1, 2] = 7
    made = writer(given)
    for n in range(4):
        made.logits([n])
        made.set_tokens([n], torch.full((R, 1), 3))
    assert made.tokens_RN.tolist() == [[3, 3, 3, 3], [3, 3, 7, 3], [3, 3, 3, 3]]
    made.set_tokens(range(4), torch.full((R, 4), ABSENT))
    assert made.tokens_RN[1].tolist() == [ABSENT, ABSENT, 7, ABSENT]


@torch.inference_mode()
def test_an_unfinished_patch_leaves_no_states():
    rows = writer().batch
    with pytest.raises(RuntimeError, match="0 of 5 positions"):
        rows.states()
    with pytest.raises(ValueError, match="cannot go back to position 1"):
        rows.rewind(1)
