"""Filters and random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.sampling import Sampling, gumbel, patch_uniforms
from nuwa_lightning.planning.geometry import PatchIndex


def test_drawn_frequencies_are_the_filtered_distribution() -> None:
    torch.manual_seed(0)
    logits = torch.randn(8)
    uniform = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    drawn = Sampling(temperature=0.7, top_k=5).draw(logits.expand(20000, 8), uniform)
    expected = torch.full((8,), float("-inf"))
    keep = logits.topk(5).indices
    expected[keep] = logits[keep] / 0.7
    frequencies = torch.bincount(drawn, minlength=8) / 20000
    torch.testing.assert_close(frequencies, expected.softmax(0), atol=2e-4, rtol=0)


@given(p=st.floats(0.05, 1.0), seed=st.integers(0, 100), u=st.floats(0, 0.999999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(p: float, seed: int, u: float) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
    token = int(Sampling(top_k=0, top_p=p).draw(logits, torch.tensor([u], dtype=torch.float64)))
    probabilities = logits[0].double().softmax(0)
    better = probabilities[probabilities > probabilities[token]].sum()
    assert better < p


@given(p=st.floats(0.05, 0.999), temperature=st.floats(0.3, 2.0), seed=st.integers(0, 100), u=st.floats(0, 0.999))
def test_the_best_of_all_codes_are_those_of_a_sort(p: float, temperature: float, seed: int, u: float) -> None:
    logits_RK = 3 * torch.randn(3, 500, generator=torch.Generator().manual_seed(seed))
    sampling = Sampling(temperature, 0, p)
    drawn = sampling.draw(logits_RK, torch.full((3,), u, dtype=torch.float64))
    frozen = sampling.draw_frozen(logits_RK, torch.arange(3) + seed)
    for row, (token, again) in enumerate(zip(drawn.tolist(), frozen.tolist(), strict=True)):
        order = sorted(range(500), key=lambda code: -float(logits_RK[row, code]))
        weight = np.exp((logits_RK[row].double().numpy()[order] - float(logits_RK[row].max())) / temperature)
        before = np.cumsum(weight) / weight.sum() - weight / weight.sum()
        kept = int((before < p - 1e-12).sum())
        share = np.cumsum(weight[:kept]) / weight[:kept].sum()
        assert token in {order[min(int(np.searchsorted(share, v)), kept - 1)] for v in (u - 1e-9, u + 1e-9)}
        noise = gumbel(torch.tensor([row + seed]), torch.tensor(order[:kept])).numpy()
        assert again == order[int((np.log(weight[:kept]) + noise).argmax())]


def test_zero_temperature_is_greedy_and_rows_do_not_touch_each_other() -> None:
    logits = torch.randn(6, 20)
    uniform = torch.rand(6, dtype=torch.float64)
    assert torch.equal(Sampling(temperature=0).draw(logits, uniform), logits.argmax(1))
    together = Sampling().draw(logits, uniform)
    alone = [int(Sampling().draw(logits[i : i + 1], uniform[i : i + 1])) for i in range(6)]
    assert together.tolist() == alone


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=0, top_p=0.9), Sampling(top_p=0.9), Sampling(0)])
def test_nothing_is_read_back_from_a_device(sampling: Sampling) -> None:
    """Tensors without data have no numbers to be read; nor could a CUDA graph hold such a step."""
    logits_RK = torch.empty(3, 64, device="meta")
    assert sampling.draw(logits_RK, torch.empty(3, dtype=torch.float64, device="meta")).shape == (3,)
    assert sampling.draw_frozen(logits_RK, torch.empty(3, dtype=torch.long, device="meta")).shape == (3,)


@given(seed=st.integers(-(2**70), 2**70), y=st.integers(0, 10**9), x=st.integers(0, 10**9))
def test_streams_depend_on_seed_and_patch(seed: int, y: int, x: int) -> None:
    first = patch_uniforms(seed, PatchIndex(0, y, x), 4)
    assert torch.equal(first, patch_uniforms(seed, PatchIndex(0, y, x), 8)[:4])
    assert not torch.equal(first, patch_uniforms(seed + 1, PatchIndex(0, y, x), 4))
    assert not torch.equal(first, patch_uniforms(seed, PatchIndex(0, y + 1, x), 4))
    assert not torch.equal(first, patch_uniforms(seed, PatchIndex(1, y, x), 4))


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}])
def test_values_out_of_range_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(bad))}: "):
        Sampling(**bad)  # type: ignore[arg-type]
