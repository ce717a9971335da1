"""A 3×3 convolution by Winograd's method, in the operators that XNNPACK runs fast.

    (N, H, W, C) ──Bᵀ·──▶ rows ──Bᵀ·──▶ (N, H/m, W/m, n²·C) ──1×1 convolution──▶ n²·O ──Aᵀ·A──▶ (N, H, W, O)
                 one matrix product per axis             in n² groups

Both input transforms are products with a banded matrix that holds Bᵀ once per tile. Its borders say what padding and
overlapping tiles mean, so neither costs an operator. The n² products over channels are one grouped convolution, not a
batched matrix product: its weights can be stored in float16, and its output needs no transposition of single numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdmobile.device_profiles.runtime_rules.conv_layer import KERNEL, ConvLayer
from sdmobile.rewrites.winograd.transforms import Transforms, as_array, transforms

# A whole row of tiles is one matrix product up to this many tiles: the product's cost grows with their number squared.
_WHOLE_ROW = 24
# Longer rows are cut into blocks of this many, which overlap by the two columns that neighbours share.
_BLOCK = 8
_FLOAT = 4


@dataclass(frozen=True)
class Strips:
    """Cuts a layer into strips of whole rows of tiles.

    Args:
        bytes: wanted size of the transformed input, or output, of one strip: more falls out of a CPU's cache.
        most: at most so many strips. Each costs about 20 operators in the file, and XNNPACK packs the weights anew
            for each.
    """

    bytes: int = 48 << 20
    most: int = 8

    def rows(self, layer: ConvLayer, tile: int) -> list[int]:
        """Returns the number of rows of tiles in each strip of a layer."""
        columns, tile_rows = -(-layer.size[1] // tile), -(-layer.size[0] // tile)
        per_row = _FLOAT * layer.batch * columns * (tile + KERNEL - 1) ** 2 * max(layer.channels)
        count = min(self.most, -(-tile_rows // max(1, self.bytes // per_row)))
        return [tile_rows * (i + 1) // count - tile_rows * i // count for i in range(count)]


def winograd_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    tile: int = 4,
    padding: tuple[int, int] = (1, 1),
    strips: Strips | None = None,
) -> Tensor:
    """Correlation of x with 3×3 kernels, stride 1: Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A on every tile, plus the bias.

    Args:
        x: (N, C, H, W), seen channels last inside.
        weight: (O, C, 3, 3).
        bias: (O,).
        tile: m, outputs per axis and tile.
        padding: rows and columns of zeros on each side.
        strips: how much is computed at once.

    Returns:
        (N, O, H + 2p − 2, W + 2p − 2).
    """
    matrices = transforms(tile)
    plan = _Plan.of(x, weight.shape[0], tile, padding)
    u, b = transform_weight(weight, matrices), None if bias is None else transform_bias(bias, matrices)
    nhwc = x.permute(0, 2, 3, 1)
    parts, first = [], 0
    for rows in (strips or Strips()).rows(plan.layer, tile):
        parts.append(_strip(nhwc, u.to(x.dtype), b, matrices, plan, (first, rows)))
        first += rows
    y = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    return y.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Plan:
    """One convolution: its sizes, the input's height and width, and the tile."""

    layer: ConvLayer
    input_size: tuple[int, int]
    tile: int

    @classmethod
    def of(cls, x: Tensor, out_channels: int, tile: int, padding: tuple[int, int]) -> _Plan:
        n, c, h, w = x.shape
        size = h + 2 * padding[0] - KERNEL + 1, w + 2 * padding[1] - KERNEL + 1
        return cls(ConvLayer(n, (c, out_channels), size, padding=padding), (h, w), tile)

    @property
    def columns(self) -> int:
        """Tiles per row."""
        return -(-self.layer.size[1] // self.tile)


def transform_weight(weight: Tensor, matrices: Transforms) -> Tensor:
    """Returns U = G g Gᵀ of every kernel as the weights of a 1×1 convolution in (m+2)² groups.

    Computed in float64 and rounded once: G's largest and smallest entries cancel.

    Args:
        weight: (O, C, 3, 3).

    Returns:
        ((m+2)²·O, C, 1, 1), float64.
    """
    g = _constant(as_array(matrices.kernel).T, torch.float64)
    # The weight comes first, twice: a folded constant is named after the first operand.
    u = torch.matmul(torch.matmul(weight.to(torch.float64), g).transpose(2, 3), g)  # (O, C, column, row)
    return u.permute(3, 2, 0, 1).reshape(-1, weight.shape[1], 1, 1)


def transform_bias(bias: Tensor, matrices: Transforms) -> Tensor:
    """Returns the bias of the products whose output transform is `bias` everywhere: (c cᵀ) ⊗ bias, ((m+2)²·O,)."""
    c = as_array([matrices.ones])[0]
    spread = bias.to(torch.float64) * _constant(np.outer(c, c).reshape(-1, 1), torch.float64)
    return spread.reshape(-1).to(bias.dtype)


def _strip(
    x: Tensor, u: Tensor, bias: Tensor | None, matrices: Transforms, plan: _Plan, rows: tuple[int, int]
) -> Tensor:
    """Returns the output (N, rows·m, W, O) of some rows of tiles, cut to the convolution's own size."""
    (first, count), m, n, columns = rows, plan.tile, plan.tile + KERNEL - 1, plan.columns
    (batch, (c, o)), (height, width) = (plan.layer.batch, plan.layer.channels), plan.input_size
    top = first * m - plan.layer.padding[0]
    low, high = max(0, top), min(height, top + count * m + KERNEL - 1)
    part = x if (low, high) == (0, height) else x[:, low:high]
    data = as_array(matrices.data)
    band = _banded(data, m, count, high - low, low - top)
    y = torch.matmul(_constant(band, x.dtype), part.reshape(batch, high - low, width * c))
    y = _transform_columns(y.reshape(-1, width, c), data, plan)
    y = y.reshape(batch * count, n, columns, n * c).transpose(1, 2)
    y = y.reshape(batch, count, columns, n * n * c)
    products = F.conv2d(y.permute(0, 3, 1, 2), u, bias, groups=n * n).permute(0, 2, 3, 1)
    y = torch.matmul(_output_matrix(matrices, x.dtype), products.reshape(-1, n * n, o))
    y = y.reshape(batch * count, columns, m, m * o).transpose(1, 2)
    y = y.reshape(batch, count * m, columns * m, o)
    return _cut(y, min(count * m, plan.layer.size[0] - first * m), plan.layer.size[1])


def _cut(y: Tensor, height: int, width: int) -> Tensor:
    """Returns the first rows and columns of (N, H, W, O), without an operator where that is all of it."""
    y = y if y.shape[1] == height else y[:, :height]
    return y if y.shape[2] == width else y[:, :, :width]


def _transform_columns(y: Tensor, data: np.ndarray, plan: _Plan) -> Tensor:
    """Returns Bᵀ applied along the second axis of (rows, W, C) in every tile: (rows, tiles·n, C) or a view of it."""
    m, columns, (width, c), left = plan.tile, plan.columns, y.shape[1:], plan.layer.padding[1]
    if columns <= _WHOLE_ROW:
        return torch.matmul(_constant(_banded(data, m, columns, width, left), y.dtype), y)
    blocks, span = -(-columns // _BLOCK), _BLOCK * m
    total = (blocks + 1) * span
    y = F.pad(y, (0, 0, left, max(0, total - width - left)))[:, :total].reshape(-1, blocks + 1, span * c)
    y = torch.cat([y[:, :-1], y[:, 1:, : (KERNEL - 1) * c]], 2).reshape(-1, span + KERNEL - 1, c)
    y = torch.matmul(_constant(_banded(data, m, _BLOCK, span + KERNEL - 1, 0), y.dtype), y)
    whole = y.reshape(-1, blocks * _BLOCK, len(data) * c)
    return whole if blocks * _BLOCK == columns else whole[:, :columns]


def _banded(data: np.ndarray, tile: int, tiles: int, size: int, before: int) -> np.ndarray:
    """Returns the matrix of all tiles of one axis: rows n·t to n·t+n−1 hold Bᵀ, shifted to the inputs of tile t.

    Args:
        data: Bᵀ, (n, n).
        tile: m, the step from tile to tile.
        tiles: number of tiles.
        size: number of inputs that exist.
        before: number of padding zeros before the first of them.

    Returns:
        (n·tiles, size); columns that would fall into the padding are left out, which is what zeros there mean.
    """
    n = len(data)
    full = np.zeros((n * tiles, max(before + size, tile * (tiles - 1) + n)))
    for t in range(tiles):
        full[n * t : n * t + n, tile * t : tile * t + n] = data
    return full[:, before : before + size]


def _output_matrix(matrices: Transforms, dtype: torch.dtype) -> Tensor:
    """Returns Aᵀ ⊗ Aᵀ, (m², n²): the output transform of both axes as one product."""
    a = as_array(matrices.output)
    return _constant(np.kron(a, a), dtype)


def _constant(value: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.tensor(value, dtype=dtype)
