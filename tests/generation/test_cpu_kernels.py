"""Compiled loops do what PyTorch's operations do: the same bits where numbers are whole, rounding apart elsewhere."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch
import torch.nn.functional as F

from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.generation import cpu_kernels as module
from nuwa_lightning.generation.cpu_kernels import kernels
from nuwa_lightning.generation.fast_transformer import CompiledInt8, DecodingTransformer, Int8, Precision, product
from nuwa_lightning.generation.patch_batch import RowBatch
from nuwa_lightning.generation.renderer import InfiniteRenderer, Rendering
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid
from tests.generation.some_context import SomeContext

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C compiler, or a processor without AVX-512 VNNI")


@pytest.mark.parametrize(
    ("outputs", "inputs", "rows"), [(576, 448, 1), (40, 64, 5), (2388, 447, 17), (100, 30, 2), (1, 1, 3), (64, 16, 33)]
)
def test_a_compiled_product_has_the_same_bits(outputs, inputs, rows):
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    h, x = torch.randn(rows, inputs) * torch.logspace(-3, 3, rows)[:, None], torch.randn(rows, outputs)
    h[rows // 2] = 0
    compiled, plain = product(weight, bias, "int8"), Int8(weight, bias)
    assert isinstance(compiled, CompiledInt8)
    # Sums are whole numbers and exact; what follows are a product and a sum, rounded once or twice.
    torch.testing.assert_close(compiled.of(h), plain.of(h), rtol=1e-6, atol=1e-6 * float(h.abs().max()))
    added = compiled.add_to(x.clone(), h), plain.add_to(x.clone(), h)
    torch.testing.assert_close(*added, rtol=1e-6, atol=1e-6 * float(h.abs().max()))
    exact = F.linear(h.double(), weight.double(), bias.double())
    assert ((compiled.of(h) - exact).norm(dim=1) <= 0.02 * (exact.norm(dim=1) + 1)).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("rows", "num_kv_heads", "num_heads", "width", "end", "size"),
    [
        (1, 1, 7, 64, 1100, 1281),
        (3, 7, 7, 64, 77, 100),
        (2, 2, 4, 32, 33, 40),
        (2, 1, 12, 64, 1, 9),
        (1, 1, 1, 32, 16, 16),
    ],
)
def test_compiled_attention_is_attention(rows, num_kv_heads, num_heads, width, end, size, masked):
    torch.manual_seed(0)
    q = 3 * torch.randn(rows, num_heads, width)
    k, v = (torch.randn(rows, num_kv_heads, size, width).bfloat16() for _ in range(2))
    k[:, :, end:] = float("nan")  # is not looked at
    bias = None
    if masked:
        bias = torch.randn(rows, size).masked_fill(torch.rand(rows, size) < 0.3, float("-inf"))
        bias[:, end - 1] = 0
    compiled = kernels()
    assert compiled is not None
    found = compiled.attend(q, k, v, end, bias)
    q_RGMD = q.view(rows, num_kv_heads, num_heads // num_kv_heads, width).double()
    logits = q_RGMD @ k[:, :, :end].double().transpose(2, 3) / width**0.5
    if bias is not None:
        logits = logits + bias[:, None, None, :end]
    expected = (logits.softmax(dim=-1) @ v[:, :, :end].double()).reshape(rows, -1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("feed", "num_kv_heads"), [("key", 1), ("key", 2), ("logit", 1)])
def test_a_whole_model_scores_alike_with_and_without_them(feed, num_kv_heads, monkeypatch):
    torch.manual_seed(0)
    size = TransformerConfig(64, 2, num_heads=2, num_kv_heads=num_kv_heads, position_feed=feed)
    model = PatchTransformer(32, 4, patch_size=(2, 2), size=size).eval()
    model.set_codes(torch.randn(32, 4))
    torch.nn.init.normal_(model.head.weight)
    inputs = torch.full((3, 5, 9), -1)
    inputs[:, 1:, 0] = torch.randint(0, 32, (3, 4))

    def scores() -> tuple[torch.Tensor, torch.dtype]:
        made = DecodingTransformer(model, Precision("int8", "bfloat16"))
        rows = RowBatch(
            made, torch.zeros(3, dtype=torch.long), context=SomeContext(3, num_kv_heads, 4, 32, made.dtype),
            offset_RC=torch.tensor([[0, 1]] * 3), relative_symmetry_RC=torch.zeros(3, 2, dtype=torch.long),
        )  # fmt: skip
        steps = [made.logits(rows.advance(inputs[:, n : n + 1]).flatten(0, 1)) for n in range(5)]
        return torch.stack(steps), made.dtype

    with torch.inference_mode():
        compiled, dtype = scores()
        assert dtype == torch.bfloat16
        monkeypatch.setattr("nuwa_lightning.generation.fast_transformer.kernels", lambda: None)
        plain, dtype = scores()
        assert dtype == torch.float32
    assert float((compiled - plain).norm() / plain.norm()) < 0.02


def test_without_a_compiler_pytorch_does_it(monkeypatch, tmp_path):
    monkeypatch.setenv("NUWA_LIGHTNING_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert module.kernels.__wrapped__() is None
    monkeypatch.setattr(module.shutil, "which", lambda name: "/bin/false")
    assert module.kernels.__wrapped__() is None
    assert not list((tmp_path / "kernels").iterdir())
    monkeypatch.setattr(module.torch.cpu, "get_capabilities", lambda: {"avx512_vnni": False})
    assert module.kernels.__wrapped__() is None


def test_a_folder_that_others_may_write_to_is_not_trusted(monkeypatch, tmp_path):
    monkeypatch.setenv("NUWA_LIGHTNING_CACHE", str(tmp_path))
    (tmp_path / "kernels").mkdir(mode=0o755)
    assert module.kernels.__wrapped__() is not None
    (tmp_path / "kernels").chmod(0o777)
    assert module.kernels.__wrapped__() is None


def test_it_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("NUWA_LIGHTNING_CACHE", str(tmp_path))
    before = os.umask(0)  # one that would let others write
    try:
        assert module.kernels.__wrapped__() is not None
    finally:
        os.umask(before)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert module.kernels.__wrapped__() is not None
    assert len(list((tmp_path / "kernels").iterdir())) == 1


def test_canvases_in_int8_go_on_to_the_bit_and_hardly_heed_the_width_of_waves():
    torch.manual_seed(0)
    pool = NearbyContextPool((0, 1, 1))
    size = TransformerConfig(64, 2, num_heads=2, num_kv_heads=1, layer_scale=1.0)
    model = PatchTransformer(32, 4, patch_size=(2, 2), embedding_extent=pool.embedding_extent, size=size).eval()
    model.set_codes(torch.randn(32, 4))
    torch.nn.init.normal_(model.head.weight)

    def renderer(rows: int) -> InfiniteRenderer:
        direction, precision = ArbitraryDirectionController(), Precision("int8", "bfloat16")
        return InfiniteRenderer(model, pool, direction, sampling=Sampling(top_k=0), max_rows=rows, precision=precision)

    grid = PatchGrid(1, 4, 6)
    first, whole = Rendering(renderer(8), grid, seeds=[0]), sample_tokens(renderer(8), grid, seeds=[0])
    early = [done for _ in range(5) for done in next(first)]
    late = [
        done for wave in Rendering(renderer(8), grid, seeds=[0], decoding_state=first.decoding_state()) for done in wave
    ]
    assert len(early) + len(late) == grid.size
    for done in (*early, *late):
        y, x = 2 * done.patch.y, 2 * done.patch.x
        assert torch.equal(whole[:, y : y + 2, x : x + 2], done.tokens_BYX)
    # Products and attention do not, but the embedding and the norms, in float32, may round by the number of rows.
    assert float((sample_tokens(renderer(1), grid, seeds=[0]) == whole).double().mean()) > 0.95
