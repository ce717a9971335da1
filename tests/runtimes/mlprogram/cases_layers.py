"""Cases of operations with several results or states: recurrent layers, sorting, the choice of boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.runtimes.mlprogram.cases import IOS17, IOS18, Array, Case

_RANDOM = np.random.default_rng(2)
_STEPS, _BATCH, _FEATURES, _HIDDEN = 4, 2, 3, 5
_NUMPY: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


def _x(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _each(
    name: str, inputs: list[Array], build: Callable[..., Any], expected: list[Array], **options: Any
) -> list[Case]:
    """Returns one case per result of an operation."""
    return [
        Case(f"{name}_{i}", inputs, lambda mb, *given, i=i: build(mb, *given)[i], each, **options)
        for i, each in enumerate(expected)
    ]


def _sequence(x: Array, states: tuple[Array, ...], step: Callable[..., tuple[Array, ...]]) -> list[Array]:
    """Returns the first state after every step, and all states after the last."""
    outputs = []
    for each in x:
        states = step(each, *states)
        outputs.append(states[0])
    return [np.stack(outputs), *states]


def _rnn(activation: str, direction: str) -> list[Case]:
    x, h, w, u, b = (
        _x(_STEPS, _BATCH, _FEATURES),
        _x(_BATCH, _HIDDEN),
        _x(_HIDDEN, _FEATURES),
        _x(_HIDDEN, _HIDDEN),
        _x(_HIDDEN),
    )
    act, ordered = _NUMPY[activation], x if direction == "forward" else x[::-1]
    expected = _sequence(ordered, (h,), lambda e, h: (act(e @ w.T + h @ u.T / 2 + b),))

    def build(mb: Any, x: Any, h: Any) -> Any:
        attributes = {"direction": direction, "activation": activation, "output_sequence": True}
        return mb.rnn(x=x, initial_h=h, weight_ih=w, weight_hh=u / 2, bias=b, **attributes)

    return _each(f"rnn_{activation}_{direction}", [x, h], build, expected)


def _gru_step(w: Array, u: Array, inner: Array, outer: Array, after: bool, act: str, gate: str) -> Callable[..., Any]:
    (w_r, w_o, w_z), (u_r, u_o, u_z) = np.split(w, 3), np.split(u, 3)
    (i_r, i_o, i_z), (b_r, b_o, b_z) = np.split(inner, 3), np.split(outer, 3)

    def step(x: Array, h: Array) -> tuple[Array]:
        r = _NUMPY[gate](x @ w_r.T + i_r + h @ u_r.T + b_r)
        z = _NUMPY[gate](x @ w_z.T + i_z + h @ u_z.T + b_z)
        hidden = r * (h @ u_o.T + b_o) if after else (r * h) @ u_o.T + b_o
        return ((1 - z) * _NUMPY[act](x @ w_o.T + i_o + hidden) + z * h,)

    return step


def _gru(direction: str, after: bool) -> list[Case]:
    x, h = _x(_STEPS, _BATCH, _FEATURES), _x(_BATCH, _HIDDEN)
    w, u, b, none = _x(3 * _HIDDEN, _FEATURES), _x(3 * _HIDDEN, _HIDDEN), _x(3 * _HIDDEN), np.zeros(3 * _HIDDEN, "f4")
    inner = _x(3 * _HIDDEN) if after else none
    step = _gru_step(w, u, inner, b, after, "tanh", "sigmoid")
    expected = _sequence(x if direction == "forward" else x[::-1], (h,), step)
    new = {"reset_after": True, "input_bias": inner} if after else {}

    def build(mb: Any, x: Any, h: Any) -> Any:
        attributes = {"direction": direction, "output_sequence": True, **new}
        return mb.gru(x=x, initial_h=h, weight_ih=w, weight_hh=u, bias=b, **attributes)

    targets = {"targets": IOS18} if after else {}
    return _each(f"gru_{direction}_{after}", [x, h], build, expected, **targets)


def _lstm(output: str, clip: float, sequence: bool) -> list[Case]:
    x, h, c = _x(_STEPS, _BATCH, _FEATURES), _x(_BATCH, _HIDDEN), _x(_BATCH, _HIDDEN)
    w, u, b, p = _x(4 * _HIDDEN, _FEATURES), _x(4 * _HIDDEN, _HIDDEN), _x(4 * _HIDDEN), _x(3 * _HIDDEN)
    (p_i, p_f, p_o), sigmoid = np.split(p, 3), _NUMPY["sigmoid"]

    def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        i, f, o, z = np.split(x @ w.T + h @ u.T + b, 4, -1)
        c = np.clip(sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(z), -clip, clip)
        return sigmoid(o + p_o * c) * _NUMPY[output](c), c

    whole, *last = _sequence(x[::-1], (h, c), step)

    def build(mb: Any, x: Any, h: Any, c: Any) -> Any:
        weights = {"weight_ih": w, "weight_hh": u, "bias": b, "peephole": p, "clip": np.float32(clip)}
        options = {"direction": "reverse", "activation": output, "output_sequence": sequence}
        return mb.lstm(x=x, initial_h=h, initial_c=c, **weights, **options)

    expected = [whole if sequence else whole[-1:], *last]
    return _each(f"lstm_{output}_{clip}", [x, h, c], build, expected)


def _bidirectional(sequence: bool) -> list[Case]:
    """PyTorch's own layer; its gates come in the order i, f, z, o and its states in one tensor per direction."""
    torch.manual_seed(3)
    layer = torch.nn.LSTM(_FEATURES, _HIDDEN, bidirectional=True)
    x, h, c = torch.randn(_STEPS, _BATCH, _FEATURES), torch.randn(2, _BATCH, _HIDDEN), torch.randn(2, _BATCH, _HIDDEN)
    with torch.no_grad():
        whole, states = layer(x, (h, c))
    parts = {name: np.split(value.detach().numpy(), 4) for name, value in layer.named_parameters()}
    ordered = {name: np.concatenate([i, f, o, z]) for name, (i, f, z, o) in parts.items()}
    if not sequence:
        whole = torch.cat([whole[-1:, :, :_HIDDEN], whole[:1, :, _HIDDEN:]], -1)
    joined = [torch.cat(list(state), -1).numpy() for state in (h, c, *states)]

    def build(mb: Any, x: Any, h: Any, c: Any) -> Any:
        weights = {"direction": "bidirectional", "output_sequence": sequence}
        for back, suffix in (("", ""), ("_back", "_reverse")):
            weights[f"weight_ih{back}"] = ordered[f"weight_ih_l0{suffix}"]
            weights[f"weight_hh{back}"] = ordered[f"weight_hh_l0{suffix}"]
            weights[f"bias{back}"] = ordered[f"bias_ih_l0{suffix}"] + ordered[f"bias_hh_l0{suffix}"]
        return mb.lstm(x=x, initial_h=h, initial_c=c, **weights)

    return _each(f"lstm_both_{sequence}", [x.numpy(), *joined[:2]], build, [whole.numpy(), *joined[2:]])


