"""Lowers a rewritten program to a `.tflite` file with a named signature."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.exporters.litert.compat import convert
from sdmobile.exporters.lowering import LoweringOptions, LoweringRecord
from sdmobile.formats.tflite.graph import read_facts
from sdmobile.reference.capture import example_inputs
from sdmobile.rewrites.program import Draft
from sdmobile.rewrites.rule import source_module

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from sdmobile.formats.bundle.contracts import Contract


def _with_module_paths(program: ExportedProgram) -> ExportedProgram:
    """Lets the converter name tensors after the path of their source module.

    It joins the class names of a node's module stack, and leaves out containers such as `down_blocks.0`; a stack of one
    entry whose "class name" is the whole path comes out as that path.
    """
    for node in program.graph.nodes:
        path = source_module(node)
        if path is not None:
            node.meta["nn_module_stack"] = {"source": ("", path)}
    return program


def lower(program: ExportedProgram, contract: Contract, out: Path, options: LoweringOptions) -> LoweringRecord:
    """Writes a float32 `.tflite` whose one signature has the contract's names.

    Args:
        program: the rewritten program.
        contract: names, shapes and types of the interface.
        out: the file to write; above 2 GB the converter puts weights behind the flatbuffer.
        options: unused; provenance is in the bundle's metadata.
    """
    names = [spec.name for spec in contract.inputs]
    sample = dict(zip(names, example_inputs(contract), strict=True))
    model = convert(_with_module_paths(Draft(program).finish()), contract, sample)
    model.export(str(out))
    del model
    gc.collect()  # the converter's module holds a second copy of the weights in reference cycles
    facts = read_facts(out)
    details = {
        "max_rank": facts.max_rank,
        "tensor_types": facts.tensor_types,
        "largest_intermediate_bytes": facts.largest_intermediate,
        "decomposed_operators": facts.decomposed,
    }
    return LoweringRecord(out, facts.operators, details)
