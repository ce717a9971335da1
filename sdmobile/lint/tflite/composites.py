"""Composite operators that ML Drift recognises by name, and the attributes it asks of each.

Source: NewOperationParser and the Composite*Parser classes in LiteRT ml_drift_delegate/tflite/model_builder.cc,
CustomOperationParserFactory in LiteRT ml_drift_delegate/delegate/composite/custom_parsers.cc. Nothing here was checked
on the accelerator of the wheel, which ends with a segmentation fault at any composite on Linux.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdmobile.device_profiles.runtime_rules.tflite_operators import ATTENTION, GROUP_NORM, RMS_NORM, words
from sdmobile.formats.tflite.model import Composite, Node, Tensor, bhwc
from sdmobile.lint.tflite.problem import PARSERS as SOURCE
from sdmobile.lint.tflite.problem import Problem, Problems

_LANGUAGE_MODELS = frozenset(words("odml.cache_update odml.runtime_bmm odml.sdpa_transposed moe odml.rope"))
KNOWN = frozenset(
    {
        GROUP_NORM,
        RMS_NORM,
        ATTENTION,
        "custom_call.rotary_positional_embedding",
        *_LANGUAGE_MODELS,
    }
)
_REDUCTION_AXES = "_TENSOR_V1_reduction_axes"


def check_composite(node: Node) -> Problems:
    """Yields what ML Drift says against a composite."""
    composite = node.composite
    if composite is None or composite.name not in KNOWN:
        yield Problem(
            "unknown-composite",
            f"composite {composite.name if composite else '?'}; ML Drift knows {', '.join(sorted(KNOWN))}",
            "Export this part with plain operators",
            SOURCE,
        )
    elif composite.name == GROUP_NORM:
        yield from _norm(node, composite)
    elif composite.name == RMS_NORM:
        yield from _vector(node, 1, "scale")
    elif composite.name == ATTENTION:
        yield from _attention(node)


def _norm(node: Node, composite: Composite) -> Problems:
    """GroupNorm or LayerNorm: both travel under one name and differ by an attribute."""
    data = node.input(0)
    attributes = composite.attributes
    if data is None or data.rank > 4:
        yield Problem("rank", f"input {data}", "Reshape to at most rank 4", SOURCE)
        return
    yield from _vector(node, 1, "scale")
    yield from _vector(node, 2, "shift")
    sub_type, axes = attributes.get("sub_type"), _numbers(attributes.get(_REDUCTION_AXES))
    grouped = axes is not None if sub_type is None else sub_type == 0
    last = data.rank - 1
    expected = list(range(1, data.rank)) if grouped and sub_type is not None else [last]
    if axes is not None and axes != expected:
        yield _attribute(f"{_REDUCTION_AXES} is {axes}, expected {expected}")
    if "epsilon" not in attributes:
        yield _attribute("epsilon is missing")
    if grouped and attributes.get("channel_axis", last) != last:
        yield _attribute(f"channel_axis is {attributes['channel_axis']}, expected {last}: channels must come last")
    if grouped and "num_groups" not in attributes:
        yield _attribute("num_groups is missing")


def _numbers(value: Any) -> list[int] | None:
    """Returns a list of whole numbers, which converters store plainly or as a tensor's data, shape and type."""
    if value is None:
        return None
    return [int(number) for number in (value["TENSOR_DATA"] if isinstance(value, Mapping) else value)]


def _vector(node: Node, position: int, what: str) -> Problems:
    data, vector = node.input(0), node.input(position)
    if data is None or vector is None:
        return
    if vector.rank != 1 or vector.shape[0] != data.shape[-1]:
        yield Problem(
            "composite-vector", f"{what} {vector} for {data}", "Give one number per channel, channels last", SOURCE
        )


def _attention(node: Node) -> Problems:
    if len(node.inputs) not in (3, 4) or None in node.inputs:
        yield Problem("operands", f"{len(node.inputs)} inputs", "Give query, key, value and at most a mask", SOURCE)
        return
    query, key, value, *masks = (tensor for tensor in node.inputs if tensor is not None)
    if key.bhwc != value.bhwc or query.bhwc[3] != key.bhwc[3]:
        yield Problem(
            "attention-shapes",
            f"query {query}, key {key}, value {value}: key and value must be alike, all with as many channels",
            "Lay them out as (batch, tokens, heads, channels)",
            SOURCE,
        )
    for mask in masks:
        yield from _mask(key, mask)


def _mask(key: Tensor, mask: Tensor) -> Problems:
    if bhwc(mask.shape)[3] != key.bhwc[1]:
        yield Problem("attention-mask", f"mask {mask} for key {key}", "End the mask in the number of tokens", SOURCE)
    if bhwc(mask.shape)[0] > 1:
        yield Problem(
            "attention-mask-rows",
            f"mask {mask}: every row of the batch gets that of the first",
            "Make the rows of the batch heads, or export with --plain-ops",
            "own check with LiteRT.js 2.5.3 (tests/validate/gpu/test_masked_rows.py)",
            severity="miscomputed",
        )


def _attribute(detail: str) -> Problem:
    return Problem("composite-attribute", detail, "Mark the composite again with the attributes ML Drift reads", SOURCE)
