"""A coarse plan of the canvas: the same canvas several times smaller, generated first and read as neighbors (ours).

A patch sees its context and nothing says where the horizon runs. The plan does: a token canvas of the image made
``scale`` times smaller, itself written patch by patch by a model of its own, with a pool and a direction of its own. To
be read it is decoded, enlarged, and encoded again, so that its tokens lie on the grid of the canvas,

    plan = encode(enlarge(decode(coarse)))        coarse = encode(shrink(image)), or what the coarse model writes

and the nine around a position are neighbors of the token there (``models.nuwa_infinity.COARSE``). Nothing else of the
canvas changes: pool, direction and waves are what they are without a plan.

Shape legend: B images, Y/X rows and columns of the canvas, y/x of the coarse one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor

from nuwa_lightning.batch_part import WHOLE, BatchPart
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import ABSENT
from nuwa_lightning.planning.geometry import PatchIndex
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.tiling import decode_tiled, encode_tiled


class CoarseTokens(Protocol):
    """The plan of a canvas, on the grid of the canvas."""

    def around(self, patch: PatchIndex, /) -> Tensor:
        """Return the tokens of a patch and one more on all sides ``[B, rows + 2, columns + 2]``, else ``ABSENT``."""


@dataclass(frozen=True)
class CoarsePlan:
    """How a coarse plan is made of an image, and how a model learns to read it.

    Args:
        scale: how many times smaller the image is along each side.
        dropout: share of training samples that have no plan.
        noise: share of the coarse tokens of training samples that are wrong, as those of a model are.
        temperature: of the coarse model's tokens.
        top_k: draw them from the k best; 0 = all. Few make all plans alike.
        top_p: draw them from the best that reach p.

    Raises:
        UsageError: if a number makes no sense.
    """

    scale: int = 4
    dropout: float = 0.1
    noise: float = 0.08
    temperature: float = 1.0
    top_k: int = 200
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise UsageError("model.plan.scale", self.scale, "give a whole number from 2 up; 4 is usual")
        for name in ("dropout", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"model.plan.{name}", getattr(self, name), "give a share, from 0 to 1")
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """How coarse tokens are drawn."""
        return Sampling(self.temperature, self.top_k, self.top_p)

    def of_batch(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None, part: BatchPart = WHOLE
    ) -> Tensor:
        """Return the plans of training samples ``[B, T, Y, X]``, some dropped if there is a generator to draw which.

        Args:
            batch: holds the plans.
            generator: draws.
            part: which part of the batch this is.
        """
        if "coarse" not in batch:
            hint = "the model reads coarse plans and this data has none: use TokenDataModule, or model.plan=null"
            raise UsageError("data", "no coarse plans", hint)
        coarse_BTYX = batch["coarse"]
        if generator is None:
            return coarse_BTYX
        dropped_B = part.of(torch.rand(part.world * len(coarse_BTYX), generator=generator)) < self.dropout
        return torch.where(dropped_B.to(coarse_BTYX.device)[:, None, None, None], ABSENT, coarse_BTYX)

    def shrunk(self, image_B3YX: Tensor) -> Tensor:
        """Return the image ``[B, 3, Y / scale, X / scale]``; its sides are multiples of ``scale``."""
        size = [side // self.scale for side in image_B3YX.shape[2:]]
        return F.interpolate(image_B3YX, size, mode="bicubic", antialias=True).clamp(-1, 1)

    def enlarged(self, image_B3yx: Tensor) -> Tensor:
        """Return the image ``[B, 3, y * scale, x * scale]``."""
        size = [side * self.scale for side in image_B3yx.shape[2:]]
        return F.interpolate(image_B3yx, size, mode="bicubic").clamp(-1, 1)

    def coarse_tokens(self, tokenizer: Tokenizer, image_B3YX: Tensor) -> Tensor:
        """Return the coarse tokens ``[B, y, x]`` of an image whose sides are multiples of a coarse token."""
        return encode_tiled(tokenizer, self.shrunk(image_B3YX))

    def read_tokens(self, tokenizer: Tokenizer, coarse_Byx: Tensor) -> Tensor:
        """Return what a model reads of coarse tokens ``[B, y * scale, x * scale]``, on the grid of the canvas."""
        # Rounded to 8 bits, as pixels are everywhere else.
        image_B3yx = (decode_tiled(tokenizer, coarse_Byx).clamp(-1, 1) + 1).mul(127.5).round().div(127.5) - 1
        return encode_tiled(tokenizer, self.enlarged(image_B3yx))

    @torch.no_grad()
    def of_image(self, tokenizer: Tokenizer, image_B3YX: Tensor, *, seed: int | None = None) -> Tensor:
        """Return what a model reads of the plan of an image ``[B, Y, X]``.

        Args:
            tokenizer: makes tokens and images of one another.
            image_B3YX: sides are multiples of a token.
            seed: of what is wrong with it (``noise``); None for nothing.
        """
        factor = tokenizer.downsample_factor
        height, width = image_B3YX.shape[2:]
        whole = factor * self.scale
        padding = (0, -width % whole, 0, -height % whole)
        coarse_Byx = self.coarse_tokens(tokenizer, F.pad(image_B3YX, padding, mode="replicate"))
        if seed is not None and self.noise:
            generator = torch.Generator().manual_seed(seed)
            wrong_Byx = torch.rand(coarse_Byx.shape, generator=generator) < self.noise
            other_Byx = torch.randint(coarse_Byx[0].numel(), coarse_Byx.shape, generator=generator)
            others_BM = coarse_Byx.flatten(1).gather(1, other_Byx.flatten(1).to(coarse_Byx.device))
            coarse_Byx = torch.where(wrong_Byx.to(coarse_Byx.device), others_BM.view_as(coarse_Byx), coarse_Byx)
        return self.read_tokens(tokenizer, coarse_Byx)[:, : height // factor, : width // factor]


@final
@dataclass(frozen=True)
class CoarseEncoder:
    """Coarse plans of images, as a data module keeps them (``data.token_bank.CoarseLike``)."""

    plan: CoarsePlan
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """What decides about the tokens, beside the tokenizer."""
        return f"coarse plan, scale {self.plan.scale}, noise {self.plan.noise}"

    def encode(self, image_B3YX: Tensor, *, seed: int | None) -> Tensor:
        """See :meth:`CoarsePlan.of_image`."""
        return self.plan.of_image(self.tokenizer, image_B3YX, seed=seed)
