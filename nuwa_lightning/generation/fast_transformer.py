"""The patch transformer laid out for writing: the maths of training in fewer, larger and, if wanted, coarser products.

Everything is derived from a :class:`PatchTransformer`; a test holds its logits equal to those of the training forward.
At one row a product takes as long as reading its matrix, so what counts is bytes: queries, keys and values are one
product, LayerScale and both heads are folded in, and a matrix may be kept in fewer bits. Where there are compiled loops
(``cpu_kernels``) they do the products in float32 and int8; elsewhere matrices lie input by output (a third faster than
the transpose at four rows, as fast at one).

Shape legend: R rows, l positions, J tokens that one position reads (its own, then neighbors), M = R * l, L = 1 + N
positions of a patch, I/O width of input and output, W model width, H query heads, G key/value heads, D head width,
K codes, E code width, C context patches, S key positions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, Literal, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.cpu_kernels import (
    HEAD_WIDTHS,
    FloatKernels,
    Kernels,
    PackedMatrix,
    float_kernels,
    kernels,
)
from nuwa_lightning.models.nuwa_infinity import ABSENT, PatchLayer, PatchTransformer, attend

Number = Literal["float32", "bfloat16", "int8"]
"""How numbers are kept. ``float32`` stands for the model's own numbers, whatever they are: the reference."""


@dataclass(frozen=True)
class Precision:
    """In how many bits matrices and finished patches are kept while a canvas is written.

    Args:
        weights: of the matrices of all layers and of the head. ``int8`` has a scale for each output, and for each row
            of the input, found as it comes: no row depends on another, so waves change nothing here either.
        cache: of the keys and values of finished patches. ``int8`` has a scale for each token and head. They are
            attended to in the model's own numbers, in bfloat16 if matrices are bfloat16 as well, or int8 and there
            are compiled loops for that.

    Raises:
        UsageError: for another kind of numbers.
    """

    weights: Number = "float32"
    cache: Number = "float32"

    def __post_init__(self) -> None:
        for option, value in (("weights", self.weights), ("cache", self.cache)):
            if value not in get_args(Number):
                raise UsageError(option, value, f"choose {', '.join(get_args(Number))}")


class Product(ABC):
    """``h @ matrix + bias`` for rows ``h``."""

    @abstractmethod
    def of(self, h_MI: Tensor) -> Tensor:
        """Return ``[M, O]``."""

    @abstractmethod
    def add_to(self, x_MO: Tensor, h_MI: Tensor) -> Tensor:
        """Return ``x + h @ matrix + bias``; ``x_MO`` may be overwritten."""


def product(weight_OI: Tensor, bias_O: Tensor | None, number: Number, *, loops: bool = True) -> Product:
    """Return a linear map whose matrix is kept as ``number``; by compiled loops, if they are wanted and there."""
    if number == "int8":
        compiled = kernels() if loops and weight_OI.dtype == torch.float32 else None
        return Int8(weight_OI, bias_O) if compiled is None else CompiledInt8(weight_OI, bias_O, compiled)
    if number == "bfloat16":
        return _Bfloat16(weight_OI, bias_O)
    exact = _loops(weight_OI) if loops else None
    return Exact(weight_OI, bias_O) if exact is None else CompiledExact(weight_OI, bias_O, exact)


def _loops(like: Tensor) -> FloatKernels | None:
    """Return the compiled loops that take such numbers."""
    return float_kernels() if like.dtype == torch.float32 and like.device.type == "cpu" else None


@final
class Exact(Product):
    """The model's own numbers."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._weight_IO = weight_OI.t().contiguous()
        self._bias_O = bias_O

    def of(self, h_MI: Tensor) -> Tensor:
        if self._bias_O is None:
            return torch.mm(h_MI, self._weight_IO)
        return torch.addmm(self._bias_O, h_MI, self._weight_IO)

    def add_to(self, x_MO: Tensor, h_MI: Tensor) -> Tensor:
        if self._bias_O is not None:
            x_MO = x_MO + self._bias_O
        return x_MO.addmm_(h_MI, self._weight_IO)


@final
class CompiledExact(Product):
    """The same as :class:`Exact`, but for rounding; a row has the same bits beside any others."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, loops: FloatKernels) -> None:
        self._packed, self._outputs, self._loops = loops.packed(weight_OI), len(weight_OI), loops
        self._bias_O = None if bias_O is None else bias_O.contiguous()

    def of(self, h_MI: Tensor) -> Tensor:
        out_MO = h_MI.new_empty(len(h_MI), self._outputs)
        return self._loops.product(h_MI, self._packed, self._bias_O, out_MO, add=False)

    def add_to(self, x_MO: Tensor, h_MI: Tensor) -> Tensor:
        return self._loops.product(h_MI, self._packed, self._bias_O, x_MO.contiguous(), add=True)


