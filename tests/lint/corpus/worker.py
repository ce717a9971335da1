"""Asks the accelerator of the ai-edge-litert wheel about files, one per line of standard input.

    VK_DRIVER_FILES=lvp.json python -m tests.lint.corpus.worker < paths

For each path one JSON line with how far the file came:
"refused" (not every node is taken), "failed" (taken, but compiling, running or writing the result failed),
"wrong" (ran, and differs from the CPU by more than rounding), "accepted"; and "invalid" where the CPU itself refuses.
A crash ends the process; whoever reads the lines knows by the missing one.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

_TOLERANCE = 1e-3  # of the largest value; float32 on both sides


def main() -> None:
    """Answers until standard input ends."""
    from ai_edge_litert.environment import Environment

    environment = Environment.create()
    for line in sys.stdin:
        path = line.strip()
        print(f"@@begin {path}", file=sys.stderr, flush=True)
        verdict, reason = judge(path, environment)
        print(f"@@end {path}", file=sys.stderr, flush=True)
        print(json.dumps({"path": path, "verdict": verdict, "reason": reason}), flush=True)


def judge(path: str, environment: Any) -> tuple[str, str]:
    """Returns the verdict on one file and, unless it is accepted, why."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import GpuOptions, HardwareAccelerator, Options

    try:
        expected, inputs = _on_cpu(path)
    except (RuntimeError, ValueError) as error:
        return "invalid", _one_line(error)
    try:
        gpu = Options(hardware_accelerators=HardwareAccelerator.GPU, gpu_options=GpuOptions(enforce_f32=True))
        model = CompiledModel.from_file(path, environment=environment, options=gpu)
        if not model.is_fully_accelerated():
            return "refused", "not fully accelerated"
    except RuntimeError as error:
        return "refused", _one_line(error)
    try:
        found = _run(model, inputs, expected)
    except (RuntimeError, ValueError) as error:
        return "failed", _one_line(error)
    for index, (left, right) in enumerate(zip(found, expected, strict=True)):
        scale = max(1e-6, float(np.abs(right).max(initial=0)))
        distance = float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max(initial=0))
        if not distance <= _TOLERANCE * scale:
            return "wrong", f"output {index} differs by {distance:.3g} of {scale:.3g}"
    return "accepted", ""


def _on_cpu(path: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(path, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    inputs = []
    for details in interpreter.get_input_details():
        values = _values(random, details["shape"], np.dtype(details["dtype"]))
        interpreter.set_tensor(details["index"], values)
        inputs.append(values)
    interpreter.invoke()
    return [interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details()], inputs


def _values(random: np.random.Generator, shape: Any, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return random.uniform(0.2, 1.5, shape).astype(dtype)  # within the domain of every operator
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    return random.integers(1, 3, shape).astype(dtype)


def _run(model: Any, inputs: list[np.ndarray], expected: list[np.ndarray]) -> list[np.ndarray]:
    into, out = model.create_input_buffers(0), model.create_output_buffers(0)
    for buffer, values in zip(into, inputs, strict=True):
        buffer.write(values)
    model.run_by_index(0, into, out)
    return [b.read(e.size, e.dtype).reshape(e.shape) for b, e in zip(out, expected, strict=True)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    main()
