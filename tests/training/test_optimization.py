"""Schedules, clipping and the uncounted step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nuwa_lightning.errors import UsageError
from nuwa_lightning.training.optimization import check_finite, clip_gradients, cosine_factor, ramp, step_uncounted


@given(warmup=st.integers(0, 50), total=st.integers(60, 500), early=st.booleans())
def test_cosine_rises_then_falls_to_zero(warmup, total, early):
    factors = [cosine_factor(step, warmup=warmup, total=total, peak_early=early) for step in range(total + 1)]
    assert all(0 <= f <= 1 for f in factors)
    assert factors[: warmup + 1] == sorted(factors[: warmup + 1])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert factors[warmup] == pytest.approx(1)
    assert not warmup or (factors[warmup - 1] == 1) is early
    assert factors[-1] == pytest.approx(0, abs=1e-9)
    assert cosine_factor(10**6, warmup=warmup, total=math.inf) == 1


def test_ramp():
    assert [ramp(p, start=0.5, length=0.2) for p in (0.0, 0.49, 0.6, 0.7, 1.0)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert ramp(0.5, start=0.5, length=0) == 1


def test_clipping_against_the_definition_and_the_culprit_named():
    p, q = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    p.grad, q.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert clip_gradients([("p", p), ("q", q)], 1.0, step=3, lr=0.1).item() == pytest.approx(5)
    torch.testing.assert_close(p.grad, torch.tensor([0.6, 0.0]))
    assert clip_gradients([("p", p), ("q", q)], 0, step=3, lr=0.1).item() == pytest.approx(1)
    torch.testing.assert_close(p.grad, torch.tensor([0.6, 0.0]))
    q.grad = torch.tensor([math.nan, 1.0])
    with pytest.raises(UsageError, match="the gradient of q is not finite at step 3"):
        clip_gradients([("p", p), ("q", q)], 1.0, step=3, lr=0.1)


def test_the_first_tensor_that_is_not_finite_is_named():
    check_finite({"a": torch.zeros(3)}, step=0, lr=1.0)
    with pytest.raises(UsageError, match=r"model\.lr: 0\.1: b is not finite at step 7"):
        check_finite({"a": torch.zeros(3), "b": torch.tensor([1.0, math.inf])}, step=7, lr=0.1)


def test_an_uncounted_step_is_a_step():
    class Wrapped:
        counted = 0

        def __init__(self) -> None:
            self._on_before_step = self._on_after_step = self._count
            self.steps = 0

        def _count(self) -> None:
            self.counted += 1

        def step(self) -> None:
            self._on_before_step()
            self.steps += 1
            self._on_after_step()

    optimizer = Wrapped()
    step_uncounted(optimizer)
    assert (optimizer.steps, optimizer.counted) == (1, 0)
