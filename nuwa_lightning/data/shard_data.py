"""Stage 2 from shards: the windows of `TokenWindowsModule`, of sets that are larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from nuwa_lightning.data.streams import Batch
from nuwa_lightning.data.token_bank import Encode, TokenizerLike
from nuwa_lightning.data.token_shards import TokenShards
from nuwa_lightning.data.token_windows import TextEncoderLike, TokenWindowsModule, Window
from nuwa_lightning.errors import UsageError

# Legend: B samples, S tokens of a caption, E width of a token.


@final
class TokenShardsDataModule(TokenWindowsModule):
    """Windows of the token grids in shards: at random for training, fixed for validation.

    Samples are drawn as `TokenDataModule` draws them: each photo once before any comes again, in an order that goes
    through all shards, another one each time, and different samples in each process. With a text encoder, captions are
    encoded batch by batch.

    Args:
        shards: the folder that ``make-shards`` wrote.
        grid: (y, x) of a window in tokens.
        grids: further sizes; see `TokenDataModule`.
        frames: frames of a window; 1 for photos.
        stride: take one of so many frames.
        options: see `TokenWindowsModule`.

    Raises:
        UsageError: if an option makes no sense.
    """

    noun = "photo"

    def __init__(
        self,
        shards: str,
        *,
        grid: tuple[int, int] = (32, 32),
        grids: Sequence[tuple[int, int]] = (),
        frames: int = 1,
        stride: int = 1,
        **options: Any,
    ) -> None:
        for name, value in (("data.frames", frames), ("data.stride", stride)):
            if value < 1:
                raise UsageError(name, value, "give 1 or more")
        self.shards = TokenShards(shards)
        more = [Window(frames, *size, stride=stride) for size in grids]
        super().__init__(self.shards, Window(frames, *grid, stride=stride), more=more, **options)
        if self.whole_height:
            raise UsageError("data.whole_height", True, "shards are not sorted by height: give false")

    def open_bank(self, tokenizer: TokenizerLike, encode: Encode | None) -> TokenShards:
        index = self.shards.index
        if index["fingerprint"] != tokenizer.fingerprint():
            hint = "was made with another tokenizer: name that one, or make the shards anew, in a new folder"
            raise UsageError("data.shards", self.shards.folder, hint)
        smallest = index["smallest"]
        for window in (self.window, *self.more):
            if any(length > least for length, least in zip((window.reach, window.y, window.x), smallest, strict=True)):
                hint = (
                    f"the shards hold grids from {smallest[1]}x{smallest[2]} tokens and {smallest[0]} frame(s) on: "
                    f"give smaller windows, or make them with this `data.grid`, which leaves out what is smaller"
                )
                shown = [window.y, window.x] if window.frames == 1 else [window.frames, window.y, window.x]
                raise UsageError("data.grid", shown, hint)
        return self.shards

    def encoded_captions(self, encoder: TextEncoderLike) -> _ShardCaptions:
        every = [one for some in self.shards.index["shards"].values() for one in some]
        without = sum(one["photos"] - one["captions"] for one in every)
        if without:
            total = sum(one["photos"] for one in every)
            hint = f"{without} of {total} have no caption: make the shards with `captioned`, which leaves these out"
            raise UsageError("data.shards", self.shards.folder, hint)
        return _ShardCaptions(self.shards, encoder)

    def shrunk_to(self) -> tuple[str, str]:
        return "the sizes that the shards were made of", "make the shards anew"


@final
@dataclass(frozen=True)
class _ShardCaptions:
    """A `CaptionsLike` that reads and encodes captions when a batch asks for them."""

    shards: TokenShards
    encoder: TextEncoderLike
    of_photo: None = None

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `CaptionsLike.batch`."""
        states = self.encoder.states([self.shards.text(index)["caption"] for index in indices])
        text_BSE = torch.nn.utils.rnn.pad_sequence([state.float() for state in states], batch_first=True)
        lengths_B1 = torch.tensor([[len(state)] for state in states])
        return {"text": text_BSE, "text_mask": torch.arange(text_BSE.shape[1]) < lengths_B1}
