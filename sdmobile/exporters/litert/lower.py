"""Lowers a rewritten program to a `.tflite` file with a named signature."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sdmobile.exporters.capture import example_inputs
from sdmobile.exporters.litert.graph import read_facts
from sdmobile.exporters.lowering import LoweringOptions, LoweringRecord

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from sdmobile.exporters.contracts import Contract


class _Named(torch.nn.Module):
    """Gives a program named inputs and a named output: the converter takes the names of a signature from them."""

    def __init__(self, program: ExportedProgram, contract: Contract) -> None:
        super().__init__()
        self.program = program.module()
        self.inputs = [spec.name for spec in contract.inputs]
        self.output = contract.outputs[0].name
        self.training = False  # eval() would descend into the exported program, which refuses it

    def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.output: self.program(*(tensors[name] for name in self.inputs))}


def lower(program: ExportedProgram, contract: Contract, out: Path, options: LoweringOptions) -> LoweringRecord:
    """Writes a float32 `.tflite` whose one signature has the contract's names.

    Args:
        program: the rewritten program.
        contract: names, shapes and types of the interface.
        out: the file to write; above 2 GB the converter puts weights behind the flatbuffer.
        options: unused so far; LiteRT files carry their provenance in the bundle's metadata.
    """
    import litert_torch

    names = [spec.name for spec in contract.inputs]
    sample = dict(zip(names, example_inputs(contract), strict=True))
    model = litert_torch.signature(contract.signature, _Named(program, contract), sample_kwargs=sample).convert()
    model.export(str(out))
    del model
    gc.collect()  # the converter's module holds a second copy of the weights in reference cycles
    facts = read_facts(out)
    details = {"max_rank": facts.max_rank, "tensor_types": facts.tensor_types}
    return LoweringRecord(out, facts.operators, details, facts.gpu_objections())
