"""Composites in ML Drift: norms in one kernel; attention fused, with a softmax in the value product, or in pieces.

google-ai-edge/ml-drift: MakeScaledDotProductAttention in `ml_drift/common/selectors/operation_selector.cc` (transposes
around it), BatchedMatMulSoftmaxBatchedMatMul in `gpu_model_builder.cc`@013b44b (the choice, tiles of heads; norms).
Method of attention: Chen et al. 2023 (arXiv 2304.11267), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionShape
from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules, RuntimeKernel, runtime_kernel
from sdmobile.device_profiles.runtime_rules.kernel import Category
from sdmobile.device_profiles.runtime_rules.tflite_operators import RMS_NORM
from sdmobile.formats.graph.graph import Operation
from sdmobile.formats.tflite.gpu_bytes import Bhwc, padded
from sdmobile.prediction.kernels.conv_generic import convolution_work
from sdmobile.prediction.kernels.shared_lowering import Lowering
from sdmobile.prediction.kernels.shared_nodes import Node


def norm(low: Lowering, index: int, operation: Operation) -> None:
    """GroupNorm, LayerNorm or RMSNorm in one kernel: a pass for the moments, another that normalises.

    HWCGroupNormalization takes groups of an even number of channels or of one; other groups are a reshape, two
    reductions, the normalisation and a reshape (HWCGroupNorm).
    """
    channels = low.draft.shape(operation.inputs[0])[3]
    groups = int(operation.attributes.get("num_groups", 1))
    size = channels // max(1, groups)
    weights = low.constant_bytes(operation)
    if operation.kind == RMS_NORM or groups == 1 or size == 1 or size % 2 == 0:
        low.like(index, operation, "norm", passes=2, weight_bytes=weights, note=f"{groups} groups of {size} channels")
        return
    _odd_groups(low, index, operation, groups, size)


def _odd_groups(low: Lowering, index: int, operation: Operation, groups: int, size: int) -> None:
    batch, height, width, _ = low.draft.shape(operation.inputs[0])
    grouped, result = (low.draft.fresh((batch, height * width, groups, size)) for _ in range(2))
    moments = [low.draft.fresh((batch, 1, groups, 1)) for _ in range(2)]
    name, note = operation.name, f"{groups} groups of {size} channels: no kernel for odd groups"
    low.add(Node("reorder", name, (index,), low.runtime(operation)[:1], [grouped], reorder=True, note=note))
    for moment in moments:
        low.add(Node("reduce", name, (index,), [grouped], [moment], note=note))
    weights = low.constant_bytes(operation)
    low.add(Node("elementwise", name, (index,), [grouped, *moments], [result], weight_bytes=weights, note=note))
    low.add(Node("reorder", name, (index,), [result], list(operation.outputs), reorder=True, note=note))


def plain_norm(low: Lowering, index: int, operation: Operation) -> None:
    """The same norms for comparison with a kernel per step, which no rule of the engine chooses.

    Mean, difference, square, mean, scaling; groups by two reshapes.
    """
    source = low.runtime(operation)[0]
    batch, height, width, channels = low.draft.shape(source)
    groups = int(operation.attributes.get("num_groups", 1))
    over_channels = operation.kind == RMS_NORM or groups == 1
    shape = (batch, height, width, channels) if over_channels else (batch, height * width, groups, channels // groups)
    moment = (batch, height, width, 1) if over_channels else (batch, 1, groups, 1)

    def add(category: Category, inputs: list[str], output: str, **fields: object) -> str:
        low.add(Node(category, operation.name, (index,), inputs, [output], note="norm in steps", **fields))  # pyright: ignore
        return output

    fresh = low.draft.fresh
    x = source if over_channels else add("reorder", [source], fresh(shape), reorder=True)
    centred = add("elementwise", [x, add("reduce", [x], fresh(moment))], fresh(shape), linkable=True)
    squares = add("elementwise", [centred], fresh(shape), linkable=True)
    deviation = add("elementwise", [add("reduce", [squares], fresh(moment))], fresh(moment), linkable=True)
    weights = low.constant_bytes(operation)
    result = operation.outputs[0] if over_channels else fresh(shape)
    add("elementwise", [centred, deviation], result, linkable=True, weight_bytes=weights)
    if not over_channels:
        add("reorder", [result], operation.outputs[0], reorder=True)


@dataclass
class _Attention:
    """One attention while it is lowered; heads are those of all images, as the engine counts them."""

    low: Lowering
    index: int
    operation: Operation
    shape: AttentionShape
    kernel: RuntimeKernel

    def value(self, rows: int, columns: int, heads: int | None = None) -> str:
        """Adds a value with one matrix per head."""
        return self.low.draft.fresh((1, heads or self.shape.heads, rows, columns))

    def add(self, category: str, inputs: list[str], output: str, **fields: object) -> str:
        """Adds a node and returns its output."""
        operation = self.operation
        self.low.add(Node(category, operation.name, (self.index,), inputs, [output], **fields))  # pyright: ignore
        return output


def attention(low: Lowering, index: int, operation: Operation, rules: KernelRules) -> None:
    """odml.scaled_dot_product_attention of query, key, value (B, T, H, D) and perhaps a mask."""
    query, key, value = operation.inputs[:3]
    batch, queries, heads, size = low.draft.shape(query)
    keys, value_size = low.draft.shape(key)[1], low.draft.shape(value)[3]
    masked = len(operation.inputs) > 3
    shape = AttentionShape(1, batch * heads, queries, keys, size, value_size, masked)
    state = _Attention(low, index, operation, shape, runtime_kernel(shape, rules))
    turned = [
        state.add("reorder", [name], state.value(rows, columns), reorder=True, note=f"transpose of the {what}")
        for name, what, rows, columns in (
            (query, "query", queries, size),
            (key, "key", size, keys),
            (value, "value", keys, value_size),
        )
    ]
    mixed = _fused(state, turned) if state.kernel.name == "conv_softmax_conv" else _tiled(state, turned)
    low.add(
        Node(
            "reorder",
            operation.name,
            (index,),
            [mixed],
            list(operation.outputs),
            reorder=True,
            note="transpose of the result",
        )
    )


def _macs(shape: AttentionShape, heads: int) -> tuple[int, int]:
    """Returns the multiply-accumulates of the two products: as defined, and with sizes in fours."""
    exact = heads * shape.queries * shape.keys * (shape.head_dim + shape.value_dim)
    return exact, heads * shape.queries * padded(shape.keys) * (padded(shape.head_dim) + padded(shape.value_dim))


def _fused(state: _Attention, turned: list[str]) -> str:
    """Adds the one kernel of the three steps; no score leaves it."""
    shape = state.shape
    query, key, value = turned
    key = state.add("reorder", [key], state.value(shape.head_dim, shape.keys), note="key as weights")
    value = state.add("reorder", [value], state.value(shape.keys, shape.value_dim), note="value as weights")
    exact, executed = _macs(shape, shape.heads)
    result = state.value(shape.queries, shape.value_dim)
    note = f"flash: {shape.heads} heads, {shape.queries} by {shape.keys}, {shape.head_dim} wide"
    return state.add("attention", [query, key, value], result, macs=executed, operator_macs=exact, note=note)


def _tiled(state: _Attention, turned: list[str]) -> str:
    """Adds the separate kernels for as many heads at a time as the engine takes, split and joined around them."""
    shape, tile = state.shape, state.kernel.heads_per_tile
    if tile is None or shape.heads % tile:
        return _separate(state, turned, shape.heads)
    sizes = ((shape.queries, shape.head_dim), (shape.head_dim, shape.keys), (shape.keys, shape.value_dim))
    tiles = [_split(state, name, rows, columns, tile) for name, (rows, columns) in zip(turned, sizes, strict=True)]
    results = [_separate(state, list(parts), tile) for parts in zip(*tiles, strict=True)]
    return state.add("copy", results, state.value(shape.queries, shape.value_dim), note="heads joined")


def _split(state: _Attention, name: str, rows: int, columns: int, tile: int) -> list[str]:
    low, operation = state.low, state.operation
    parts = [state.value(rows, columns, tile) for _ in range(state.shape.heads // tile)]
    low.add(Node("copy", operation.name, (state.index,), [name], parts, note=f"split into {tile} heads"))
    return parts


def _separate(state: _Attention, operands: list[str], heads: int) -> str:
    """Adds scores, softmax and value product.

    Partially fused, the scores are written once and read twice: by a reduction that keeps maximum and sum of
    exponentials per row, and by the value product, which applies them. Otherwise the probabilities are written, too.
    """
    shape = state.shape
    query, key, value = operands
    exact = heads * shape.queries * shape.keys
    executed = heads * shape.queries * padded(shape.keys)
    note = f"{heads} heads, {shape.queries} by {shape.keys}, {shape.head_dim} wide: {state.kernel.name}"
    key = state.add(
        "reorder", [key], state.value(shape.head_dim, shape.keys, heads), note="key to the layout of weights"
    )
    scores = _product(
        state,
        [query, key],
        (1, heads, shape.queries, shape.keys),
        (exact, executed),
        shape.head_dim,
        f"scores, {note}",
    )
    if shape.masked:
        masked = state.value(shape.queries, shape.keys, heads)
        scores = state.add("elementwise", [scores, state.operation.inputs[3]], masked, linkable=True, note="mask")
    if state.kernel.name == "softmax_reduce":
        weights = [
            scores,
            state.add("softmax", [scores], state.value(shape.queries, 2, heads), note=f"reduction, {note}"),
        ]
    else:
        whole = state.value(shape.queries, shape.keys, heads)
        weights = [state.add("softmax", [scores], whole, passes=2, note=f"softmax, {note}")]
    value = state.add("reorder", [value], state.value(shape.keys, shape.value_dim, heads), note="value as weights")
    result = (1, heads, shape.queries, shape.value_dim)
    return _product(state, [*weights, value], result, (exact, executed), shape.value_dim, note, shape.keys)


def _product(
    state: _Attention, inputs: list[str], result: Bhwc, pairs: tuple[int, int], size: int, note: str, inner: int = 0
) -> str:
    """Adds a product; `pairs` of a query and a key, as defined and in fours, meet in `size` numbers each."""
    low = state.low
    work = convolution_work(low.gpu, result, padded(inner or size) // 4, flat=True, wave=low.wave)
    macs, operator_macs = pairs[1] * padded(size), pairs[0] * size
    fields = {"threads": work.threads, "fetches": work.fetches, "note": note}
    return state.add("matmul", inputs, low.draft.fresh(result), macs=macs, operator_macs=operator_macs, **fields)
