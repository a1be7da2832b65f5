"""Token states of captions on disk, each encoded once; read by mapping the file.

Shape legend: B captions, S tokens of a caption, E width of a token.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nuwa_lightning.atomic import atomic_folder, write_json
from nuwa_lightning.errors import UsageError

_VERSION: Final = 1
_AT_ONCE: Final = 1024


@final
class TextBank:
    """Captions and their token states, mapped from disk.

    Args:
        folder: a folder that `build_text_bank` made.

    Raises:
        UsageError: if it is not one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            data = json.loads((folder / "index.json").read_text("utf-8"))
            self._spans: dict[str, tuple[int, int]] = {c: (start, stop) for c, start, stop in data["captions"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError("text bank", folder, "damaged; delete the folder, it is made anew") from error

    @functools.cached_property
    def _flat(self) -> npt.NDArray[np.float16]:
        mapped: npt.NDArray[np.float16] = np.load(self.folder / "states.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped file out, so that loading processes map it themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "_flat"}

    def __len__(self) -> int:
        """Return the number of different captions."""
        return len(self._spans)

    def states(self, caption: str) -> Tensor:
        """Return the token states ``[S, E]`` of a caption, in half precision; of "" none."""
        start, stop = self._spans.get(" ".join(caption.split()), (0, 0))
        return torch.from_numpy(np.array(self._flat[start:stop]))

    def batch(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the token states of captions side by side; see `padded`."""
        return padded([self.states(caption) for caption in captions])


def build_text_bank(
    captions: Sequence[str],
    encode: Callable[[Sequence[str]], list[Tensor]],
    *,
    cache: Path,
    fingerprint: str,
) -> TextBank:
    """Return the bank of ``captions``, encoding them if it is not on disk yet; it appears whole or not at all.

    Args:
        captions: tidy captions; "" needs no encoding.
        encode: gives token states ``[S, E]``.
        cache: folder for banks.
        fingerprint: of the encoder; another one never reads this bank.
    """
    from tqdm.auto import tqdm

    different = sorted({caption for caption in captions if caption})
    said = json.dumps([_VERSION, fingerprint, different]).encode()
    folder = cache / "texts" / hashlib.sha256(said).hexdigest()[:24]
    if not (folder / "index.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        flat: list[Tensor] = []
        bar = tqdm(total=len(different), desc="encoding captions", unit="caption", disable=None)
        for start in range(0, len(different), _AT_ONCE):
            flat += encode(different[start : start + _AT_ONCE])
            bar.update(len(different[start : start + _AT_ONCE]))
        bar.close()
        stops = np.cumsum([len(states) for states in flat], dtype=np.int64).tolist()
        spans = list(zip(different, [0, *stops[:-1]], stops, strict=True)) if different else []
        with atomic_folder(folder, overwrite=True) as partial:
            whole = torch.cat(flat) if flat else torch.zeros(0, 1, dtype=torch.float16)
            np.save(partial / "states.npy", whole.numpy(), allow_pickle=False)
            write_json(partial / "index.json", {"version": _VERSION, "fingerprint": fingerprint, "captions": spans})
    return TextBank(folder)


def padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return token states side by side, float32 ``[B, S, E]``, and which tokens are there, ``[B, S]``."""
    text_BSE = torch.nn.utils.rnn.pad_sequence([s.float() for s in states], batch_first=True)
    lengths_B1 = torch.tensor([[len(s)] for s in states])
    return text_BSE, torch.arange(text_BSE.shape[1]) < lengths_B1
