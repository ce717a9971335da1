"""Lowers a rewritten program to a Core ML package.

coremltools is used as it comes. Its known trouble with NumPy 2.4 (apple/coremltools#2633, `int()` of an array of one
element) is in the lowering of traced models; a captured program in the ATen dialect does not go that way.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.exporters.coreml.compat import ordered_transpositions
from sdmobile.exporters.coreml.islands import find_islands
from sdmobile.exporters.lowering import (
    CONVERSION_DATE,
    LoweringOptions,
    LoweringRecord,
    conversion_date,
    described,
)
from sdmobile.formats.mlprogram.write import settle
from sdmobile.rewrites.naming import name_by_module

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from sdmobile.formats.bundle.contracts import Contract

DEFAULT_DEPLOYMENT_TARGET = "iOS17"


def lower(program: ExportedProgram, contract: Contract, out: Path, options: LoweringOptions) -> LoweringRecord:
    """Writes an ML Program that computes in float16 behind a float32 interface.

    Args:
        program: the rewritten program.
        contract: names, shapes and types of the interface.
        out: the `.mlpackage` folder to write.
        options: deployment target and metadata.

    Raises:
        UnsupportedError: coremltools knows no such deployment target.
    """
    import coremltools as ct
    import numpy as np

    target = options.deployment_target or DEFAULT_DEPLOYMENT_TARGET
    # An empty table: operators such as linear, layer_norm and instance_norm stay whole. The graph is traced anew for
    # it, which loses the names of nodes; they tell a reader of the package where an operation comes from.
    named = name_by_module(program.run_decompositions({}))
    islands = find_islands(named, options.recorded_inputs)
    with ordered_transpositions():
        model: Any = ct.convert(
            named,
            convert_to="mlprogram",
            inputs=[ct.TensorType(spec.name, spec.shape, np.dtype(spec.dtype).type) for spec in contract.inputs],
            outputs=[ct.TensorType(spec.name, dtype=np.dtype(spec.dtype).type) for spec in contract.outputs],
            minimum_deployment_target=deployment_target(target),
            compute_precision=ct.transform.FP16ComputePrecision(op_selector=islands.selector()),
            compute_units=ct.ComputeUnit.CPU_AND_NE,
            skip_model_load=True,
        )
    describe(model, contract, options)
    model.save(str(out))
    settle(out)
    operators = count_operators(model.get_spec())
    details = {"deployment_target": target, "specification_version": model.get_spec().specificationVersion}
    if islands.nodes:
        details["float32_islands"] = islands.to_json()
    return LoweringRecord(out, operators, details)


def describe(model: Any, contract: Contract, options: LoweringOptions) -> None:
    """Fills author, licence, version, descriptions and sdmobile's own keys of a coremltools model."""
    texts = described(options.provenance, options.summary)
    model.author, model.license = texts["author"], texts["license"]
    model.version, model.short_description = texts["versionString"], texts["shortDescription"]
    for spec in contract.inputs:
        model.input_description[spec.name] = spec.description
    for spec in contract.outputs:
        model.output_description[spec.name] = spec.description
    own = {**options.provenance.entries(contract.component), CONVERSION_DATE: conversion_date()}
    model.user_defined_metadata.update(own)


def deployment_target(name: str) -> Any:
    """Returns coremltools' constant for "iOS17" and the like."""
    import coremltools as ct

    target = getattr(ct.target, name, None)
    if target is None:
        raise UnsupportedError("the deployment target must be one that coremltools knows", name, "Use iOS17 or iOS18")
    return target


def count_operators(spec: Any) -> dict[str, int]:
    """Returns the number of run-time operators of each type in a specification of an ML Program."""
    counts: Counter[str] = Counter()
    for function in spec.mlProgram.functions.values():
        block = function.block_specializations[function.opset]
        counts.update(op.type for op in block.operations if op.type != "const")
    return dict(counts)
