"""The decoder of videos: begins as the plain one, is local, listens to the previous frame, comes back from a folder."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.pixel_guided import Guide, PixelGuidedDecoder, PixelGuidedSize, decode_next_tiled
from nuwa_lightning.models.vqgan import VQGAN, Decoder, VQGANConfig
from nuwa_lightning.tokenizers.pretrained import load_pixel_guided, load_tokenizer, save_pixel_guided, save_tokenizer

SIZE = VQGANConfig(
    codebook_size=32,
    codebook_dim=4,
    encoder_channels=(8, 12),
    encoder_blocks=(1, 1),
    decoder_channels=(12, 8, 8),
    decoder_blocks=(1, 1, 1),
)
BLOCKS = (1, 0, 1)


def tokenizer(seed: int = 0) -> VQGAN:
    torch.manual_seed(seed)
    vqgan = VQGAN.build(SIZE).eval().requires_grad_(False)
    torch.nn.init.normal_(vqgan.quantizer.codebook_KD)
    vqgan.quantizer.codebook_KD /= vqgan.codebook_KD.norm(dim=1, keepdim=True)
    return vqgan


def awake(vqgan: VQGAN) -> PixelGuidedDecoder:
    """Return one as if trained: every layer that begins at zero does something."""
    guided = PixelGuidedDecoder.start(vqgan, BLOCKS).eval()
    for name, weight in guided.named_parameters():
        if name.endswith(("narrow.linear.weight", "outs.0.linear.weight")) or ".outs." in name:
            torch.nn.init.normal_(weight, std=0.3)
    return guided


def frames(tokens_BYX: torch.Tensor, seed: int = 1) -> torch.Tensor:
    batch, height, width = tokens_BYX.shape
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, 8 * height, 8 * width, generator=generator) * 2 - 1


def draw(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.randint(SIZE.codebook_size, (batch, height, width), generator=torch.Generator().manual_seed(0))


VQGAN_ONCE = tokenizer()
GUIDED_ONCE = awake(VQGAN_ONCE)


def test_begins_as_the_plain_decoder_whatever_came_before():
    tokens = draw(4, 6, batch=2)
    guided = PixelGuidedDecoder.start(VQGAN_ONCE, BLOCKS)
    for seed in (1, 2):
        assert torch.equal(guided.decode_next(tokens, frames(tokens, seed)), VQGAN_ONCE.decode(tokens))
    assert guided.fingerprint() == VQGAN_ONCE.fingerprint()


def test_its_weights_are_its_own():
    vqgan = tokenizer()
    guided = PixelGuidedDecoder.start(vqgan, BLOCKS)
    before = vqgan.full_fingerprint()
    with torch.no_grad():
        for weight in [*guided.parameters(), guided.codebook_KD]:
            weight.add_(1)
    assert vqgan.full_fingerprint() == before


@given(height=st.integers(1, 24), width=st.integers(1, 24), tile=st.integers(1, 25))
def test_tiles_equal_the_whole(height, width, tile):
    tokens = draw(height, width)
    previous = frames(tokens)
    whole = GUIDED_ONCE.decode_next(tokens, previous)
    tiled = decode_next_tiled(GUIDED_ONCE, tokens, previous, tile=tile)
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("what", ["tokens", "previous"])
def test_nothing_beyond_the_halo_changes_a_token_s_pixels(what):
    """Against brute force: change one place, see where pixels change."""
    halo, at = GUIDED_ONCE.decode_halo, 12
    tokens = draw(25, 25)
    previous = frames(tokens)
    changed_tokens, changed = tokens.clone(), previous.clone()
    if what == "tokens":
        changed_tokens[0, at, at] = (tokens[0, at, at] + 1) % SIZE.codebook_size
    else:
        changed[..., 8 * at : 8 * at + 8, 8 * at : 8 * at + 8] *= -1
    difference = GUIDED_ONCE.decode_next(changed_tokens, changed) - GUIDED_ONCE.decode_next(tokens, previous)
    moved_YX = torch.nn.functional.max_pool2d(difference.abs().amax(1), 8)[0] > 0
    rows, columns = moved_YX.nonzero().T
    reach = int(torch.maximum((rows - at).abs(), (columns - at).abs()).max())
    assert 1 <= reach <= halo < 12


def test_gradients_reach_every_part_of_guide_and_decoder():
    tokens = draw(3, 3)
    guided = awake(VQGAN_ONCE)
    guided(tokens, frames(tokens)).square().mean().backward()
    for name, weight in guided.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_from_its_start_the_guide_learns_first_where_it_enters():
    tokens = draw(3, 3)
    guided = PixelGuidedDecoder.start(VQGAN_ONCE, BLOCKS)
    guided(tokens, frames(tokens)).square().mean().backward()
    assert all(out.linear.weight.grad.abs().sum() > 0 for out in guided.guide.outs)


def test_training_finds_in_the_previous_frame_what_tokens_do_not_say():
    """The frame to be made is the previous one, turned over in brightness: all tokens are the same."""
    torch.manual_seed(0)
    guided = PixelGuidedDecoder.start(VQGAN_ONCE, BLOCKS)
    tokens = torch.zeros(4, 3, 3, dtype=torch.long)
    optimizer = torch.optim.Adam(guided.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(120):
        coarse = torch.rand(4, 3, 6, 6, generator=generator) - 0.5
        previous = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
        loss = (guided(tokens, previous) + previous).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # What no decoder without a guide can be better than: the mean distance from the best constant.
    floor = 0.25
    assert losses[0] > floor
    assert sum(losses[-10:]) / 10 < 0.5 * floor


def test_a_previous_frame_of_another_size_is_refused():
    tokens = draw(3, 4)
    with pytest.raises(ValueError, match=r"\(1, 3, 24, 24\), the tokens are those of \(1, 3, 24, 32\)"):
        GUIDED_ONCE.decode_next(tokens, torch.zeros(1, 3, 24, 24))


def test_parts_must_fit_together():
    with pytest.raises(ValueError, match="one for each level"):
        PixelGuidedDecoder.start(VQGAN_ONCE, (1, 1))
    with pytest.raises(ValueError, match="one number per level"):
        Guide((8, 8), (1,), cell=4)
    size = PixelGuidedSize(SIZE, BLOCKS)
    decoder = Decoder(4, channels=(8, 8), blocks=(0, 0), cell=4)
    with pytest.raises(ValueError, match="2 levels down to cells of 4 pixels, the guide 2 down to 2"):
        PixelGuidedDecoder(
            decoder, Guide((8, 8), (0, 0), cell=2), codebook_KD=torch.zeros(8, 4), tokenizer="", size=size
        )


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_saved_decoder_comes_back(tmp_path):
    save_pixel_guided(tmp_path / "run" / "pixel_guided", GUIDED_ONCE)
    tokens = draw(4, 5)
    for folder in (tmp_path / "run" / "pixel_guided", tmp_path / "run"):
        again = load_pixel_guided(folder, tokenizer=VQGAN_ONCE)
        assert again.size == GUIDED_ONCE.size
        assert again.fingerprint() == GUIDED_ONCE.fingerprint()
        assert not any(p.requires_grad for p in again.parameters())
        assert torch.equal(again.decode_next(tokens, frames(tokens)), GUIDED_ONCE.decode_next(tokens, frames(tokens)))
    names = sorted(p.name for p in (tmp_path / "run" / "pixel_guided").iterdir())
    assert names == ["config.json", "model.safetensors"]


def test_only_encoder_and_codes_make_it_another_tokenizer(tmp_path):
    save_pixel_guided(tmp_path / "g", GUIDED_ONCE)
    refined = copy.deepcopy(VQGAN_ONCE).deepened((1, 0, 0))
    with torch.no_grad():
        refined.decoder.head.conv.weight.add_(1)
    load_pixel_guided(tmp_path / "g", tokenizer=refined)
    for other in (tokenizer(1), copy.deepcopy(VQGAN_ONCE)):
        other.quantizer.codebook_KD[0] *= -1
        with pytest.raises(UsageError, match=r"tokenizer\.guided: .*trained with another tokenizer"):
            load_pixel_guided(tmp_path / "g", tokenizer=other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "nuwa-lightning tokenizer"}, "holds nuwa-lightning tokenizer, not a nuwa-lightning pixel-guided"),
        ({"format": 2}, "has format 2, this version reads 1"),
        ({"size": {}}, "makes no sense"),
        ({"size": {"vqgan": {}, "guide_blocks": [1, 1]}}, "do not belong together"),
        ({"size": {"vqgan": SIZE.as_dict(), "guide_blocks": [1, 1]}}, "makes no sense"),
        ({"size": {"vqgan": SIZE.as_dict(), "guide_blocks": [1, 1, 1]}}, "do not belong together"),
        ({"tokenizer_fingerprint": 5}, "makes no sense"),
    ],
)
def test_a_folder_that_is_none_is_refused_by_name(tmp_path, changes, words):
    save_pixel_guided(tmp_path / "g", GUIDED_ONCE)
    config = json.loads((tmp_path / "g" / "config.json").read_text())
    (tmp_path / "g" / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UsageError, match=words):
        load_pixel_guided(tmp_path / "g")


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"--checkpoint: .*there is no pixel-guided decoder here"):
        load_pixel_guided(tmp_path, option="--checkpoint")
    save_pixel_guided(tmp_path / "g", GUIDED_ONCE)
    weights = tmp_path / "g" / "model.safetensors"
    state = load_file(weights)
    state.pop("codebook_KD")
    save_file(state, weights)
    with pytest.raises(UsageError, match="do not belong together"):
        load_pixel_guided(tmp_path / "g")
    weights.unlink()
    with pytest.raises(UsageError, match="is missing"):
        load_pixel_guided(tmp_path / "g")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    save_pixel_guided(tmp_path / "g", GUIDED_ONCE)
    weights = tmp_path / "g" / "model.safetensors"
    state = load_file(weights)
    state["codebook_KD"][1, 1] = value
    save_file(state, weights)
    with pytest.raises(UsageError, match="codebook_KD holds NaN or infinity"):
        load_pixel_guided(tmp_path / "g")


def test_neither_passes_for_the_other(tmp_path):
    save_pixel_guided(tmp_path / "g", GUIDED_ONCE)
    save_tokenizer(tmp_path / "t", VQGAN_ONCE)
    with pytest.raises(UsageError, match="holds nuwa-lightning pixel-guided decoder, not a nuwa-lightning tokenizer"):
        load_tokenizer(tmp_path / "g")
    with pytest.raises(UsageError, match="holds nuwa-lightning tokenizer"):
        load_pixel_guided(tmp_path / "t")


def test_sizes_survive_json():
    size = PixelGuidedSize(dataclasses.replace(SIZE, decoder_blocks=(2, 1, 3)), BLOCKS)
    assert PixelGuidedSize.from_dict(json.loads(json.dumps(size.as_dict()))) == size
