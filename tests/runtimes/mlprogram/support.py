"""Makes packages with coremltools, for the evaluator to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sdmobile.rewrites.tidy import tidy
from sdmobile.runtimes.mlprogram import MLProgram

Arrays = dict[str, np.ndarray]


def psnr(reference: np.ndarray, actual: np.ndarray) -> float:
    """20·log10(max|reference| / rms(actual − reference)) in dB."""
    difference = actual.astype(np.float64) - reference.astype(np.float64)
    error = float(np.sqrt(np.mean(difference**2)))
    return float("inf") if error == 0 else 20 * float(np.log10(np.abs(reference).max() / error))


def prepare_coremltools() -> Any:
    """Imports coremltools, which takes seconds."""
    import coremltools as ct

    return ct


def builder() -> Any:
    """Returns pymil's builder, whose methods are registered at run time."""
    from coremltools.converters.mil.mil import Builder

    return Builder


def convert_module(
    module: nn.Module, inputs: Mapping[str, torch.Tensor], path: Path, target: str, float16: bool
) -> Path:
    """Saves a torch module as a package: export, decompositions, conversion with float32 interface."""
    ct = prepare_coremltools()
    with torch.no_grad():
        # coremltools has no `aten.alias`, which Transformers 5 emits for position ids
        program = tidy(torch.export.export(module.eval(), tuple(inputs.values())))[0].run_decompositions({})
    model = ct.convert(
        program,
        inputs=[
            ct.TensorType(name, tuple(t.shape), dtype=np.float32 if t.is_floating_point() else np.int32)
            for name, t in inputs.items()
        ],
        outputs=[ct.TensorType("output", dtype=np.float32)],
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT16 if float16 else ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def as_arrays(inputs: Mapping[str, torch.Tensor]) -> Arrays:
    """Returns inputs as the evaluator takes them."""
    return {n: t.numpy().astype(np.float32 if t.is_floating_point() else np.int32) for n, t in inputs.items()}


def save_program(
    build: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]],
    path: Path,
    target: str = "iOS17",
    dtypes: Sequence[str] | None = None,
    float16: bool = False,
    passes: bool = True,
) -> Path:
    """Saves the pymil program that `build` makes from inputs x0, x1, ... of the given shapes."""
    ct = prepare_coremltools()
    from coremltools.converters.mil.mil import types as mil_types

    types: Any = mil_types

    kinds = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}
    names = [f"x{i}" for i in range(len(shapes))]
    mb = builder()
    specs = [
        mb.TensorSpec(shape=shape, dtype=kinds[dtype])
        for shape, dtype in zip(shapes, dtypes or ["float32"] * len(shapes), strict=True)
    ]
    scope: dict[str, Any] = {"build": build}
    # pymil reads the names of the inputs from the signature.
    exec(f"def program({', '.join(names)}): return build({', '.join(names)})", scope)
    opset = getattr(ct.target, target)
    program = mb.program(input_specs=specs, opset_version=opset)(scope["program"])
    model = ct.convert(
        program,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=opset,
        compute_precision=ct.precision.FLOAT16 if float16 else ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.DEFAULT if passes else ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def predict_all(path: Path, inputs: Sequence[np.ndarray], precision: Any = "float32") -> list[np.ndarray]:
    """Runs a package whose inputs are x0, x1, ... and returns its outputs in order."""
    program = MLProgram(path, precision=precision)
    return list(program.predict({f"x{i}": array for i, array in enumerate(inputs)}).values())
