"""The first operation that float16 does not compute well enough, and the module it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.formats.mlprogram.modules import module_of
from sdmobile.runtimes.mlprogram import MLProgram
from sdmobile.runtimes.mlprogram.diagnosis import compare, first_fault
from tests.runtimes.mlprogram.support import builder, save_program

X = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)


def _overflow(x: Any) -> Any:
    mb = builder()
    y = mb.mul(x=x, y=np.float32(400.0), name="down_blocks_0_proj_in_mul")
    y = mb.square(x=y, name="square_3")
    y = mb.sqrt(x=y, name="down_blocks_0_norm1_group_norm")
    return mb.relu(x=y, name="y")


def _cancellation(x: Any) -> Any:
    mb = builder()
    y = mb.sin(x=x, name="mid_block_first_sin")
    y = mb.add(x=y, y=np.float32(4000.0), name="mid_block_second_add")
    y = mb.sub(x=y, y=np.float32(4000.0), name="mid_block_second_sub_1")
    return mb.relu(x=y, name="y")


def _half(build: Any, folder: Path) -> Path:
    """Saves a program whose operations are float16, without a pass that would fold them."""
    return save_program(build, [X.shape], folder / "p.mlpackage", float16=True)


def test_an_overflow_is_found_where_it_starts_and_its_module_is_named(tmp_path: Path) -> None:
    fault = first_fault(_half(_overflow, tmp_path), {"x0": X})
    assert fault is not None
    assert (fault.kind, fault.measured.type) == ("overflow", "square")
    # `square_3` is a name of coremltools'; its result goes into the group norm.
    assert fault.module == "down_blocks_0_norm1"
    values = (400 * X) ** 2
    assert fault.measured.overflows == int((values > 65520).sum())
    assert fault.measured.largest == pytest.approx(values.max(), rel=1e-2)
    assert "overflows float16" in fault.message()
    assert fault.to_json()["module"] == "down_blocks_0_norm1"


def test_the_module_is_exact_where_the_paths_are_known(tmp_path: Path) -> None:
    fault = first_fault(_half(_overflow, tmp_path), {"x0": X}, modules=["down_blocks.0", "down_blocks.0.norm1"])
    assert fault is not None
    assert fault.module == "down_blocks.0.norm1"


def test_an_operation_without_a_name_lies_between_those_that_have_one(tmp_path: Path) -> None:
    """As coremltools writes a norm out, which then has no name of its own."""

    def build(x: Any) -> Any:
        mb = builder()
        y = mb.mul(x=x, y=np.float32(400.0), name="conv_in_mul")
        y = mb.sqrt(x=mb.square(x=y, name="square_0"), name="sqrt_0")
        return mb.relu(x=y, name="nonlinearity_relu")

    path = _half(build, tmp_path)
    for modules, module in (
        (["conv_in", "norm1", "nonlinearity", "conv1", "norm2", "nonlinearity"], "norm1"),
        (["conv_in", "nonlinearity"], "nonlinearity"),
        (["conv_in", "norm1", "proj_in", "nonlinearity"], "nonlinearity"),
    ):
        fault = first_fault(path, {"x0": X}, modules=modules)
        assert fault is not None
        assert (fault.measured.type, fault.module) == ("square", module)


def test_a_jump_of_the_error_is_found(tmp_path: Path) -> None:
    path = _half(_cancellation, tmp_path)
    fault = first_fault(path, {"x0": X})
    assert fault is not None
    assert (fault.kind, fault.measured.type, fault.module) == ("jump", "sub", "mid_block_second")
    assert fault.measured.error > 0.5 > 0.001 > fault.measured.error_before
    assert "the error jumps" in fault.message()
    assert first_fault(path, {"x0": X}, floor=10.0) is None
    assert first_fault(path, {"x0": X}, jump=1e6) is None


def test_a_float32_program_has_no_fault(tmp_path: Path) -> None:
    path = save_program(_overflow, [X.shape], tmp_path / "p.mlpackage")
    assert first_fault(path, {"x0": X}) is None
    assert all(measured.error == 0 for measured in compare(path, {"x0": X}))


def test_the_figures_are_those_of_numpy(tmp_path: Path) -> None:
    path = _half(_cancellation, tmp_path)
    figures = {measured.name: measured for measured in compare(path, {"x0": X}, "float16-float32acc")}
    with np.errstate(over="ignore"):
        low = np.sin(X.astype(np.float16).astype(np.float32)).astype(np.float16).astype(np.float32)
    high = np.sin(X)
    expected = np.linalg.norm(low - high) / np.linalg.norm(high)
    measured = next(each for name, each in figures.items() if "sin" in name)
    assert measured.error == pytest.approx(expected, rel=1e-2)
    assert measured.overflows == 0


def test_only_values_in_use_are_kept(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        mb = builder()
        for _ in range(12):
            x = mb.cos(x=mb.sin(x=x))
        return mb.relu(x=x, name="y")

    path = save_program(build, [X.shape], tmp_path / "chain.mlpackage")
    kept = [len(values) for _, values in MLProgram(path).results({"x0": X})]
    assert len(kept) == 25
    assert max(kept) == 2


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("down_blocks_0_attentions_0_attn1_to_q_linear_cast_fp16", "down_blocks_0_attentions_0_attn1_to_q"),
        ("conv_in_conv2d_cast_fp16", "conv_in"),
        ("up_blocks_1_upsamplers_0_upsample_nearest2d_cast_fp16", "up_blocks_1_upsamplers_0"),
        ("mid_block_resnets_1_norm1_instance_norm_1_cast_fp16", "mid_block_resnets_1_norm1"),
        ("mid_block_resnets_1_add_12", "mid_block_resnets_1"),
        ("linear_4_cast_fp16", ""),
        ("square_3_cast_fp16", ""),
    ],
)  # fmt: skip
def test_names_tell_their_modules(name: str, module: str) -> None:
    assert module_of(name) == module
