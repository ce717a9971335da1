"""Names and interfaces of the files of a component that was cut into parts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdmobile.errors import UnsupportedError
from sdmobile.formats.bundle.contracts import OPAQUE, Contract, TensorSpec
from sdmobile.formats.bundle.manifest import MOST_FILES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.export import ExportedProgram
    from torch.fx import Node

    from sdmobile.exporters.chunks import Part

SLACK = 1.25
"""A part holds at most so many times its share of the component's weights."""


def check_chunks(chunks: int) -> None:
    """Checks that a denoiser can be cut into so many parts.

    Raises:
        UnsupportedError: less than one, or more than a manifest lists.
    """
    if not 1 <= chunks <= MOST_FILES:
        raise UnsupportedError(f"a UNet is cut into 1 to {MOST_FILES} parts", chunks)


def app_warnings(target: str, chunks: int, most: int) -> tuple[str, ...]:
    """Returns what the usual app cannot do with so many parts.

    Args:
        target: ios, android or onnx.
        chunks: files of the denoiser.
        most: files that the app reads it from.
    """
    if target != "ios" or chunks <= most:
        return ()
    if most == 1:
        return (
            "Apple's StableDiffusion package reads the denoiser of this family in one file; "
            f"{chunks} files are for code of your own that runs them one after the other",
        )
    return (
        "Apple's StableDiffusion package reads a UNet in one file or in two, UnetChunk1 and UnetChunk2; "
        f"{chunks} files are for code of your own that runs them one after the other (--chunks 2 is for the package)",
    )


def part_contracts(contract: Contract, program: ExportedProgram, parts: Sequence[Part]) -> tuple[Contract, ...]:
    """Returns the interface of each part's file; values that cross are named after the node that makes them.

    Args:
        contract: the whole component's.
        program: the whole program: its inputs and outputs are the contract's, in order.
        parts: what it was cut into.

    Raises:
        UnsupportedError: a value crosses that a target's files cannot pass on.
    """
    names = list(program.graph_signature.user_inputs)
    inputs = {str(name): spec for name, spec in zip(names, contract.inputs, strict=True)}
    outputs = {str(n): s for n, s in zip(program.graph_signature.user_outputs, contract.outputs, strict=True)}
    values = {node.name: node.meta["val"] for p in parts for node in _made(p)}

    def crossing(name: str) -> TensorSpec:
        kind = _interface_type(contract.target, name, str(values[name].dtype).removeprefix("torch."))
        shape = tuple(values[name].shape)
        return TensorSpec(name, shape, kind, "Value between two parts of the component", name, OPAQUE)

    return tuple(
        replace(
            contract,
            file_name=file_name(contract, number),
            signature=contract.signature if contract.target == "ios" else f"{contract.signature}_{number}",
            inputs=tuple(inputs.get(name) or crossing(name) for name in part.inputs),
            outputs=tuple(outputs.get(name) or crossing(name) for name in part.outputs),
        )
        for number, part in enumerate(parts, start=1)
    )


def _interface_type(target: str, name: str, kind: str) -> str:
    """Returns the type at a file's interface of a value that crosses: its own, but 32 bits for a phone's integers.

    Raises:
        UnsupportedError: the target's files cannot pass such a value on.
    """
    if target != "onnx" and kind == "int64":  # Core ML has no other, litert_torch narrows them
        return "int32"
    if kind in ("float32", "int32", "int64") or (kind == "bool" and target != "ios"):
        return kind
    raise UnsupportedError(
        f"a value between two parts must be of a type that {target} files pass on", f"{name}: {kind}", "Use --chunks 1"
    )


def _made(part: Part) -> list[Node]:
    """Returns the operators of a part."""
    return [node for node in part.program.graph.nodes if node.name in part.outputs]


def file_name(contract: Contract, number: int) -> str:
    """Returns the name of a part's file: UnetChunk1.mlpackage as Apple's package looks it up, else unet_1.tflite."""
    stem, _, suffix = contract.file_name.partition(".")
    return f"{stem}Chunk{number}.{suffix}" if contract.target == "ios" else f"{stem}_{number}.{suffix}"
