"""Packages of several functions, and inputs of several shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sdmobile.runtimes.mlprogram import InputError, MLProgram, function_names
from tests.runtimes.mlprogram.support import as_arrays, convert_module, prepare_coremltools, psnr


@pytest.fixture(scope="module")
def two_functions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, nn.Module]]:
    """A package of two functions that share a weight."""
    ct = prepare_coremltools()
    folder = tmp_path_factory.mktemp("functions")
    torch.manual_seed(0)
    linear = nn.Linear(64, 64)
    modules = {"plain": linear, "rectified": nn.Sequential(linear, nn.ReLU())}
    descriptor: Any = ct.utils.MultiFunctionDescriptor()
    for name, module in modules.items():
        path = convert_module(module, {"x": torch.zeros(2, 64)}, folder / f"{name}.mlpackage", "iOS18", float16=True)
        descriptor.add_function(str(path), "main", name)
    descriptor.default_function_name = "rectified"
    ct.utils.save_multifunction(descriptor, str(folder / "both.mlpackage"))
    return folder / "both.mlpackage", modules


def test_a_function_is_chosen_by_its_name(two_functions: tuple[Path, dict[str, nn.Module]]) -> None:
    path, modules = two_functions
    inputs = {"x": torch.randn(2, 64)}
    assert function_names(path) == ("rectified", "plain")
    for name in (None, "plain", "rectified"):
        program = MLProgram(path, function=name)
        assert program.function == (name or "rectified")
        expected = modules[program.function](inputs["x"]).detach().numpy()
        assert psnr(expected, program.predict(as_arrays(inputs))["output"]) > 65


def test_an_unknown_function_is_refused(two_functions: tuple[Path, dict[str, nn.Module]]) -> None:
    with pytest.raises(InputError, match=r"third.*rectified, plain"):
        MLProgram(two_functions[0], function="third")


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        h = y.flatten(2).transpose(1, 2)[:, None]
        h = nn.functional.scaled_dot_product_attention(self.linear(h), h, h)[:, 0]
        y = y + h.transpose(1, 2).reshape(y.shape)
        return nn.functional.interpolate(y, scale_factor=2.0, mode="nearest")


def _save(shape: Any, target: str, path: Path) -> nn.Module:
    ct = prepare_coremltools()
    torch.manual_seed(0)
    module = _Block().eval()
    sizes = {2: torch.export.Dim("height", min=4, max=64), 3: torch.export.Dim("width", min=4, max=64)}
    program = torch.export.export(module, (torch.randn(1, 4, 8, 10),), dynamic_shapes=(sizes,))
    model: Any = ct.convert(
        program.run_decompositions({}),
        inputs=[ct.TensorType("x", shape=shape)],
        outputs=[ct.TensorType("output")],
        minimum_deployment_target=getattr(ct.target, target),
        convert_to="mlprogram",
        skip_model_load=True,
    )
    model.save(str(path))
    return module


def _agrees(module: nn.Module, program: MLProgram, height: int, width: int) -> bool:
    x = torch.randn(1, 4, height, width)
    with torch.no_grad():
        expected = module(x).numpy()
    return psnr(expected, program.predict({"x": x.numpy()})["output"]) > 65


@pytest.mark.parametrize("target", [pytest.param("iOS16", marks=pytest.mark.slow), "iOS18"])
def test_sizes_in_a_range(target: str, tmp_path: Path) -> None:
    ct = prepare_coremltools()
    size: Any = ct.RangeDim(4, 64, default=8)
    module = _save(ct.Shape((1, 4, size, ct.RangeDim(4, 64, default=8))), target, tmp_path / "range.mlpackage")
    program = MLProgram(tmp_path / "range.mlpackage")
    assert program.inputs["x"][0] == (1, 4, None, None)
    assert all(_agrees(module, program, *sizes) for sizes in ((8, 8), (4, 64), (13, 9)))
    with pytest.raises(InputError, match=r"sizes in their ranges: \[1, 4, 65, 8\].*4 to 64"):
        program.predict({"x": np.zeros((1, 4, 65, 8), np.float32)})
    with pytest.raises(InputError, match="must have the shape"):
        program.predict({"x": np.zeros((1, 5, 8, 8), np.float32)})


def test_listed_shapes(tmp_path: Path) -> None:
    ct = prepare_coremltools()
    shapes = ct.EnumeratedShapes([(1, 4, 8, 10), (1, 4, 16, 16)], default=(1, 4, 8, 10))
    module = _save(shapes, "iOS17", tmp_path / "listed.mlpackage")
    for precision in ("float32", "float16"):
        program = MLProgram(tmp_path / "listed.mlpackage", precision=precision)
        assert _agrees(module, program, 8, 10)
        assert _agrees(module, program, 16, 16)
    with pytest.raises(InputError, match=r"listed shapes: \[1, 4, 8, 8\].*\[1, 4, 16, 16\]"):
        MLProgram(tmp_path / "listed.mlpackage").predict({"x": np.zeros((1, 4, 8, 8), np.float32)})
