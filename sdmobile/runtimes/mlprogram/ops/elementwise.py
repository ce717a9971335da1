"""Element-wise arithmetic, comparison, selection and conversion, with the broadcasting of numpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdmobile.runtimes.mlprogram.ops.registry import Context, op
from sdmobile.runtimes.mlprogram.ops.sums import to_float16


def _binary(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def compute(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    op(name)(compute)


def _unary(name: str, function: Callable[[Tensor], Tensor]) -> None:
    def compute(x: Tensor) -> Tensor:
        return function(x)

    op(name)(compute)


for _name, _pair in {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
    "floor_div": torch.floor_divide,  # rounded towards minus infinity
    "mod": torch.remainder,  # sign of y
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}.items():
    _binary(_name, _pair)

for _name, _single in {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,  # halves to even
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}.items():
    _unary(_name, _single)


@op()
def real_div(x: Tensor, y: Tensor, context: Context) -> Tensor:
    """x / y; of integers without the fraction, as coremltools computes it."""
    if x.is_floating_point():
        return torch.div(x, y)
    if bool((y == 0).any()):
        raise context.unsupported("division of an integer by 0 (its result is undefined)")
    return torch.div(x, y, rounding_mode="trunc")


@op()
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """1 / √(x + ε)."""
    return torch.rsqrt(x + epsilon)


@op()
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """1 / (x + ε)."""
    return torch.reciprocal(x + epsilon)


@op()
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """ln(x + ε)."""
    return torch.log(x + epsilon)


@op()
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(max(x, α), β)."""
    return torch.clamp(x, alpha, beta)


@op()
def threshold(x: Tensor, alpha: float) -> Tensor:
    """max(x, α)."""
    return torch.clamp(x, min=alpha)


@op(moves_data=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where cond, else b."""
    return torch.where(cond, a, b)


@op(moves_data=True)
def identity(x: Tensor) -> Tensor:
    """x."""
    return x


_RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-(1 << 15), (1 << 15) - 1), "uint16": (0, (1 << 16) - 1)}
_RANGES["int32"] = (-(1 << 31), (1 << 31) - 1)


@op(moves_data=True)
def cast(x: Tensor, dtype: str, context: Context) -> Tensor:
    """x as another type: to integer by truncation, to bool as x ≠ 0, to fp16 rounded only if results are."""
    if dtype == "fp16":
        values = x.float()
        return to_float16(values) if context.rounding.results else values
    if dtype == "fp32":
        return x.float()
    if dtype == "bool":
        return x != 0
    if dtype not in _RANGES:
        raise context.unsupported(f"dtype {dtype}")
    low, high = _RANGES[dtype]
    whole = x.double().trunc() if x.is_floating_point() else x
    if whole.numel() and not bool(((whole >= low) & (whole <= high)).all()):
        raise context.unsupported(f"a value outside of the range of {dtype} (its result is undefined)")
    return whole.to(torch.int32)


@op()
def range_1d(start: float, end: float, step: float, context: Context) -> Tensor:
    """start, start + step, ... up to but without end."""
    values = torch.arange(max(0, math.ceil((end - start) / step))) * step + start
    return values.float() if context.outputs[0].type.dtype.startswith("float") else values.to(torch.int32)
