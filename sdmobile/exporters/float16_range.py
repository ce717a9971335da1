"""Inputs of a component's files in a short sampling run, and what of their values float16 cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from sdmobile.formats.bundle.contracts import Contract

Calls = tuple[tuple["Tensor", ...], ...]


def chain_inputs(
    programs: Sequence[ExportedProgram],
    whole: Contract,
    chain: Sequence[Contract],
    recorded: Sequence[tuple[Tensor, ...]],
) -> list[Calls]:
    """Returns the inputs of every file of a chain, one entry per recorded call.

    Args:
        programs: the files' programs, which run one after the other.
        whole: interface of the component.
        chain: interfaces of the files; a value that one passes on to the next has one name in both.
        recorded: inputs of the component.
    """
    import torch

    names = [spec.name for spec in whole.inputs]
    values = [dict(zip(names, call, strict=True)) for call in recorded]
    found: list[Calls] = []
    for index, (program, contract) in enumerate(zip(programs, chain, strict=True)):
        calls = tuple(tuple(known[spec.name] for spec in contract.inputs) for known in values)
        found.append(calls)
        if index + 1 < len(programs):
            module = program.module(check_guards=False)
            for known, call in zip(values, calls, strict=True):
                with torch.no_grad():
                    outputs = module(*call)
                outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
                known.update(zip((spec.name for spec in contract.outputs), outputs, strict=True))
    return found


def overflow_warnings(program: ExportedProgram, calls: Calls) -> tuple[str, ...]:
    """Returns one sentence per module whose values float16 cannot hold, for a file that cannot keep them in float32."""
    from sdmobile.reference.overflow import scan_program

    labels = (f"recorded input {number}" for number in range(1, len(calls) + 1))
    return scan_program(program, "component", zip(labels, calls, strict=True)).warnings
