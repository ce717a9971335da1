"""Captures a wrapped component as a graph, once, for all later stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdmobile.rewrites.tables import fold_tables
from sdmobile.rewrites.tidy import tidy

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from sdmobile.formats.bundle.contracts import Contract, TensorSpec


def example_inputs(contract: Contract, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Returns inputs of the contract's shapes and types: normal noise, a middle timestep, small token ids."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(_example(spec, generator) for spec in contract.inputs)


def _example(spec: TensorSpec, generator: torch.Generator) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    if spec.layout == "token_ids":
        return torch.randint(0, 8, spec.shape, generator=generator).to(dtype)
    if spec.layout == "flat":
        return torch.full(spec.shape, 500.0, dtype=dtype)
    if not dtype.is_floating_point:  # a mask or indices that cross between two parts
        return torch.randint(0, 2, spec.shape, generator=generator).to(dtype)
    return torch.randn(spec.shape, generator=generator, dtype=dtype)


def capture(module: torch.nn.Module, contract: Contract) -> tuple[ExportedProgram, dict[str, int]]:
    """Returns the module's graph of ATen operators for the contract's shapes, tidied and with its tables as constants.

    Args:
        module: what `contracts.wrap` returned.
        contract: gives the shapes.

    Returns:
        The program, and how many idle nodes of each operator were removed.
    """
    with torch.no_grad():
        program, removed = tidy(torch.export.export(module, example_inputs(contract), strict=False))
    return fold_tables(program)[0], removed
