"""A tokenizer of a user's own: saved, loaded with permission only, held to the laws."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.testing import check_tokenizer
from nuwa_lightning.tokenizers.pretrained import load_tokenizer, save_tokenizer
from nuwa_lightning.tokenizers.windows import WindowedTokenizer

SMALL = VQGANConfig(
    16, 4, encoder_channels=(8, 12), encoder_blocks=(1, 1), decoder_channels=(12, 8), decoder_blocks=(1, 1)
)


@dataclass(frozen=True)
class Gray:
    """As many levels of gray as there are codes."""

    codebook_size: int = 8
    downsample_factor, codebook_dim, encode_halo, decode_halo, step = 2, 1, 0, 0, 1

    @property
    def codebook_KD(self) -> torch.Tensor:
        return torch.linspace(-1, 1, self.codebook_size)[:, None]

    def encode(self, image_B3YX: torch.Tensor) -> torch.Tensor:
        level_BYX = torch.nn.functional.avg_pool2d(image_B3YX, 2).mean(1)
        return ((level_BYX + 1) / 2 * (self.codebook_size - 1)).round().long()

    def decode(self, tokens_BYX: torch.Tensor) -> torch.Tensor:
        level_BYX = self.codebook_KD[tokens_BYX][..., 0]
        return level_BYX.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand(-1, 3, -1, -1)

    def fingerprint(self) -> str:
        return f"gray {self.codebook_size}"


class Careless(Gray):
    def decode(self, tokens_BYX: torch.Tensor) -> torch.Tensor:
        return super().decode(tokens_BYX - tokens_BYX[:, :1, :1])


class BeyondWhite(Gray):
    def encode(self, image_B3YX: torch.Tensor) -> torch.Tensor:
        level_BYX = torch.nn.functional.avg_pool2d(image_B3YX, 2).mean(1)
        return ((level_BYX + 1) / 2 * self.codebook_size).long()


class Short(Gray):
    def encode(self, image_B3YX: torch.Tensor) -> torch.Tensor:
        return super().encode(image_B3YX).int()


class Glaring(Gray):
    def decode(self, tokens_BYX: torch.Tensor) -> torch.Tensor:
        return super().decode(tokens_BYX) * 3


class Mute(Gray):
    def encode(self, image_B3YX: torch.Tensor) -> torch.Tensor:
        raise KeyError("gray")


class Idle(Gray):
    def decode(self, tokens_BYX: torch.Tensor) -> torch.Tensor:
        pass


class Nameless(Gray):
    def fingerprint(self) -> str:
        raise ValueError("none")


def test_a_class_of_ones_own_needs_permission(tmp_path):
    for tokenizer in (Gray(5), WindowedTokenizer(Gray(6), 8, 2)):
        save_tokenizer(tmp_path / "t", tokenizer)
        with pytest.raises(UsageError, match=r"is not of this package: give it with `own=\[tests\..*Gray\]`"):
            load_tokenizer(tmp_path / "t")
        again = load_tokenizer(tmp_path / "t", own=[Gray])
        assert again == tokenizer
        assert again.fingerprint() == tokenizer.fingerprint()


def test_windows_of_a_vqgan_are_saved_whole(tmp_path):
    windowed = WindowedTokenizer(VQGAN.build(SMALL).eval(), 8, 2)
    save_tokenizer(tmp_path / "t", windowed)
    again = load_tokenizer(tmp_path / "t")
    tokens = torch.randint(16, (1, 9, 11))
    with torch.no_grad():
        torch.testing.assert_close(again.decode(tokens), windowed.decode(tokens))
    assert again.fingerprint() == windowed.fingerprint()


@pytest.mark.parametrize("name", ["os.system", "nuwa_lightning.tokenizers.tiling.Rectangle", "nuwa_lightning.cli.main"])
def test_a_folder_names_nothing_else(tmp_path, name):
    save_tokenizer(tmp_path / "t", Gray())
    path = tmp_path / "t" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "class": name}))
    with pytest.raises(UsageError):
        load_tokenizer(tmp_path / "t", own=[Gray])


def test_the_laws():
    check_tokenizer(Gray())
    check_tokenizer(WindowedTokenizer(Gray(), 8, 2))
    check_tokenizer(VQGAN.build(SMALL).eval())
    check_tokenizer(WindowedTokenizer(VQGAN.build(SMALL).eval(), 8, 2))


@pytest.mark.parametrize(
    ("tokenizer", "law"),
    [
        (Careless(), "pieces are decoded as the whole"),
        (BeyondWhite(), "tokens are from 0 to K - 1, also of black, white and pure colors"),
        (Short(), "encode gives one long token a square"),
        (Glaring(), "pixels are from -1 to 1"),
        (Mute(), "encode is an error: KeyError: 'gray'"),
        (Idle(), "decode gives factor x factor pixels a token"),
        (Nameless(), "a member of it is an error: ValueError: none"),
    ],
)
def test_a_broken_law_is_named(tokenizer, law):
    with pytest.raises(AssertionError, match=f"^{type(tokenizer).__name__}: {law}"):
        check_tokenizer(tokenizer)


def test_spoiled_weights_are_refused_by_name(tmp_path):
    vqgan = VQGAN.build(SMALL)
    with torch.no_grad():
        vqgan.decoder.last_weight[0] = float("nan")
    save_tokenizer(tmp_path / "t", vqgan)
    with pytest.raises(UsageError, match="holds NaN or infinity"):
        load_tokenizer(tmp_path / "t")
