"""The checks pass for every class there is (see tests/context and tests/direction) and fail for broken ones."""

from __future__ import annotations

import random

import pytest
import torch

from nuwa_lightning.generation.local import LocalDecoder, MaskedLocalDecoder, ParallelLocalDecoder
from nuwa_lightning.planning.context import ContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import DirectionController, Step
from nuwa_lightning.planning.geometry import OMEGA, ZETA, PatchGrid, PatchIndex, Symmetry
from nuwa_lightning.testing import check_context_pool, check_direction_controller, check_local_decoder
from tests.strategies import package_classes

NEARBY = NearbyContextPool((0, 1, 1))


class GoodPool(ContextPool):
    embedding_extent = (0, 1, 1)

    def select(self, patch, live):
        return NEARBY.select(patch, live)

    def remove(self, live, grid, finished):
        return NEARBY.remove(live, grid, finished)


class AcausalPool(GoodPool):
    def select(self, patch, live):
        return [*super().select(patch, live), patch.shifted((0, 0, 1))]


class RepeatingPool(GoodPool):
    def select(self, patch, live):
        return list(super().select(patch, live)) * 2


class FutureFramesPool(GoodPool):
    def select(self, patch, live):
        return list(live)

    def remove(self, live, grid, finished):
        return ()


class ForgetfulPool(GoodPool):
    def remove(self, live, grid, finished):
        return list(live)[:-2]


class FicklePool(GoodPool):
    calls = 0

    def select(self, patch, live):
        self.calls += 1
        return super().select(patch, live) if self.calls % 2 else []


class AnchoredPool(GoodPool):
    def select(self, patch, live):
        return [other for other in super().select(patch, live) if other.x % 2 == 0]


class AnchoredPoolThatSaysSo(AnchoredPool):
    translation_equivariant = False


class HoardingPool(GoodPool):
    def remove(self, live, grid, finished):
        return ()


class HoardingPoolThatSaysSo(HoardingPool):
    bounded = False


class StatefulPool(GoodPool):
    def __init__(self):
        self.grids = []

    def remove(self, live, grid, finished):
        self.grids.append(grid)
        return super().remove(live, grid, finished)

    def select(self, patch, live):
        chosen = sorted(super().select(patch, live))
        return chosen[:1] if len(self.grids) % 7 == 3 else chosen


class StrangeRemovePool(GoodPool):
    def remove(self, live, grid, finished):
        return [PatchIndex(0, 0, 9)]


class ShapelessPool(GoodPool):
    embedding_extent = (0, 1)


class LeftPool(ContextPool):
    embedding_extent = (0, 1, 1)

    def select(self, patch, live):
        return [other for other in live if other == patch.shifted((0, 0, -1))]

    def remove(self, live, grid, finished):
        return [patch for patch in live if finished(patch.shifted((0, 0, 1)))]


class NarrowPool(LeftPool):
    embedding_extent = (0, 0, 1)


@pytest.mark.parametrize("pool", [GoodPool, LeftPool, AnchoredPoolThatSaysSo, HoardingPoolThatSaysSo])
def test_good_pools_pass(pool):
    check_context_pool(pool())


@pytest.mark.parametrize(
    ("pool", "law"),
    [
        (AcausalPool, r"select returns live patches .*: grid \(1, 1, 1\), patch \(0, 0, 0\): .* \(0, 0, 1\) is not"),
        (RepeatingPool, "select returns live patches of no later frame, each once"),
        (FutureFramesPool, "select returns live patches of no later frame, each once"),
        (
            ForgetfulPool,
            r"remove drops nothing that a later select returns: grid \(1, 1, 4\), patch \(0, 0, 2\): "
            r"\(0, 0, 3\) was dropped, and select would return it",
        ),
        (FicklePool, r"select is deterministic: grid \(1, 1, 4\), patch \(0, 0, 1\)"),
        (AnchoredPool, r"moving the canvas moves the answer: grid .*, patch .*: moved by"),
        (HoardingPool, r"the live set does not grow with the canvas .*: grid \(1, 2, 256\): 512 patches are alive"),
        (StatefulPool, "remove drops nothing|deterministic|do not disturb"),
        (StrangeRemovePool, r"remove returns live patches: grid \(1, 1, 1\), patch \(0, 0, 0\)"),
        (ShapelessPool, "embedding_extent: .*: give three whole numbers"),
        (NarrowPool, r"an offset has an entry of its own in every order, .*: embedding_extent \(0, 0, 1\) holds"),
    ],
)
def test_broken_pools_are_found_out(pool, law):
    with pytest.raises(AssertionError, match=f"^{pool.__name__}: .*(?:{law})"):
        check_context_pool(pool())


