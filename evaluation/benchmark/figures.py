"""What is measured, and what it is held against."""

import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import torch

from evaluation.benchmark import canvas
from evaluation.benchmark.figure import Figure, Say, Settings
from evaluation.benchmark.measuring import Contender, Reading, Times, interleave, ratio
from evaluation.benchmark.ours import SIZES, Ours, Size, random_model
from evaluation.benchmark.several import several_tokens
from evaluation.benchmark.taming import SlidingWindow, WithPast
from nuwa_lightning.generation.cpu_kernels import kernels
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, MaskedLocalDecoder, ParallelLocalDecoder
from nuwa_lightning.planning.geometry import PatchGrid

FAST: Final = Precision(weights="int8", cache="bfloat16")
"""With one key/value head: the fast path."""


def decoding(size: Size, settings: Settings, say: Say) -> tuple[list[Figure], dict[str, Times]]:
    """Tokens a second beside the others, at one size."""
    multi, single = random_model(size, num_kv_heads=size.heads), random_model(size, num_kv_heads=1)
    ours = [
        Ours("MHA float32", multi),
        Ours("fast path", single, precision=FAST),
        Ours("fast path, front of 4", single, rows=4, precision=FAST),
        Ours("fast path, front of 16", single, rows=16, precision=FAST),
        Ours("MQA float32", single),
        Ours("MQA float32, front of 4", single, rows=4),
    ]
    others = _llama(size, say)
    if size.name != "85M":  # no aim is about these, and they take minutes at that size
        ours += [
            Ours("MHA float32, front of 4", multi, rows=4),
            Ours("MHA bfloat16", multi, precision=Precision("bfloat16", "bfloat16")),
            Ours("MHA int8", multi, precision=Precision("int8", "float32")),
            Ours("MHA int8, bfloat16 cache", multi, precision=FAST),
            Ours("MQA bfloat16", single, precision=Precision("bfloat16", "bfloat16")),
        ]
        others.append(WithPast("taming, with past", size))
    reading = Reading(ours[0].nbytes)
    times = interleave([*others, *ours, reading], steps=settings.steps, rounds=settings.rounds, report=say)

    def figure(name: str, slow: str, fast: str, aim: float | None = None, note: str = "") -> Figure:
        if not {slow, fast} <= set(times):
            llama = slow.startswith("Llama") and slow not in times
            missing = "transformers is not installed" if llama else "not measured at this size"
            return Figure(f"{size.name}: {name}", None, aim, note=missing)
        return Figure(f"{size.name}: {name}", ratio(times[slow], times[fast]), aim, note=note)

    one, like, fast = "Llama generate", 1.15 if size.name == "85M" else 1.2, 3.2 if size.name == "85M" else 4.0
    loops = "compiled loops" if kernels() else "no compiled loops: PyTorch's own int8"
    shares = zip(times[reading.name].seconds, times["MHA float32"].seconds, strict=True)
    return [
        figure("MHA float32 / Llama static cache float32", one, "MHA float32", like),
        figure("MHA float32 / Llama in a bare loop", "Llama bare loop", "MHA float32"),
        figure("fast path / Llama static cache float32", one, "fast path", fast, f"MQA, int8, bfloat16 cache; {loops}"),
        figure("the same with MHA / Llama static cache float32", one, "MHA int8, bfloat16 cache"),
        figure("MHA float32 / taming with past", "taming, with past", "MHA float32"),
        figure("front of 4 / one, fast path", "fast path", "fast path, front of 4", 2.2),
        figure("front of 4 / one, MQA float32", "MQA float32", "MQA float32, front of 4", 2.2),
        figure("front of 4 / one, MHA float32", "MHA float32", "MHA float32, front of 4"),
        figure("front of 16, fast path / one, MHA float32", "MHA float32", "fast path, front of 16", 8.0),
        Figure(
            f"{size.name}: share of the memory's speed, MHA float32",
            statistics.median(read / ours for read, ours in shares),
            0.65,
            note=f"{reading.nbytes / 1e6:.0f} MB a step, weights, keys and values",
        ),
    ], times


def _llama(size: Size, say: Say) -> list[Contender]:
    try:
        from evaluation.benchmark.llama import Llama

        return [Llama("Llama generate", size), Llama("Llama bare loop", size, generate=False)]
    except ImportError:
        say("transformers is not installed: pip install -e '.[benchmark]'")
        return []


