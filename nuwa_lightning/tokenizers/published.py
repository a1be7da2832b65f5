"""Published tokenizers: taming, LDM, LlamaGen, IBQ, aMUSEd and MoVQ, all on diffusers' ``VQModel``.

    image_B3YX -> encoder, quant_conv -> z_BDYX -> a rule -> tokens_BYX -> post_quant_conv, decoder -> image_B3YX

They look at the whole image (GroupNorm, attention), so that canvases need them in a
:class:`~nuwa_lightning.tokenizers.windows.WindowedTokenizer`.

Shapes: B batch, N vectors, K codes, D code dimension, Y/X rows and columns.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, Self, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.unfilled import unfilled
from nuwa_lightning.models.vqgan import Autoencoder, count_codes, hash_weights
from nuwa_lightning.plain_data import from_plain
from nuwa_lightning.tokenizers.sharing import NetworkTokenizer, fill

Rule = Literal["nearest", "dot", "gumbel"]
Pixels = Literal["signed", "unit"]
_WHOLE: Final = 1 << 40
_AT_ONCE: Final = 1 << 26


class PublishedQuantizer(nn.Module):
    """The codes and how one is chosen. Fine-tuning leaves the codes as they are.

    Args:
        codebook_size: K.
        codebook_dim: D.
        rule: ``nearest`` is argmin |z - e|^2, ``dot`` (IBQ) argmax z e, ``gumbel`` argmax of a linear map of z.
        unit_codes: the codes have unit length (LlamaGen), so that the nearest one is that of z normalised, too.
    """

    codebook_KD: Tensor
    started: Final = True

    def __init__(self, codebook_size: int, codebook_dim: int, *, rule: Rule, unit_codes: bool) -> None:
        super().__init__()
        self.codebook_size, self.codebook_dim = codebook_size, codebook_dim
        self.rule, self.unit_codes = rule, unit_codes
        self.register_buffer("codebook_KD", torch.randn(codebook_size, codebook_dim))
        self.proj = nn.Linear(codebook_dim, codebook_size) if rule == "gumbel" else None

    def nearest(self, z_ND: Tensor) -> Tensor:
        """Return the index (long, N) of the code of each vector, by the rule."""
        parts = torch.split(z_ND, max(1, _AT_ONCE // self.codebook_size))  # K may be 262144
        return torch.cat([self._scores(part_ND).argmax(dim=1) for part_ND in parts])

    def _scores(self, z_ND: Tensor) -> Tensor:
        if self.proj is not None:
            scores_NK: Tensor = self.proj(z_ND)
            return scores_NK
        product_NK = z_ND @ self.codebook_KD.T
        if self.rule == "dot":
            return product_NK
        if self.unit_codes:
            z_ND = functional.normalize(z_ND, dim=1)
            product_NK = z_ND @ self.codebook_KD.T
        # With |z|^2, which decides nothing, so that numbers are rounded as the authors' code rounds them.
        return 2 * product_NK - (z_ND.square().sum(1, keepdim=True) + self.codebook_KD.square().sum(1))

    def forward(self, z_BDYX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the codes ``q_BDYX`` with gradients passed straight through, ``tokens_BYX`` and the commitment loss.

        Gumbel has no vectors to be near to: gradients go through the softmax, and the commitment is zero.
        """
        z_BYXD = z_BDYX.permute(0, 2, 3, 1)
        if self.proj is not None:
            share_BYXK = self._scores(z_BYXD).softmax(3)
            tokens_BYX = share_BYXK.argmax(3)
            q_BYXD = self.codebook_KD[tokens_BYX]
            soft_BYXD = share_BYXK @ self.codebook_KD
            q_BYXD = q_BYXD + soft_BYXD - soft_BYXD.detach()
            return q_BYXD.permute(0, 3, 1, 2), tokens_BYX, z_BDYX.new_zeros(())
        if self.unit_codes:
            z_BYXD = functional.normalize(z_BYXD, dim=3)
        tokens_BYX = self.nearest(z_BYXD.detach().flatten(0, 2)).view(z_BYXD.shape[:3])
        q_BYXD = self.codebook_KD[tokens_BYX]
        through_BYXD = z_BYXD + (q_BYXD - z_BYXD).detach()
        return through_BYXD.permute(0, 3, 1, 2), tokens_BYX, functional.mse_loss(z_BYXD, q_BYXD)

    def lookup(self, tokens_BYX: Tensor) -> Tensor:
        """Return the code vectors ``q_BDYX`` of tokens."""
        return self.codebook_KD[tokens_BYX].permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def count(self, tokens_N: Tensor) -> Tensor:
        """Return how often each code is used by all ranks (float, K)."""
        return count_codes(tokens_N, self.codebook_size)

    def update(self, z_ND: Tensor, tokens_N: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the count of the codes, which stay."""
        return self.count(tokens_N)


class PublishedDecoder(nn.Module):
    """Codes to pixels; MoVQ's norms look at the codes once more."""

    def __init__(self, vq: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.net = vq.post_quant_conv, vq.decoder
        self.spatial = vq.config.norm_type == "spatial"

    @property
    def last_weight(self) -> Tensor:
        """The weight of the last convolution."""
        weight: Tensor = self.net.conv_out.weight
        return weight

    def forward(self, q_BDYX: Tensor) -> Tensor:
        """Return what the last convolution gives."""
        made: Tensor = self.net(self.post_quant_conv(q_BDYX), q_BDYX if self.spatial else None)
        return made


@final
class PublishedVQGAN(Autoencoder, NetworkTokenizer):
    """A published tokenizer; :mod:`nuwa_lightning.tokenizers.conversion` makes it of the authors' file.

    Args:
        vqmodel: arguments of ``diffusers.VQModel``.
        rule: how a code is chosen, see :class:`PublishedQuantizer`.
        unit_codes: whether all codes have length 1.
        pixels: whether the network's images are in [-1, 1] (``signed``) or [0, 1] (``unit``).

    Raises:
        UsageError: if diffusers is not installed.
        ValueError: if an argument makes no sense.
    """

    def __init__(
        self, vqmodel: Mapping[str, Any], rule: Rule = "nearest", *, unit_codes: bool = False, pixels: Pixels = "signed"
    ) -> None:
        super().__init__()
        if rule not in get_args(Rule) or pixels not in get_args(Pixels):
            raise ValueError(f"rule {rule!r}, pixels {pixels!r}: one of {get_args(Rule)}, and of {get_args(Pixels)}")
        vq = _vq_model(**vqmodel)
        self.config = {"vqmodel": dict(vqmodel), "rule": rule, "unit_codes": unit_codes, "pixels": pixels}
        self.encoder = nn.Sequential(vq.encoder, vq.quant_conv)
        self.decoder = PublishedDecoder(vq)
        size, dim = vq.quantize.embedding.weight.shape
        self.quantizer = PublishedQuantizer(size, dim, rule=rule, unit_codes=unit_codes)
        self._factor: int = 2 ** (len(vq.config.block_out_channels) - 1)
        self.pixels = pixels

    @classmethod
    def remade(cls, description: Mapping[str, Any], state: dict[str, Tensor]) -> Self:
        with unfilled():
            made = from_plain(cls, description["init_args"])
        fill(made, state, assign=True)
        return made

    @property
    def downsample_factor(self) -> int:
        return self._factor

    @property
    def encode_halo(self) -> int:
        """More tokens than any image has: each depends on all."""
        return _WHOLE

    @property
    def decode_halo(self) -> int:
        """More tokens than any image has: each changes all pixels."""
        return _WHOLE

    def encode_features(self, image_B3YX: Tensor) -> Tensor:
        self.check_sides(image_B3YX)
        z_BDYX: Tensor = self.encoder((image_B3YX + 1) / 2 if self.pixels == "unit" else image_B3YX)
        return z_BDYX

    def decode_features(self, q_BDYX: Tensor) -> Tensor:
        made_B3YX: Tensor = self.decoder(q_BDYX)
        return made_B3YX * 2 - 1 if self.pixels == "unit" else made_B3YX

    def forward(self, image_B3YX: Tensor, *, quantize: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return reconstructions (not clamped), vectors ``z_BDYX``, tokens and commitment, with gradients."""
        z_BDYX = self.encode_features(image_B3YX)
        q_BDYX, tokens_BYX, commitment = self.quantizer(z_BDYX)
        return self.decode_features(q_BDYX), z_BDYX, tokens_BYX, commitment

    def fingerprint(self) -> str:
        """Return a hash (sha256, hex) of what decides the tokens: the encoder, its weights and the codes."""
        state = self.state_dict()
        return hash_weights(self.config, {k: v for k, v in state.items() if not k.startswith("decoder.")})

    def full_fingerprint(self) -> str:
        """Return a hash (sha256, hex) of the whole architecture and all weights, the decoder's included."""
        return hash_weights(self.config, self.state_dict())


def _vq_model(**arguments: Any) -> Any:
    try:
        from diffusers import VQModel
    except ImportError:
        hint = "published tokenizers need diffusers: pip install 'nuwa-lightning[tokenizers]'"
        raise UsageError("tokenizer.path", "PublishedVQGAN", hint) from None
    return VQModel(**arguments)
