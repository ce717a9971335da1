"""Lowers a program to ONNX."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.exporters.lowering import LoweringOptions, LoweringRecord

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from sdmobile.formats.bundle.contracts import Contract

OPSET = 18
# A protobuf message must stay below 2 GiB; half a gigabyte is left for the graph and for copies while it is written.
EXTERNAL_DATA_ABOVE = 1_500_000_000
_TAKEN_FOR_ZERO = 1e-7
"""Ten times the tolerance of onnxscript's patterns, 1e-8."""


def lower(program: ExportedProgram, contract: Contract, out: Path, options: LoweringOptions) -> LoweringRecord:
    """Writes `out`, and beside it `<out>.data` if the weights need a file of their own, and checks the model.

    Args:
        program: the captured program.
        contract: names of the inputs and outputs.
        out: the `.onnx` file to write.
        options: provenance for the metadata.
    """
    import onnx
    import torch

    built = torch.onnx.export(
        program,
        (),
        dynamo=True,
        optimize=not _adds_little(program),
        opset_version=OPSET,
        input_names=[spec.name for spec in contract.inputs],
        output_names=[spec.name for spec in contract.outputs],
        verbose=False,
    )
    assert built is not None
    for (
        node
    ) in built.model.graph.all_nodes():  # it names files of this machine, so no two machines would write the same
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    built.model.metadata_props.update(options.provenance.entries(contract.component))
    external = _weight_bytes(program) > EXTERNAL_DATA_ABOVE
    built.save(out, external_data=external)
    onnx.checker.check_model(str(out), full_check=True)
    nodes = Counter(node.op_type for node in built.model.graph)
    return LoweringRecord(out, dict(nodes), {"opset": OPSET, "external_data": external})


def _adds_little(program: ExportedProgram) -> bool:
    """Returns whether a number is added that onnxscript's optimizer takes for 0, and the sum for its other summand.

    In linear attention that is what keeps 0/0 away, 1e-15: without it a query that is 0 gives NaN.
    """
    import torch

    added = (node.args[1] for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor))
    return any(isinstance(number, float) and 0 < abs(number) < _TAKEN_FOR_ZERO for number in added)


def _weight_bytes(program: Any) -> int:
    """Returns the bytes of all parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
