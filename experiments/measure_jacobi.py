"""Measure Jacobi decoding: what a step of several positions costs, how many a patch takes, tokens a second.

    python experiments/measure_jacobi.py runs/landscape --output measured_jacobi

Three tables, by a trained run of the autoregressive decoder, on one thread (``--threads``), each cell taken in turn
round by round:

1. milliseconds of a step that reads 1, 4, 8, 16 or 32 positions of a patch, for fronts of 1 and 4 and number formats;
2. steps a patch for each way to guess what enters the window, for windows and temperatures;
3. tokens a second beside the autoregressive decoder (with its own random numbers, and with frozen noise, whose tokens
   have to be the same), at a front of 1 and of 4 canvases; ratios are medians over rounds.

Seconds are those of this thread (``--wall``: of the clock), so other work only shows in colder caches.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation.table import aligned
from nuwa_lightning.atomic import write_json
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, JacobiLocalDecoder, LocalDecoder, jacobi
from nuwa_lightning.generation.patch_decoder import PatchDecoder
from nuwa_lightning.generation.pretrained import Generator, load_generator
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import ABSENT
from nuwa_lightning.planning.geometry import PatchGrid

POSITIONS: Final = (1, 4, 8, 16, 32)
FORMATS: Final = (Precision(), Precision("bfloat16", "bfloat16"), Precision("int8", "bfloat16"))
FROZEN: Final = AutoregressiveLocalDecoder(noise="gumbel")
ACROSS: Final = jacobi._Guess

clock: Callable[[], float] = time.thread_time


@dataclass(frozen=True)
class Watched(LocalDecoder):
    """Another decoder, whose steps are counted; or, without one, random tokens and steps of each width, timed."""

    inner: LocalDecoder | None = None
    rounds: int = 0
    calls: list[int] = field(default_factory=list)
    seconds: dict[int, list[float]] = field(default_factory=dict)

    @property
    def bidirectional(self) -> bool:
        """No."""
        return False

    def draws(self, tokens: int) -> int:
        """As many as the other one."""
        return self.inner.draws(tokens) if self.inner else 0

    def decode(self, patches: PatchDecoder, sampling: Sampling, uniform_RU: Tensor) -> None:
        """Write tokens."""
        N = patches.tokens_RN.shape[1]
        if self.inner is None:
            patches.set_tokens(range(N), torch.randint(0, 64, patches.tokens_RN.shape))
            for _ in range(self.rounds):
                for count in POSITIONS:
                    began = clock()
                    patches.logits(range(N // 2 - 2, N // 2 - 2 + count))
                    self.seconds.setdefault(count, []).append(clock() - began)
            return
        read, counted = patches.logits, [0]

        def logits(places: Sequence[int]) -> Tensor:
            counted[0] += 1
            return read(places)

        setattr(patches, "logits", logits)  # noqa: B010 - a method, for this patch only
        self.inner.decode(patches, sampling, uniform_RU)
        self.calls.append(counted[0])

    def training_mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
        """Not trained."""
        raise NotImplementedError


def steps(generator: Generator, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the milliseconds of a step."""
    rows = []
    for front in (1, 4):
        for precision in (each for each in FORMATS if each.weights in options.formats):
            watched = Watched(rounds=4 * options.rounds)
            # Refuses nothing, so int8 can be timed as well.
            chosen = replace(generator, local_decoder=watched)
            renderer = chosen.renderer(Sampling(), max_rows=front, precision=precision, threads=options.threads)
            sample_tokens(renderer, PatchGrid(1, 2, 2), seeds=range(front))
            each = {f"{n}": 1e3 * statistics.median(watched.seconds[n]) for n in POSITIONS}
            rows.append({"front": front, "matrices": precision.weights, **each, "16 / 1": each["16"] / each["1"]})
            sys.stderr.write(f"{rows[-1]}\n")
    return rows


class Guess:
    """What is guessed of places that the window reaches, as :class:`jacobi._Guess` has it."""

    def __init__(self, patches: PatchDecoder) -> None:
        self.patches = patches

    def write(self, start: int, end: int) -> None:
        """Guess one place after another."""
        for place in range(start, end):
            self.patches.set_tokens([place], self.at(place)[:, None])

    def at(self, place: int) -> Tensor:
        """Return the token before."""
        return self.patches.tokens_RN[:, place - 1] if place else torch.zeros_like(self.patches.tokens_RN[:, 0])


def first_of(order: Sequence[int]) -> type[Guess]:
    """Return what takes the first of these neighbors that is there."""

    class First(Guess):
        def at(self, place: int) -> Tensor:
            near_RK, token_R = self.patches.neighbors([place])[:, 0], super().at(place)
            for k in reversed(order):
                token_R = torch.where(near_RK[:, k] != ABSENT, near_RK[:, k], token_R)
            return token_R

    return First


def exit_after(layers: int) -> type[Guess]:
    """Return what lets the first layers and the head improve the guess of neighbors, by one more reading."""

    class Exit(ACROSS):  # type: ignore[misc, valid-type]
        def write(self, start: int, end: int) -> None:
            super().write(start, end)
            if start == end:
                return
            patches = self._patches
            transformer = patches.batch.model
            every = transformer.layers
            transformer.layers = every[:layers]
            logits_RnK = PatchDecoder.logits(patches, range(start, end))
            transformer.layers = every
            drawn_M = Sampling().draw_frozen(logits_RnK.flatten(0, 1), patches.keys_RN[:, start:end].flatten())
            patches.set_tokens(range(start, end), drawn_M.view(-1, end - start))

    return Exit


