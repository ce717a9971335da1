"""What the converters make of the forms: one operator, Apple's einsum, no tensor beyond the budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdmobile.rewrites.attention.blocked import AttentionBlocked
from sdmobile.rewrites.attention.plain_forms import AttentionPartialSoftmax, AttentionPlain, AttentionSdpa
from sdmobile.rewrites.attention.split_einsum import AttentionSplitEinsum
from sdmobile.rewrites.rule import Rule
from tests.rewrites.attention.reference import Attend, rewritten
from tests.rewrites.attention.test_split_einsum import Attention


def core_ml(
    module: nn.Module, inputs: tuple[Tensor, ...], rules: Sequence[Rule], folder: Path, target: str
) -> tuple[dict[str, int], np.ndarray]:
    """Returns the operators of a Core ML package, and its value by the project's own evaluator."""
    import coremltools as ct

    from sdmobile.exporters.coreml.lower import count_operators
    from sdmobile.runtimes.mlprogram import MLProgram

    program = rewritten(module, inputs, *rules).program
    model: Any = ct.convert(
        program.run_decompositions({}),
        convert_to="mlprogram",
        outputs=[ct.TensorType(name="y", dtype=np.float32)],
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    path = folder / "attention.mlpackage"
    model.save(str(path))
    evaluated = MLProgram(path, "float32")
    feeds = dict(zip(evaluated.inputs, (x.numpy() for x in inputs), strict=True))
    return count_operators(model.get_spec()), evaluated.predict(feeds)["y"]


@pytest.mark.parametrize(("rules", "one_operator"), [((), 0), ((AttentionSdpa(),), 1)], ids=["captured", "rule"])
def test_a_given_scale_is_what_keeps_core_ml_from_one_operator(
    rules: tuple[Rule, ...], one_operator: int, tmp_path: Path
) -> None:
    """The text encoder's case. If the captured graph lowers to one operator too, the rule can go."""
    module, inputs = Attend(is_causal=True, scale=8**-0.5), tuple(torch.randn(1, 2, 7, 8) for _ in range(3))
    operators, y = core_ml(module, inputs, rules, tmp_path, "iOS18")
    assert operators.get("scaled_dot_product_attention", 0) == one_operator
    assert operators.get("softmax", 0) == 1 - one_operator
    np.testing.assert_allclose(y, module(*inputs), rtol=1e-4, atol=1e-5)


def test_split_einsum_is_apples_form_without_slices(tmp_path: Path) -> None:
    """Per attention four convolutions and three splits; per head two einsum and a softmax; no reshape, no linear."""
    module, inputs = Attention(12, 3), (torch.randn(2, 9, 12), torch.randn(2, 5, 12))
    operators, y = core_ml(module, inputs, [AttentionSplitEinsum()], tmp_path, "iOS17")
    expected = {"conv": 4, "split": 3, "einsum": 6, "softmax": 3, "concat": 1, "transpose": 4, "add": 1}
    assert {name: operators.get(name, 0) for name in expected} == expected
    assert not {"linear", "matmul", "reshape", "slice_by_index"} & set(operators)
    np.testing.assert_allclose(y, module(*inputs).detach(), rtol=1e-4, atol=1e-5)


GPU_OPERATORS = {
    "ADD",
    "BATCH_MATMUL",
    "CONCATENATION",
    "DIV",
    "EXP",
    "MUL",
    "REDUCE_MAX",
    "RESHAPE",
    "SLICE",
    "SOFTMAX",
    "SUB",
    "SUM",
    "TRANSPOSE",
}


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        (AttentionPlain(), 32),
        (AttentionPartialSoftmax(), 32),
        (AttentionBlocked(budget_bytes=2 * 3 * 40 * 8 * 4, element_bytes=4), 8),
        (AttentionBlocked(budget_bytes=2 * 3 * 40 * 8 * 4, element_bytes=4, inner="softmax"), 8),
    ],
    ids=["plain", "partial_softmax", "blocked-partial_softmax", "blocked-softmax"],
)
def test_litert_file(rule: Rule, rows: int, tmp_path: Path) -> None:
    """The converter may join the blocks' probabilities again, so the file's own tensors are looked at."""
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter

    from sdmobile.formats.tflite.graph import read_facts

    module, inputs = Attend(is_causal=True), tuple(torch.randn(2, 3, n, 4) for n in (32, 40, 40))
    program = rewritten(module, inputs, rule).program
    path = tmp_path / "attention.tflite"
    litert_torch.convert(Attending(program.module()), inputs).export(str(path))
    facts = read_facts(path)
    assert set(facts.operators) <= GPU_OPERATORS
    assert facts.max_rank <= 4
    interpreter: Any = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    for detail, x in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], x.numpy())
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(y, module(*inputs), rtol=1e-4, atol=1e-5)
    sizes = [int(np.prod(detail["shape"])) for detail in interpreter.get_tensor_details()]
    assert max(sizes) == 2 * 3 * rows * 40


class Attending(nn.Module):
    """A program as a module that the converter takes."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        self.training = False  # eval() would descend into the exported program, which refuses it

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.program(query, key, value)
