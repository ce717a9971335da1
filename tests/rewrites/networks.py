"""Random small networks of the parts that diffusion models are made of, drawn by hypothesis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from tests.rewrites.attention.reference import captured

CHANNELS = 16
_EMBEDDING = 8


@dataclass(frozen=True)
class Attention:
    """An attention over the positions of an image.

    Args:
        heads: a divisor of the channels.
        normalised: LayerNorm of queries and of keys, each with weights of its own.
        context: keys and values come from so many other vectors; 0 for the image itself.
        mask: "none", "causal" or "added".
        spelling: "operator", "matmul" or "bmm".
        tied: the values are the keys before their norm.
    """

    heads: int
    normalised: bool
    context: int
    mask: str
    spelling: str
    tied: bool


@dataclass(frozen=True)
class FeedForward:
    """LayerNorm and a gated layer; the gate is "gelu", "tanh" (GELU's approximation) or "silu"."""

    gate: str


@dataclass(frozen=True)
class Residual:
    """GroupNorm, SiLU and convolution twice, with the time added to every position between them."""

    groups: int
    kernel: int
    written_out: bool


@dataclass(frozen=True)
class Resample:
    """A convolution of stride 2, a grouped one (a group per channel if `depthwise`) and nearest neighbours upwards.

    The picture has the size again that it had, also where that is odd.
    """

    depthwise: bool


Part = Attention | FeedForward | Residual | Resample


@dataclass(frozen=True)
class Network:
    """A network and its input: parts in order, (height, width), batch, and the seed of weights and input."""

    parts: tuple[Part, ...]
    size: tuple[int, int]
    batch: int
    seed: int


_attentions = st.builds(
    Attention,
    heads=st.sampled_from([1, 2, 4]),
    normalised=st.sampled_from([True, True, False]),
    context=st.sampled_from([0, 0, 0, 7]),
    mask=st.sampled_from(["none", "none", "causal", "added"]),
    spelling=st.sampled_from(["operator", "operator", "matmul", "bmm"]),
    tied=st.sampled_from([False, False, False, True]),
)
_feed_forwards = st.builds(FeedForward, gate=st.sampled_from(["gelu", "tanh", "silu"]))
_residuals = st.builds(
    Residual, groups=st.sampled_from([1, 2, 4, 8]), kernel=st.sampled_from([1, 3, 5]), written_out=st.booleans()
)
_resamples = st.builds(Resample, depthwise=st.booleans())
_parts = st.sampled_from([_attentions, _attentions, _residuals, _feed_forwards, _resamples]).flatmap(
    lambda parts: parts
)
networks = st.builds(
    Network,
    parts=st.lists(_parts, min_size=1, max_size=2).map(tuple),
    size=st.sampled_from([(6, 6), (8, 8), (5, 9)]),
    batch=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)


class _Attention(nn.Module):
    context: Tensor

    def __init__(self, part: Attention) -> None:
        super().__init__()
        width = CHANNELS // part.heads
        self.part = part
        self.before = nn.LayerNorm(CHANNELS)
        self.q, self.k, self.v, self.o = (nn.Linear(CHANNELS, CHANNELS) for _ in range(4))
        self.norm_q, self.norm_k = (nn.LayerNorm(width) if part.normalised else nn.Identity() for _ in range(2))
        self.register_buffer("context", torch.randn(1, part.context, CHANNELS))

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        positions = image.flatten(2).transpose(1, 2)
        x = self.before(positions)
        source = self.context.expand(len(x), -1, -1) if self.part.context else x
        q, k = self._heads(self.q(x)), self._heads(self.k(source))
        v = k if self.part.tied else self._heads(self.v(source))
        y = self._attend(self.norm_q(q), self.norm_k(k), v).transpose(1, 2).reshape(positions.shape)
        return (positions + self.o(y)).transpose(1, 2).reshape(image.shape)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.part.heads, -1)).transpose(1, 2)

    def _mask(self, queries: int, keys: int) -> Tensor | None:
        if self.part.mask == "causal":
            return torch.full((queries, keys), -1e4).triu(1)
        return torch.linspace(-3.0, 3.0, keys).expand(1, 1, queries, keys) if self.part.mask == "added" else None

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = self._mask(q.shape[2], k.shape[2])
        if self.part.spelling == "operator":
            causal = self.part.mask == "causal"
            return F.scaled_dot_product_attention(q, k, v, None if causal else mask, is_causal=causal)
        if self.part.spelling == "matmul":
            scores = q @ k.transpose(-1, -2)
        else:
            scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).unflatten(0, q.shape[:2])
        scores = scores / math.sqrt(q.shape[-1])
        return (scores if mask is None else scores + mask).softmax(-1) @ v


