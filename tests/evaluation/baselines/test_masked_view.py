"""MaskGIT over the view: whole canvases, earlier windows never change, and the sampler uses the trained decoder."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from evaluation.baselines.masked_view import MaskedViewSampler, origins
from evaluation.baselines.sliding_window import SlidingWindowSampler
from evaluation.sampling import PatchSampler, sampler_class
from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local import MaskedLocalDecoder
from nuwa_lightning.generation.pretrained import Generator
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import EmptyContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import RasterDirectionController


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    size = TransformerConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=2, layer_scale=1.0)
    model = PatchTransformer(11, 4, patch_size=(4, 4), embedding_extent=(0, 0, 0), size=size, bidirectional=True)
    torch.nn.init.normal_(model.head.weight)
    model.set_codes(torch.randn(11, 4))
    decoder = MaskedLocalDecoder(steps=3)
    return Generator(model.eval(), EmptyContextPool(), RasterDirectionController(), "raster", "x", decoder)


def test_windows_extend_what_is_written(generator: Generator) -> None:
    sampler = MaskedViewSampler(generator, Sampling())
    with torch.inference_mode():
        wide = sampler.tokens(4, 10, [3, 4])
        window = sampler.tokens(4, 4, [3, 4])
        alone = sampler.tokens(4, 10, [4])
    assert wide.shape == (2, 4, 10)
    assert int(wide.min()) >= 0
    assert int(wide.max()) < 11
    assert torch.equal(wide[:, :, :4], window)
    assert torch.equal(wide[1], alone[0])
    assert not torch.equal(wide[0], wide[1])


def test_the_default_sampler_uses_the_decoder_of_the_training(generator: Generator) -> None:
    size = VQGANConfig(codebook_size=11, codebook_dim=4, encoder_channels=(8,), encoder_blocks=(1,),
                       decoder_channels=(8,), decoder_blocks=(1,))  # fmt: skip
    tokenizer = VQGAN.build(size)
    generator = dataclasses.replace(generator, tokenizer_fingerprint=tokenizer.fingerprint())
    with torch.inference_mode():
        pipe = NuwaInfinityPipeline(generator, tokenizer)
        patches = PatchSampler(pipe, Sampling()).tokens(4, 4, [3, 4])
        window = sampler_class("masked_view")(generator, Sampling()).tokens(4, 4, [3, 4])
    assert torch.equal(patches, window)


def test_windows_cover_the_canvas() -> None:
    for length in range(8, 40):
        found = origins(length, 8)
        assert found[0] == 0
        assert found[-1] == length - 8
        assert all(0 < later - sooner <= 4 for sooner, later in itertools.pairwise(found))


def test_other_models_are_refused(generator: Generator) -> None:
    other = Generator(generator.model, NearbyContextPool(), generator.direction, "raster", "x", generator.local_decoder)
    with pytest.raises(UsageError, match="needs a model of one view"):
        MaskedViewSampler(other, Sampling())
    with pytest.raises(UsageError, match="needs a model of one window"):
        SlidingWindowSampler(generator, Sampling())
    with pytest.raises(UsageError, match="smaller than the view"):
        MaskedViewSampler(generator, Sampling()).tokens(3, 9, [0])
    with pytest.raises(UsageError, match="give an import path, such as"):
        sampler_class("windows")
