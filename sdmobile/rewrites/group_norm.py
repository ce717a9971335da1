"""GroupNorm, written as what each target runs well and what survives float16.

    y = (x − mean) / sqrt(var + ε) · γ + β        mean, var over the C/G channels of a group and all positions

Wu and He, "Group Normalization", 2018, section 3.1.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.basics.float16 import LEAST_EPSILON
from sdmobile.rewrites.rule import Exactness, Match, OperatorRule

Weight = Tensor | None


class GroupNormRule(OperatorRule):
    """Matches `aten.group_norm`; what the forms of it share."""

    operator = torch.ops.aten.group_norm.default
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    def check(self, match: Match) -> str | None:
        shape = match.shape()
        if any(not isinstance(size, int) for size in shape):
            return f"the shape {shape} is not static"
        if not 3 <= len(shape) <= 4:
            return f"the input has rank {len(shape)}; the rule is for rank 3 to 4"
        return None

    @abstractmethod
    def normalised(self, x: Tensor, num_groups: int, weight: Weight, bias: Weight, eps: float) -> Tensor:
        """Returns y, (N, C, …), computed the form's way."""

    def replacement(
        self, input: Tensor, weight: Weight, bias: Weight, *, num_groups: int, eps: float, cudnn_enabled: bool
    ) -> Tensor:
        return self.normalised(input, num_groups, weight, bias, eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: list[int]) -> Tensor:
    """Returns x · γ + β with γ and β reshaped to broadcast."""
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def group_norm_by_instance_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """GroupNorm as instance normalisation of (N, G, C/G·H, W), where a group is a channel, and an affine step.

    Args:
        x: (N, C, H, W) or (N, C, L).
        num_groups: G.
        weight, bias: γ and β, (C,).
        eps: ε.
    """
    n, c, last = x.shape[0], x.shape[1], x.shape[-1]
    grouped = x.reshape(n, num_groups, -1, last)
    y = torch.instance_norm(grouped, None, None, None, None, True, 0.0, eps, False).reshape(x.shape)
    return _affine(y, weight, bias, [1, c] + [1] * (x.ndim - 2))


class GroupNormInstanceNorm(GroupNormRule):
    """Core ML has no GroupNorm, but an instance_norm operator of one node.

    The converter's own decomposition takes 10 operators and hands the variance on as a float16 tensor, which overflows
    from a standard deviation of 256. Inside one operator it never becomes a tensor.

    Captured:
        y = group_norm(x, G, γ, β, ε)                                   (N, C, H, W)

    Rewritten:
        g = instance_norm(reshape(x), ε)                                (N, G, C/G·H, W)
        y = add(mul(reshape(g), reshape(γ)), reshape(β))                (N, C, H, W), of γ and β (1, C, 1, 1)
    """

    name = "group_norm_instance_norm"
    title = "GroupNorm as one instance_norm operator and an affine step"
    source = "Wu and He 2018, section 3.1; own float16 simulation: 84 dB against 18 dB with large activations"

    def normalised(self, x: Tensor, num_groups: int, weight: Weight, bias: Weight, eps: float) -> Tensor:
        return group_norm_by_instance_norm(x, num_groups, weight, bias, eps)


