"""Turns a function into steps whose operations and attributes are all known before anything runs.

Attention that a program writes out, run as one operation of torch.

Before iOS 18, attention is matmul, softmax, matmul. Its scores are the largest tensor of a UNet (1 GB in float32 for
SD 1.5 at 512 pixels and batch 2), which torch's own kernel never holds at once. In float32 the result is the same up to
rounding; a mode that rounds after each operation needs the scores and fuses nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.formats.mlprogram.errors import PackageError, UnsupportedOpError
from sdmobile.formats.mlprogram.ir import Binding, Block, Function, Operation
from sdmobile.formats.mlprogram.types import FLOATS, INTEGERS, NamedType
from sdmobile.formats.mlprogram.values import Constant
from sdmobile.runtimes.mlprogram.constexpr import decoder
from sdmobile.runtimes.mlprogram.ops.registry import Context, Op, Parameter
from sdmobile.runtimes.mlprogram.ops.table import operations
from sdmobile.runtimes.mlprogram.precision import Rounding
from sdmobile.runtimes.mlprogram.steps import Body, Plan, Source, Step
from sdmobile.runtimes.mlprogram.weights import Compressed, CompressedOutput, Stored, Weights


def attention(query: Tensor, key: Tensor, value: Tensor, key_is_transposed: bool, value_is_transposed: bool) -> Tensor:
    """softmax(query · keyᵀ) · value, with leading axes broadcast as matmul does."""
    key = key.transpose(-1, -2) if key_is_transposed else key
    value = value.transpose(-1, -2) if value_is_transposed else value
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query, key, value = (x.expand(*batch, *x.shape[-2:]) for x in (query, key, value))
    if len(batch) < 2:  # torch's kernel wants two leading axes
        query, key, value = (x.reshape(1, -1, *x.shape[-2:]) for x in (query, key, value))
    result = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    return result.reshape(*batch, *result.shape[-2:])


_ATTENTION = Op(
    attention, {name: Parameter("Tensor", False) for name in ("query", "key", "value")}, False, moves_data=False
)


def fuse_attention(steps: list[Step], outputs: tuple[NamedType, ...]) -> list[Step]:
    """Replaces matmul, softmax over the last axis, matmul by one step at the place of the last.

    Args:
        steps: all steps in order.
        outputs: of the program; a value among them is not fused away.
    """
    made = {step.operation.outputs[0].name: step for step in steps}
    uses = Counter(source for step in steps for s in step.sources.values() for source in s if isinstance(source, str))
    uses.update(output.name for output in outputs)
    uses.update(name for step in steps for body in step.bodies for name in body.captured)
    fused: dict[str, Step] = {}
    gone: set[str] = set()
    for step in steps:
        pair = _match(step, made, uses)
        if pair is not None:
            softmax, scores = pair
            fused[step.operation.name] = _fused(step, scores)
            gone |= {softmax.operation.name, scores.operation.name}
    return [fused.get(step.operation.name, step) for step in steps if step.operation.name not in gone]


def _match(step: Step, made: dict[str, Step], uses: Counter[str]) -> tuple[Step, Step] | None:
    """Returns the softmax and the scores that a matrix product with values uses alone."""
    softmax = _only_source(step, "x", "matmul", "softmax", made, uses)
    if softmax is None or not _is_plain(step):
        return None
    rank = len(step.operation.outputs[0].type.shape)
    scores = _only_source(softmax, "x", "softmax", "matmul", made, uses)
    if scores is None or not 3 <= rank <= 4 or softmax.fixed.get("axis", -1) not in (-1, rank - 1):
        return None
    same_rank = len(scores.operation.outputs[0].type.shape) == rank
    return (softmax, scores) if same_rank and _is_plain(scores) else None


def _only_source(
    step: Step, name: str, type_: str, wanted: str, made: dict[str, Step], uses: Counter[str]
) -> Step | None:
    source = step.sources.get(name, (None,))[0]
    if step.operation.type != type_ or not isinstance(source, str) or uses[source] != 1 or source not in made:
        return None
    maker = made[source]
    return maker if maker.operation.type == wanted else None


def _is_plain(matmul: Step) -> bool:
    """Returns whether x is not transposed and both operands are computed."""
    flags = set(matmul.sources) == {"x", "y"} and not matmul.fixed.get("transpose_x", False)
    return flags and all(isinstance(sources[0], str) for sources in matmul.sources.values())


def _fused(values: Step, scores: Step) -> Step:
    sources = {"query": scores.sources["x"], "key": scores.sources["y"], "value": values.sources["y"]}
    fixed: dict[str, Any] = {
        "key_is_transposed": not scores.fixed.get("transpose_y", False),
        "value_is_transposed": bool(values.fixed.get("transpose_y", False)),
    }
    return Step(values.operation, _ATTENTION, values.context, fixed, sources)


def make_plan(function: Function, weights: Weights, rounding: Rounding, fuse: bool = True) -> Plan:
    """Checks and prepares every operation.

    Args:
        function: the program.
        weights: its constants.
        rounding: what is rounded to float16.
        fuse: run attention that is written out as one step, if nothing is rounded.

    Returns:
        The plan.

    Raises:
        UnsupportedOpError: an operation or attribute that the evaluator does not implement.
        PackageError: an operation uses a value that is not there.
    """
    builder = _Builder(function, weights, rounding)
    for operation in function.operations:
        builder.add(operation)
    steps = builder.steps()
    if fuse and not rounding.results:
        steps = fuse_attention(steps, function.outputs)
    kept = {item.name for item in (*function.outputs, *function.states)}
    return Plan(_with_releases(steps, kept), builder.constant_outputs())


class _Builder:
    def __init__(self, function: Function, weights: Weights, rounding: Rounding) -> None:
        self._function = function
        self._weights = weights
        self._rounding = rounding
        self._ops = operations()
        self._stored: dict[str, Stored] = {}
        self._computed = {item.name for item in (*function.inputs, *function.states)}
        self._drafts: list[Step] = []

    def add(self, operation: Operation) -> None:
        if operation.type == "const":
            self._add_const(operation)
        elif operation.type.startswith("constexpr_"):
            self._add_compressed(operation)
        else:
            self._add_step(operation)

    def steps(self) -> list[Step]:
        """Returns the steps in order; raises PackageError if an output is missing."""
        missing = {item.name for item in self._function.outputs} - self._computed - set(self._stored)
        if missing:
            raise PackageError("Every output must be computed", sorted(missing), "Export the model again")
        return self._drafts

    def constant_outputs(self) -> dict[str, Stored]:
        """Returns the outputs of the program that are constants."""
        return {o.name: self._stored[o.name] for o in self._function.outputs if o.name in self._stored}

    def _add_const(self, operation: Operation) -> None:
        if set(operation.attributes) != {"val"} or operation.inputs or len(operation.outputs) != 1:
            raise _unsupported(operation, f"attributes {sorted(operation.attributes)} instead of val")
        value = operation.attributes["val"]
        if value.type != operation.outputs[0].type:
            raise PackageError(
                "A constant must have the declared type",
                f"{operation.name}: {value.type}, {operation.outputs[0].type} declared",
                "Export the model again",
            )
        self._weights.check(value)
        self._stored[operation.outputs[0].name] = value

    def _add_compressed(self, operation: Operation) -> None:
        parameters = decoder(operation.type, self._function.ios)
        if parameters is None:
            raise _unsupported(operation, f"not an operation of iOS {self._function.ios}")
        arguments: dict[str, Stored] = dict(operation.attributes)
        for name, bindings in operation.inputs.items():
            source = self._source(operation, name, bindings[0]) if len(bindings) == 1 else ""
            if isinstance(source, str):
                raise _unsupported(operation, f"{name} is not one constant")
            arguments[name] = source
        _check_names(operation, set(arguments), set(parameters.required), set(parameters.optional))
        compressed = Compressed(operation, parameters, arguments)
        for index, output in enumerate(operation.outputs):
            stored = CompressedOutput(compressed, index)
            self._weights.check(stored)
            self._stored[output.name] = stored

    def _add_step(self, operation: Operation) -> None:
        op = self._ops.get(operation.type)
        if op is None:
            raise _unsupported(operation, "the operation is not implemented")
        for output in operation.outputs:
            if output.type.dtype not in (*FLOATS, *INTEGERS, "bool"):
                raise _unsupported(operation, f"a result of type {output.type.dtype}")
        if operation.attributes:
            raise _unsupported(operation, f"attribute {', '.join(sorted(operation.attributes))}")
        required = {name for name, parameter in op.parameters.items() if not parameter.optional}
        _check_names(operation, set(operation.inputs), required, set(op.parameters) - required)
        fixed: dict[str, Any] = {}
        sources: dict[str, tuple[Source, ...]] = {}
        for name, bindings in operation.inputs.items():
            resolved = tuple(self._source(operation, name, binding) for binding in bindings)
            parameter = op.parameters[name]
            if parameter.kind != "list[Tensor]" and len(resolved) != 1:
                raise _unsupported(operation, f"{len(resolved)} values for {name}")
            if "Tensor" in parameter.kind or isinstance(resolved[0], str):
                sources[name] = resolved
            else:
                fixed[name] = self._fixed(operation, name, parameter, resolved[0])
        context = Context(operation.type, operation.name, self._function.ios, self._rounding, operation.outputs)
        bodies = self._bodies(operation, op)
        self._drafts.append(Step(operation, op, context, fixed, sources, (), bodies))
        self._computed.update(output.name for output in operation.outputs)

    def _bodies(self, operation: Operation, op: Op) -> tuple[Body, ...]:
        if op.takes_blocks != bool(operation.blocks):
            raise PackageError(
                "Control flow must have blocks, and nothing else",
                f"{operation.type} '{operation.name}' has {len(operation.blocks)}",
                "Export the model again",
            )
        return tuple(self._body(operation, block) for block in operation.blocks)

    def _body(self, operation: Operation, block: Block) -> Body:
        """Plans a block; what it computes is known in it alone."""
        around = self._drafts, set(self._computed), dict(self._stored)
        self._drafts = []
        inputs = tuple(item.name for item in block.inputs)
        self._computed.update(inputs)
        self._new(operation, [*inputs, *(out.name for each in block.operations for out in each.outputs)], around[1])
        for each in block.operations:
            self.add(each)
        outputs = tuple(self._source(operation, "the result of a block", name) for name in block.outputs)
        steps, (self._drafts, self._computed, self._stored) = self._drafts, around
        states = {item.name for item in self._function.states}
        own = {output.name for step in steps for output in step.operation.outputs}.union(inputs) - states
        needed = {source for source in outputs if isinstance(source, str)}
        captured = needed.union(*(step.used() for step in steps)) - own
        released = _with_releases(steps, needed | captured | states)
        return Body(inputs, released, outputs, frozenset(captured), frozenset(own))

    def _new(self, operation: Operation, names: list[str], around: set[str]) -> None:
        """Raises PackageError if a block gives another value the name of one around it; states are renewed so."""
        hidden = around.intersection(names) - {item.name for item in self._function.states}
        if hidden:
            raise PackageError(
                "A block must not hide a value from around it",
                f"{operation.type} '{operation.name}': {', '.join(sorted(hidden))}",
                "Export the model again",
            )

    def _source(self, operation: Operation, parameter: str, binding: Binding) -> Source:
        if isinstance(binding, Constant):
            self._weights.check(binding)
            return binding
        if binding in self._stored:
            return self._stored[binding]
        if binding not in self._computed:
            raise PackageError(
                "An operation must use values that were computed before it",
                f"{operation.type} '{operation.name}': {parameter} = {binding}",
                "Export the model again",
            )
        return binding

    def _fixed(self, operation: Operation, name: str, parameter: Parameter, stored: Stored) -> Any:
        if isinstance(stored, Constant) and isinstance(stored.value, str):
            if parameter.kind != "str":
                raise _unsupported(operation, f"{name} = '{stored.value}'")
            return stored.value
        return python_value(operation, name, parameter.kind, self._weights.array(stored))


def _with_releases(steps: list[Step], kept: set[str]) -> tuple[Step, ...]:
    """Returns the steps, each with the values that it is the last to use and that are not to be kept."""
    needed = set(kept)
    result = []
    for step in reversed(steps):
        used = step.used()
        results = {output.name for output in step.operation.outputs}
        result.append(replace(step, release=tuple(sorted((used | results) - needed))))
        needed |= used
    return tuple(reversed(result))


def python_value(operation: Operation, name: str, kind: str, array: np.ndarray) -> Any:
    """Returns a parameter that is not a tensor as a Python value of its kind."""
    if kind.startswith("list"):
        expected = "b" if kind == "list[bool]" else "iu"
        if array.dtype.kind in expected and array.ndim <= 1:
            return array.reshape(-1).tolist()
    elif array.size == 1 and kind != "str":
        value = array.reshape(-1)[0].item()
        if kind == "float" or (kind == "bool" and isinstance(value, bool)):
            return value
        if kind == "int" and isinstance(value, int) and not isinstance(value, bool):
            return value
    raise _unsupported(operation, f"{name} is {array.dtype}{list(array.shape)} instead of {kind}")


def _check_names(operation: Operation, names: set[str], required: set[str], optional: set[str]) -> None:
    unknown = names - required - optional
    if unknown:
        raise _unsupported(operation, f"attribute {', '.join(sorted(unknown))}")
    if required - names:
        raise _unsupported(operation, f"{', '.join(sorted(required - names))} is missing")


def _unsupported(operation: Operation, reason: str) -> UnsupportedOpError:
    return UnsupportedOpError(operation.type, operation.name, reason)
