"""The constants of a saved ML Program that are weights, and what uses them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.formats.mlprogram.blob import BlobFile
from sdmobile.formats.mlprogram.modules import module_of
from sdmobile.formats.mlprogram.package import open_package
from sdmobile.formats.mlprogram.read import function_names, read_program
from sdmobile.formats.mlprogram.types import FLOATS, TensorType

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sdmobile.formats.mlprogram.ir import Function, Operation

Blob = tuple[str, int]
"""File and offset by which a program refers to a stored array."""

_WEIGHTS = {
    "conv.weight",
    "conv_transpose.weight",
    "linear.weight",
    "matmul.x",
    "matmul.y",
    "gather.x",
    "einsum.values",
}
"""Parameters that take weights; scales, shifts, tables of timesteps and positions go elsewhere."""
_PARAMETER = re.compile(r"p_(?:component_)?(.+?)_(?:weight|bias)(?:_\w+)?")


@dataclass(frozen=True)
class WeightConstant:
    """A stored constant of a program.

    Args:
        name: of the constant; with the function in front if another function has another constant of the name.
        module: path of the module whose parameter it is, with underscores for dots; "" if the names do not tell.
        shape: its shape.
        dtype: element type.
        users: names of the operations that take it.
        roles: what it is to them, "conv.weight" and the like.
        blob: where it is stored.
    """

    name: str
    module: str
    shape: tuple[int, ...]
    dtype: str
    users: tuple[str, ...]
    roles: tuple[str, ...]
    blob: Blob

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_weight(self) -> bool:
        """Whether every use is that of a weight of a layer, so that a smaller format is worth a thought."""
        return self.dtype in FLOATS and bool(self.roles) and set(self.roles) <= _WEIGHTS

    @property
    def is_linear(self) -> bool:
        """Whether it is the weight of matrix products alone, not of a convolution or a table."""
        return all(role.partition(".")[0] in ("linear", "matmul") for role in self.roles)


def weight_constants(path: Path | str) -> tuple[WeightConstant, ...]:
    """Returns the weights of layers of a package in the order of the program, each stored array once.

    Args:
        path: the `.mlpackage` folder.

    Raises:
        PackageError: a file is missing or corrupt.
    """
    return tuple(constant for constant in stored_constants(path) if constant.is_weight)


def stored_constants(path: Path | str) -> tuple[WeightConstant, ...]:
    """Returns all constants in weight files, biases and norm parameters too; otherwise as `weight_constants`."""
    found: dict[Blob, WeightConstant] = {}
    names: set[str] = set()
    for function_name in function_names(path):
        for constant in _constants_of(read_program(path, function_name)[1]):
            known = found.get(constant.blob)
            if known is None:
                name = constant.name if constant.name not in names else f"{function_name}/{constant.name}"
                known = replace(constant, name=name)
            else:
                known = _joined(known, constant)
            names.add(known.name)
            found[constant.blob] = known
    return tuple(found.values())


class WeightReader:
    """Reads stored arrays one at a time, without mapping the whole file into memory.

    Args:
        path: the `.mlpackage` folder.
    """

    def __init__(self, path: Path | str) -> None:
        from pathlib import Path as _Path

        self._package = open_package(_Path(path))
        self._files: dict[str, BlobFile] = {}

    def read(self, constant: WeightConstant) -> NDArray[Any]:
        """Returns the array of a constant whose elements are whole bytes; raises PackageError if it is not there."""
        file, offset = constant.blob
        return self.read_blob(file, offset, TensorType(constant.dtype, constant.shape))

    def read_blob(self, file: str, offset: int, kind: TensorType) -> NDArray[Any]:
        """Returns the array at a place of a weight file; of fewer than eight bits unpacked."""
        if file not in self._files:
            self._files[file] = BlobFile(self._package.resolve(file))
        blob = self._files[file]
        dtype, start, size = blob.check(offset, kind)
        if dtype in ("int4", "uint1", "uint2", "uint3", "uint4", "uint6"):
            return blob.read(offset, kind)
        whole = np.fromfile(blob.path, np.uint8, size, offset=start)
        return whole.view(np.bool_ if kind.dtype == "bool" else kind.dtype).reshape(kind.sizes)


def _constants_of(function: Function) -> Iterator[WeightConstant]:
    users: dict[str, list[tuple[Operation, str]]] = {}
    for operation in function.every_operation():
        for parameter, bindings in operation.inputs.items():
            for binding in bindings:
                if isinstance(binding, str):
                    users.setdefault(binding, []).append((operation, parameter))
    results = {item.name for item in function.outputs}
    for operation in function.every_operation():
        value = operation.attributes.get("val")
        if operation.type != "const" or value is None or value.value is not None:
            continue
        name = operation.outputs[0].name
        uses = users.get(name, [])
        roles = [f"{user.type}.{parameter}" for user, parameter in uses] + ["output"] * (name in results)
        yield WeightConstant(
            name=name,
            module=_module(name, [user.name for user, _ in uses]),
            shape=value.type.sizes,
            dtype=value.type.dtype,
            users=tuple(user.name for user, _ in uses),
            roles=tuple(dict.fromkeys(roles)),
            blob=(value.file, value.offset),
        )


def _module(name: str, users: list[str]) -> str:
    """Returns the module in the name of a parameter ("p_component_conv_in_weight"), or in that of a user of it."""
    match = _PARAMETER.fullmatch(name)
    return match[1] if match else next((module for user in users if (module := module_of(user))), "")


def _joined(known: WeightConstant, other: WeightConstant) -> WeightConstant:
    users = tuple(dict.fromkeys([*known.users, *other.users]))
    roles = tuple(dict.fromkeys([*known.roles, *other.roles]))
    return replace(known, users=users, roles=roles, module=known.module or other.module)