def same_tokens(size: Size, settings: Settings) -> list[Figure]:
    """Share of tokens that a front of 4 writes as its patches alone do."""
    figures = []
    for name, heads, precision in (("MHA float32", size.heads, Precision()), ("fast path", 1, FAST)):
        model = random_model(size, num_kv_heads=heads)
        together = Ours(name, model, rows=4, precision=precision).tokens(settings.steps)
        alone = [Ours(name, model, precision=precision, seed=n).tokens(settings.steps) for n in range(4)]
        share = float((together == torch.cat(alone)).double().mean())
        figures.append(Figure(f"{size.name}: tokens that a front of 4 leaves the same, {name}", share, 1.0))
    return figures


def local_decoders(size: Size, settings: Settings, say: Say) -> list[Figure]:
    """Time of a whole patch: all tokens one by one, a dozen steps, one step; each with the states it leaves."""
    causal, both = (random_model(size, num_kv_heads=size.heads, bidirectional=b) for b in (False, True))
    figures = []
    for rows in (1, 4):
        contenders = [
            Ours("autoregressive", causal, rows=rows, decoder=AutoregressiveLocalDecoder()),
            Ours("masked", both, rows=rows, decoder=MaskedLocalDecoder()),
            Ours("parallel", both, rows=rows, decoder=ParallelLocalDecoder()),
        ]
        seconds: dict[str, list[float]] = {c.name: [] for c in contenders}
        for _ in range(max(1, settings.rounds // 2)):
            for c in contenders:
                seconds[c.name].append(c.patch())
                say(f"a patch, front of {rows}, {c.name}: {seconds[c.name][-1]:.2f} s")
        tokens = causal.patch_tokens
        for name, paper, forwards in (("masked", 15, MaskedLocalDecoder().steps + 1), ("parallel", 95, 2)):
            pairs = list(zip(seconds["autoregressive"], seconds[name], strict=True))
            # With every step as dear as any other it would be tokens / forwards.
            dear = statistics.median((b / forwards) / (a / tokens) for a, b in pairs)
            note = (
                f"{paper} in the paper; {forwards} forwards of all {tokens + 1} positions instead of {tokens} of one, "
                f"and such a forward takes as long as {dear:.1f} of these"
            )
            value = statistics.median(a / b for a, b in pairs)
            figures.append(Figure(f"{size.name}: {name} / autoregressive, front of {rows}", value, note=note))
    return figures


def several_positions(size: Size, settings: Settings) -> list[Figure]:
    """What a step of 16 positions of a patch costs beside one of a single position: how dear Jacobi decoding is."""
    figures, model = [], random_model(size, num_kv_heads=size.heads)
    for rows in (1, 4):
        ours, pairs = Ours("MHA float32", model, rows=rows), []
        for _ in range(max(3, settings.steps // 4)):
            one, several = (ours.reading(count) for count in (1, 16))
            pairs.append(several / one)
        name = f"{size.name}: a step of 16 positions / of one, MHA float32, front of {rows}"
        figures.append(Figure(name, statistics.median(pairs), 2.0 if rows == 1 else None, at_least=False))
    return figures


def canvases(settings: Settings, say: Say) -> list[Figure]:
    """Whole canvases: against the sliding window, and as they get wider."""
    size = SIZES["19M"]
    window = SlidingWindow("taming, sliding window", size)
    slide = interleave([window], steps=max(4, settings.steps // 8), rounds=3, report=say)[window.name].median
    fast = canvas.renderer(canvas.recipe_model(size, num_kv_heads=1), precision=FAST)
    columns = 64 // settings.shrink
    seconds, _ = canvas.wave_seconds(fast, PatchGrid(1, 8, columns))
    say(f"tokens of {64 * columns}x512 pixels: {seconds:.1f} s; sliding window: {slide:.3f} s a token")
    tokens = 64 * 8 * columns
    recipe = canvas.recipe_model(canvas.RECIPE, num_kv_heads=canvas.RECIPE.heads, codebook_size=canvas.RECIPE_CODES)
    made = canvas.renderer(recipe, precision=Precision())
    pairs = []
    for _ in range(3 if settings.shrink == 1 else 1):
        narrow, wide = (canvas.seconds_a_patch(made, PatchGrid(1, 4, width // settings.shrink)) for width in (16, 256))
        say(f"a patch at once and 16 times the width: {1e3 * narrow:.1f} and {1e3 * wide:.1f} ms")
        pairs.append(wide / narrow)
    widths = (1024, max(2048, 16384 // settings.shrink))
    small, large = canvas.peak_memory(widths, height=256, rounds=5 if settings.shrink == 1 else 1)
    say(f"peak memory at {widths[0]} and {widths[1]} pixels: {small:.0f} and {large:.0f} MB")
    times = widths[1] // widths[0]
    return [
        Figure(
            f"19M: canvas of {64 * columns}x512, fast path / taming's sliding window",
            slide * tokens / seconds,
            60.0,
            note=f"{seconds:.0f} s; the window's median step, {slide:.2f} s, times {tokens} tokens",
        ),
        Figure("recipe: seconds a patch, 16 times the width / once", statistics.median(pairs), 1.05, at_least=False),
        Figure(
            f"recipe: peak memory of generate, {times} times the width / once",
            large / small,
            1.03,
            at_least=False,
            note=f"medians of {small:.0f} and {large:.0f} MB, 256 rows of pixels, BigTIFF",
        ),
        threads(settings, say),
        *paper(settings, say),
    ]


def threads(settings: Settings, say: Say) -> Figure:
    """Generate's default threads against one, beside a process that keeps a core busy."""
    size = f"{max(64, 1024 // settings.shrink)}x512"
    pairs = canvas.beside_a_busy_process(size, rounds=3 if settings.shrink == 1 else 1)
    for default, one in pairs:
        say(f"{size} beside a busy process: {default:.1f} s, with one thread {one:.1f} s")
    default, one = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    return Figure(
        f"recipe: generate {size} beside one busy process, seconds by default / with one thread",
        statistics.median(default / one for default, one in pairs),
        1.1,
        at_least=False,
        note=f"medians of {default:.1f} and {one:.1f} s, {os.cpu_count()} cores",
    )


def paper(settings: Settings, say: Say) -> list[Figure]:
    """The paper's largest canvas, by a trained run."""
    name = f"recipe: canvas of {canvas.PAPER} to BigTIFF"
    if settings.run is None:
        return [Figure(f"{name}, minutes", None, 10.0, at_least=False, note="give a trained run, `run`")]
    width, height = (int(side) for side in canvas.PAPER.split("x"))
    seconds, peak = canvas.paper_canvas(settings.run, f"{width // settings.shrink}x{height}")
    say(f"{width // settings.shrink}x{height} pixels: {seconds:.0f} s, {peak:.0f} MB")
    whole = settings.shrink == 1
    note = "int8, bfloat16 cache" + ("" if whole else f"; only {width // settings.shrink} pixels wide")
    most = (10.0, 1.5) if whole else (None, None)
    return [
        Figure(f"{name}, minutes", seconds / 60, most[0], at_least=False, note=note),
        Figure(f"{name}, peak memory in GB", peak * (1 << 20) / 1e9, most[1], at_least=False, note=note),
    ]


def measure(settings: Settings, say: Say) -> tuple[list[Figure], dict[str, Mapping[str, Times]]]:
    """Measure everything."""
    figures: list[Figure] = []
    times: dict[str, Mapping[str, Times]] = {}
    for size in SIZES.values():
        if size.name == "85M" and not settings.large:
            continue
        found, times[size.name] = decoding(size, settings, say)
        figures += found
    figures += same_tokens(SIZES["19M"], settings)
    figures += local_decoders(SIZES["19M"], settings, say)
    figures += several_positions(SIZES["19M"], settings)
    figures += several_tokens(settings, say)
    if settings.canvases:
        figures += canvases(settings, say)
    return figures, times


def report(figures: list[Figure], times: Mapping[str, Mapping[str, Times]]) -> dict[str, Any]:
    """Return what was measured as plain values."""
    return {
        "figures": [{**asdict(each), "reached": each.reached} for each in figures],
        "times": {
            size: {
                name: {"rows": t.rows, "tokens_per_second": t.tokens_per_second, "seconds_a_step": t.seconds}
                for name, t in each.items()
            }
            for size, each in times.items()
        },
    }
