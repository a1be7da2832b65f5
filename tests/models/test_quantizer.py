"""The code book against brute force in numpy, and over two processes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from nuwa_lightning.models.vqgan import VectorQuantizer


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_tokens_are_the_nearest_codes_whatever_the_length():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(20, 5)
    z = torch.randn(2, 5, 3, 4) * 7
    q, tokens, commitment = quantizer(z)
    codes = quantizer.codebook_KD.numpy()
    vectors = unit(z.permute(0, 2, 3, 1).reshape(-1, 5).numpy())
    distance = ((vectors[:, None] - codes[None]) ** 2).sum(2)
    np.testing.assert_array_equal(tokens.flatten().numpy(), distance.argmin(1))
    assert commitment.item() == pytest.approx(distance.min(1).mean(), rel=1e-5)
    torch.testing.assert_close(q, quantizer.lookup(tokens))


def test_gradient_passes_straight_to_the_normalised_vector():
    quantizer = VectorQuantizer(8, 4)
    z = torch.randn(1, 4, 2, 2, requires_grad=True)
    pull = torch.randn(1, 4, 2, 2)
    (quantizer(z)[0] * pull).sum().backward()
    again = z.detach().clone().requires_grad_()
    (functional.normalize(again, dim=1) * pull).sum().backward()
    torch.testing.assert_close(z.grad, again.grad)


def test_moving_averages_against_brute_force():
    torch.manual_seed(1)
    quantizer = VectorQuantizer(6, 3, decay=0.9, restart_below=0.0)
    count, total = np.ones(6), quantizer.codebook_KD.numpy().copy()
    for step in range(5):
        z = torch.randn(40, 3, generator=seeded(step))
        tokens = quantizer.nearest(z)
        used = quantizer.update(z, tokens)
        for k in range(6):
            mine = unit(z.numpy())[tokens.numpy() == k]
            assert used[k] == len(mine)
            count[k] = 0.9 * count[k] + 0.1 * len(mine)
            total[k] = 0.9 * total[k] + 0.1 * mine.sum(0)
        np.testing.assert_allclose(quantizer.mean_count_K.numpy(), count, rtol=1e-5)
        np.testing.assert_allclose(quantizer.codebook_KD.numpy(), unit(total), atol=1e-5)


def test_a_dead_code_is_put_on_a_vector_of_the_batch():
    quantizer = VectorQuantizer(4, 3, restart_below=0.05)
    quantizer.mean_count_K.copy_(torch.tensor([10.0, 10.0, 1e-3, 10.0]))
    z = torch.randn(50, 3, generator=seeded(0))
    before = quantizer.codebook_KD.clone()
    tokens = torch.tensor([0, 1, 3])[torch.randint(3, (50,), generator=seeded(1))]
    quantizer.update(z, tokens, seeded(2))
    unit_ND = functional.normalize(z, dim=1)
    assert torch.isclose(unit_ND, quantizer.codebook_KD[2]).all(dim=1).any()
    assert not torch.equal(quantizer.codebook_KD[2], before[2])
    assert quantizer.mean_count_K[2] > 5


def test_start_finds_clusters_and_uses_every_code():
    centres = functional.normalize(torch.randn(12, 6, generator=seeded(0)), dim=1)
    z = centres.repeat(30, 1) + 0.01 * torch.randn(360, 6, generator=seeded(1))
    quantizer = VectorQuantizer(12, 6)
    assert not quantizer.started
    quantizer.start(z, iterations=10, generator=seeded(2))
    assert quantizer.started
    distance = 1 - (functional.normalize(z, dim=1) @ quantizer.codebook_KD.T).amax(1)
    random = VectorQuantizer(12, 6)
    far = 1 - (functional.normalize(z, dim=1) @ random.codebook_KD.T).amax(1)
    assert distance.mean() < 0.25 * far.mean()
    assert (torch.bincount(quantizer.nearest(z), minlength=12) > 0).float().mean() > 0.7


def test_averages_start_with_the_size_of_one_batch():
    z = torch.randn(400, 4, generator=seeded(0))
    quantizer = VectorQuantizer(8, 4)
    quantizer.start(z, batches=10, generator=seeded(1))
    assert quantizer.mean_count_K.sum().item() == pytest.approx((400 + 8) / 10)
    torch.testing.assert_close(functional.normalize(quantizer.mean_sum_KD, dim=1), quantizer.codebook_KD)


def test_start_needs_as_many_vectors_as_codes():
    with pytest.raises(ValueError, match="5 vectors cannot start 8 codes"):
        VectorQuantizer(8, 3).start(torch.randn(5, 3))


class Restarting(VectorQuantizer):
    """Codes that restart often; how many did is kept with them."""

    restarts: torch.Tensor

    def __init__(self, codebook_size: int, codebook_dim: int) -> None:
        super().__init__(codebook_size, codebook_dim, restart_below=0.8)
        self.register_buffer("restarts", torch.zeros(()))

    def _restart(self, unit_ND: torch.Tensor, generator: torch.Generator | None) -> None:
        before_KD = self.codebook_KD.clone()
        super()._restart(unit_ND, generator)
        self.restarts += (self.codebook_KD != before_KD).any(dim=1).sum()


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    quantizer = _trained(torch.randn(2, 64, 3, generator=seeded(3))[rank : rank + 1])
    count_K = quantizer.count(torch.tensor([[0, 0, 5], [5, 15, 15]][rank]))
    torch.save({**quantizer.state_dict(), "count": count_K}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _trained(parts: torch.Tensor) -> Restarting:
    torch.manual_seed(0)
    quantizer = Restarting(16, 3)
    z = parts.flatten(0, 1)
    quantizer.start(z, generator=seeded(4))
    for step in range(3):
        quantizer.update(z + 0.1 * step, quantizer.nearest(z + 0.1 * step), seeded(step))
    return quantizer


def test_two_processes_hold_the_same_codes_as_one_with_all_the_data(tmp_path, repository):
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment) for rank in range(2)
    ]
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = _trained(torch.randn(2, 64, 3, generator=seeded(3)))
    assert alone.restarts > 2
    alone_too = {**alone.state_dict(), "count": alone.count(torch.tensor([0, 0, 5, 5, 15, 15]))}
    for name, value in alone_too.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, atol=1e-5, rtol=1e-5)


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), sys.argv[2])
