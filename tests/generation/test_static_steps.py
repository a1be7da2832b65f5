"""Steps of fixed shapes write what one token after another does, as they are and compiled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evaluation.benchmark.device import on_device
from evaluation.benchmark.figure import Settings
from evaluation.benchmark.ours import Size
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, LocalDecoder, StaticLocalDecoder
from nuwa_lightning.generation.pretrained import named_local_decoder
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TransformerConfig
from nuwa_lightning.planning.context import ContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController, DirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from tests.generation.test_jacobi import with_text
from tests.strategies import CONTROLLERS, POOLS

GRID = PatchGrid(1, 2, 3)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def model(pool: ContextPool, num_kv_heads: int, feed: str) -> PatchTransformer:
    torch.manual_seed(0)
    size = TransformerConfig(
        16, 2, num_heads=4, num_kv_heads=num_kv_heads, layer_scale=1.0, copy_head=True, position_feed=feed  # type: ignore[arg-type]
    )  # fmt: skip
    made = PatchTransformer(16, 4, patch_size=(3, 3), embedding_extent=pool.embedding_extent, size=size)
    made.set_codes(torch.randn(16, 4))
    torch.nn.init.normal_(made.head.weight, std=0.3)
    return made.eval()


def tokens(
    made: PatchTransformer,
    decoder: LocalDecoder,
    pool: ContextPool,
    direction: DirectionController,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    part: bool = False,
) -> list[Tensor]:
    known = {}
    if part:
        known[PatchIndex(0, 0, 0)] = torch.randint(0, 16, (2, 3, 3), generator=torch.Generator().manual_seed(1))
        known[PatchIndex(0, 0, 0)][:, 1, 1:] = ABSENT
    renderer = InfiniteRenderer(made, pool, direction, sampling=sampling, local_decoder=decoder)
    return [done.tokens_BYX for done in renderer.render(GRID, seeds=[3, 4], known=known)]


@settings(max_examples=20, deadline=None)
@given(
    pool=st.sampled_from(POOLS),
    direction=st.sampled_from(CONTROLLERS),
    num_kv_heads=st.sampled_from([1, 2, 4]),
    feed=st.sampled_from(["key", "head", "logit"]),
    noise=st.sampled_from(["uniform", "gumbel"]),
    sampling=st.builds(
        Sampling, st.sampled_from([0.0, 0.8, 1.0]), st.sampled_from([0, 5]), st.sampled_from([0.7, 1.0])
    ),
    part=st.booleans(),
)
def test_tokens_are_those_of_one_after_another(
    pool: ContextPool,
    direction: DirectionController,
    num_kv_heads: int,
    feed: str,
    noise: str,
    sampling: Sampling,
    part: bool,
) -> None:
    made = model(pool, num_kv_heads, feed)
    decoders = AutoregressiveLocalDecoder(noise), StaticLocalDecoder(noise)  # type: ignore[arg-type]
    expected, found = (tokens(made, each, pool, direction, sampling=sampling, part=part) for each in decoders)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_tokens_are_the_same(backend: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    torch.set_default_dtype(dtype)
    pool, direction = NearbyContextPool((0, 1, 1)), ArbitraryDirectionController()
    made = model(pool, 2, "key")
    plain, compiled = (tokens(made, StaticLocalDecoder(backend=each), pool, direction) for each in (None, backend))
    assert all(torch.equal(a, b) for a, b in zip(plain, compiled, strict=True))


def test_what_has_no_fixed_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="choose uniform or gumbel"):
        StaticLocalDecoder("white")  # type: ignore[arg-type]
    assert named_local_decoder("StaticLocalDecoder") == StaticLocalDecoder()
    pool, direction = NearbyContextPool((0, 1, 1)), ArbitraryDirectionController()
    made, text = with_text(pool, num_kv_heads=1, patch_size=(3, 3))
    with pytest.raises(UsageError, match="int8"):
        InfiniteRenderer(made, pool, direction, local_decoder=StaticLocalDecoder(), precision=Precision("int8"))
    assert made.text is not None
    with torch.no_grad():
        texts = made.text.states(text[:2], torch.ones(2, 4, dtype=torch.bool))
    renderer = InfiniteRenderer(made, pool, direction, local_decoder=StaticLocalDecoder())
    with pytest.raises(UsageError, match="texts have no fixed shape"):
        list(renderer.render(GRID, seeds=[1], prompts=Prompts(texts, lambda patch: (0,), 1.0)))


def test_the_benchmark_of_a_gpu_runs_on_a_cpu() -> None:
    torch.set_default_dtype(torch.float32)
    tiny, lines = Size("tiny", 1, 24, 3), list[str]()
    figures, times = on_device(
        "cpu", Settings(steps=2, rounds=1), lines.append, sizes=[tiny], fronts=(1, 2), backend="aot_eager"
    )
    assert {"one graph a step, front of 2", "the same, compiled, front of 1"} <= set(times["tiny"])
    assert all(each.median > 0 for each in times["tiny"].values())
    assert [f.name for f in figures if "share" in f.name] == [
        f"tiny, front of {n}: share of the memory's speed" for n in (1, 2)
    ]
