"""Speed on a GPU: a step as one graph, beside Hugging Face's Llama, compiled, and beside the card's memory.

It runs on a CPU as well, which shows that it works and nothing else.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch

from evaluation.benchmark.figure import Figure, Say, Settings
from evaluation.benchmark.measuring import Contender, Reading, Times, interleave, ratio
from evaluation.benchmark.ours import SIZES, TOP_K, Ours, Size, random_model
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.generation.static_steps import static_steps
from nuwa_lightning.models.nuwa_infinity import PatchTransformer

LARGE: Final = (SIZES["19M"], Size("202M", 16, 768, 12), Size("809M", 24, 1280, 20))
"""The benchmark's own size, and the layers of the paper's models (without their text branch)."""
FRONTS: Final = (1, 4, 16)
HALF: Final = Precision("bfloat16", "bfloat16")


class Static(Ours):
    """Patches side by side, a step of which is one graph.

    Args:
        name: under which it is reported.
        model: the transformer.
        rows: patches.
        precision: how numbers are kept.
        device: where it runs.
        backend: of ``torch.compile``, or None.
    """

    def __init__(
        self, name: str, model: PatchTransformer, *, rows: int, precision: Precision, device: str, backend: str | None
    ) -> None:
        super().__init__(name, model, rows=rows, precision=precision, device=device)
        self._backend = backend

    def start(self) -> None:
        """Take the context; the graph is made at the first one."""
        super().start()
        self._steps = static_steps(self.writer, Sampling(top_k=TOP_K), frozen=False, backend=self._backend)
        self._steps.load(self.writer, self._uniform_RU)

    def burst(self, steps: int) -> None:
        """Write tokens, without waiting for any."""
        for _ in range(steps):
            self._steps.run()


def clock(device: str) -> Callable[[], float]:
    """Return what tells the time when everything asked of the device is done."""

    def now() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def on_device(
    device: str,
    settings: Settings,
    say: Say,
    *,
    sizes: Sequence[Size] = LARGE,
    fronts: Sequence[int] = FRONTS,
    backend: str | None = "inductor",
) -> tuple[list[Figure], dict[str, Mapping[str, Times]]]:
    """Measure each size at each front: ours as a graph, compiled too, step by step, and Llama.

    Args:
        device: such as ``cuda``.
        settings: how long to measure.
        say: gets a line about each burst.
        sizes: of the models.
        fronts: patches (sequences, for Llama) side by side.
        backend: of ``torch.compile``.
    """
    figures: list[Figure] = []
    times: dict[str, Mapping[str, Times]] = {}
    for size in sizes:
        found: dict[str, Times] = {}
        for front in fronts:
            here, figured = _at(size, front, device, settings, say, backend)
            found |= here
            figures += figured
        times[size.name] = found
    return figures, times


def _at(
    size: Size, front: int, device: str, settings: Settings, say: Say, backend: str | None
) -> tuple[dict[str, Times], list[Figure]]:
    model, at = random_model(size, num_kv_heads=size.heads), f"front of {front}"
    graph, fused, plain, llama = (
        f"{name}, {at}"
        for name in ("one graph a step", "the same, compiled", "step by step", "Llama, static, compiled")
    )
    ours = Ours(plain, model, rows=front, precision=HALF, device=device)
    reading = Reading(ours.nbytes, device)
    contenders: list[Contender] = [
        Static(graph, model, rows=front, precision=HALF, device=device, backend=None),
        Static(fused, model, rows=front, precision=HALF, device=device, backend=backend),
        ours,
        reading,
    ]
    try:
        from evaluation.benchmark.llama import Llama

        contenders.append(Llama(llama, size, rows=front, device=device, dtype=torch.bfloat16, compiled=True))
    except ImportError:
        say("transformers is not installed: pip install -e '.[benchmark]'")
    times = interleave(contenders, steps=settings.steps, rounds=settings.rounds, clock=clock(device), report=say)
    best = min((graph, fused), key=lambda name: times[name].median)
    shares = zip(times[reading.name].seconds, times[best].seconds, strict=True)
    name = f"{size.name}, {at}"
    return times, [
        Figure(
            f"{name}: {best.partition(',')[0]} / Llama", ratio(times[llama], times[best]) if llama in times else None
        ),
        Figure(f"{name}: one graph a step / step by step", ratio(times[plain], times[graph])),
        Figure(f"{name}: compiled / not", ratio(times[graph], times[fused])),
        Figure(
            f"{name}: share of the memory's speed",
            statistics.median(read / ours for read, ours in shares),
            note=f"{reading.nbytes / 1e6:.0f} MB a step",
        ),
    ]