def guesses(generator: Generator) -> dict[str, Any]:
    """Return the ways to guess."""
    found: dict[str, Any] = {
        "across": ACROSS,
        "the token before": Guess,
        "above, else across": first_of(range(8)),
        "diagonal, else above": first_of((2, 0, 1, *range(3, 8))),
        "exit after 2 layers": exit_after(2),
        "exit after all (a step more)": exit_after(generator.model.num_layers),
    }
    if generator.model.copy_head is not None:
        likeliest = generator.model.copy_head.linear.bias.argsort(descending=True).tolist()
        found["likeliest of the copy head"] = first_of([k for k in likeliest if k < 8])
    return found


def counted(generator: Generator, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return steps a patch."""
    rows = []
    cells = [(name, 16, 1.0, 50, 1) for name in guesses(generator)]
    cells += [("across", window, 1.0, 50, 1) for window in (4, 8, 12, 24, 64)]
    cells += [("across", 16, t, k, 1) for t, k in ((0.8, 50), (0.0, 50), (1.0, 0))]
    cells += [("across", window, 1.0, 50, 4) for window in (8, 16, 24)]
    for name, window, temperature, top_k, front in cells:
        watched = Watched(JacobiLocalDecoder(window))
        setattr(jacobi, "_Guess", guesses(generator)[name])  # noqa: B010 - for this cell
        renderer = replace(generator, local_decoder=watched).renderer(Sampling(temperature, top_k), max_rows=front)
        for seed in range(0, front * options.seeds, front):
            sample_tokens(renderer, PatchGrid(1, 4, 4), seeds=range(seed, seed + front))
        calls = sorted(watched.calls)
        rows.append(
            {"guess": name, "window": window, "temperature": temperature, "top-k": top_k, "front": front}
            | {"steps": statistics.fmean(calls), "p90": float(calls[int(0.9 * (len(calls) - 1))])}
        )
        sys.stderr.write(f"{rows[-1]}\n")
    return rows


def speeds(generator: Generator, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return tokens a second."""
    rows = []
    decoders: dict[str, LocalDecoder] = {"autoregressive": AutoregressiveLocalDecoder(), "with frozen noise": FROZEN}
    decoders |= {f"Jacobi, window {window}": JacobiLocalDecoder(window) for window in (8, 12, 16, 24)}
    decoders["Jacobi, window by what steps cost"] = JacobiLocalDecoder()
    grid = PatchGrid(1, 3, 4)
    for precision in FORMATS[: 1 + options.bfloat16]:
        for front in (1, 4):
            seconds: dict[str, list[float]] = {name: [] for name in decoders}
            same: dict[str, list[float]] = {name: [] for name in decoders}
            for number in range(options.rounds):
                tokens: dict[str, Tensor] = {}
                for name, decoder in decoders.items():
                    chosen = replace(generator, local_decoder=decoder)
                    renderer = chosen.renderer(Sampling(), max_rows=front, precision=precision, threads=options.threads)
                    began = clock()
                    tokens[name] = sample_tokens(renderer, grid, seeds=range(front * number, front * number + front))
                    seconds[name].append(clock() - began)
                for name in decoders:
                    same[name].append(float((tokens[name] == tokens["with frozen noise"]).double().mean()))
            count = grid.size * front * generator.model.patch_tokens
            for name in decoders:
                pairs = zip(seconds["autoregressive"], seconds[name], strict=True)
                rows.append(
                    {"decoder": name, "matrices": precision.weights, "front": front}
                    | {"tokens/s": count / statistics.median(seconds[name])}
                    | {"ratio": statistics.median(a / b for a, b in pairs), "same": statistics.fmean(same[name])}
                )
                sys.stderr.write(f"{rows[-1]}\n")
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the lines of a Markdown table."""
    lines = [[f"| {name}" for name in rows[0]] + ["|"], ["|---"] * len(rows[0]) + ["|"]]
    for row in rows:
        lines.append([f"| {v:.3g}" if isinstance(v, float) else f"| {v}" for v in row.values()] + ["|"])
    return "\n".join(aligned(lines))


@torch.inference_mode()
def main() -> None:
    """Measure, write and print."""
    global clock
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of stage 2")
    parser.add_argument("--output", type=Path, default=Path("measured_jacobi"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--formats", nargs="+", default=["float32"], help="in which steps are timed, too: bfloat16, int8"
    )
    parser.add_argument("--bfloat16", action="store_true", help="tokens a second in bfloat16, too")
    parser.add_argument("--threads", type=int, default=1, help="with several, seconds of the clock")
    parser.add_argument("--wall", action="store_true", help="seconds of the clock: on an idle machine")
    options = parser.parse_args()
    if options.wall or options.threads > 1:
        clock = time.perf_counter
    torch.set_num_threads(1)
    before, generator = os.getloadavg()[0], load_generator(options.run / "model")
    found = {"steps": steps(generator, options), "speeds": speeds(generator, options)}
    found["calls"] = counted(generator, options)  # last, since it tries other guesses
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "numbers.json", {"load": [before, os.getloadavg()[0]], **found})
    load = f"load before {before:.2f}, after {os.getloadavg()[0]:.2f}"
    sys.stdout.write("\n\n".join([*map(table, found.values()), load]) + "\n")


if __name__ == "__main__":
    main()
