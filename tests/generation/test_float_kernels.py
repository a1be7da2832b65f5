"""Compiled loops in float32 do what PyTorch's operations do, rounding apart, and a row has the same bits anywhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.generation import cpu_kernels as module
from nuwa_lightning.generation.cpu_kernels import float_kernels
from nuwa_lightning.generation.fast_transformer import CompiledExact, DecodingTransformer, Exact, product
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, JacobiLocalDecoder, LocalDecoder
from nuwa_lightning.generation.patch_batch import RowBatch
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid
from tests.generation.some_context import SomeContext

pytestmark = pytest.mark.skipif(float_kernels() is None, reason="no C compiler, or a processor without AVX2")
SHAPES = [(576, 448), (40, 64), (2388, 447), (100, 30), (1, 1), (64, 16), (129, 5)]


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 13, 65])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_is_exact_but_for_rounding(outputs, inputs, rows, biased):
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if biased else None
    h, x = torch.randn(rows, inputs), torch.randn(rows, outputs)
    made = product(weight, bias, "float32")
    assert isinstance(made, CompiledExact)
    exact = F.linear(h.double(), weight.double(), None if bias is None else bias.double())
    room = 1e-6 * (h.abs().double() @ weight.abs().double().t() + 10)
    assert ((made.of(h) - exact).abs() <= room).all()
    assert ((made.add_to(x.clone(), h) - (x + exact)).abs() <= room).all()
    torch.testing.assert_close(made.of(h), Exact(weight, bias).of(h), rtol=1e-4, atol=1e-4)


def test_a_row_has_the_same_bits_in_any_company():
    torch.manual_seed(0)
    made, h = product(torch.randn(200, 300), torch.randn(200), "float32"), torch.randn(64, 300)
    together = made.of(h)
    for count in (1, 2, 3, 5, 6, 7, 8, 11, 16, 33):
        parts = torch.cat([made.of(h[start : start + count]) for start in range(0, 64, count)])
        assert torch.equal(parts, together), count


def test_threads_change_no_bit():
    torch.manual_seed(0)
    made, h = product(torch.randn(500, 64), None, "float32"), torch.randn(9, 64)
    alone = made.of(h)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(made.of(h), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("rows", "positions", "num_kv_heads", "num_heads", "width", "start", "size"),
    [(1, 1, 1, 7, 64, 1099, 1281), (3, 5, 7, 7, 64, 76, 100), (2, 3, 2, 4, 32, 33, 40), (2, 9, 1, 12, 64, 0, 9)],
)
def test_attention_is_attention(rows, positions, num_kv_heads, num_heads, width, start, size, masked):
    torch.manual_seed(0)
    compiled, end = float_kernels(), start + positions
    assert compiled is not None
    qkv = torch.randn(rows, positions, num_heads + 2 * num_kv_heads, width)
    own = torch.randn(num_kv_heads, width)
    k, v = (torch.randn(rows, num_kv_heads, size, width) for _ in range(2))
    k[:, :, start:], v[:, :, start:] = float("nan"), float("nan")  # is written, or not looked at
    bias = None
    if masked:
        bias = torch.randn(rows, size).masked_fill(torch.rand(rows, size) < 0.3, float("-inf"))
        bias[:, start:] = 0
    expected_k, expected_v = k.clone(), v.clone()
    q, new_k, new_v = qkv.split([num_heads, num_kv_heads, num_kv_heads], dim=2)
    expected_k[:, :, start:end] = new_k.transpose(1, 2) + own[:, None]
    expected_v[:, :, start:end] = new_v.transpose(1, 2)
    found = compiled.attend(qkv.flatten(0, 1).flatten(1), own, k, v, start=start, end=end, bias_RS=bias)
    assert torch.equal(k[:, :, :end], expected_k[:, :, :end])
    assert torch.equal(v[:, :, :end], expected_v[:, :, :end])
    for position in range(positions):
        seen = start + position + 1
        q_RGMD = q[:, position].unflatten(1, (num_kv_heads, -1)).double()
        logits = q_RGMD @ k[:, :, :seen].double().transpose(2, 3) / width**0.5
        if bias is not None:
            logits = logits + bias[:, None, None, :seen]
        expected = (logits.softmax(dim=-1) @ v[:, :, :seen].double()).reshape(rows, -1)
        torch.testing.assert_close(
            found.view(rows, positions, -1)[:, position].double(), expected, rtol=1e-5, atol=1e-5
        )


def random_model(feed: str, num_kv_heads: int) -> PatchTransformer:
    torch.manual_seed(0)
    size = TransformerConfig(
        64, 2, num_heads=2, num_kv_heads=num_kv_heads, position_feed=feed, layer_scale=1.0, copy_head=True
    )
    model = PatchTransformer(32, 4, patch_size=(3, 3), embedding_extent=(0, 1, 1), size=size).eval()
    model.set_codes(torch.randn(32, 4))
    torch.nn.init.normal_(model.head.weight, std=0.3)
    assert model.copy_head is not None
    torch.nn.init.normal_(model.copy_head.linear.weight, std=0.2)
    return model


@pytest.mark.parametrize(("feed", "num_kv_heads"), [("key", 1), ("key", 2), ("head", 2), ("logit", 2)])
@torch.inference_mode()
def test_a_whole_model_scores_alike_and_windows_change_no_bit(feed, num_kv_heads):
    model = random_model(feed, num_kv_heads)
    inputs = torch.randint(-1, 32, (3, 10, 9))
    looped = []

    def scores(loops: bool, parts: list[int], rows: slice) -> torch.Tensor:
        made = DecodingTransformer(model, loops=loops)
        context = SomeContext(3, num_kv_heads, 9, 32, made.dtype)
        batch = RowBatch(
            made, torch.zeros(3, dtype=torch.long)[rows], context=context.rows(rows),
            offset_RC=torch.tensor([[0, 1]] * 3)[rows], relative_symmetry_RC=torch.zeros(3, 2, dtype=torch.long)[rows],
        )  # fmt: skip
        looped.append(batch.alone)
        found, start = [], 0
        for count in parts:
            x_RlW = batch.advance(inputs[rows, start : start + count])
            near = inputs[rows, start : start + count, 1:].flatten(0, 1)
            found.append(made.logits(x_RlW.flatten(0, 1), near).unflatten(0, (-1, count)))
            start += count
        return torch.cat(found, dim=1)

    every = slice(0, 3)
    plain, compiled = scores(False, [10], every), scores(True, [10], every)
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
    if looped[-1]:
        for parts in ([1] * 10, [3, 7], [4, 4, 2], [1, 9]):
            assert torch.equal(scores(True, parts, every), compiled), parts
        assert torch.equal(scores(True, [2] * 5, slice(1, 2)), compiled[1:2])
    assert looped[:2] == [False, feed == "key" or feed == "head"]


def tokens(decoder: LocalDecoder, max_rows: int, seeds: list[int]) -> torch.Tensor:
    pool = NearbyContextPool((0, 1, 1))
    torch.manual_seed(0)
    size = TransformerConfig(64, 2, num_heads=2, num_kv_heads=2, layer_scale=1.0, copy_head=True)
    model = PatchTransformer(64, 4, patch_size=(6, 6), embedding_extent=pool.embedding_extent, size=size).eval()
    model.set_codes(torch.randn(64, 4))
    torch.nn.init.normal_(model.head.weight, std=0.1)
    renderer = InfiniteRenderer(model, pool, ArbitraryDirectionController(), max_rows=max_rows, local_decoder=decoder)
    return sample_tokens(renderer, PatchGrid(1, 3, 5), seeds=seeds)


def test_in_float32_fronts_and_windows_change_no_token():
    expected = tokens(AutoregressiveLocalDecoder(noise="gumbel"), 1, [3, 4, 5])
    for decoder in (AutoregressiveLocalDecoder(noise="gumbel"), JacobiLocalDecoder(), JacobiLocalDecoder(5)):
        for max_rows in (2, 64):
            assert torch.equal(tokens(decoder, max_rows, [3, 4, 5]), expected), (decoder, max_rows)


def test_without_a_compiler_pytorch_does_it(monkeypatch, tmp_path):
    monkeypatch.setenv("NUWA_LIGHTNING_CACHE", str(tmp_path))
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert module.float_kernels.__wrapped__() is None
    monkeypatch.setattr(module.torch.cpu, "get_capabilities", lambda: {"avx2": False})
    assert module.float_kernels.__wrapped__() is None
    monkeypatch.setattr("nuwa_lightning.generation.fast_transformer.float_kernels", lambda: None)
    assert isinstance(product(torch.randn(4, 4), None, "float32"), Exact)
