"""What each target's file of a component takes and returns, derived from the family's canonical arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.errors import UnsupportedError
from sdmobile.families.component import Component, Kind, Value
from sdmobile.families.family import Family
from sdmobile.formats.bundle.contracts import PERMUTATIONS, TARGETS, UNIT_AXES, Contract, Geometry, TensorSpec

if TYPE_CHECKING:
    from torch import nn

# How an array lies in a target's file, for ios, android and onnx. The Neural Engine wants features as (B, D, 1, S); the
# GPU of an Android phone wants channels last and has no int64; Apple's Swift code feeds token ids as Float32.
_LAYOUTS: dict[Kind, tuple[str, str, str]] = {
    Kind.PIXELS: ("nchw", "nhwc", "nchw"),
    Kind.TOKEN_IDS: ("token_ids", "token_ids", "token_ids"),
    Kind.FEATURES: ("tokens", "tokens", "tokens"),
    Kind.CONTEXT: ("channels_1_tokens", "tokens", "tokens"),
    Kind.TIMESTEPS: ("flat", "flat", "flat"),
    Kind.VECTOR: ("vector", "vector", "vector"),
    Kind.COLUMN: ("column", "vector", "vector"),
}
_TOKEN_TYPES = ("float32", "int32", "int64")


def contract_for(family: Family, target: str, component: str, geometry: Geometry) -> Contract:
    """Returns what `target`'s file for a component takes and returns.

    Raises:
        UnsupportedError: no such target or component.
    """
    if target not in TARGETS:
        raise UnsupportedError(f"the target must be one of {', '.join(TARGETS)}", target)
    part = family.component(component)
    names = part.files[target]
    rows = family.rows_order if geometry.batch > 1 else "one row"
    return Contract(
        target,
        component,
        names.file,
        names.signature,
        tuple(_spec(target, *pair, geometry, rows) for pair in zip(names.inputs, part.inputs, strict=True)),
        tuple(_spec(target, *pair, geometry, rows) for pair in zip(names.outputs, part.outputs, strict=True)),
    )


def _spec(target: str, name: str, value: Value, geometry: Geometry, rows: str) -> TensorSpec:
    """Returns the spec in the file's names and layout of one canonical array."""
    place = TARGETS.index(target)
    layout, shape = _LAYOUTS[value.kind][place], value.shape(geometry)
    lying = tuple(shape[axis] for axis in PERMUTATIONS[layout])
    for axis in UNIT_AXES.get(layout, ()):
        lying = (*lying[:axis], 1, *lying[axis:])
    dtype = _TOKEN_TYPES[place] if value.kind is Kind.TOKEN_IDS else "float32"
    return TensorSpec(name, lying, dtype, value.description.format(rows=rows), value.name, layout)


def wrap(target: str, component: Component, module: nn.Module) -> nn.Module:
    """Returns a module whose forward takes the target's inputs in order and returns its output, or all in a tuple."""
    return component.wrap(module, target == "android").eval().requires_grad_(False)