class GoodController(DirectionController):
    """The known ones, then the rest in reading order."""

    def steps(self, grid, known):
        yield from (Step(patch, ZETA, known=True) for patch in sorted(known))
        yield from (Step(patch, ZETA) for patch in ZETA.walk(grid) if patch not in known)

    def supports_endless(self, grid):
        return ZETA.can_walk(grid)


class RepeatingController(GoodController):
    def steps(self, grid, known):
        for step in super().steps(grid, known):
            yield step
            if step.patch.x == 1:
                yield step


class SkippingController(GoodController):
    def steps(self, grid, known):
        return (step for step in super().steps(grid, known) if step.patch.x != 2)


class FickleController(GoodController):
    calls = 0

    def steps(self, grid, known):
        if grid.endless:
            return super().steps(grid, known)
        steps = list(super().steps(grid, known))
        self.calls += 1
        random.Random(self.calls).shuffle(steps)
        return iter(sorted(steps, key=lambda step: not step.known))


class IdleController(GoodController):
    def steps(self, grid, known):
        return iter([])


class LateController(GoodController):
    def steps(self, grid, known):
        if grid.endless:
            return super().steps(grid, known)
        return iter(sorted(super().steps(grid, known), key=lambda step: step.known))


class UnmarkedController(GoodController):
    def steps(self, grid, known):
        return (step._replace(known=False) for step in super().steps(grid, known))


class StrayingController(GoodController):
    def steps(self, grid, known):
        yield from super().steps(grid, known)
        yield Step(PatchIndex(0, -1, 0), ZETA)


class OddSymmetryController(GoodController):
    def steps(self, grid, known):
        return (step._replace(symmetry=Symmetry("mine")) for step in super().steps(grid, known))


class BoastingController(GoodController):
    def supports_endless(self, grid):
        return grid.t is not None

    def steps(self, grid, known):
        if grid.x is not None:
            yield from super().steps(grid, known)
            return
        yield from (Step(patch, ZETA, known=True) for patch in sorted(known))
        x = 0
        while True:  # never leaves the first row
            if (patch := PatchIndex(0, 0, x)) not in known:
                yield Step(patch, ZETA)
            x += 1


class EndingController(GoodController):
    def supports_endless(self, grid):
        return grid.x is None and grid.t == 1

    def steps(self, grid, known):
        if grid.x is not None:
            yield from super().steps(grid, known)
            return
        yield from super().steps(PatchGrid(1, grid.y, 5), known)


class WeightlessController(GoodController):
    training_symmetries = ((1.0, OMEGA), (float("nan"), ZETA))


def test_a_good_controller_passes():
    check_direction_controller(GoodController())


@pytest.mark.parametrize(
    ("controller", "law"),
    [
        (
            RepeatingController,
            r"grid \(1, 1, 4\): .* at patch \(0, 0, 1\): breaks its law: a plan names each patch once",
        ),
        (SkippingController, r"at patch \(0, 0, 2\): breaks its law: every patch that is not known is written"),
        (IdleController, r"grid \(1, 1, 1\): .* at patch \(0, 0, 0\): breaks its law: every patch"),
        (FickleController, r"the same arguments give the same plan: grid \(1, 1, 4\), patch"),
        (LateController, "a known patch comes before what is written in its own or a later frame"),
        (UnmarkedController, "known patches, and no others, are marked as known"),
        (StrayingController, r"at patch \(0, -1, 0\): breaks its law: a plan stays inside its grid"),
        (OddSymmetryController, "a symmetry is one of the eight"),
        (BoastingController, r"a lazy plan reaches every patch: grid \(1, 3, None\), patch \(0, 1, 0\)"),
        (EndingController, r"grid \(1, 1, None\): .*: breaks its law: a plan of the endless grid .* ends"),
        (WeightlessController, "the weights of training_plans"),
    ],
)
def test_broken_controllers_are_found_out(controller, law):
    with pytest.raises(AssertionError, match=f"^{controller.__name__}: .*{law}"):
        check_direction_controller(controller())


