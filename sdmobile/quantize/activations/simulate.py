"""Runs a program with some of its layers quantised, without writing a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdmobile.formats.mlprogram.read import read_program
from sdmobile.quantize.activations.layers import Layer
from sdmobile.quantize.activations.ranges import LEVELS
from sdmobile.quantize.linear import quantize_linear
from sdmobile.quantize.schemes import Linear
from sdmobile.runtimes.mlprogram.execution import run, run_steps
from sdmobile.runtimes.mlprogram.plan import make_plan
from sdmobile.runtimes.mlprogram.precision import rounding
from sdmobile.runtimes.mlprogram.steps import Plan, Step
from sdmobile.runtimes.mlprogram.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

Inputs = Mapping[str, "NDArray[Any]"]
Values = dict[str, torch.Tensor]
WEIGHTS = Linear(8)
"""How a layer's weights are stored: int8 with a scale per output channel."""


def fake_quantized(values: torch.Tensor, scale: float) -> torch.Tensor:
    """Returns scale · clip(round(x / scale), −128, 127), halves to even: `quantize`, then `dequantize`."""
    return torch.round(values / scale).clamp_(-LEVELS - 1, LEVELS).mul_(scale)


class Simulation:
    """An uncompressed program that can be run in float32 with any layers in W8A8.

    Args:
        path: the `.mlpackage` folder.
    """

    def __init__(self, path: Path) -> None:
        package, self.function = read_program(path)
        half = rounding("float32")
        self._weights = Weights(package, half, 1 << 30)
        self.plan = make_plan(self.function, self._weights, half, fuse=False)

    def exact(self, inputs: Inputs) -> Iterator[tuple[Step, Values]]:
        """Runs step by step and yields each step with the values at hand, which the next step may drop."""
        values = self._values(inputs)
        for step in run_steps(self.plan, values, self._weights):
            yield step, values

    def outputs(self, inputs: Inputs, layers: Sequence[Layer], scales: Mapping[str, float]) -> NDArray[np.float32]:
        """Returns the outputs, one after the other and flat, with some layers quantised.

        Args:
            inputs: by name in the file.
            layers: which ones.
            scales: of their activations, by name of the value.
        """
        chosen = frozenset(name for layer in layers for name in layer.operations)
        return self._finish(0, self._values(inputs), chosen, scales)

    def one_at_a_time(
        self, inputs: Inputs, layers: Sequence[Layer], scales: Sequence[Mapping[str, float]]
    ) -> Iterator[tuple[Layer, int, NDArray[np.float32]]]:
        """Yields the outputs with each layer quantised alone, for several sets of scales.

        The exact run is shared: at the first operation of a layer it is forked, so that only the rest is computed.

        Args:
            inputs: by name in the file.
            layers: in the order of the program.
            scales: alternatives.

        Yields:
            The layer, the index of the alternative, and the outputs as `outputs` returns them.
        """
        starts = {step.operation.name: index for index, step in enumerate(self.plan.steps)}
        waiting = sorted(layers, key=lambda layer: starts[layer.operations[0]], reverse=True)
        state = self._values(inputs)
        for index, step in enumerate(self.plan.steps):
            while waiting and starts[waiting[-1].operations[0]] == index:
                layer = waiting.pop()
                for number, alternative in enumerate(scales):
                    chosen = frozenset(layer.operations)
                    yield layer, number, self._finish(index, dict(state), chosen, alternative)
            if not waiting:
                return
            for _ in run_steps(Plan((step,), {}), state, self._weights):
                pass

    def _finish(
        self, start: int, state: Values, chosen: frozenset[str], scales: Mapping[str, float]
    ) -> NDArray[np.float32]:
        steps = (
            quantized_step(step, scales) if step.operation.name in chosen else step for step in self.plan.steps[start:]
        )
        values = run(Plan(tuple(steps), {}), state, self._weights)
        return np.concatenate([values[item.name].numpy().reshape(-1) for item in self.function.outputs])

    def _values(self, inputs: Inputs) -> Values:
        return {
            name: torch.from_numpy(np.array(array, np.float32 if array.dtype.kind == "f" else np.int32))
            for name, array in inputs.items()
        }


def quantized_step(step: Step, scales: Mapping[str, float]) -> Step:
    """Returns a step that rounds its weights to int8 and its computed operands to the scales given for them."""
    inner = step.op.function

    def function(**arguments: Any) -> Any:
        for name, sources in step.sources.items():
            known = [scales.get(source) if isinstance(source, str) else None for source in sources]
            if isinstance(arguments[name], list):
                pairs = zip(arguments[name], known, strict=True)
                arguments[name] = [x if scale is None else fake_quantized(x, scale) for x, scale in pairs]
            elif known[0] is not None:
                arguments[name] = fake_quantized(arguments[name], known[0])
            elif name == "weight":
                arguments[name] = rounded_weight(arguments[name])
        return inner(**arguments)

    return replace(step, op=replace(step.op, function=function))


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """Returns what a phone makes of a weight stored in eight bits."""
    return torch.from_numpy(quantize_linear(weight.numpy(), WEIGHTS).decode().astype(np.float32))
