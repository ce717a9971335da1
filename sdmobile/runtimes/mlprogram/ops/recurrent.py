"""Recurrent networks over x [steps, batch, features], with one or two directions.

A layer counts as one operation: in the modes that round, its results are rounded once, the states between steps not.
What the definitions leave open follows coremltools' tests: in the direction "reverse" the outputs come in the order in
which they are computed, the last first; in both directions at once they lie where their inputs lie.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdmobile.runtimes.mlprogram.ops import sums
from sdmobile.runtimes.mlprogram.ops.registry import Context, op

States = tuple[Tensor, ...]
Cell = Callable[[Tensor, States], States]
"""From what a step takes from its input, and the states before it, to the states after it; the first is the output."""
Function = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Function] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "linear": lambda x: x,
    # With the standard values of their parameters, which a layer cannot give.
    "scaled_tanh": torch.tanh,
    "hard_sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "sigmoid_hard": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
}


@op()
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    context: Context,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> list[Tensor]:
    """h′ = activation(W_ih·x + W_hh·h + b); returns all or the last h′, and the last."""
    multiply, function = _multiply(context), _activation(activation, context)

    def cell(part: Tensor, states: States) -> States:
        return (function(part + multiply(states[0], weight_hh.t())),)

    parts = _of_inputs(x, weight_ih, bias, multiply)
    outputs, last = _unroll(_ordered(parts, direction, context), (initial_h,), cell)
    return [outputs if output_sequence else outputs[-1:], *last]


@op()
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    context: Context,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> list[Tensor]:
    """h′ = (1 − z)·o + z·h with the gates r and z and o = activation(W_io·x + W_ho·(r·h) + b_o).

    With `reset_after`, o = activation(W_io·x + input_bias_o + r·(W_ho·h + b_o)), as in PyTorch. Weights and biases come
    in the order r, o, z; `bias` is that of the hidden side. The equation that coremltools prints has the reset gate
    after the product for both forms; its tests and its converter of PyTorch's GRU have it before.
    """
    multiply = _multiply(context)
    gate, candidate = _activation(recurrent_activation, context), _activation(activation, context)
    hidden_r, hidden_o, hidden_z = (part.t() for part in weight_hh.chunk(3))
    bias_r, bias_o, bias_z = weight_hh.new_zeros(3, hidden_r.shape[0]) if bias is None else bias.chunk(3)

    def cell(part: Tensor, states: States) -> States:
        (h,) = states
        input_r, input_o, input_z = part.chunk(3, -1)
        r = gate(input_r + multiply(h, hidden_r) + bias_r)
        z = gate(input_z + multiply(h, hidden_z) + bias_z)
        inner = r * (multiply(h, hidden_o) + bias_o) if reset_after else multiply(r * h, hidden_o) + bias_o
        return ((1 - z) * candidate(input_o + inner) + z * h,)

    parts = _of_inputs(x, weight_ih, input_bias, multiply)
    outputs, last = _unroll(_ordered(parts, direction, context), (initial_h,), cell)
    return [outputs if output_sequence else outputs[-1:], *last]


@op()
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    context: Context,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> list[Tensor]:
    """c′ = f·c + i·z, cut to ±clip, and h′ = o·activation(c′), with the gates i, f, o and z = cell_activation(…).

    Weights come in the order i, f, o, z; a peephole adds its multiple of c to i and f, of c′ to o. In both directions
    at once, states and outputs are those of the forward direction followed by those of the other.
    """
    functions = [_activation(name, context) for name in (recurrent_activation, cell_activation, activation)]
    multiply = _multiply(context)

    def run(parts: Tensor, states: States, weight: Tensor, hole: Tensor | None) -> tuple[Tensor, States]:
        return _unroll(parts, states, _lstm_cell(weight.t(), hole, functions, clip, multiply))

    parts = _of_inputs(x, weight_ih, bias, multiply)
    if direction != "bidirectional":
        ordered = _ordered(parts, direction, context)
        outputs, last = run(ordered, (initial_h, initial_c), weight_hh, peephole)
        return [outputs if output_sequence else outputs[-1:], *last]
    if weight_ih_back is None or weight_hh_back is None:
        raise context.unsupported("direction bidirectional without weight_ih_back and weight_hh_back")
    (h, h_back), (c, c_back) = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    parts_back = _of_inputs(x, weight_ih_back, bias_back, multiply).flip(0)
    outputs, last = run(parts, (h, c), weight_hh, peephole)
    back, last_back = run(parts_back, (h_back, c_back), weight_hh_back, peephole_back)
    whole = torch.cat([outputs, back.flip(0)] if output_sequence else [outputs[-1:], back[-1:]], -1)
    return [whole, *(torch.cat(pair, -1) for pair in zip(last, last_back, strict=True))]


def _lstm_cell(
    weight: Tensor,
    peephole: Tensor | None,
    functions: list[Function],
    clip: float | None,
    multiply: Callable[[Tensor, Tensor], Tensor],
) -> Cell:
    gate, candidate, output = functions
    holes = weight.new_zeros(3, weight.shape[0]) if peephole is None else peephole.chunk(3)

    def cell(part: Tensor, states: States) -> States:
        h, c = states
        i, f, o, z = (part + multiply(h, weight)).chunk(4, -1)
        c_next = gate(f + holes[1] * c) * c + gate(i + holes[0] * c) * candidate(z)
        if clip is not None:
            c_next = c_next.clamp(-clip, clip)
        return gate(o + holes[2] * c_next) * output(c_next), c_next

    return cell


def _unroll(parts: Tensor, states: States, cell: Cell) -> tuple[Tensor, States]:
    """Returns the output of every step [steps, batch, hidden] and the states after the last."""
    outputs = []
    for part in parts:
        states = cell(part, states)
        outputs.append(states[0])
    return torch.stack(outputs), states


def _of_inputs(x: Tensor, weight: Tensor, bias: Tensor | None, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Returns what the inputs of all steps contribute to the gates."""
    parts = multiply(x, weight.t())
    return parts if bias is None else parts + bias


def _ordered(parts: Tensor, direction: str, context: Context) -> Tensor:
    if direction not in ("forward", "reverse"):
        raise context.unsupported(f"direction {direction}")
    return parts if direction == "forward" else parts.flip(0)


def _multiply(context: Context) -> Callable[[Tensor, Tensor], Tensor]:
    return sums.matmul if context.rounds_sums else torch.matmul


def _activation(name: str, context: Context) -> Function:
    if name.lower() not in _ACTIVATIONS:
        raise context.unsupported(f"activation {name}")
    return _ACTIVATIONS[name.lower()]
