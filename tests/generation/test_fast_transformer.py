"""Products in fewer bits: how near they stay to the exact ones, and that no row depends on another."""

from __future__ import annotations

import pytest
import torch

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.fast_transformer import DecodingTransformer, Precision, product
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig


@pytest.mark.parametrize(("number", "error"), [("float32", 1e-6), ("bfloat16", 0.01), ("int8", 0.02)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_is_a_linear_map(number, error, biased):
    torch.manual_seed(0)
    weight, bias = torch.randn(40, 64) / 8, torch.randn(40) if biased else None
    h, x = torch.randn(5, 64) * torch.tensor([[1e-3], [1.0], [1.0], [50.0], [0.0]]), torch.randn(5, 40)
    exact = torch.nn.functional.linear(h.double(), weight.double(), None if bias is None else bias.double())
    made = product(weight, bias, number)
    scale = h.norm(dim=1, keepdim=True) + (1 if biased else 0)
    assert ((made.of(h).double() - exact).abs() <= error * scale).all()
    added = made.add_to(x.clone(), h).double() - x.double()
    assert ((added - exact).abs() <= error * scale + 1e-6).all()


def test_in_int8_a_row_has_the_same_bits_in_any_company():
    torch.manual_seed(0)
    made, h = product(torch.randn(96, 64), torch.randn(96), "int8"), torch.randn(16, 64)
    together = made.of(h)
    assert all(torch.equal(made.of(h[n : n + 1])[0], together[n]) for n in range(16))
    assert torch.equal(made.of(torch.cat([h[3:5], 1000 * h[:2]]))[:2], together[3:5])


def test_the_input_is_that_of_training():
    torch.manual_seed(0)
    model = PatchTransformer(
        16, 4, patch_size=(2, 2), size=TransformerConfig(16, 1, num_heads=2, num_kv_heads=1)
    ).double()
    model.set_codes(torch.randn(16, 4).double())
    tokens, neighbors, symmetry = (
        torch.randint(0, 16, (3, 4)),
        torch.randint(-1, 16, (3, 4, 8)),
        torch.tensor([0, 5, 2]),
    )
    inputs = torch.full((3, 5, 9), -1)
    inputs[:, 1:, 0], inputs[:, :-1, 1:] = tokens, neighbors
    expected = model.embed_rows(tokens, symmetry, neighbors_RNK=neighbors)
    torch.testing.assert_close(DecodingTransformer(model).embed(inputs, symmetry, 0), expected, rtol=0, atol=1e-12)


def test_other_numbers_are_refused():
    with pytest.raises(UsageError, match="choose float32, bfloat16, int8"):
        Precision(weights="int3")  # type: ignore[arg-type]
