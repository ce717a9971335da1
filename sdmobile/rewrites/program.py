"""A captured program under change: graph, signature and weights, copied so that the original stays as it was."""

from __future__ import annotations

import copy
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, TensorArgument
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch._subclasses.fake_tensor import FakeTensorMode

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class Draft:
    """A copy of a program's graph that may be changed, over the same tensors.

    Args:
        program: a captured program; it is left as it was.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self.graph = _copied(program.graph)
        self.signature = copy.deepcopy(program.graph_signature)
        self._program = program
        self._state = dict(program.state_dict)
        self._constants: dict[str, Any] = dict(program.constants)

    @property
    def fake_mode(self) -> FakeTensorMode:
        """The mode of the program's own fake tensors; all nodes have to be in one mode."""
        return next(n.meta["val"].fake_mode for n in self.graph.nodes if hasattr(n.meta.get("val"), "fake_mode"))

    def weights(self) -> dict[Node, Tensor]:
        """Returns the tensors behind the placeholders of parameters, buffers and constants."""
        nodes = {node.name: node for node in self.graph.find_nodes(op="placeholder")}
        tensors = {}
        for spec in self.signature.input_specs:
            if spec.kind in _WEIGHTS and not isinstance(spec.arg, ConstantArgument):
                assert spec.target is not None
                tensors[nodes[spec.arg.name]] = self._tensor(spec.target)
        return tensors

    def weight_names(self) -> dict[str, str]:
        """Returns the names in the checkpoint of weights and constants, by their placeholders' names."""
        specs = (s for s in self.signature.input_specs if s.kind in _WEIGHTS)
        return {s.arg.name: s.target.removeprefix("component.") for s in specs if s.target}

    def target(self, node: Node) -> str:
        """Returns the name in the program of the tensor behind a placeholder."""
        return next(str(spec.target) for spec in self.signature.input_specs if spec.arg.name == node.name)

    def give(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts tensors in the place of those of the same names; a parameter stays one."""
        for name, tensor in tensors.items():
            held = self._state if name in self._state else self._constants
            is_parameter = isinstance(held[name], torch.nn.Parameter)
            held[name] = torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor

    def _tensor(self, target: str) -> Tensor:
        return self._state[target] if target in self._state else self._constants[target]

    def add_constant(self, name: str, value: Tensor) -> Node:
        """Adds a constant tensor and returns its placeholder; the same tensor is added once.

        Args:
            name: a wish; a number is added where it is taken.
            value: the tensor; it is kept, not copied.
        """
        for node in self.graph.find_nodes(op="placeholder"):
            if self._constants.get(node.name) is value:
                return node
        inputs = self._inputs()
        first = next(n for n in self.graph.nodes if n.op != "placeholder" or n.name in inputs)
        with self.graph.inserting_before(first):
            node = self.graph.placeholder(name)
        node.target = node.name  # the generated code names its arguments after the targets
        node.meta["val"] = fresh_value(value, self.fake_mode)
        position = [n.name for n in self.graph.find_nodes(op="placeholder")].index(node.name)
        spec = InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(name=node.name), node.name, persistent=None)
        self.signature.input_specs.insert(position, spec)
        self._constants[node.name] = value
        return node

    def renew(self) -> None:
        """Forgets what was taken out, names too: what comes next is the same as on a draft of the finished program."""
        self.graph = _copied(self.graph)

    def _inputs(self) -> set[str]:
        return {s.arg.name for s in self.signature.input_specs if s.kind == InputKind.USER_INPUT}

    def replace(self, old: Node, new: Node) -> None:
        """Lets every user of `old`, and the program's outputs, take `new`, and removes `old`."""
        old.replace_all_uses_with(new)
        self.signature.replace_all_uses(old.name, new.name)
        self.graph.erase_node(old)

    def rename(self, names: Mapping[Node, str]) -> None:
        """Gives nodes that are no inputs other names, in the signature too."""
        new = {node.name: name for node, name in names.items()}
        for node, name in names.items():
            node.name = name
        for spec in self.signature.output_specs:
            if not isinstance(spec.arg, ConstantArgument) and spec.arg.name in new:
                spec.arg.name = new[spec.arg.name]

    def clean(self) -> None:
        """Removes nodes and weights that nothing uses, and checks the graph.

        Raises:
            RuntimeError: the graph is malformed, or two values are one fake tensor: a fault of a rule.
        """
        self.graph.eliminate_dead_code(_has_effect)
        inputs = self._inputs()
        for node in self.graph.find_nodes(op="placeholder"):
            if not node.users and node.name not in inputs:
                self._drop(node)
        self.graph.lint()
        _check_identities(self.graph)

    def _drop(self, node: Node) -> None:
        """Removes the placeholder of a weight; the tensor too, if no other placeholder has it."""
        spec = next(s for s in self.signature.input_specs if s.arg.name == node.name)
        if spec.kind not in _WEIGHTS:
            return
        self.signature.input_specs.remove(spec)
        self.graph.erase_node(node)
        if spec.target is not None and all(s.target != spec.target for s in self.signature.input_specs):
            self._state.pop(spec.target, None)
            self._constants.pop(spec.target, None)

    def finish(self) -> ExportedProgram:
        """Returns the changed program."""
        self.clean()
        return ExportedProgram(
            root=GraphModule(self._program.graph_module, self.graph),
            graph=self.graph,
            graph_signature=self.signature,
            state_dict=self._state,
            range_constraints=self._program.range_constraints,
            module_call_graph=self._program.module_call_graph,
            example_inputs=self._program.example_inputs,
            constants=self._constants,
            verifiers=self._program.verifiers,  # captured graphs may hold operators that change a tensor in place
        )


def _copied(graph: Graph) -> Graph:
    """Returns a copy of a graph with the same names: an argument called `input` is renamed by a plain copy."""
    new = copy.deepcopy(graph)
    for old, copied in zip(graph.nodes, new.nodes, strict=True):
        copied.name = old.name
    return new


def fresh_value(value: Tensor, mode: FakeTensorMode) -> Tensor:
    """Returns a fake tensor of the same layout and type that is no other node's: tracing tells values by identity."""
    with mode:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _check_identities(graph: Graph) -> None:
    """Checks that no two values are one fake tensor: a tracer that takes both as operands would exchange them.

    What is taken out of a tuple is the tuple's value, so that it may be the tuple's fake tensor too.
    """
    owners: dict[int, Node] = {}
    for node in graph.nodes:
        source = node
        while source.target is operator.getitem:
            source = source.args[0]
        for value in tree_leaves(node.meta.get("val")):
            if isinstance(value, torch.Tensor) and owners.setdefault(id(value), source) is not source:
                raise RuntimeError(f"{owners[id(value)].name} and {node.name} have one fake tensor for two values")


def _has_effect(node: Node) -> bool:
    """Returns whether a node must stay though nothing uses its value.

    PyTorch counts attention as random, for the sake of its dropout.
    """
    return node.is_impure() and node.target is not torch.ops.aten.scaled_dot_product_attention.default


def run(program: ExportedProgram, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Returns a program's outputs for inputs, in the order of its signature, computed by PyTorch."""
    with torch.no_grad():
        output = program.module(check_guards=False)(*inputs)
    return output if isinstance(output, tuple) else (output,)
