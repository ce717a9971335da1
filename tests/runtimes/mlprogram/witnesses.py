"""Which witness each operation has, besides whole models against torch; the table of docs/evaluator.md."""

from __future__ import annotations

from typing import Any, cast

from sdmobile.runtimes.mlprogram.constexpr import decoder
from sdmobile.runtimes.mlprogram.ops.table import operations
from tests.runtimes.mlprogram import drawing, test_definitions, test_random
from tests.runtimes.mlprogram.cases import FAMILIES, Case
from tests.runtimes.mlprogram.cases_flow import FAMILIES as FLOW_FAMILIES
from tests.runtimes.mlprogram.cases_flow import LISTS
from tests.runtimes.mlprogram.cases_images import FAMILIES as IMAGE_FAMILIES
from tests.runtimes.mlprogram.cases_layers import FAMILIES as LAYER_FAMILIES
from tests.runtimes.mlprogram.cases_tensor import FAMILIES as TENSOR_FAMILIES
from tests.runtimes.mlprogram.support import builder, prepare_coremltools

_EVERYWHERE = (
    "add batch_norm cast concat const conv cos equal expand_dims gather gather_nd gelu greater layer_norm linear "
    "matmul maximum mul non_zero pad real_div reduce_argmax reduce_l2_norm reduce_max reduce_mean relu reshape "
    "scatter_nd select shape sigmoid silu sin slice_by_index softmax split sqrt square stack sub tanh tile transpose "
    "upsample_nearest_neighbor"
)
EMITTED: dict[str, set[str]] = {
    "iOS16": set(_EVERYWHERE.split()),
    "iOS17": set(_EVERYWHERE.split()) | {"greater_equal"},
    "iOS18": set(_EVERYWHERE.split()) | {"greater_equal", "scaled_dot_product_attention"},
}
"""What coremltools 9 emits for the unchanged parts of pipelines; `test_pipelines` and `test_models` hold it to that."""
_OTHERWISE = {
    "instance_norm": "rewrites",
    "einsum": "rewrites",
    "squeeze": "rewrites",
    "pixel_shuffle": "rewrites",
    "quantize": "W8A8",
    "dequantize": "W8A8",
    "slice_by_size": "flexible shapes",
}
CONSTEXPR = {
    "constexpr_affine_dequantize": (True, False),
    "constexpr_blockwise_shift_scale": (True, False),
    "constexpr_cast": (False, True),
    "constexpr_lut_to_dense": (True, True),
    "constexpr_lut_to_sparse": (True, True),
    "constexpr_sparse_blockwise_shift_scale": (True, True),
    "constexpr_sparse_to_dense": (False, True),
}
"""Decoders of `test_constexpr` and `test_compressed`: compared with coremltools' decompression, with a definition."""

STATES = {"read_state", "write_state"}
"""Held by `test_interface`, over several predictions."""


def computed_by_coremltools() -> set[str]:
    """Returns the operation types that are compared with a value that coremltools computed."""
    return drawing.KINDS | _in_cases(computed=True)


def defined_in_numpy() -> set[str]:
    """Returns the operation types that are compared with their definition written in numpy."""
    return test_definitions.KINDS | LISTS | STATES | set(test_random.KINDS) | _in_cases(computed=False)


def _in_cases(computed: bool) -> set[str]:
    """Returns the types of the operations that the cases with a computed, or with a given, result are about."""
    types: set[str] = set()
    for family in (FAMILIES | TENSOR_FAMILIES | LAYER_FAMILIES | IMAGE_FAMILIES | FLOW_FAMILIES).values():
        for case in family():
            if (case.expected is None) == computed and "iOS18" in case.targets:
                types.add(_subject(_built(case)))
    return types


def _built(case: Case) -> Any:
    """Returns the result of a case whose inputs have no value yet."""
    from coremltools.converters.mil.mil import Function
    from coremltools.converters.mil.mil import types as mil_types

    ct, mb, types = prepare_coremltools(), builder(), cast(Any, mil_types)
    kinds = {"float32": types.fp32, "int32": types.int32}
    inputs = {
        f"x{i}": mb.placeholder(shape=array.shape, dtype=kinds[str(array.dtype)]) for i, array in enumerate(case.inputs)
    }
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        return case.build(mb, *function.inputs.values())


def _subject(result: Any) -> str:
    """Returns the type of the operation that a case is about: the last one that is no conversion, if there is one."""
    operation = result.op
    while operation.op_type == "cast" and operation.x.op is not None:
        operation = operation.x.op
    return operation.op_type


def table() -> str:
    """Returns the rows of the table in Markdown."""
    computed, defined = computed_by_coremltools(), defined_in_numpy()
    rows = ["| operation | emitted | coremltools' value | definition in NumPy |", "|---|---|---|---|"]
    for name in sorted(operations()):
        marks = ["yes" if name in witnesses else "" for witnesses in (computed, defined)]
        rows.append(f"| `{name}` | {_emitted(name)} | {' | '.join(marks)} |")
    for name, witnesses in CONSTEXPR.items():
        versions = "16–18" if decoder(name, 16) else "18"
        marks = ["yes" if witness else "" for witness in witnesses]
        rows.append(f"| `{name}` | compressed, {versions} | {' | '.join(marks)} |")
    return "\n".join(rows)


def _emitted(name: str) -> str:
    versions = [target.removeprefix("iOS") for target, names in EMITTED.items() if name in names]
    if len(versions) > 1:
        return f"{versions[0]}–{versions[-1]}"
    return versions[0] if versions else _OTHERWISE.get(name, "")
