"""The few loops that are worth being compiled: products and attention at a few rows, in float32 and in int8; drawing.

At one row PyTorch's products in float32 read their matrix at half the memory's speed, and those in int8 spend more time
on small operations around the product than on reading; its attention reads keys and values as float32. Sorting all
codes takes as long as a step. ``cpu_kernels.c`` and ``drawing.c`` beside this file do each in one go. They are compiled
on first use by the C compiler of the machine, if there is one, and kept in the cache folder; without a compiler, or on
another processor, PyTorch's own operations do the same.

Shape legend: M rows, I/O inputs and outputs, R rows, l positions, H query heads, G key/value heads, D head width,
S key positions, X = (H + 2 G) * D, K codes.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor

from nuwa_lightning.atomic import atomic_write

_LOG = logging.getLogger(__name__)
_PLAIN: Final = {"avx2": "-mavx2", "fma3": "-mfma"}
_WIDE: Final = _PLAIN | {f"avx512_{name}": f"-mavx512{name}" for name in ("f", "bw", "vl", "dq", "vnni")}
"""What the processor has to have, and what the compiler is told of it."""
_TILE: Final = 64
_DEEP: Final = 16
HEAD_WIDTHS: Final = (32, 64)
"""Of which compiled attention knows how to attend."""


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


@final
class FloatKernels:
    """The compiled functions in float32. Sums are taken in one order, so a row has the same bits in any company."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        self._product, self._attend = loaded.product32, loaded.attend32
        self._product.argtypes = [pointer, whole, whole, *(4 * [pointer]), whole, whole]
        self._attend.argtypes = [*(4 * [pointer]), *(7 * [whole]), pointer, whole, pointer, whole]
        self._product.restype = self._attend.restype = None
        loaded.panel.restype = loaded.panels.restype = whole
        self._panel, self._beside = loaded.panel(), loaded.panels()

    def packed(self, weight_OI: Tensor) -> Tensor:
        """Return a matrix in the order in which the product reads it: ``[panels, I, outputs of one]``."""
        padded_OI = F.pad(weight_OI, (0, 0, 0, -len(weight_OI) % (self._panel * self._beside)))
        return padded_OI.view(-1, self._panel, weight_OI.shape[1]).transpose(1, 2).contiguous()

    def product(self, h_MI: Tensor, packed: Tensor, bias_O: Tensor | None, out_MO: Tensor, *, add: bool) -> Tensor:
        """Write ``h @ matrix + bias`` to ``out``, or add it to what is there; returns ``out``."""
        (M, inputs), out = h_MI.shape, out_MO.data_ptr()
        h_MI = h_MI.contiguous()
        self._product(
            h_MI.data_ptr(),
            M,
            inputs,
            packed.data_ptr(),
            None if bias_O is None else bias_O.data_ptr(),
            out if add else None,
            out,
            out_MO.shape[1],
            torch.get_num_threads(),
        )
        return out_MO

    def attend(
        self,
        qkv_MX: Tensor,
        own_GD: Tensor | None,
        k_RGSD: Tensor,
        v_RGSD: Tensor,
        *,
        start: int,
        end: int,
        bias_RS: Tensor | None,
    ) -> Tensor:
        """Return what the positions ``start`` to ``end`` see of the keys up to their own ``[R * l, H * D]``.

        Args:
            qkv_MX: their queries, keys and values.
            own_GD: added to the keys, contiguous.
            k_RGSD: keys, contiguous; those of the positions are written.
            v_RGSD: values, likewise.
            start: place of the first position.
            end: place behind the last one.
            bias_RS: added to the logits; rows may be longer than ``end``.
        """
        R, G, size, D = k_RGSD.shape
        M, X = qkv_MX.shape
        out_MV = qkv_MX.new_empty(M, X - 2 * G * D)
        self._attend(
            qkv_MX.data_ptr(),
            None if own_GD is None else own_GD.data_ptr(),
            k_RGSD.data_ptr(),
            v_RGSD.data_ptr(),
            R,
            end - start,
            G,
            X // D - 2 * G,
            D,
            size,
            start,
            None if bias_RS is None else bias_RS.data_ptr(),
            0 if bias_RS is None else bias_RS.stride(0),
            out_MV.data_ptr(),
            torch.get_num_threads(),
        )
        return out_MV


@final
class DrawingKernel:
    """The compiled function that finds codes by their share of the probability."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        pointer, whole, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        self._draw = loaded.draw
        self._draw.argtypes = [pointer, whole, whole, real, real, pointer, pointer, whole]
        self._draw.restype = whole

    def codes(self, score_RK: Tensor, temperature: float, p: float, uniform_R: Tensor | None) -> tuple[Tensor, bool]:
        """Return the code that each row draws from the best that reach ``p``, and whether that is known of all rows.

        Args:
            score_RK: float32.
            temperature: divides the scores; above 0.
            p: below 1.
            uniform_R: float64; None for the last of those that reach ``p``.

        Returns:
            ``[R]`` codes, -1 where rounding could tell which one it is.
        """
        (R, K), score_RK = score_RK.shape, score_RK.contiguous()
        code_R = torch.empty(R, dtype=torch.long)
        uniform_R = None if uniform_R is None else uniform_R.double().expand(R).contiguous()
        untold: int = self._draw(
            score_RK.data_ptr(),
            R,
            K,
            1 / temperature,
            p,
            None if uniform_R is None else uniform_R.data_ptr(),
            code_R.data_ptr(),
            torch.get_num_threads(),
        )
        return code_R, untold == 0


@functools.cache
def kernels() -> Kernels | None:
    """Return the compiled functions in int8 and over bfloat16, or None where they cannot be had."""
    library = _library(_WIDE)
    return None if library is None else Kernels(library)


@functools.cache
def float_kernels() -> FloatKernels | None:
    """Return those in float32, or None where they cannot be had."""
    library = _library(_WIDE) or _library(_PLAIN)
    return None if library is None else FloatKernels(library)


@functools.cache
def drawing_kernel() -> DrawingKernel | None:
    """Return the one that draws, or None where it cannot be had."""
    library = _library(_WIDE, "drawing.c") or _library(_PLAIN, "drawing.c")
    return None if library is None else DrawingKernel(library)


def _library(needed: Mapping[str, str], source: str = "cpu_kernels.c") -> Path | None:
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not all(abilities.get(name) for name in needed):
        return None
    for parallel in (("-fopenmp",), ()):  # some compilers come without it
        try:
            return _compiled(Path(__file__).with_name(source), ("-O3", *parallel, *needed.values()))
        except (OSError, subprocess.SubprocessError) as error:
            _LOG.info("no compiled loops: %s", error)
    return None


def _compiled(source: Path, flags: Sequence[str]) -> Path:
    """Compile once for each source, compiler call and user."""
    digest = hashlib.sha256(source.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
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
        call = [compiler, *flags, "-shared", "-fPIC", "-o", str(partial), str(source), "-lm"]
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
