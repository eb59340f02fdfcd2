"""Linear layers whose frozen weight is held in few bits and unpacked whenever it is needed, in both passes."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftcli.base.quantise import BLOCK, ENGINE, STATISTICS_BLOCK, Form

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState

_PIECE = BLOCK * 2**16  # numbers that are packed at once: a whole matrix would need several copies in float32
_INT8 = 127


class Packed(nn.Module):
    """A matrix in few bits: frozen parameters, so that they move between devices and are watched as all others.

    Attributes:
        shape: Of the matrix, (d_out, d_in).
    """

    def __init__(self, shape: torch.Size, **tensors: Tensor) -> None:
        super().__init__()
        self.shape = shape
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor.detach(), requires_grad=False))

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix. Shapes: (d_out, d_in)."""
        raise NotImplementedError


class Nf4(Packed):
    """NormalFloat in 4 bits: w ~ absmax * q, one absmax for 64 weights that follow each other, itself in 8 bits.

    Shapes: codes (weights / 2, 1), absmax (blocks,), scale (blocks / 256,), offset ().
    """

    codes: Tensor
    absmax: Tensor
    scale: Tensor
    offset: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Nf4:
        """Pack a matrix. Shapes: weight (d_out, d_in)."""
        functional = _functional()
        pieces = [
            functional.quantize_4bit(piece.float(), blocksize=BLOCK, quant_type="nf4")
            for piece in torch.split(weight.reshape(-1), _PIECE)
        ]
        absmax = torch.cat([state.absmax for _, state in pieces])
        offset = absmax.mean()
        small, state = functional.quantize_blockwise(absmax - offset, blocksize=STATISTICS_BLOCK)
        codes = torch.cat([codes for codes, _ in pieces])
        return cls(weight.shape, codes=codes, absmax=small, scale=state.absmax, offset=offset)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        matrix: Tensor = _functional().dequantize_4bit(self.codes.data, self._state(dtype))
        return matrix.view(self.shape)

    def _state(self, dtype: torch.dtype) -> QuantState:
        levels, map_of_8_bits = _tables(self.codes.device)
        # On a CPU bitsandbytes 0.50 goes through rows, and takes the wrong absmax where a block ends inside of one.
        shape = self.shape if self.shape[1] % BLOCK == 0 else torch.Size([1, self.shape.numel()])
        state = _functional().QuantState
        nested = state(self.scale.data, code=map_of_8_bits, blocksize=STATISTICS_BLOCK, dtype=torch.float32)
        whole: QuantState = state(
            self.absmax.data,
            shape=shape,
            code=levels,
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype,
            offset=self.offset.data,
            state2=nested,
        )
        return whole


class Int8(Packed):
    """Eight bits and one scale a row: W ~ scale * codes, as LLM.int8() stores its weights (arXiv:2208.07339).

    Activations are left as they are, so that the gradient is that of the function that is computed.

    Shapes: codes (d_out, d_in), scale (d_out, 1).
    """

    codes: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Int8:
        """Pack a matrix. Shapes: weight (d_out, d_in)."""
        largest = weight.abs().amax(dim=1, keepdim=True).float()
        factor = _INT8 / largest.clamp_min(torch.finfo(torch.float32).tiny)
        codes = torch.cat([(w * f).round_().to(torch.int8) for w, f in _rows(weight, factor)])
        return cls(weight.shape, codes=codes, scale=largest / _INT8)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        return (self.codes * self.scale).to(dtype)


PACKED: dict[Form, type[Nf4] | type[Int8]] = {"nf4": Nf4, "int8": Int8}


class QuantisedLinear(nn.Module):
    """y = W x + b with W packed. Who reads ``weight`` gets the numbers that are computed with, not trainable.

    Shapes: weight (d_out, d_in), or (d_in, d_out) where the layer stored it transposed (GPT-2's Conv1D).
    """

    bias: nn.Parameter | None

    def __init__(self, packed: Packed, *, bias: nn.Parameter | None, dtype: torch.dtype, transposed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.register_parameter("bias", bias)
        self.dtype = dtype
        self.transposed = transposed

    @property
    def weight(self) -> Tensor:
        """The unpacked weight, in the type it had."""
        matrix = self.packed.unpacked(self.dtype)
        weight = matrix.T if self.transposed else matrix
        # Else transformers takes a weight that it did not set itself for one to be filled at random.
        weight._is_hf_initialized = True  # type: ignore[attr-defined]
        return weight

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of ``weight``, without unpacking it."""
        return tuple(self.packed.shape[::-1] if self.transposed else self.packed.shape)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return W for a computation in ``dtype``. Shapes: (d_out, d_in)."""
        return self.packed.unpacked(self.dtype).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        # Rows: of more dimensions the product is a view, and what a Function returns as one may not be written into.
        rows = x.to(dtype).reshape(-1, x.shape[-1])
        y: Tensor = _Linear.apply(rows, bias, self)  # type: ignore[no-untyped-call]  # torch's
        return y.view(*x.shape[:-1], y.shape[-1])


class _Linear(torch.autograd.Function):
    """W x + b; W is unpacked anew for the gradient, where autograd would keep it from the one pass to the other.

    Shapes: x (rows, d_in); returns (rows, d_out).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: QuantisedLinear) -> Tensor:  # noqa: ANN401
        ctx.layer = layer
        return F.linear(x, layer.matrix(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
        (dy,) = gradients
        dx = dy @ ctx.layer.matrix(dy.dtype) if ctx.needs_input_grad[0] else None
        return dx, dy.sum(0) if ctx.needs_input_grad[1] else None, None


def quantised(weight: Tensor, form: Form, *, bias: nn.Parameter | None, transposed: bool) -> QuantisedLinear:
    """Return the layer that holds ``weight``, stored as the layer it comes from stores it, in a quantised form."""
    matrix = weight.detach().T if transposed else weight.detach()
    return QuantisedLinear(PACKED[form].of(matrix), bias=bias, dtype=weight.dtype, transposed=transposed)


def _rows(weight: Tensor, factor: Tensor) -> list[tuple[Tensor, Tensor]]:
    step = max(1, _PIECE // weight.shape[1])
    return [(w.float(), f) for w, f in zip(torch.split(weight, step), torch.split(factor, step), strict=True)]


@functools.cache
def _functional() -> Any:  # noqa: ANN401  # a module that is only there with the extra
    # On some CPUs it warns of a kernel for inference that could be fetched.
    logging.getLogger(ENGINE).setLevel(logging.ERROR)
    from bitsandbytes import functional

    return functional


@functools.cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the 16 levels of nf4, and the 256 values that an absmax in 8 bits may have before its scale."""
    functional = _functional()
    return functional.get_4bit_type("nf4", device=device), functional.create_dynamic_map().to(device)
