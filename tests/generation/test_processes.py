"""Several processes that render together write the tokens of one, whatever is split: steps or canvases."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local import JacobiLocalDecoder, MaskedLocalDecoder
from nuwa_lightning.generation.processes import Processes
from nuwa_lightning.generation.prompts import Prompts
from nuwa_lightning.generation.renderer import InfiniteRenderer, Rendering
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchTransformer, TransformerConfig
from nuwa_lightning.planning.context import FullContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController, OutwardDirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from tests.canvas.test_coarse import planned
from tests.generation.small import small_model
from tests.together import run_together

POOL, GRID = NearbyContextPool((0, 1, 1)), PatchGrid(1, 4, 5)


def renderer(processes: Processes | None, **options) -> InfiniteRenderer:
    pool = options.pop("pool", POOL)
    model = options.pop("model", None) or small_model(pool)
    direction = options.pop("direction", ArbitraryDirectionController())
    options = {"sampling": Sampling(top_k=0), "processes": processes, **options}
    return InfiniteRenderer(model, pool, direction, **options)


def masked(processes: Processes | None) -> Tensor:
    torch.manual_seed(0)
    size = TransformerConfig(16, 2, num_heads=2, num_kv_heads=1, layer_scale=1.0)
    model = PatchTransformer(16, 4, patch_size=(2, 2), embedding_extent=(0, 1, 1), size=size, bidirectional=True)
    model.set_codes(torch.randn(16, 4))
    made = renderer(processes, model=model.eval(), local_decoder=MaskedLocalDecoder())
    return sample_tokens(made, GRID, seeds=[0, 1, 2])


def around_given(processes: Processes | None) -> Tensor:
    whole, part = torch.arange(8).view(2, 2, 2), torch.tensor([[[3, ABSENT], [1, 2]]]).expand(2, -1, -1)
    known = {PatchIndex(0, 1, 2): whole, PatchIndex(0, 3, 0): part}
    direction = OutwardDirectionController()
    return sample_tokens(renderer(processes, direction=direction), GRID, seeds=[5, 6], known=known)


def with_text(processes: Processes | None) -> Tensor:
    torch.manual_seed(0)
    size = TransformerConfig(16, 2, num_heads=4, num_kv_heads=2, layer_scale=1.0)
    model = PatchTransformer(16, 4, patch_size=(2, 2), embedding_extent=(0, 1, 1), size=size, text_dim=6).eval()
    model.set_codes(torch.randn(16, 4))
    texts = {name: torch.randn(3, 6, generator=torch.Generator().manual_seed(len(name))) for name in ("a", "bcd")}
    prompts = Prompts.for_canvases(model, lambda said: [texts[s] for s in said if s], ["a", "bcd"], guidance=2.0)
    prompts = dataclasses.replace(prompts, choose=lambda patch: (1, 2) if patch.x < 3 else (2, 0))
    return sample_tokens(renderer(processes, model=model), GRID, seeds=[1, 2], prompts=prompts)


def with_plan(processes: Processes | None) -> Tensor:
    pipe = planned()
    for model in (pipe.generator.model, pipe.coarse.model):
        model.double()
    pipe.processes = processes
    made = pipe(size=(96, 64), seed=0, num_images_per_prompt=3, output_type="tokens", top_k=0, plan_guidance=1.5)
    return torch.stack([canvas.tokens_TYX for canvas in made.canvases])


def drawn_by_the_first(processes: Processes | None) -> Tensor:
    """Draw the seed in the first process: in others, numbers differ."""
    pipe = planned(writer=False)
    pipe.processes = processes
    generator = torch.Generator().manual_seed(processes.rank if processes else 0)
    return pipe(size=(48, 32), generator=generator, output_type="tokens").canvases[0].tokens_TYX


CASES: dict[str, Callable[[Processes | None], Tensor]] = {
    "steps": lambda p: sample_tokens(renderer(p), PatchGrid(1, 6, 6), seeds=[0]),
    "narrow": lambda p: sample_tokens(renderer(p, max_rows=1), GRID, seeds=[0]),
    "canvases": lambda p: sample_tokens(renderer(p), GRID, seeds=range(5)),
    "closed": lambda p: sample_tokens(renderer(p), PatchGrid(1, 3, 5, wrap="x"), seeds=[1, 2]),
    "full": lambda p: sample_tokens(renderer(p, pool=FullContextPool()), GRID, seeds=[1]),
    "jacobi": lambda p: sample_tokens(renderer(p, local_decoder=JacobiLocalDecoder()), GRID, seeds=[1, 2, 3]),
    "masked": masked,
    "given": around_given,
    "text": with_text,
    "plan": with_plan,
    "seed": drawn_by_the_first,
}


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def written(tmp_path_factory: pytest.TempPathFactory, request) -> list[dict[str, Tensor]]:
    """What each of two, or three, processes wrote."""
    folder = tmp_path_factory.mktemp("together")
    ended = run_together([__file__, folder], world=request.param)
    assert [status for status, _ in ended] == [0] * request.param, ended[0][1]
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("case", CASES)
def test_the_same_tokens_as_one_process(written: list[dict[str, Tensor]], case: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        alone = CASES[case](None)
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(alone.unique()) > 3
    for each in written:
        assert torch.equal(each[case], alone)


def test_the_first_one_stops_all(written: list[dict[str, Tensor]]) -> None:
    assert [int(each["waves"]) for each in written] == [3] * len(written)


@given(st.integers(1, 9), st.integers(0, 20), st.integers(1, 20))
def test_parts_cover_a_wave_once(world: int, steps: int, canvases: int) -> None:
    parts = Processes(0, world).parts(steps, canvases)
    cells = [(s, b) for some, many in parts for s in range(steps)[some] for b in range(canvases)[many]]
    assert sorted(cells) == [(s, b) for s in range(steps) for b in range(canvases)]
    largest = max((some.stop - some.start) * (many.stop - many.start) for some, many in parts)
    assert largest == min(-(-steps // world) * canvases, -(-canvases // world) * steps)


def test_without_torchrun_it_is_said_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="torchrun"):
        Processes.join()


def main(folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    processes = Processes.join()
    found = {name: case(processes) for name, case in CASES.items()}
    rendering = Rendering(renderer(processes), PatchGrid(1, 4, None), seeds=[0])
    for _ in rendering:
        if processes.first and rendering.finished == 3:
            rendering.stop()
    found["waves"] = torch.tensor(rendering.finished)
    torch.save(found, folder / f"{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