class Beside(ParallelLocalDecoder):
    def decode(self, patches, sampling, uniform_RU):
        super().decode(patches, sampling, uniform_RU.mean(dim=0, keepdim=True).expand_as(uniform_RU))


class Half(ParallelLocalDecoder):
    def decode(self, patches, sampling, uniform_RU):
        places = range(uniform_RU.shape[1] // 2)
        drawn_M = sampling.draw(patches.logits(places).flatten(0, 1), uniform_RU[:, list(places)].flatten())
        patches.set_tokens(places, drawn_M.view(len(uniform_RU), -1))


class Restless(ParallelLocalDecoder):
    def decode(self, patches, sampling, uniform_RU):
        super().decode(patches, sampling, torch.rand(uniform_RU.shape, dtype=uniform_RU.dtype))


class Open(ParallelLocalDecoder):
    def training_mask(self, shape, generator):
        return torch.zeros(shape, dtype=torch.bool)


class Unasked(ParallelLocalDecoder):
    def training_mask(self, shape, generator):
        return torch.rand(shape) < 2 + torch.rand(()) if shape[0] == 1 else torch.rand(shape).argsort(-1) > 0


class Lucky(ParallelLocalDecoder):
    def training_mask(self, shape, generator):
        return torch.rand(shape, generator=generator) < 0.5


class Seen(ParallelLocalDecoder):
    def training_mask(self, shape, generator):
        return None


class Greedy(LocalDecoder):
    """Writes the best token, one after another, with groups of places and an order that subclasses spoil."""

    def draws(self, tokens):
        return 0

    def places(self, tokens):
        return [[place] for place in range(tokens)]

    def decode(self, patches, sampling, uniform_RU):
        for places in self.places(patches.tokens_RN.shape[1]):
            patches.set_tokens(places, patches.logits(places).argmax(-1))


class Ahead(Greedy):
    def places(self, tokens):
        return [[place] for place in reversed(range(tokens))]


class Together(Greedy):
    def places(self, tokens):
        return [range(tokens)]


class Apart(Greedy):
    def places(self, tokens):
        return [[0], [1, 3], [2]]

    def decode(self, patches, sampling, uniform_RU):
        patches.set_tokens([0, 1, 2], patches.tokens_RN[:, :3] * 0)
        super().decode(patches, sampling, uniform_RU)


class Beyond(Greedy):
    def decode(self, patches, sampling, uniform_RU):
        super().decode(patches, sampling, uniform_RU)
        patches.set_tokens([patches.tokens_RN.shape[1]], patches.tokens_RN[:, :1])


class Misshapen(Greedy):
    def decode(self, patches, sampling, uniform_RU):
        patches.set_tokens([0], patches.tokens_RN[:, :3])


class Hiding(Greedy):
    def training_mask(self, shape, generator):
        return torch.ones(shape, dtype=torch.bool)


class Maskless(ParallelLocalDecoder):
    def training_mask(self, shape, generator):
        raise KeyError("hidden")


def test_a_local_decoder_of_ones_own_passes():
    check_local_decoder(Greedy())


@pytest.mark.parametrize("decoder", [*(cls() for cls in package_classes(LocalDecoder)), MaskedLocalDecoder(steps=2)])
def test_local_decoders_of_the_package(decoder):
    check_local_decoder(decoder)


@pytest.mark.parametrize(
    ("decoder", "law"),
    [
        (Beside(), "a patch does not depend on patches beside it"),
        (Half(), "decode sets all tokens"),
        (Restless(), "decode is deterministic"),
        (Open(), "training_mask hides something"),
        (Lucky(), "training_mask hides something"),
        (Seen(), "a bidirectional decoder hides tokens in training"),
        (Ahead(), "a causal decoder asks for places side by side .* written: asked for 3, 2 is not"),
        (Together(), "a causal decoder asks for places side by side .* written: asked for 3, 2 is not"),
        (Apart(), r"a causal decoder asks for places side by side .* written: asked for \[1, 3\]"),
        (Beyond(), "decode is an error: IndexError: "),
        (Misshapen(), "decode is an error: RuntimeError: "),
        (Hiding(), "a causal decoder hides nothing"),
        (Maskless(), "training_mask is an error: KeyError: 'hidden'"),
        (Unasked(), "training_mask draws by the generator alone"),
    ],
)
def test_local_decoders_that_break_a_law(decoder, law):
    with pytest.raises(AssertionError, match=f"^{type(decoder).__name__}: {law}"):
        check_local_decoder(decoder)
