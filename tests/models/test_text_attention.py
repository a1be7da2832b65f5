from __future__ import annotations

import pytest
import torch

from nuwa_lightning.models.nuwa_infinity import (
    ContextGroup,
    PatchTransformer,
    TextConditioning,
    TextStates,
    TransformerConfig,
)

SIZE = TransformerConfig(16, 2, num_heads=4, num_kv_heads=2, layer_scale=1.0)


def build(text_dim: int, *, seed: int = 0) -> PatchTransformer:
    torch.manual_seed(seed)
    return PatchTransformer(12, 4, patch_size=(2, 2), embedding_extent=(0, 1, 1), size=SIZE, text_dim=text_dim)


def conditioning() -> TextConditioning:
    torch.manual_seed(1)
    return TextConditioning(6, TransformerConfig(16, 2, 4, layer_scale=0.5)).eval()


def score(model: PatchTransformer, text: TextStates | None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    tokens_BPN = torch.randint(0, 12, (2, 3, 4), generator=generator)
    neighbors = torch.full((2, 3, 4, 8), -1)
    alone = ContextGroup(torch.arange(3), *(torch.zeros(3, 0, dtype=torch.long) for _ in range(3)))
    return model(tokens_BPN, torch.zeros(2, 3, dtype=torch.long), neighbors_BPNK=neighbors, groups=[alone], text=text)


def test_a_model_without_text_is_the_same_to_the_bit() -> None:
    without, with_text = build(0), build(6)
    assert not [name for name in without.state_dict() if "text" in name]
    for name, weight in without.state_dict().items():
        assert torch.equal(weight, with_text.state_dict()[name])


def test_one_layer_equals_torchs_own_attention() -> None:
    text = conditioning()
    layer = text.layer(1)
    x_RLW, text_BSE = torch.randn(4, 3, 16), torch.randn(2, 5, 6)
    seen = torch.tensor([[True] * 5, [True, True, False, False, False]])
    out = layer.read(x_RLW, text.states(text_BSE, seen), layer=1)
    reference = torch.nn.MultiheadAttention(16, 4, bias=False, batch_first=True)
    reference.in_proj_weight.data = torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]).detach()
    reference.out_proj.weight.data = layer.out.weight.detach()
    memory = text.norm(torch.cat([text.no_text.expand(2, 1, -1), text.project(text_BSE)], dim=1))
    token_mask = ~torch.cat([torch.ones(2, 1, dtype=torch.bool), seen], dim=1)
    mixed, _ = reference(layer.norm(x_RLW.view(2, 6, 16)), memory, memory, key_padding_mask=token_mask)
    expected = x_RLW + layer.scale * (mixed + layer.out.bias).reshape(4, 3, 16)
    torch.testing.assert_close(out, expected)


def test_what_is_not_seen_does_not_matter() -> None:
    text = conditioning()
    x, long = torch.randn(2, 3, 16), torch.randn(2, 5, 6)
    seen = torch.arange(5).expand(2, 5) < 2
    changed = torch.where(seen[..., None], long, torch.full_like(long, 7.0))
    for number in (0, 1):
        first = text.layer(number).read(x, text.states(long, seen), layer=number)
        assert torch.equal(first, text.layer(number).read(x, text.states(changed, seen), layer=number))
        short = text.layer(number).read(x, text.states(long[:, :2], seen[:, :2]), layer=number)
        torch.testing.assert_close(first, short)


def test_no_text_is_finite_and_differs_from_a_text() -> None:
    text = conditioning()
    x, words = torch.randn(1, 3, 16), torch.randn(1, 5, 6)
    nothing = text.layer(0).read(x, text.states(words, torch.zeros(1, 5, dtype=torch.bool)), layer=0)
    something = text.layer(0).read(x, text.states(words, torch.ones(1, 5, dtype=torch.bool)), layer=0)
    assert bool(nothing.isfinite().all())
    assert not torch.allclose(nothing, something)
    empty = text.layer(0).read(x, text.states(words[:, :0], torch.zeros(1, 0, dtype=torch.bool)), layer=0)
    torch.testing.assert_close(nothing, empty)


def test_each_sample_reads_its_own_text() -> None:
    model = build(6)
    torch.nn.init.normal_(model.head.weight)
    assert model.text is not None
    words, seen = torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool)
    both = score(model, model.text.states(words, seen))
    other = score(model, model.text.states(torch.stack([words[0], words[0]]), seen))
    torch.testing.assert_close(both[0], other[0])
    assert not torch.allclose(both[1], other[1])


def test_text_where_there_is_none_and_none_where_there_is_are_refused() -> None:
    words = conditioning().states(torch.randn(2, 1, 6), torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="takes none"):
        score(build(0), words)
    with pytest.raises(ValueError, match="needs text"):
        score(build(6), None)
