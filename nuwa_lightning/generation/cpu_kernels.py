"""The few loops that are worth being compiled: products in int8 and attention over bfloat16, at a few rows.

At one row PyTorch's int8 products spend more time on small operations around the product than on reading the matrix,
and its attention reads keys and values as float32. ``kernels.c`` beside this file does each in one go. It is compiled
on first use by the C compiler of the machine, if there is one, and kept in the cache folder; without a compiler, or on
another processor, PyTorch's own operations do the same.

Shape legend: M rows, I/O inputs and outputs, R rows, H query heads, G key/value heads, D head width, S key positions.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor

from nuwa_lightning.atomic import atomic_write

_LOG = logging.getLogger(__name__)
_FLAGS: Final = ("-O3", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma")
_NEEDED: Final = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_vnni", "fma3")
_TILE: Final = 64
_DEEP: Final = 16
HEAD_WIDTHS: Final = (32, 64)
"""Of which :meth:`Kernels.attend` knows how to attend."""


@final
class Kernels:
    """The compiled functions."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        self._product, self._attend = loaded.product, loaded.attend
        self._product.argtypes = [pointer, whole, whole, *(6 * [pointer]), whole]
        self._attend.argtypes = [*(3 * [pointer]), *(6 * [whole]), pointer, whole, pointer]
        self._product.restype = self._attend.restype = None

    def product(self, h_MI: Tensor, matrix: PackedMatrix, x_MO: Tensor | None = None) -> Tensor:
        """Return ``h @ matrix + bias``, plus ``x`` if it is given; ``h`` in int8 with a scale for each row."""
        rows, inputs = h_MI.shape
        h_MI = h_MI.contiguous()
        out_MO = h_MI.new_empty(rows, matrix.outputs)
        if x_MO is not None:
            x_MO = x_MO.contiguous()
        self._product(
            h_MI.data_ptr(),
            rows,
            inputs,
            matrix.packed.data_ptr(),
            matrix.middle_O.data_ptr(),
            matrix.scale_O.data_ptr(),
            matrix.bias_O.data_ptr(),
            None if x_MO is None else x_MO.data_ptr(),
            out_MO.data_ptr(),
            matrix.outputs,
        )
        return out_MO

    def attend(self, q_RHD: Tensor, k_RGSD: Tensor, v_RGSD: Tensor, end: int, bias_RS: Tensor | None) -> Tensor:
        """Return what one query position of each row sees of the first ``end`` keys ``[R, H * D]``.

        Args:
            q_RHD: queries, float32.
            k_RGSD: keys, bfloat16, contiguous.
            v_RGSD: values, likewise.
            end: how many positions there are already.
            bias_RS: added to the logits, float32; rows may be longer than ``end``.
        """
        R, H, D = q_RHD.shape
        q_RHD = q_RHD.contiguous()
        out_RW = q_RHD.new_empty(R, H * D)
        self._attend(
            q_RHD.data_ptr(),
            k_RGSD.data_ptr(),
            v_RGSD.data_ptr(),
            R,
            k_RGSD.shape[1],
            H,
            D,
            k_RGSD.shape[2],
            end,
            None if bias_RS is None else bias_RS.data_ptr(),
            0 if bias_RS is None else bias_RS.stride(0),
            out_RW.data_ptr(),
        )
        return out_RW


@final
class PackedMatrix:
    """An int8 matrix in the order in which the product reads it.

    Args:
        weight_OI: whole numbers of at most 127, int8.
        scale_O: what they stand for, and a 127th of it for the rows.
        bias_O: added at the end.
    """

    def __init__(self, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor) -> None:
        self.outputs, inputs = weight_OI.shape
        tall, deep = -self.outputs % _TILE, -inputs % _DEEP
        padded_OI = F.pad(weight_OI, (0, deep, 0, tall))
        tiles = padded_OI.view(-1, _TILE, padded_OI.shape[1] // 4, 4)
        self.packed = tiles.transpose(1, 2).contiguous()
        # Rows come as 1 to 255 around 128: that much of each output is to be taken off.
        self.middle_O = (128 * weight_OI.sum(dim=1, dtype=torch.int32)).to(torch.int32)
        self.scale_O, self.bias_O = scale_O.float().contiguous(), bias_O.float().contiguous()


@functools.cache
def kernels() -> Kernels | None:
    """Return the compiled functions, or None where they cannot be had."""
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not all(abilities.get(name) for name in _NEEDED):
        return None
    try:
        return Kernels(_compiled(Path(__file__).with_suffix(".c")))
    except (OSError, subprocess.SubprocessError) as error:
        _LOG.info("int8 without compiled loops: %s", error)
        return None


def _compiled(source: Path) -> Path:
    """Compile once for each source, compiler call and user."""
    digest = hashlib.sha256(source.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()[:16]
    library = _folder() / f"{source.stem}-{digest}.so"
    if library.exists() and _ours(library) and _ours(library.parent):
        return library
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("there is no C compiler")
    library.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not _ours(library.parent):
        raise PermissionError(f"{library.parent} is another user's, or others may write to it")
    with atomic_write(library) as partial:
        call = [compiler, *_FLAGS, "-shared", "-fPIC", "-o", str(partial), str(source), "-lm"]
        subprocess.run(call, check=True, capture_output=True, timeout=120)
        partial.chmod(0o755)  # whatever the umask is
    return library


def _ours(path: Path) -> bool:
    """Say whether nobody else could have put something there: what is loaded from it is run."""
    if sys.platform == "win32":
        return True
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


def _folder() -> Path:
    own, base = os.environ.get("NUWA_LIGHTNING_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser() / "kernels"
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "nuwa_lightning" / "kernels"
