"""Several tokens a step: Jacobi decoding by a trained model, and groups of tokens, beside one after another.

How many steps Jacobi decoding takes depends on what a model has learned; a group's steps are fixed, so there random
weights do.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from evaluation.benchmark import canvas
from evaluation.benchmark.figure import Figure, Say, Settings
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, JacobiLocalDecoder, LocalityLocalDecoder
from nuwa_lightning.generation.pretrained import load_generator
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.hub import SHIPPED
from nuwa_lightning.planning.geometry import PatchGrid

FRONTS: Final = (1, 4)
SAMPLING: Final = Sampling(1.0, 50)


def several_tokens(settings: Settings, say: Say, grid: PatchGrid = PatchGrid(1, 3, 4)) -> list[Figure]:  # noqa: B008
    """Tokens a second over those of one after another, at a front of one canvas and of four."""
    generator = load_generator(SHIPPED / "landscape" / "model" if settings.run is None else settings.run / "model")
    jacobi = {"one by one": AutoregressiveLocalDecoder("gumbel"), "Jacobi": JacobiLocalDecoder()}
    causal, grouped = (
        canvas.recipe_model(
            canvas.RECIPE, num_kv_heads=canvas.RECIPE.heads, codebook_size=canvas.RECIPE_CODES, grouped=each
        )
        for each in (False, True)
    )
    groups = LocalityLocalDecoder()
    figures, threads = [], torch.get_num_threads()
    for front, jacobi_aim in zip(FRONTS, (2.5, 1.5), strict=True):
        of = f"front of {front}"
        found, same = _by_turns(
            {
                each: replace(generator, local_decoder=decoder).renderer(SAMPLING, max_rows=front, threads=threads)
                for each, decoder in jacobi.items()
            },
            grid,
            front,
            settings,
            say,
        )
        name = "shipped model" if settings.run is None else settings.run.name
        figures += [
            Figure(f"{name}: Jacobi / one after another, same noise, {of}", found["Jacobi"], jacobi_aim),
            Figure(f"{name}: tokens that Jacobi leaves the same, {of}", same["Jacobi"], 1.0),
        ]
        random = {
            "one by one": canvas.renderer(causal, max_rows=front),
            "groups": canvas.renderer(grouped, max_rows=front, decoder=groups),
        }
        found, _ = _by_turns(random, grid, front, settings, say)
        figures.append(
            Figure(f"recipe: groups in {groups.steps} steps / one after another, {of}", found["groups"], 4.0)
        )
    return figures


def _by_turns(
    renderers: Mapping[str, InfiniteRenderer], grid: PatchGrid, front: int, settings: Settings, say: Say
) -> tuple[dict[str, float], dict[str, float]]:
    """Return how many times as fast as the first one each is, and the share of its tokens that are the same."""
    took: dict[str, list[float]] = {name: [] for name in renderers}
    same: dict[str, list[float]] = {name: [] for name in renderers}
    for number in range(settings.rounds):
        first: Tensor | None = None
        for name, renderer in renderers.items():
            began = time.perf_counter()
            tokens = sample_tokens(renderer, grid, seeds=range(front * number, front * number + front))
            took[name].append(time.perf_counter() - began)
            say(f"a canvas, front of {front}, {name}: {took[name][-1]:.2f} s")
            first = tokens if first is None else first
            same[name].append(float((tokens == first).double().mean()))
    base = next(iter(took.values()))
    ratios = {n: statistics.median(a / b for a, b in zip(base, t, strict=True)) for n, t in took.items()}
    return ratios, {name: statistics.fmean(shares) for name, shares in same.items()}
