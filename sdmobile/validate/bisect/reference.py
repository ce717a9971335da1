"""What float32 PyTorch computes in each module of a component."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Interpreter, Node

from sdmobile.rewrites.rule import source_module

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class ModuleOutput:
    """The last value that a module computes in one run.

    Args:
        module: path of the module.
        array: the value.
    """

    module: str
    array: NDArray[np.float32]


class _Keeping(Interpreter):
    def __init__(self, module: torch.fx.GraphModule, wanted: dict[Node, str]) -> None:
        super().__init__(module)
        self._wanted = wanted
        self.kept: list[ModuleOutput] = []

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._wanted and isinstance(value, torch.Tensor) and value.is_floating_point():
            self.kept.append(ModuleOutput(self._wanted[n], value.float().numpy().copy()))
        return value


def module_outputs(program: ExportedProgram, inputs: tuple[Tensor, ...]) -> list[ModuleOutput]:
    """Runs a captured program and returns the last value of every module, in the order of the program.

    Args:
        program: captured and not rewritten.
        inputs: of one recorded call.
    """
    module = program.module(check_guards=False)
    assert isinstance(module, torch.fx.GraphModule)
    last = {source_module(node) or "": node for node in module.graph.nodes if node.op == "call_function"}
    keeping = _Keeping(module, {node: path for path, node in last.items() if path})
    with torch.no_grad():
        keeping.run(*inputs)
    return keeping.kept


def module_paths(program: ExportedProgram) -> tuple[str, ...]:
    """Returns the paths of the modules that compute something."""
    return tuple(dict.fromkeys(filter(None, (source_module(node) for node in program.graph.nodes))))


def module_sequence(program: ExportedProgram) -> tuple[str, ...]:
    """Returns the paths of the modules in the order in which they compute, a module as often as it comes back."""
    paths = (source_module(node) for node in program.graph.nodes if node.op == "call_function")
    return tuple(path for path, _ in groupby(filter(None, paths)))


def module_parameters(program: ExportedProgram, module: str) -> dict[str, NDArray[np.float32]]:
    """Returns the parameters of one module, without those of its children, by their full names."""
    parameters = {}
    for name, tensor in program.state_dict.items():
        path = name.removeprefix("component.")
        if path.rpartition(".")[0] == module and isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            parameters[path] = tensor.detach().float().numpy()
    return parameters


def module_epsilons(program: ExportedProgram, module: str) -> list[float]:
    """Returns the epsilons of the norms that a module computes."""
    epsilons = []
    for node in program.graph.nodes:
        if node.op != "call_function" or source_module(node) != module:
            continue
        schema = getattr(node.target, "_schema", None)
        for index, argument in enumerate(schema.arguments if schema else ()):
            if argument.name == "eps":
                value = node.args[index] if index < len(node.args) else node.kwargs.get("eps", argument.default_value)
                epsilons.append(float(value))
    return epsilons