@final
class _Bfloat16(Product):
    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._weight_IO = weight_OI.t().to(torch.bfloat16).contiguous()
        self._bias_O = None if bias_O is None else bias_O.to(torch.bfloat16)

    def of(self, h_MI: Tensor) -> Tensor:
        h_MI = h_MI.to(torch.bfloat16)
        if self._bias_O is None:
            return torch.mm(h_MI, self._weight_IO)
        return torch.addmm(self._bias_O, h_MI, self._weight_IO)

    def add_to(self, x_MO: Tensor, h_MI: Tensor) -> Tensor:
        return x_MO + self.of(h_MI)


_SMALL: Final = 1e-12


@final
class Int8(Product):
    """Symmetric int8 for the matrix (a scale for each output) and for the input (a scale for each row)."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        whole_OI, self._scale_O, self._bias_O = _whole_numbers(weight_OI, bias_O)
        self._weight_IO = whole_OI.t()

    def of(self, h_MI: Tensor) -> Tensor:
        scale_M1, out_MO = self._raw(h_MI)
        return torch.addcmul(self._bias_O, out_MO, scale_M1)

    def add_to(self, x_MO: Tensor, h_MI: Tensor) -> Tensor:
        scale_M1, out_MO = self._raw(h_MI)
        return (x_MO + self._bias_O).addcmul_(out_MO, scale_M1)

    def _raw(self, h_MI: Tensor) -> tuple[Tensor, Tensor]:
        # Sums of whole numbers are exact: the same bits in any order, and for any number of rows.
        h_MI = h_MI.to(self._bias_O.dtype)
        scale_M1 = h_MI.abs().amax(dim=-1, keepdim=True).clamp_min_(_SMALL)
        q_MI = (h_MI * (127 / scale_M1)).round_().to(torch.int8)
        return scale_M1, torch._int_mm(q_MI, self._weight_IO) * self._scale_O


@final
class CompiledInt8(Product):
    """The same numbers as :class:`Int8`, in one go."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, compiled: Kernels) -> None:
        self._matrix, self._compiled = PackedMatrix(*_whole_numbers(weight_OI, bias_O)), compiled

    def of(self, h_MI: Tensor) -> Tensor:
        return self._compiled.product(h_MI.float(), self._matrix)

    def add_to(self, x_MO: Tensor, h_MI: Tensor) -> Tensor:
        return self._compiled.product(h_MI.float(), self._matrix, x_MO)