def group_norm_nhwc_amax(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """GroupNorm of deviations scaled by their largest magnitude, in (N, H·W, G, C/G).

        d = x − mean        s = min(4 / max|d|, 6)        e = s · d        y = e / sqrt(mean(e²) + (s · √ε)²)

    Args:
        x: (N, C, H, W) or (N, C, L).
        num_groups: G.
        weight, bias: γ and β, (C,).
        eps: ε; taken as `LEAST_EPSILON` where it is less.
    """
    n, c = x.shape[0], x.shape[1]
    last = x.movedim(1, -1)
    grouped = last.reshape(n, -1, num_groups, c // num_groups)
    d = grouped - grouped.mean((1, 3), keepdim=True)
    # As ReLU6 the bound is part of the division. It is for a group without deviations, which would give ∞ · 0; 4 and 6
    # keep s a normal float16 number for all deviations, and |e| below 4.
    s = F.relu6(torch.tensor([4.0], dtype=x.dtype) / d.abs().amax((1, 3), keepdim=True))
    e = d * s
    floor = s * max(eps, LEAST_EPSILON) ** 0.5  # squared here, not s: ε is below the smallest normal float16 number
    root = torch.rsqrt((e * e).mean((1, 3), keepdim=True) + floor * floor)
    affine = [1, 1, num_groups, c // num_groups]
    # γ goes to the root, the smaller tensor.
    y = _affine(e * (root if weight is None else root * weight.reshape(affine)), None, bias, affine)
    return y.reshape(last.shape).movedim(-1, 1)


class GroupNormNhwcAmax(GroupNormRule):
    """Plain operators that the Android GPU accepts: rank 4 at most, no BROADCAST_TO, channels last.

    The amax scaling keeps every intermediate within ±4 before the root, so that float16 neither overflows (plain form:
    from a standard deviation of about 100) nor loses small activations. Channels last lets the transposes cancel
    against those of the neighbouring convolutions.

    Captured:
        y = group_norm(x, G, γ, β, ε)                                   (N, C, H, W)

    Rewritten:
        g = reshape(movedim(x, 1, -1))                                  (N, H·W, G, C/G)
        d = sub(g, mean(g, [1, 3]))                                     (N, H·W, G, C/G)
        s = relu6(div(4, amax(abs(d), [1, 3])))                         (N, 1, G, 1)
        e = mul(d, s)                                                   (N, H·W, G, C/G)
        f = mul(s, √ε)                                                  (N, 1, G, 1)
        r = rsqrt(add(mean(mul(e, e), [1, 3]), mul(f, f)))              (N, 1, G, 1)
        z = add(mul(e, mul(r, reshape(γ))), reshape(β))                 (N, H·W, G, C/G), of γ and β (1, 1, G, C/G)
        y = movedim(reshape(z), -1, 1)                                  (N, C, H, W)
    """

    name = "group_norm_nhwc_amax"
    title = "GroupNorm in plain channels-last operators, scaled by the largest deviation"
    source = "own float16 measurement on a software GPU: 84 dB where the plain form has 18.9 dB"

    def normalised(self, x: Tensor, num_groups: int, weight: Weight, bias: Weight, eps: float) -> Tensor:
        return group_norm_nhwc_amax(x, num_groups, weight, bias, eps)


def group_norm_by_channel_moments(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """GroupNorm for CPUs: statistics per channel first, so that the large tensor is read in its own layout.

        m_c, v_c = mean and variance of channel c over all positions
        m = mean of m_c over the group        v = mean of (v_c + (m_c − m)²) over the group      (law of total variance)
        y = (x − m_c) · s + t                 s = γ / sqrt(v + ε)        t = β + (m_c − m) · s

    Everything but three passes over x works on (N, C) values.

    Args:
        x: (N, C, H, W) or (N, C, L).
        num_groups: G.
        weight, bias: γ and β, (C,).
        eps: ε.
    """
    n, c = x.shape[0], x.shape[1]
    last = x.movedim(1, -1)
    axes = list(range(1, last.ndim - 1))
    per_channel = [n] + [1] * len(axes) + [c]
    mean = last.mean(axes, keepdim=True)
    d = last - mean
    means = mean.reshape(n, num_groups, -1)
    variances = (d * d).mean(axes).reshape(n, num_groups, -1)
    offset = means - means.mean(2, keepdim=True)
    scale = torch.rsqrt((variances + offset * offset).mean(2, keepdim=True) + eps)
    scale = scale * (torch.ones_like(means) if weight is None else weight.reshape(1, num_groups, -1))
    shift = offset * scale
    if bias is not None:
        shift = shift + bias.reshape(1, num_groups, -1)
    return (d * scale.reshape(per_channel) + shift.reshape(per_channel)).movedim(-1, 1)


class GroupNormChannelMoments(GroupNormRule):
    """The form for CPUs: float32 needs no scaling by the largest deviation, and passes over memory are the cost.

    Captured:
        y = group_norm(x, G, γ, β, ε)                                   (N, C, H, W)

    Rewritten:
        z = movedim(x, 1, -1)                                           (N, H, W, C)
        m = mean(z, [1, 2])                                             (N, 1, 1, C)
        d = sub(z, m)                                                   (N, H, W, C)
        v = reshape(mean(mul(d, d), [1, 2]))                            (N, G, C/G), variances of the channels
        o = sub(reshape(m), mean(reshape(m), 2))                        (N, G, C/G)
        r = rsqrt(add(mean(add(v, mul(o, o)), 2), ε))                   (N, G, 1)
        s = mul(r, reshape(γ))                                          (N, G, C/G)
        t = add(mul(o, s), reshape(β))                                  (N, G, C/G)
        y = movedim(add(mul(d, reshape(s)), reshape(t)), -1, 1)         (N, C, H, W), of s and t (N, 1, 1, C)
    """

    name = "group_norm_channel_moments"
    title = "GroupNorm from the moments of the channels, channels last"
    source = (
        "law of total variance; own measurement with XNNPACK, one thread, (2, 320, 64, 64): 5.3 ms against 5.9 ms of "
        "the converter's form and 10.1 ms of the form scaled by the largest deviation"
    )

    def normalised(self, x: Tensor, num_groups: int, weight: Weight, bias: Weight, eps: float) -> Tensor:
        return group_norm_by_channel_moments(x, num_groups, weight, bias, eps)
