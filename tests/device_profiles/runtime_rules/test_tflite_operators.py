"""The tables of operators: real names, and the predictor knows what the lint says a GPU runtime parses."""

from __future__ import annotations

from itertools import combinations

from sdmobile.device_profiles.runtime_rules import tflite_operators as operators
from sdmobile.device_profiles.runtime_rules.tflite_operators import SUPPORT, words
from sdmobile.prediction.kernels.google_gpu import SHARED

_GROUPS = {
    name: value
    for name, value in vars(operators).items()
    if name.isupper() and isinstance(value, tuple) and name != "GPU_RUNTIMES" and not name.startswith("_")
}
_COMPOSITE = (operators.GROUP_NORM, operators.RMS_NORM, operators.ATTENTION)
_WITHOUT_A_RULE = words(
    "BITCAST DENSIFY DYNAMIC_UPDATE_SLICE LSTM RIGHT_SHIFT STABLEHLO_SHIFT_LEFT STABLEHLO_COMPOSITE CUSTOM"
)


def test_every_operator_is_one_of_the_schema() -> None:
    from ai_edge_litert import schema_py_generated as schema

    groups = {name: group for name, group in _GROUPS.items() if group != _COMPOSITE}
    named = {operator for group in groups.values() for operator in group}
    assert len(groups) > 15
    assert [
        name
        for name in (*named, *SUPPORT["ml-drift"], *SUPPORT["tflite-gpu"])
        if not hasattr(schema.BuiltinOperator, name)
    ] == []


def test_groups_share_no_operator_unless_one_holds_the_other() -> None:
    shared = [(a, b) for a, b in combinations(_GROUPS, 2) if set(_GROUPS[a]) & set(_GROUPS[b])]
    assert sorted(shared) == [("CLAMPS", "ACTIVATIONS"), ("TABLES", "LOOK_UPS")]


def test_the_predictor_has_a_rule_for_what_the_gpu_runtimes_parse() -> None:
    parsed = {*SUPPORT["ml-drift"], *SUPPORT["tflite-gpu"]}
    assert {operator for operator in parsed if operator.lower() not in SHARED} == set(_WITHOUT_A_RULE)
