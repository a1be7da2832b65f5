"""The tokenizer as a whole: shapes, fingerprints, exact tiles, and folders that can be trusted."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.dct_init import start_spectral
from nuwa_lightning.models.vqgan import VQGAN, Decoder, Encoder, VectorQuantizer, VQGANConfig
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.pretrained import load_tokenizer, save_tokenizer
from nuwa_lightning.tokenizers.tiling import (
    Rectangle,
    decode_rectangle,
    decode_tiled,
    encode_tiled,
    tiles,
)

SMALL = VQGANConfig(
    codebook_size=64,
    codebook_dim=6,
    encoder_channels=(8, 12),
    encoder_blocks=(1, 2),
    decoder_channels=(12, 8),
    decoder_blocks=(2, 1),
)


def awake(size: VQGANConfig = SMALL) -> VQGAN:
    """Return a tokenizer whose blocks do something and whose codes are spread over what it makes of noise."""
    torch.manual_seed(0)
    vqgan = VQGAN.build(size).eval().requires_grad_(False)
    start_spectral(vqgan.encoder, vqgan.decoder)
    for module in vqgan.modules():
        if hasattr(module, "narrow"):
            torch.nn.init.normal_(module.narrow.linear.weight, std=0.3)
    vectors = vqgan.encode_features(torch.rand(4, 3, 64, 64) * 2 - 1).permute(0, 2, 3, 1).flatten(0, 2)
    vqgan.quantizer.start(vectors, generator=torch.Generator().manual_seed(0))
    return vqgan


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    return awake()


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_is_a_tokenizer(vqgan):
    assert isinstance(vqgan, Tokenizer)
    tokens = vqgan.encode(noise(48, 80))
    assert tokens.shape == (1, 6, 10)
    assert tokens.dtype == torch.long
    assert len(tokens.unique()) > 10
    image = vqgan.decode(tokens)
    assert image.shape == (1, 3, 48, 80)
    assert image.abs().max() <= 1
    assert vqgan.codebook_KD.shape == (64, 6)
    torch.testing.assert_close(vqgan.codebook_KD.norm(dim=1), torch.ones(64))


def test_forward_agrees_with_encode_and_decode(vqgan):
    image = noise(32, 32)
    rebuilt, _, tokens, _ = vqgan(image)
    assert torch.equal(tokens, vqgan.encode(image))
    torch.testing.assert_close(rebuilt.clamp(-1, 1), vqgan.decode(tokens), atol=1e-5, rtol=0)
    assert vqgan(image, quantize=False)[2] is None


def test_sides_must_be_multiples_of_the_factor(vqgan):
    with pytest.raises(ValueError, match="multiples of 8"):
        vqgan.encode(noise(32, 30))


@given(height=st.integers(1, 14), width=st.integers(1, 14), tile=st.integers(1, 15), batch=st.integers(1, 2))
def test_tiles_equal_the_whole(height, width, tile, batch):
    vqgan = awake_once()
    image = torch.cat([noise(8 * height, 8 * width, seed) for seed in range(batch)])
    z = vqgan.encode_features(image)
    similarity = (z.permute(0, 2, 3, 1) @ vqgan.codebook_KD.T).topk(2, dim=3).values
    clear = similarity[..., 0] - similarity[..., 1] > 1e-6  # elsewhere rounding may decide between two codes
    tokens = vqgan.encode(image)
    assert torch.equal(encode_tiled(vqgan, image, tile=tile)[clear], tokens[clear])
    torch.testing.assert_close(decode_tiled(vqgan, tokens, tile=tile), vqgan.decode(tokens), atol=1e-5, rtol=0)


_ONCE: list[VQGAN] = []


def awake_once() -> VQGAN:
    if not _ONCE:
        _ONCE.append(awake())
    return _ONCE[0]


DEEP = dataclasses.replace(SMALL, decoder_channels=(12, 8, 8), decoder_blocks=(1, 0, 1))


@pytest.mark.parametrize(
    "size", [SMALL, dataclasses.replace(SMALL, cell=8, codebook_size=32), DEEP], ids=["f8", "f16", "deep"]
)
def test_vectors_of_tiles_equal_those_of_the_whole(size):
    vqgan = awake(size)
    f, halo = vqgan.downsample_factor, vqgan.encode_halo
    image = noise(f * 12, f * 16)
    whole = vqgan.encode_features(image)
    piece = Rectangle(5, 6, 8, 9)
    outer = piece.grown(halo, 12, 16)
    top, left, bottom, right = (f * v for v in outer)
    part = vqgan.encode_features(image[:, :, top:bottom, left:right])
    inner = part[:, :, piece.top - outer.top :, piece.left - outer.left :][:, :, :3, :3]
    torch.testing.assert_close(inner, whole[:, :, 5:8, 6:9], atol=1e-5, rtol=0)


def test_a_rectangle_asks_for_no_more_than_its_margin(vqgan):
    tokens = torch.randint(64, (1, 30, 40), generator=torch.Generator().manual_seed(0))
    asked = []

    def read(area: Rectangle) -> torch.Tensor:
        asked.append(area)
        return tokens[:, area.top : area.bottom, area.left : area.right]

    piece = Rectangle(10, 35, 14, 40)
    pixels = decode_rectangle(vqgan, read, rectangle=piece, size=(30, 40))
    halo = vqgan.decode_halo
    assert asked == [Rectangle(10 - halo, 35 - halo, 14 + halo, 40)]
    torch.testing.assert_close(pixels, vqgan.decode(tokens)[:, :, 80:112, 280:320], atol=1e-5, rtol=0)


@given(height=st.integers(1, 30), width=st.integers(1, 30), tile=st.integers(1, 31))
def test_tiles_cover_the_canvas_once(height, width, tile):
    seen = torch.zeros(height, width)
    for top, left, bottom, right in tiles(height, width, tile):
        assert bottom - top <= tile
        assert right - left <= tile
        seen[top:bottom, left:right] += 1
    assert (seen == 1).all()


def test_tiles_need_a_size():
    with pytest.raises(ValueError, match="at least one token"):
        list(tiles(4, 4, 0))


def test_fingerprint_tells_what_decides_tokens():
    vqgan = awake()
    tokens, whole = vqgan.fingerprint(), vqgan.full_fingerprint()
    vqgan.decoder.head.conv.weight += 1
    assert vqgan.fingerprint() == tokens
    assert vqgan.full_fingerprint() != whole
    vqgan.encoder.head.linear.bias += 1e-3
    assert vqgan.fingerprint() != tokens
    assert awake().fingerprint() == tokens


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder_blocks": (1,)},
        {"decoder_channels": (8, 8, 8, 8, 8), "decoder_blocks": (0, 0, 0, 0, 0)},
        {"codebook_size": 1},
        {"codebook_dim": 0},
        {"encoder_channels": (1 << 15, 8)},
        {"decoder_blocks": (300, 1)},
        {"code_decay": 1.0},
    ],
)
def test_sizes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[-1]):
        dataclasses.replace(SMALL, **wrong)


def test_a_deeper_decoder_decodes_the_same_at_first(vqgan):
    deeper = vqgan.deepened((1, 2))
    assert deeper.size.decoder_blocks == (3, 3)
    assert deeper.decode_halo > vqgan.decode_halo
    tokens = vqgan.encode(noise(32, 48))
    assert torch.equal(deeper.encode(noise(32, 48)), tokens)
    assert torch.equal(deeper.decode(tokens), vqgan.decode(tokens))
    assert deeper.fingerprint() == vqgan.fingerprint()
    with pytest.raises(ValueError, match="one number"):
        vqgan.deepened((1,))


def test_parts_must_fit_together():
    parts = {"channels": (8, 8), "blocks": (0, 0)}
    with pytest.raises(ValueError, match="encoder: 8 pixels a token, decoder: 16"):
        VQGAN(Encoder(4, **parts), Decoder(4, **parts, cell=8), quantizer=VectorQuantizer(8, 4), size=SMALL)
    with pytest.raises(ValueError, match="codebook_dim"):
        VQGAN(Encoder(4, **parts), Decoder(4, **parts), quantizer=VectorQuantizer(8, 5), size=SMALL)


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_saved_tokenizer_comes_back(vqgan, tmp_path):
    save_tokenizer(tmp_path / "run" / "tokenizer", vqgan)
    for folder in (tmp_path / "run" / "tokenizer", tmp_path / "run"):
        again = load_tokenizer(folder)
        assert again.size == vqgan.size
        assert again.full_fingerprint() == vqgan.full_fingerprint()
        assert not again.training
        assert not any(p.requires_grad for p in again.parameters())
        tokens = vqgan.encode(noise(32, 48))
        assert torch.equal(again.encode(noise(32, 48)), tokens)
        assert torch.equal(again.decode(tokens), vqgan.decode(tokens))
    assert sorted(p.name for p in (tmp_path / "run" / "tokenizer").iterdir()) == ["config.json", "model.safetensors"]


def test_saving_again_replaces_the_folder_whole(vqgan, tmp_path):
    save_tokenizer(tmp_path / "t", vqgan)
    save_tokenizer(tmp_path / "t", awake(dataclasses.replace(SMALL, codebook_size=32)))
    assert load_tokenizer(tmp_path / "t").codebook_size == 32
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def damage(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "nuwa-lightning patch transformer"}, "holds nuwa-lightning patch transformer, not a nuwa-lightning"),
        ({"format": 99}, "has format 99, this version reads 1"),
        ({"class": "os.system"}, "os.system is not of this package"),
        ({"size": {"codebook_size": 64, "surprise": 1}}, "makes no sense"),
        ({"size": {"codebook_size": 1 << 40}}, "makes no sense"),
        ({"size": {}}, "do not belong together"),
        ({"size": None}, "makes no sense"),
    ],
)
def test_a_folder_that_is_not_a_tokenizer_is_refused_by_name(vqgan, tmp_path, changes, words):
    save_tokenizer(tmp_path / "t", vqgan)
    damage(tmp_path / "t", **changes)
    with pytest.raises(UsageError, match=words):
        load_tokenizer(tmp_path / "t")


def test_missing_and_damaged_files_are_named(vqgan, tmp_path):
    with pytest.raises(UsageError, match=r"model\.start_from: .*there is no tokenizer here"):
        load_tokenizer(tmp_path, option="--model.start_from")
    folder = tmp_path / "t"
    save_tokenizer(folder, vqgan)
    with pytest.raises(UsageError, match="is a file"):
        load_tokenizer(folder / "config.json")
    weights = folder / "model.safetensors"
    state = load_file(weights)
    state.pop("quantizer.codebook_KD")
    save_file(state, weights)
    with pytest.raises(UsageError, match="do not belong together"):
        load_tokenizer(folder)
    weights.write_bytes(b"\xff" * 100)
    with pytest.raises(UsageError, match="damaged"):
        load_tokenizer(folder)
    weights.unlink()
    with pytest.raises(UsageError, match="is missing"):
        load_tokenizer(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        load_tokenizer(folder)