def recurrent() -> list[Case]:
    """Recurrent layers against their equations step by step, and PyTorch's."""
    cases = [case for act in ("tanh", "relu", "sigmoid", "scaled_tanh", "linear") for case in _rnn(act, "forward")]
    cases += [*_rnn("tanh", "reverse"), *_gru("forward", False), *_gru("reverse", False), *_gru("forward", True)]
    cases += [*_lstm("hard_sigmoid", 50.0, True), *_lstm("linear", 0.2, False), *_lstm("relu", 0.5, True)]
    return [*cases, *_bidirectional(True), *_bidirectional(False)]


def _suppressed(boxes: Array, scores: Array, iou: float, least: float, most: int, per_class: bool) -> Array:
    """Returns the indices that greedy suppression keeps, pair by pair."""
    corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in boxes.tolist()]
    best, kind = scores.max(-1), scores.argmax(-1)
    kept: list[int] = []
    for new in np.argsort(-best, kind="stable"):
        if best[new] < least:
            continue
        for old in kept:
            (a, b, c, d), (e, f, g, h) = corners[old], corners[new]
            common = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
            union = (c - a) * (d - b) + (g - e) * (h - f) - common
            if common > iou * union and (not per_class or kind[old] == kind[new]):
                break
        else:
            kept.append(int(new))
    return np.array((kept or [int(best.argmax())])[:most])


def _boxes(per_class: bool, least: float) -> list[Case]:
    boxes = np.concatenate([_RANDOM.uniform(0, 4, (2, 9, 2)), _RANDOM.uniform(1, 4, (2, 9, 2))], -1).astype(np.float32)
    scores, most, iou = _x(2, 9, 3), 6, 0.15
    expected = [np.zeros((2, most, 4)), np.zeros((2, most, 3)), np.full((2, most), -1), np.zeros(2)]
    for i in range(2):
        kept = _suppressed(boxes[i], scores[i], iou, least, most, per_class)
        values = (boxes[i, kept], scores[i, kept], kept)
        for array, value in zip(expected[:3], values, strict=True):
            array[i, : len(kept)] = value
        expected[3][i] = len(kept)
    options = {"iou_threshold": iou, "max_boxes": most, "per_class_suppression": per_class}

    def old(mb: Any, b: Any, s: Any) -> Any:
        results = mb.non_maximum_suppression(boxes=b, scores=s, score_threshold=least, **options)
        return [*results[:2], *(mb.cast(x=each, dtype="fp32") for each in results[2:])]

    def new(mb: Any, b: Any, s: Any) -> Any:
        turned = {"boxes": mb.transpose(x=b, perm=[0, 2, 1]), "scores": mb.transpose(x=s, perm=[0, 2, 1])}
        *parts, index = mb.non_maximum_suppression(**turned, **options)
        return [*(mb.transpose(x=part, perm=[0, 2, 1]) for part in parts), mb.cast(x=index, dtype="fp32")]

    cases = _each(f"nms_{per_class}_{least}", [boxes, scores], old, expected, targets=("iOS16",))
    if least < -5:  # from iOS 17 on there is no threshold
        cases += _each(f"nms_{per_class}", [boxes, scores], new, expected[:3], targets=IOS17)
    return cases


def order() -> list[Case]:
    """Sorting and the choice of boxes."""
    x = _RANDOM.permutation(24).reshape(2, 3, 4).astype(np.float32)
    cases = []
    for ascending in (False, True):
        places = np.argsort(x if ascending else -x, 1)

        def sorted_(mb: Any, x: Any, up: bool = ascending) -> Any:
            return mb.cast(x=mb.argsort(x=x, axis=1, ascending=up), dtype="fp32")

        cases.append(Case(f"argsort_{ascending}", [x], sorted_, places))

        def largest(mb: Any, x: Any, up: bool = ascending) -> Any:
            values, index = mb.topk(x=x, k=2, axis=-2, ascending=up)
            return values, mb.cast(x=index, dtype="fp32")

        cases += _each(f"topk_{ascending}", [x], largest, [np.take_along_axis(x, places, 1)[:, :2], places[:, :2]])
    best = np.sort(x, -1)[..., :-4:-1]
    cases.append(Case("topk_values", [x], lambda mb, x: mb.topk(x=x, k=3, return_indices=False), best))
    for per_class in (False, True):
        for least in (-9.0, 0.8, 9.0):
            cases += _boxes(per_class, least)
    return cases


FAMILIES = {"recurrent": recurrent, "order": order}
