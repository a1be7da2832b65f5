"""Tokenizers by themselves in folders and on the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from nuwa_lightning.hub import Pretrained


class PretrainedTokenizer(Pretrained):
    """A tokenizer that is shared by itself; a class of the user's may be one, too."""

    part: ClassVar[Literal["tokenizer"]] = "tokenizer"

    @classmethod
    def _loaded(cls, folder: Path, own: Sequence[type[Any]]) -> object:
        from nuwa_lightning.tokenizers.pretrained import load_tokenizer  # which imports the classes

        return load_tokenizer(folder, option="checkpoint", own=own)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """See :func:`nuwa_lightning.tokenizers.pretrained.save_tokenizer`."""
        from nuwa_lightning.tokenizers.pretrained import save_tokenizer

        save_tokenizer(folder, self)  # type: ignore[arg-type]  # the protocol is the subclass's to keep
