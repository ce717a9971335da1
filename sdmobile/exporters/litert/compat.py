"""What sdmobile knows of litert-torch and PyTorch beyond their documented interfaces, all of it.

`litert_torch.convert` takes a module and captures it, although a captured program is what it needs. `convert` does the
same steps from the program: decomposition, passes, MLIR. Outputs have their names in the program's calling convention
then, inputs in the signature. A test compares its files with those of `litert_torch.convert`, byte by byte.

`light_provenance` changes PyTorch while it lasts: each retracing copies, node by node, the whole history of a node,
which nothing changes once it is made; such a copy is the history itself then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from sdmobile.formats.bundle.contracts import Contract


def convert(program: ExportedProgram, contract: Contract, inputs: dict[str, torch.Tensor]) -> Any:
    """Returns the converted model, as `litert_torch.signature(…).convert()` would.

    Args:
        program: a captured program; its nodes change.
        contract: names the signature and its outputs.
        inputs: examples by name, in the order of the contract.
    """
    from litert_torch import fx_infra, model
    from litert_torch._convert import core, litert_converter
    from litert_torch._convert.signature import Signature

    named = _named(program, [spec.name for spec in contract.outputs])
    signature = Signature(contract.signature, torch.nn.Module(), None, inputs)  # type: ignore[arg-type]
    fx_infra.silence_torch_logs()
    with light_provenance():
        exported = fx_infra.graph_utils.reset_from_node_meta(named)
        exported = fx_infra.safe_run_decompositions(exported, fx_infra.decomp.pre_convert_decomp(), can_skip=False)
        exported = core._run_convert_passes(exported)
        return model.LiteRTModel(litert_converter.exported_programs_to_flatbuffer([exported], [signature]))


def _named(program: ExportedProgram, outputs: list[str]) -> ExportedProgram:
    """Returns the program as if it had been captured from a function that returns its outputs by their names."""
    entry, *others = program.module_call_graph
    assert entry.signature is not None
    order = pytree.tree_flatten(dict.fromkeys(outputs, 0))[1]
    call = replace(entry.signature, out_spec=order)
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=[replace(entry, signature=call), *others],
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )


@contextmanager
def light_provenance() -> Iterator[None]:
    """Lets copies of a node's history be the history itself."""
    from torch.fx.traceback import NodeSource

    NodeSource.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del NodeSource.__deepcopy__  # type: ignore[attr-defined]
