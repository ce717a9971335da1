"""Packages compressed by coremltools, against the weights that coremltools itself decompresses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sdmobile.runtimes.mlprogram import MLProgram
from tests.runtimes.mlprogram.support import as_arrays, builder, convert_module, prepare_coremltools, save_program

Compress = Callable[[Any, Any], Any]


def _linear(**options: Any) -> Compress:
    def compress(cto: Any, model: Any) -> Any:
        config = cto.OpLinearQuantizerConfig(weight_threshold=0, **options)
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=config))

    return compress


def _palette(**options: Any) -> Compress:
    def compress(cto: Any, model: Any) -> Any:
        config = cto.OpPalettizerConfig(weight_threshold=0, **options)
        return cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))

    return compress


def _prune(cto: Any, model: Any) -> Any:
    config = cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=0)
    return cto.prune_weights(model, cto.OptimizationConfig(global_config=config))


def _prune_and_palette(cto: Any, model: Any) -> Any:
    config = cto.OpPalettizerConfig(weight_threshold=0, mode="uniform", nbits=4)
    return cto.palettize_weights(
        _prune(cto, model), cto.OptimizationConfig(global_config=config), joint_compression=True
    )


def _palette_and_quantize(cto: Any, model: Any) -> Any:
    config = cto.OpLinearQuantizerConfig(weight_threshold=0, mode="linear_symmetric", granularity="per_tensor")
    return cto.linear_quantize_weights(
        _palette(mode="uniform", nbits=4)(cto, model),
        cto.OptimizationConfig(global_config=config),
        joint_compression=True,
    )


def _prune_and_quantize(cto: Any, model: Any) -> Any:
    config = cto.OpLinearQuantizerConfig(weight_threshold=0, mode="linear_symmetric")
    return cto.linear_quantize_weights(
        _prune(cto, model), cto.OptimizationConfig(global_config=config), joint_compression=True
    )


CASES: dict[str, tuple[str, Compress, set[str]]] = {
    "int8_ios16": ("iOS16", _linear(mode="linear"), {"constexpr_affine_dequantize"}),
    "int8_symmetric": ("iOS18", _linear(mode="linear_symmetric"), {"constexpr_blockwise_shift_scale"}),
    "int4_blocks": (
        "iOS18",
        _linear(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=16),
        {"constexpr_blockwise_shift_scale"},
    ),
    "uint4_blocks": (
        "iOS18",
        _linear(mode="linear", dtype="uint4", granularity="per_block", block_size=8),
        {"constexpr_blockwise_shift_scale"},
    ),
    "lut4_ios16": ("iOS16", _palette(mode="uniform", nbits=4), {"constexpr_lut_to_dense"}),
    "lut6_ios16": ("iOS16", _palette(mode="uniform", nbits=6), {"constexpr_lut_to_dense"}),
    "lut6": ("iOS18", _palette(mode="uniform", nbits=6), {"constexpr_lut_to_dense"}),
    "lut2": ("iOS18", _palette(mode="uniform", nbits=2), {"constexpr_lut_to_dense"}),
    "lut8": ("iOS18", _palette(mode="uniform", nbits=8), {"constexpr_lut_to_dense"}),
    "lut3": ("iOS18", _palette(mode="uniform", nbits=3), {"constexpr_lut_to_dense"}),
    "lut1": ("iOS18", _palette(mode="uniform", nbits=1), {"constexpr_lut_to_dense"}),
    "lut4_groups": (
        "iOS18",
        _palette(mode="uniform", nbits=4, granularity="per_grouped_channel", group_size=16),
        {"constexpr_lut_to_dense"},
    ),
    "lut4_scaled": (
        "iOS18",
        _palette(mode="uniform", nbits=4, enable_per_channel_scale=True),
        {"constexpr_lut_to_dense", "constexpr_blockwise_shift_scale"},
    ),
    "lut4_int8": (
        "iOS18",
        _palette_and_quantize,
        {"constexpr_lut_to_dense", "constexpr_blockwise_shift_scale"},
    ),
    "sparse_ios16": ("iOS16", _prune, {"constexpr_sparse_to_dense"}),
    "sparse": ("iOS18", _prune, {"constexpr_sparse_to_dense"}),
    "sparse_lut": ("iOS18", _prune_and_palette, {"constexpr_lut_to_sparse", "constexpr_sparse_to_dense"}),
    "sparse_int8": (
        "iOS18",
        _prune_and_quantize,
        {"constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense"},
    ),
}


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 32, 3, padding=1)
        self.linear = nn.Linear(32, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).flatten(2).transpose(1, 2))


INPUT = {"x": torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Float16 packages of one small model per target."""
    torch.manual_seed(0)
    model = _Model()
    folder = tmp_path_factory.mktemp("plain")
    return {
        target: convert_module(model, INPUT, folder / f"{target}.mlpackage", target, float16=True)
        for target in ("iOS16", "iOS18")
    }


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_compressed_package_computes_with_the_weights_that_coremltools_decompresses(
    name: str, plain: dict[str, Path], tmp_path: Path
) -> None:
    ct = prepare_coremltools()
    import coremltools.optimize.coreml

    cto: Any = coremltools.optimize.coreml
    target, compress, expected_types = CASES[name]
    model = ct.models.MLModel(str(plain[target]), skip_model_load=True)
    compressed = compress(cto, model)
    compressed.save(str(tmp_path / "compressed.mlpackage"))
    cto.decompress_weights(compressed).save(str(tmp_path / "decompressed.mlpackage"))
    for precision in ("float32", "float16"):
        ours = MLProgram(tmp_path / "compressed.mlpackage", precision=precision)
        assert {op.type for op in ours.operations() if op.type.startswith("constexpr_")} == expected_types
        theirs = MLProgram(tmp_path / "decompressed.mlpackage", precision=precision)
        actual = ours.predict(as_arrays(INPUT))["output"]
        wanted = theirs.predict(as_arrays(INPUT))["output"]
        if precision == "float16":
            # Rounded to float16 as declared, the weights are the same numbers.
            np.testing.assert_array_equal(actual, wanted)
        else:
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=2e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("axis", [0, 1])
def test_a_vector_palette_fills_along_its_axis(axis: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    indices = random.integers(0, 4, (6, 8)).astype(np.uint8)
    lut = random.standard_normal((2, 1, 4, 3)).astype(np.float32)

    def build(x: Any) -> Any:
        mb = builder()
        from coremltools.converters.mil.mil import types

        packed = indices.astype(types.np_uint2_dtype)
        weight = mb.constexpr_lut_to_dense(indices=packed, lut=lut, vector_axis=axis)
        return mb.matmul(x=weight, y=x, name="y")

    columns = 24 if axis else 8
    path = save_program(build, [(columns, 2)], tmp_path / "vector.mlpackage", target="iOS18")
    assert "constexpr_lut_to_dense" in {op.type for op in MLProgram(path).operations()}
    vectors = lut[np.arange(6)[:, None] // 3, 0, indices]  # [6, 8, 3]
    weight = vectors.reshape(6, 24) if axis else np.moveaxis(vectors, 2, 1).reshape(18, 8)
    x = random.standard_normal((columns, 2)).astype(np.float32)
    np.testing.assert_allclose(MLProgram(path).predict({"x0": x})["y"], weight @ x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_a_cast_constant_is_widened(target: str, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float16)

    def build(x: Any) -> Any:
        mb = builder()
        return mb.matmul(x=mb.constexpr_cast(source_val=weight, output_dtype="fp32"), y=x, name="y")

    path = save_program(build, [(3, 2)], tmp_path / "cast.mlpackage", target=target)
    assert "constexpr_cast" in {op.type for op in MLProgram(path).operations()}
    x = np.eye(3, 2, dtype=np.float32)
    np.testing.assert_array_equal(MLProgram(path).predict({"x0": x})["y"], weight.astype(np.float32)[:, :2])


def test_a_limit_of_the_cache_changes_nothing_but_time(plain: dict[str, Path], tmp_path: Path) -> None:
    ct = prepare_coremltools()
    import coremltools.optimize.coreml as cto

    path = tmp_path / "compressed.mlpackage"
    model = ct.models.MLModel(str(plain["iOS18"]), skip_model_load=True)
    _palette(mode="uniform", nbits=4)(cto, model).save(str(path))
    uncached = MLProgram(path, cache_bytes=0)
    kept = MLProgram(path)
    first = kept.predict(as_arrays(INPUT))["output"]
    for program in (uncached, kept):
        np.testing.assert_array_equal(program.predict(as_arrays(INPUT))["output"], first)
