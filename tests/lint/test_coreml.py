"""The lint of Core ML packages: what each operation needs, what is known against the Neural Engine, chunk sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdmobile.formats.mlprogram.ir import Operation
from sdmobile.formats.mlprogram.types import NamedType, TensorType
from sdmobile.formats.mlprogram.values import Constant
from sdmobile.lint import FormatError, Limits, LintReport, lint_component, lint_file
from sdmobile.lint.coreml import package as module
from sdmobile.lint.coreml.operations import objections
from sdmobile.lint.coreml.package import StoredWeights


def _operation(kind: str, shape: tuple[int, ...] = (1, 8, 4, 4), dtype: str = "float16", **stored: Any) -> Operation:
    inputs = {name: (_constant(value),) for name, value in stored.items()}
    return Operation(f"{kind}_1", kind, {"x": ("x",), **inputs}, (NamedType("y", TensorType(dtype, shape)),), {})


def _constant(value: Any) -> Constant:
    if isinstance(value, str):
        return Constant(TensorType(value, (2,)), None, "@model_path/weights/weight.bin", 64)
    array = np.asarray(value)
    return Constant(TensorType(str(array.dtype), array.shape), array)


def _rules(operation: Operation, ios: int = 17, target: int | None = 17) -> list[tuple[str, str]]:
    return [(finding.severity, finding.rule) for finding in objections(operation, ios, target, {})]


@dataclass(frozen=True)
class Expected:
    """An operation and the rules it breaks."""

    operation: Operation
    rules: list[tuple[str, str]]


@pytest.mark.parametrize(
    "case",
    [
        Expected(_operation("conv"), []),
        Expected(_operation("conv", dilations=[1, 1]), []),
        Expected(_operation("conv", dilations=[2, 2]), [("warning", "off-neural-engine")]),
        Expected(_operation("gather"), [("warning", "off-neural-engine")]),
        Expected(_operation("avg_pool", kernel_sizes=[13, 13], strides=[2, 2]), []),
        Expected(_operation("avg_pool", kernel_sizes=[14, 1], strides=[1, 1]), [("warning", "off-neural-engine")]),
        Expected(_operation("max_pool", kernel_sizes=[3, 3], strides=[3, 3]), [("warning", "off-neural-engine")]),
        Expected(_operation("upsample_nearest_neighbor", scale_factor_height=2.0, scale_factor_width=2.0), []),
        Expected(_operation("upsample_nearest_neighbor", scale_factor_height=4.0), [("warning", "off-neural-engine")]),
        Expected(_operation("mul", (1, 2, 3, 4, 5)), [("warning", "neural-engine-rank")]),
        Expected(_operation("mul", (1, 1, 2, 3, 4, 5)), [("refused", "rank")]),
        Expected(_operation("mul", (1, 16384)), []),
        Expected(_operation("mul", (1, 16385)), [("warning", "dimension")]),
        Expected(_operation("mul", dtype="float32"), [("warning", "float32")]),
        Expected(_operation("cast", dtype="float32"), []),
        Expected(_operation("const", (1, 70000), "float32"), []),
    ],
)
def test_each_rule_at_its_limit(case: Expected) -> None:
    assert _rules(case.operation) == case.rules


@pytest.mark.parametrize(
    ("operation", "needed"),
    [
        (_operation("constexpr_lut_to_dense", indices="uint8", lut=[0.0, 1.0]), 16),
        (_operation("constexpr_lut_to_dense", indices="uint3", lut=[0.0, 1.0]), 18),
        (_operation("constexpr_affine_dequantize", quantized_data="int8"), 16),
        (_operation("constexpr_blockwise_shift_scale", data="int8"), 18),
        (_operation("constexpr_sparse_to_dense", mask="uint8"), 16),
        (_operation("constexpr_sparse_to_dense", mask="uint1"), 18),
        (_operation("constexpr_lut_to_sparse"), 18),
        (_operation("scaled_dot_product_attention"), 18),
        (_operation("resize"), 17),
    ],
)
def test_each_compression_needs_its_ios(operation: Operation, needed: int) -> None:
    assert _rules(operation, needed, needed) == []
    assert _rules(operation, needed, needed - 1) == [("refused", "deployment-target")]
    assert _rules(operation, needed - 1, needed - 1) == [("refused", "operation-newer-than-program")]


@pytest.mark.parametrize(
    ("weights", "refused"),
    [
        (StoredWeights(999_999_999, 500_000_000, 0), False),
        (StoredWeights(1_000_000_000, 500_000_000, 0), True),
        (StoredWeights(1_900_000_000, 2_600_000_000, 300), False),  # 5.8 bits
        (StoredWeights(1_950_000_000, 1_950_000_000, 300), True),  # 8 bits
    ],
)
def test_a_package_for_iphones_is_small_or_has_six_bits(
    weights: StoredWeights, refused: bool, small_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "stored_weights", lambda *_: weights)
    assert ("chunk-size" in lint_file(small_package).rules()) == refused


def test_the_program_must_not_be_newer_than_the_device(small_package: Path) -> None:
    assert lint_file(small_package, limits=Limits(deployment_target=17)).verdict == "accepted"
    report = lint_file(small_package, limits=Limits(deployment_target=16))
    assert report.verdict == "refused"
    assert report.rules()["deployment-target"] == 1


def test_weights_are_counted_once_and_with_their_bits(small_package: Path) -> None:
    from sdmobile.formats.mlprogram.read import read_program
    from sdmobile.lint.coreml.package import stored_weights

    weights = stored_weights(*read_program(small_package))
    assert (weights.bytes, weights.numbers, weights.palettes) == (2 * 16 * 8 * 9, 16 * 8 * 9, 0)
    assert weights.bits == 16


def test_broken_packages_are_said_to_be(tmp_path: Path, small_package: Path) -> None:
    import shutil

    with pytest.raises(FormatError):
        lint_file(tmp_path / "none.mlpackage")
    cut = tmp_path / "cut.mlpackage"
    shutil.copytree(small_package, cut)
    weights = next(cut.rglob("weight.bin"))
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(FormatError):
        lint_file(cut)


def test_a_target_that_a_recipe_raised_is_the_limit_and_is_said(small_package: Path) -> None:
    def report(target: str | None, profile: int | None = 16) -> LintReport:
        record = {} if target is None else {"compression": {"recipe": "r", "details": {"deployment_target": target}}}
        component: Any = SimpleNamespace(path=small_package, record=record)
        return lint_component(component, None, Limits(deployment_target=profile))

    assert report(None).verdict == report("iOS16").verdict == "refused"  # the package is for iOS 17
    raised = report("iOS17")
    assert raised.accepted
    assert [finding.severity for finding in raised.findings if finding.rule == "deployment-target"] == ["warning"]
    assert "the recipe r raised the deployment target to iOS 17" in raised.findings[0].detail
    assert "deployment-target" not in report("iOS17", 17).rules()
    assert "deployment-target" not in report("iOS17", None).rules()
