"""The slots of finished patches behave like a dict."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuwa_lightning.generation.kv_cache import SlotCache
from nuwa_lightning.generation.patch_batch import PatchStates

DEPTH, SHAPE = 2, (3, 1, 2, 2)  # layers; canvases, heads, tokens, width


def states(number: int) -> PatchStates:
    random = torch.Generator().manual_seed(number)
    keys, values = ([torch.randn(SHAPE, generator=random) for _ in range(DEPTH)] for _ in range(2))
    return PatchStates(keys, values)


@settings(max_examples=40)
@given(st.data())
def test_it_is_a_dict(data):
    cache, model = SlotCache(DEPTH, SHAPE, like=torch.zeros(1), slots=2), dict[int, PatchStates]()
    for number in range(data.draw(st.integers(1, 14))):
        cache.put(number, states(number))
        model[number] = states(number)
        for gone in data.draw(st.sets(st.sampled_from(sorted(model)))):
            cache.drop(gone)
            del model[gone]
        assert cache.live == len(model)
        if not model:
            continue
        one = st.lists(st.sampled_from(sorted(model)), unique=True, max_size=4)
        context = data.draw(st.lists(one, min_size=1, max_size=3))
        gathered = cache.gather(context)
        keys, values = zip(*map(gathered.keys_values, range(DEPTH)), strict=True)
        valid_RC = gathered.valid_RC
        B, C = SHAPE[0], max(map(len, context))
        assert valid_RC.shape == (len(context) * B, C)
        for s, numbers in enumerate(context):
            for b in range(B):
                row = s * B + b
                assert valid_RC[row].tolist() == [c < len(numbers) for c in range(C)]
                for c, wanted in enumerate(numbers):
                    for layer in range(DEPTH):
                        assert torch.equal(keys[layer][row, c], model[wanted].keys[layer][b])
                        assert torch.equal(values[layer][row, c], model[wanted].values[layer][b])


def test_it_grows_with_what_is_alive_at_once_and_not_with_what_passes_through():
    cache = SlotCache(1, SHAPE, like=torch.zeros(1, dtype=torch.float64), slots=2)
    start = cache.nbytes
    assert start == 2 * 2 * 12 * 8  # keys and values, slots, numbers, bytes
    content = PatchStates([torch.ones(SHAPE, dtype=torch.float64)], [torch.ones(SHAPE, dtype=torch.float64)])
    for number in range(50):
        cache.put(number, content)
        if number:
            cache.drop(number - 1)
    assert cache.nbytes == start
    for number in range(50, 54):
        cache.put(number, content)
    assert cache.live == 5
    assert cache.nbytes == 4 * start


@pytest.mark.parametrize(("number", "error", "size"), [("bfloat16", 2**-8, 2), ("int8", 0.6 / 127, 1 + 2 / 32)])
def test_fewer_bits_are_near_and_the_same_after_they_were_read_and_put_again(number, error, size):
    shape = (3, 2, 5, 32)
    cache = SlotCache(1, shape, like=torch.zeros(1), number=number, slots=2)
    assert cache.nbytes == 2 * 2 * math.prod(shape) * size
    torch.manual_seed(0)
    key, value = torch.randn(shape) * 10, torch.randn(shape) * torch.rand(3, 2, 5, 1)
    cache.put(7, PatchStates((key,), (value,)))
    for kept, exact in zip(cache.gather([[7]]).keys_values(0), (key, value), strict=True):
        worst = (kept[:, 0].float() - exact).abs().amax(dim=-1)
        assert (worst <= error * exact.abs().amax(dim=-1)).all()
    again = SlotCache(1, shape, like=torch.zeros(1), number=number)
    again.put(0, cache.get(7))
    for kept, copied in zip(cache.gather([[7]]).keys_values(0), again.gather([[0]]).keys_values(0), strict=True):
        assert torch.equal(kept, copied)
