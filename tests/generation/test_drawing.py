"""Drawing from all codes that reach p: the same codes as by hand, by compiled loops and by a sort, in any company."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nuwa_lightning.generation import sampling as module
from nuwa_lightning.generation.cpu_kernels import drawing_kernel
from nuwa_lightning.generation.sampling import Sampling, gumbel

SHARES = [1e-12, 1e-3, 0.25, 0.5, 0.75, 0.9, 0.999, 1 - 1e-9, 1 - 2**-53]
TEMPERATURES = [1e-320, 1e-30, 1e-3, 0.3, 1.0, 1.7, 1e3, 1e300]
KINDS = ["normal", "peaked", "few", "halves", "flat", "nearly flat", "steps", "holes", "one", "huge", "tail"]


def scores(kind: str, R: int, K: int, seed: int) -> Tensor:
    """Return scores ``[R, K]`` of a kind that something might stumble over."""
    random = torch.Generator().manual_seed(seed)
    normal_RK = torch.randn(R, K, generator=random)
    whole_RK = torch.randint(0, 4, (R, K), generator=random).float()
    return {
        "normal": 2.5 * normal_RK,
        "peaked": 40 * normal_RK,
        "few": whole_RK - 7,
        "halves": (3 * normal_RK).bfloat16(),
        "flat": torch.full((R, K), 1.5),
        "nearly flat": 1 + normal_RK * 1e-7,
        "steps": whole_RK * 0.6931472,  # weights that are hardly off powers of two
        "holes": normal_RK.masked_fill((whole_RK > 0) & (torch.arange(K) > 0), float("-inf")),
        "one": torch.full((R, K), float("-inf")).index_fill(1, torch.tensor([K // 2]), 0.0),
        "huge": 3e38 * normal_RK.sign() * whole_RK.clamp_max(1),
        "tail": torch.where(whole_RK > 0, normal_RK - 33, normal_RK),
    }[kind]


def by_hand(score_K: Tensor, temperature: float, p: float, u: float) -> tuple[int, list[int], float]:
    """Return the code that ``u`` draws, all that might have been drawn, and where the drawn one ends."""
    score = score_K.float().tolist()
    order = sorted(range(len(score)), key=lambda code: (-score[code], code))
    below = torch.tensor([score[code] - score[order[0]] for code in order], dtype=torch.float64)
    sums = list(accumulate((below / temperature).exp().tolist()))
    last = next(n for n, reached in enumerate(sums) if reached >= p * sums[-1])
    place = next((n for n, reached in enumerate(sums[:last]) if reached > u * sums[last]), last)
    return order[place], order[: last + 1], sums[place] / sums[last]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "sorted"])
@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    R=st.integers(1, 4),
    K=st.sampled_from([1, 2, 15, 16, 17, 100, 500, 1031]),
    temperature=st.sampled_from(TEMPERATURES) | st.floats(0.1, 5.0),
    p=st.sampled_from(SHARES) | st.floats(0.001, 0.999),
    u=st.sampled_from([0.0, 1e-12, 0.25, 0.5, 0.75, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True),
    edge=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_codes_are_those_by_hand(
    compiled: bool, kind: str, R: int, K: int, temperature: float, p: float, u: float, edge: bool, seed: int
) -> None:
    logits_RK, sampling = scores(kind, R, K, seed), Sampling(temperature, 0, p)
    key_R = torch.arange(R) + seed
    if edge:
        u = min(by_hand(logits_RK[0], temperature, p, u)[2], 1 - 2**-53)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(module, "drawing_kernel", lambda: None)
        drawn_R = sampling.draw(logits_RK, torch.full((R,), u, dtype=torch.float64))
        frozen_R = sampling.draw_frozen(logits_RK, key_R)
    for r in range(R):
        code, kept, _ = by_hand(logits_RK[r], temperature, p, u)
        assert int(drawn_R[r]) == code
        below = logits_RK[r].double() - logits_RK[r].double().max()
        noisy = below[kept] / temperature + gumbel(key_R[r], torch.tensor(kept))
        assert float(noisy.max()) == float(noisy[kept.index(int(frozen_R[r]))])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "sorted"])
def test_a_row_draws_the_same_in_any_company(kind: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(module, "drawing_kernel", lambda: None)
    logits_RK, sampling = scores(kind, 6, 4096, 0), Sampling(1.0, 0, 0.9)
    logits_RK[::2] *= 0.3
    uniform_R, key_R = torch.linspace(0, 0.99, 6, dtype=torch.float64), torch.arange(6)
    alone = [
        (sampling.draw(row_1K, uniform_R[r, None]), sampling.draw_frozen(row_1K, key_R[r, None]))
        for r, row_1K in enumerate(logits_RK.split(1))
    ]
    assert sampling.draw(logits_RK, uniform_R).tolist() == [int(drawn) for drawn, _ in alone]
    assert sampling.draw_frozen(logits_RK, key_R).tolist() == [int(frozen) for _, frozen in alone]


@pytest.mark.skipif(drawing_kernel() is None, reason="no C compiler, or a processor without AVX2")
@pytest.mark.parametrize("kind", ["normal", "peaked", "halves"])
def test_compiled_loops_say_the_same_as_a_sort(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And say it: a sort of the rows that are left would hide that they never do."""
    kernel, R = drawing_kernel(), 500
    assert kernel is not None
    logits_RK, uniform_R = scores(kind, R, 4096, 1), torch.rand(R, dtype=torch.float64)
    codes = [kernel.codes(logits_RK.float(), 1.0, 0.9, uniform) for uniform in (uniform_R, None)]
    assert all(known for _, known in codes)
    monkeypatch.setattr(module, "drawing_kernel", lambda: None)
    sampling = Sampling(1.0, 0, 0.9)
    assert torch.equal(codes[0][0], sampling.draw(logits_RK, uniform_R))
    assert torch.equal(codes[1][0], sampling._sorted_code(logits_RK.float(), None))


@pytest.mark.skipif(drawing_kernel() is None, reason="no C compiler, or a processor without AVX2")
def test_they_leave_what_rounding_could_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, before = drawing_kernel(), torch.get_num_threads()
    assert kernel is not None
    logits_RK = torch.zeros(3, 16)
    logits_RK[1, 3] = 1.0
    codes_R, known = kernel.codes(logits_RK, 1.0, 0.5, None)
    assert codes_R.tolist()[::2] == [-1, -1]
    assert not known
    torch.set_num_threads(2)
    try:
        assert torch.equal(kernel.codes(logits_RK, 1.0, 0.5, None)[0], codes_R)
    finally:
        torch.set_num_threads(before)