class _FeedForward(nn.Module):
    def __init__(self, part: FeedForward) -> None:
        super().__init__()
        self.gate = part.gate
        self.norm, self.wide = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 4 * CHANNELS)
        self.narrow = nn.Linear(2 * CHANNELS, CHANNELS)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        positions = image.flatten(2).transpose(1, 2)
        value, gate = self.wide(self.norm(positions)).chunk(2, -1)
        gate = F.silu(gate) if self.gate == "silu" else F.gelu(gate, approximate=self.gate.replace("gelu", "none"))
        return (positions + self.narrow(value * gate)).transpose(1, 2).reshape(image.shape)


class _Residual(nn.Module):
    def __init__(self, part: Residual) -> None:
        super().__init__()
        self.written_out = part.written_out
        self.first, self.second = (nn.GroupNorm(part.groups, CHANNELS) for _ in range(2))
        self.conv_in, self.conv_out = (nn.Conv2d(CHANNELS, CHANNELS, k, padding=k // 2) for k in (part.kernel, 3))
        self.time = nn.Linear(_EMBEDDING, CHANNELS)

    def _norm(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        if not self.written_out:
            return norm(x)
        grouped = x.reshape(len(x), norm.num_groups, -1)
        centred = grouped - grouped.mean(-1, keepdim=True)
        y = (centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + norm.eps)).reshape(x.shape)
        return y * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)

    def _silu(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x) if self.written_out else F.silu(x)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        y = self.conv_in(self._silu(self._norm(self.first, image)))
        y = y + self.time(self._silu(time))[:, :, None, None]
        return image + self.conv_out(self._silu(self._norm(self.second, y)))


class _Resample(nn.Module):
    def __init__(self, part: Resample) -> None:
        super().__init__()
        self.down = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS if part.depthwise else 4)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        height, width = image.shape[2:]
        small = self.grouped(self.down(image))
        return image + F.interpolate(small, scale_factor=2.0, mode="nearest")[:, :, :height, :width]


class Built(nn.Module):
    """The network as a module of an image (B, C, H, W) and a timestep (B,)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        classes = {Attention: _Attention, FeedForward: _FeedForward, Residual: _Residual, Resample: _Resample}
        self.parts = nn.ModuleList(classes[type(part)](part) for part in network.parts)  # type: ignore[arg-type]
        self.embed = nn.Linear(_EMBEDDING, _EMBEDDING)

    def forward(self, image: Tensor, timestep: Tensor) -> Tensor:
        frequencies = torch.exp(torch.arange(_EMBEDDING // 2) * (-math.log(10000.0) / (_EMBEDDING // 2)))
        phases = timestep[:, None] * frequencies[None]
        time = self.embed(torch.cat([phases.cos(), phases.sin()], -1))
        for part in self.parts:
            image = part(image, time)
        return image


def module_of(network: Network) -> Built:
    """Returns a network with seeded weights that are float16 numbers, as the files store them."""
    torch.manual_seed(network.seed)
    module = Built(network).eval().requires_grad_(False)
    for parameter in module.parameters():  # away from the norms' ones and zeros, which would hide an exchange
        parameter.copy_((parameter + 0.2 * torch.randn_like(parameter)).half())
    return module


def inputs_of(network: Network) -> tuple[Tensor, ...]:
    """Returns seeded inputs of a network: an image (B, C, H, W) and a timestep (B,)."""
    noise = torch.Generator().manual_seed(network.seed)
    image = torch.randn(network.batch, CHANNELS, *network.size, generator=noise)
    return image, torch.full((network.batch,), 500.0)


def build(network: Network) -> tuple[ExportedProgram, tuple[Tensor, ...]]:
    """Returns the captured program of a network, and inputs for it."""
    inputs = inputs_of(network)
    return captured(module_of(network), *inputs), inputs
