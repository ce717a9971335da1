"""RMSNorm in few plain operators.

y = x · rsqrt(mean(x²) + ε) · γ        mean over the last axis

Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from sdmobile.rewrites.rule import Exactness, Match, OperatorRule

Weight = Tensor | None


class RmsNormRule(OperatorRule):
    """Matches `aten.rms_norm`; what the forms of it share."""

    operator = torch.ops.aten.rms_norm.default
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    def check(self, match: Match) -> str | None:
        shape, axes = match.shape(), tuple(match.options["normalized_shape"])
        if any(not isinstance(size, int) for size in shape):
            return f"the shape {shape} is not static"
        if axes != shape[-1:]:
            return f"it normalises over {axes} of {shape}; the rule is for the last axis"
        return None

    @abstractmethod
    def normalised(self, x: Tensor, weight: Weight, eps: float) -> Tensor:
        """Returns y, (..., C), computed the form's way."""

    def replacement(self, input: Tensor, weight: Weight, *, normalized_shape: list[int], eps: float | None) -> Tensor:
        return self.normalised(input, weight, torch.finfo(input.dtype).eps if eps is None else eps)


class RmsNormPlain(RmsNormRule):
    """The equation as it stands, for runtimes that compute in float32.

    Captured:
        y = rms_norm(x, [C], γ, ε)                                      (N, S, C)

    Rewritten:
        r = rsqrt(add(mean(mul(x, x), -1), ε))                          (N, S, 1)
        y = mul(mul(x, γ), r)                                           (N, S, C)
    """

    name = "rms_norm_plain"
    title = "RMSNorm in five plain operators"
    source = "Zhang and Sennrich 2019, equation 4"

    def normalised(self, x: Tensor, weight: Weight, eps: float) -> Tensor:
        return rms_norm_plain(x, weight, eps)


def rms_norm_plain(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """RMSNorm over the last axis.

    Args:
        x: (..., C).
        weight: γ, (C,).
        eps: ε.
    """
    r = torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    # γ before the root's reciprocal, so that no converter multiplies it into the linear layer behind.
    return (x if weight is None else x * weight) * r


class RmsNormAmax(RmsNormRule):
    """Values scaled by their largest magnitude first, so that no square leaves float16's range.

    In float16 the plain form's squares are infinite from 256 on, and the values become zeros.

    Captured:
        y = rms_norm(x, [C], γ, ε)                                      (N, S, C)

    Rewritten:
        a = add(amax(abs(x), -1), 1e-4)                                 (N, S, 1)
        e = div(x, a)                                                   (N, S, C)
        f = mul(div(1, a), √ε)                                          (N, S, 1)
        r = rsqrt(add(mean(mul(e, e), -1), mul(f, f)))                  (N, S, 1)
        y = mul(mul(e, γ), r)                                           (N, S, C)
    """

    name = "rms_norm_amax"
    title = "RMSNorm in plain operators, scaled by the largest magnitude"
    source = "own float16 rounding after every operator, standard deviation 100: 82 dB, as captured 9 dB"

    def normalised(self, x: Tensor, weight: Weight, eps: float) -> Tensor:
        return rms_norm_amax(x, weight, eps)


def rms_norm_amax(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """RMSNorm of values scaled by their largest magnitude.

        a = max|x| + 1e-4        e = x / a        y = e · γ · rsqrt(mean(e²) + (√ε/a)²)

    Args:
        x: (..., C).
        weight: γ, (C,).
        eps: ε.
    """
    a = x.abs().amax(-1, keepdim=True) + 1e-4  # a row of zeros would give 0/0; 1e-4 is a normal float16 number
    e = x / a
    # Squared here, not a: a² underflows in float16 where √ε/a does not. A quotient of two tensors, since coremltools
    # gives a reciprocal an ε of 1e-4 of its own (40 dB where rows are of that size).
    floor = torch.tensor([1.0], dtype=x.dtype) / a * eps**0.5
    r = torch.rsqrt((e * e).mean(-1, keepdim=True) + floor * floor)
    return (e if weight is None else e * weight) * r  # γ first: see rms_norm_plain