def _whole_numbers(weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix as int8, its scales over 127 (which is what the rows' scales are to be divided by), the bias."""
    if weight_OI.device.type != "cpu":
        raise UsageError("weights", "int8", "this needs a CPU: choose float32 or bfloat16")
    scale_O = weight_OI.abs().amax(dim=1).clamp_min(_SMALL) / 127
    whole_OI = (weight_OI / scale_O[:, None]).round().to(torch.int8)
    return whole_OI, scale_O.float() / 127, scale_O.new_zeros(len(scale_O)) if bias_O is None else bias_O


@final
class DecodingLayer:
    """One layer, see the top of the file."""

    def __init__(self, layer: PatchLayer, number: Number, *, loops: bool = True) -> None:
        attention, wide = layer.attention, layer.feed_forward
        self.num_heads, self.num_kv_heads, self.head_dim = (
            attention.num_heads,
            attention.num_kv_heads,
            attention.head_dim,
        )
        self._parts = [self.num_heads, self.num_kv_heads, self.num_kv_heads]
        self._qkv = product(
            torch.cat([attention.query.weight, attention.key.weight, attention.value.weight]), None, number, loops=loops
        )
        self._out = _scaled(attention.out, layer.scale_attention, number, loops=loops)
        self._inner = product(wide.inner.weight, wide.inner.bias, number, loops=loops)
        self._narrow = _scaled(wide.out, layer.scale_feed_forward, number, loops=loops)
        self._norm_attention, self._norm_feed_forward = layer.norm_attention, layer.norm_feed_forward
        self.embedding = layer.embedding
        self._compiled = kernels() if loops and number == "int8" else None
        # Kept keys have the entry of their own patch added; a context key gets the difference to its own entry.
        self._own_G1D = torch.zeros(())
        if layer.feed == "key":
            self._own_G1D = self.embedding.own().unsqueeze(-2).expand(-1, -1, self.head_dim).contiguous()
        known = loops and number == "float32" and self.head_dim in HEAD_WIDTHS
        self.loops = _loops(attention.query.weight) if known else None
        """Compiled attention of positions one after another, which needs no mask."""

    def context_shift(self, offset_RC: Tensor, symmetry_RC: Tensor) -> Tensor:
        """Return what is added to the kept keys of context patches, broadcastable to ``[R, C, G, N, D]``."""
        if self._own_G1D.ndim == 0:
            return self._own_G1D
        shift: Tensor = self.embedding(offset_RC, symmetry_RC).unsqueeze(-2) - self._own_G1D
        return shift

    def attend(
        self,
        x_MW: Tensor,
        k_RGSD: Tensor,
        v_RGSD: Tensor,
        *,
        start: int,
        end: int,
        bias: Tensor | None,
        looped: bool = False,
    ) -> Tensor:
        """Add the attention branch; keys and values of the positions go to places ``start`` to ``end``.

        Args:
            x_MW: states of ``l = end - start`` positions of R rows; may be overwritten.
            k_RGSD: keys, those before ``start`` are there.
            v_RGSD: values, likewise.
            start: place of the first position.
            end: place behind the last position; places from here on are not looked at.
            bias: see :func:`nuwa_lightning.models.nuwa_infinity.attend`; what each row adds to its logits.
            looped: by :attr:`loops`: each position sees those up to its own, whatever ``bias`` says, which is the same
                for all heads and positions.
        """
        qkv_MX = self._projected(x_MW)
        if looped and self.loops is not None:
            own_G1D, bias_RS = (None if self._own_G1D.ndim == 0 else self._own_G1D), bias
            if bias is not None:
                bias_RS = bias.view(len(k_RGSD), -1)
            mixed_MV = self.loops.attend(qkv_MX, own_G1D, k_RGSD, v_RGSD, start=start, end=end, bias_RS=bias_RS)
            return self._out.add_to(x_MW, mixed_MV)
        q_RlHD, k_RGlD, v_RGlD = self._apart(qkv_MX, len(k_RGSD))
        k_RGSD[:, :, start:end] = k_RGlD
        v_RGSD[:, :, start:end] = v_RGlD
        alike = bias is None or bias.shape[1] == 1  # for all heads
        if self._compiled is not None and k_RGSD.dtype == torch.bfloat16 and start + 1 == end and alike:
            bias_RS = None if bias is None else bias.float().view(len(k_RGSD), end)
            return self._out.add_to(x_MW, self._compiled.attend(q_RlHD[:, 0], k_RGSD, v_RGSD, end, bias_RS))
        return self.mixed(x_MW, q_RlHD, k_RGSD[:, :, :end], v_RGSD[:, :, :end], bias=bias)

    def projected(self, x_MW: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries ``[R, l, H, D]``, keys and values ``[R, G, l, D]`` as they are kept."""
        return self._apart(self._projected(x_MW), rows)

    def mixed(self, x_MW: Tensor, q_RlHD: Tensor, k_RGSD: Tensor, v_RGSD: Tensor, *, bias: Tensor | None) -> Tensor:
        """Add what queries see of the keys; ``x_MW`` may be overwritten."""
        mixed_RlW = attend(q_RlHD.to(k_RGSD.dtype), k_RGSD, v_RGSD, bias=bias)
        return self._out.add_to(x_MW, mixed_RlW.flatten(0, 1))

    def _projected(self, x_MW: Tensor) -> Tensor:
        norm = self._norm_attention
        return self._qkv.of(F.layer_norm(x_MW, norm.normalized_shape, norm.weight, norm.bias, norm.eps))

    def _apart(self, qkv_MX: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        qkv_RlXD = qkv_MX.view(rows, len(qkv_MX) // rows, -1, self.head_dim)
        q_RlHD, k_RlGD, v_RlGD = torch.split(qkv_RlXD, self._parts, dim=2)
        return q_RlHD, k_RlGD.transpose(1, 2) + self._own_G1D, v_RlGD.transpose(1, 2)

    def feed_forward(self, x_MW: Tensor) -> Tensor:
        """Add the feed-forward branch; ``x_MW`` may be overwritten."""
        norm = self._norm_feed_forward
        h_MW = F.layer_norm(x_MW, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        value_MI, gate_MI = self._inner.of(h_MW).chunk(2, dim=-1)
        return self._narrow.add_to(x_MW, value_MI * F.gelu(gate_MI))


@final
class DecodingTransformer:
    """A patch transformer in evaluation mode, laid out for writing. After a step of training it has to be made anew.

    Args:
        model: from training or from a file.
        precision: how numbers are kept.
        loops: whether compiled loops are used, where there are such.

    Raises:
        UsageError: if this machine has no products of that kind.
    """

    @torch.inference_mode()
    def __init__(self, model: PatchTransformer, precision: Precision = Precision(), *, loops: bool = True) -> None:
        self.model, self.precision = model, precision
        self.layers = [DecodingLayer(model.layer(n), precision.weights, loops=loops) for n in range(model.num_layers)]
        halves = precision.weights == precision.cache == "bfloat16"
        # Many positions at once are better attended to in float32 where there are no units for bfloat16.
        single = not model.bidirectional and self.layers[0].head_dim in HEAD_WIDTHS
        float32 = model.bos.dtype == torch.float32
        compiled = precision.weights == "int8" and precision.cache != "float32" and loops and kernels() is not None
        self.dtype = torch.bfloat16 if halves or (compiled and single and float32) else model.bos.dtype
        """Of the keys and values that are attended to."""
        # A row of zeros more: that is where ABSENT, a negative index, points.
        self._codebook_KE = F.pad(model.codebook_KE, (0, 0, 0, 1))
        weights = [model.embed.weight] + (
            [] if model.neighbor_embedding is None else [model.neighbor_embedding.linear.weight]
        )
        exact = loops and precision.weights == "float32"
        self._embed = product(torch.cat(weights, dim=1), None, "float32", loops=exact)
        self._reads = sum(w.shape[1] for w in weights) // self._codebook_KE.shape[1]
        self._place_LW = torch.cat([model.bos[None], model.position() + model.embed.bias])
        self._patch_UW = model.patch_embedding()
        # What hides a token takes the place of its embedding, of which the bias is everywhere.
        self._hide_W = None if model.mask_token is None else model.mask_token - model.embed.bias
        self._head = product(model.head_weight(), model.head.bias, precision.weights, loops=loops)
        self.found: dict[tuple[str, int], Any] = {}
        """What local decoders found out about it, such as what steps cost."""
        self._norm, self._copy_head = model.norm, model.copy_head
        copies = None if model.copy_head is None else model.copy_head.linear
        looped = exact and copies is not None and _loops(copies.weight) is not None
        self._copies = product(copies.weight, copies.bias, "float32") if looped and copies is not None else None

    def embed(self, inputs_RlJ: Tensor, entry_R: Tensor, start: int | Tensor) -> Tensor:
        """Return the states ``[R, l, W]`` that enter the first layer.

        Args:
            inputs_RlJ: tokens that positions read: their own (that before the one to be predicted, unless the model is
                bidirectional), then neighbors; ``ABSENT`` where there is none or it is hidden.
            entry_R: entry of the patch embedding of each row.
            start: the first position, or all of them ``[R, l]``; 0 is BOS.
        """
        R, new = inputs_RlJ.shape[:2]
        x_MI = self._codebook_KE[inputs_RlJ[:, :, : self._reads]].view(R * new, -1)
        place_W = self._place_LW[start : start + new] if isinstance(start, int) else self._place_LW[start]
        patch_UW = self._patch_UW
        place_RlW = place_W + (place_W.new_zeros(R, 1, 1) if patch_UW is None else patch_UW[entry_R][:, None])
        x_RlW = self._embed.add_to(place_RlW.flatten(0, 1), x_MI).view(R, new, -1)
        if self._hide_W is not None:
            masked_Rl = inputs_RlJ[:, :, 0] == ABSENT
            if isinstance(start, int):
                masked_Rl[:, : max(0, 1 - start)] = False  # BOS
            else:
                masked_Rl &= start > 0
            x_RlW += masked_Rl[:, :, None] * self._hide_W
        return x_RlW

    def logits(self, x_MW: Tensor, neighbors_MJ: Tensor | None = None) -> Tensor:
        """Return scores over codes ``[M, K]`` of last-layer states.

        Args:
            x_MW: the states.
            neighbors_MJ: neighbors of the tokens to be scored; needed with ``TransformerConfig.copy_head`` only.

        Raises:
            ValueError: if they are needed and missing.
        """
        h_MW = self._norm(x_MW)
        scores_MK = self._head.of(h_MW).to(x_MW.dtype)
        if self._copy_head is None:
            return scores_MK
        if neighbors_MJ is None:
            raise ValueError("a model with a copy head needs the neighbors for its logits")
        copies = None if self._copies is None else self._copies.of
        more_MK: Tensor = self._copy_head(scores_MK, h_MW, neighbors_MJ, self.model.codebook_KE, linear=copies)
        return more_MK


def _scaled(linear: nn.Linear, scale_O: Tensor, number: Number, *, loops: bool) -> Product:
    return product(linear.weight * scale_O[:, None], linear.bias * scale_O, number, loops=loops)
