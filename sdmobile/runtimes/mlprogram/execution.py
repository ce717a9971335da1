"""Runs a plan with torch on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from sdmobile.formats.mlprogram.errors import PackageError, UnsupportedOpError
from sdmobile.formats.mlprogram.types import FLOATS, TensorType
from sdmobile.runtimes.mlprogram.plan import python_value
from sdmobile.runtimes.mlprogram.steps import Body, Plan, Source, Step
from sdmobile.runtimes.mlprogram.weights import Weights

Values = dict[str, torch.Tensor]


def run(plan: Plan, values: Values, weights: Weights) -> Values:
    """Runs a plan and drops each value after its last use.

    Args:
        plan: what to compute.
        values: inputs by name: float32, int32 or bool; the dictionary is used up.
        weights: the constants.

    Returns:
        The values that no step released: the outputs, and inputs that nothing uses.

    Raises:
        UnsupportedOpError: a value for which the result of an operation is undefined.
        PackageError: a result has another shape than the program declares.
    """
    for _ in run_steps(plan, values, weights):
        pass
    for name, stored in plan.constant_outputs.items():
        values[name] = weights.tensor(stored)
    return values


def run_steps(plan: Plan, values: Values, weights: Weights) -> Iterator[Step]:
    """Runs a plan as `run` does, and yields each step while its operands and results are still among the values."""
    for step in plan.steps:
        # Entered anew for each step: a generator must not leave a mode behind where it pauses.
        with torch.inference_mode():
            _run_step(step, values, weights)
        yield step
        for name in step.release:
            values.pop(name, None)


def _run_step(step: Step, values: Values, weights: Weights) -> None:
    arguments = dict(step.fixed)
    for name, sources in step.sources.items():
        tensors = [_tensor(source, values, weights) for source in sources]
        arguments[name] = _argument(step, name, tensors)
    if step.op.takes_context:
        arguments["context"] = step.context
    if step.op.takes_blocks:
        arguments["blocks"] = [_block(body, values, weights) for body in step.bodies]
    try:
        result = step.op.function(**arguments)
    except (RuntimeError, IndexError, ValueError) as error:
        raise UnsupportedOpError(step.operation.type, step.operation.name, f"{error}") from error
    results = result if isinstance(result, list) else [result]
    outputs = step.operation.outputs
    if len(results) != len(outputs):
        raise _mismatch(step, f"{len(results)} results, {len(outputs)} declared")
    inputs = [tensor for value in arguments.values() for tensor in _tensors(value)]
    for output, tensor in zip(outputs, results, strict=True):
        _check(step, tensor, output.type)
        if step.context.rounding.results and not step.op.moves_data and output.type.dtype == "float16":
            tensor = _round(tensor, inputs)
        values[output.name] = tensor


def _block(body: Body, values: Values, weights: Weights) -> Callable[..., list[torch.Tensor]]:
    """Returns a block as a function; it computes among the values around it and leaves none of its own."""

    def run_block(*given: torch.Tensor) -> list[torch.Tensor]:
        values.update(zip(body.inputs, given, strict=True))
        for step in body.steps:
            _run_step(step, values, weights)
            for name in step.release:
                values.pop(name, None)
        results = [_tensor(source, values, weights) for source in body.outputs]
        for name in body.left:
            values.pop(name, None)
        return results

    return run_block


def _tensor(source: Source, values: Values, weights: Weights) -> torch.Tensor:
    return values[source] if isinstance(source, str) else weights.tensor(source)


def _argument(step: Step, name: str, tensors: list[torch.Tensor]) -> Any:
    kind = step.op.parameters[name].kind
    if kind == "list[Tensor]":
        return tensors
    if kind == "Tensor":
        return tensors[0]
    return python_value(step.operation, name, kind, tensors[0].numpy())


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [item for item in value if isinstance(item, torch.Tensor)] if isinstance(value, list) else []


def _check(step: Step, tensor: torch.Tensor, declared: TensorType) -> None:
    expected = torch.float32 if declared.dtype in FLOATS else torch.bool if declared.dtype == "bool" else torch.int32
    if not declared.fits(tuple(tensor.shape)) or tensor.dtype != expected:
        raise _mismatch(step, f"{tensor.dtype}{list(tensor.shape)} computed, {declared} declared")


def _round(tensor: torch.Tensor, inputs: list[torch.Tensor]) -> torch.Tensor:
    """Rounds to float16 and back, in place where nobody else holds the memory; too large becomes infinite."""
    rounded = tensor.half()
    if any(tensor.data_ptr() == item.data_ptr() for item in inputs):
        return rounded.float()
    return tensor.copy_(rounded)


def _mismatch(step: Step, what: str) -> PackageError:
    return PackageError(
        "An operation must give what the program declares",
        f"{step.operation.type} '{step.operation.name}': {what}",
        "Either the package is corrupt or the evaluator misreads the operation",
    )
