"""Whom bisection blames, on small graphs whose arithmetic is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from sdmobile.basics.metrics import psnr
from sdmobile.validate.bisect.diagnose import epsilon_faults
from sdmobile.validate.bisect.graph import ExportedGraph, FileOp, Piece
from sdmobile.validate.bisect.match import Match, match_modules
from sdmobile.validate.bisect.part import Case, Culprit
from sdmobile.validate.bisect.reference import ModuleOutput
from sdmobile.validate.bisect.run import OUTPUT_MODULE, bisect_case
from sdmobile.validate.checks import ComponentCheck, Status

Function = Callable[[np.ndarray], np.ndarray]
X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
MODULES = ("norm", "conv", "act", "out")


class Chain(ExportedGraph):
    """A file of one operation per module, each of which takes the value before it."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self._functions = functions
        names = ["x", *functions]
        ops = [FileOp(name, "MUL", (before,), (name,), name) for before, name in zip(names, functions, strict=False)]
        super().__init__(ops, ["x"], names[-1])

    def values(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        value = inputs["x"]
        for name, function in self._functions.items():
            value = function(value)
            yield name, value

    def write(self, piece: Piece, folder: Path) -> Path:
        return folder

    def run_part(self, file: Path, piece: Piece, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        (value,) = (inputs[name] for name in piece.inputs)
        for op in piece.ops:
            value = self._functions[op.name](value)
        return value

    def constants(self, op: FileOp) -> dict[str, np.ndarray]:
        return {}


def _blamed(functions: Mapping[str, Function]) -> Culprit:
    """Bisects a file against PyTorch's x · 2 (norm) · 3 (conv) − 1 (act) · 4 (out)."""
    exact = dict(zip(MODULES, (X * 2, X * 6, X * 6 - 1, (X * 6 - 1) * 4), strict=True))
    graph = Chain(functions)
    outputs = [ModuleOutput(name, array) for name, array in exact.items() if name != "out"]
    matches = match_modules(graph, graph.values({"x": X}), outputs, 60.0)
    final = dict(graph.values({"x": X}))["out"]
    matches.append(Match(OUTPUT_MODULE, "out", exact["out"], psnr(exact["out"], final)))
    program = torch.export.export(torch.nn.ReLU(), (torch.ones(1),))  # has no parameters and no epsilons
    case = Case(graph, program, {"x": X}, matches, 60.0)
    return bisect_case(case, cast(Any, ComponentCheck("unet", "litert", Status.FAILED)), None)


def _file(**changed: Function) -> dict[str, Function]:
    """Returns a file whose norm gives a fifth of PyTorch's, the rest being in the next operation."""
    rewritten: dict[str, Function] = {
        "norm": lambda x: x * np.float32(0.4),
        "conv": lambda x: x * 15,
        "act": lambda x: x - 1,
        "out": lambda x: x * 4,
    }
    return rewritten | changed


def test_a_value_that_is_another_quantity_is_no_fault() -> None:
    assert _blamed(_file()).module is None


def test_a_fault_after_such_a_value_is_not_the_modules_before() -> None:
    culprit = _blamed(_file(conv=lambda x: x * 10))
    assert (culprit.module, culprit.modules, culprit.reproduced) == ("conv", ("norm", "conv"), True)
    assert culprit.operations == ("norm", "conv")
    assert "ending in MUL 'conv', with norm" in culprit.sentence


def test_a_fault_in_such_a_module_shows_in_the_next_and_both_are_named() -> None:
    culprit = _blamed(_file(norm=lambda x: x * np.float32(0.5)))
    assert (culprit.module, culprit.modules) == ("conv", ("norm", "conv"))


def test_a_fault_in_a_value_that_is_pytorchs_is_that_modules() -> None:
    culprit = _blamed(_file(norm=lambda x: x * np.float32(2.5), conv=lambda x: x * 3))
    assert (culprit.module, culprit.modules, culprit.reproduced) == ("norm", ("norm",), True)
    assert culprit.alone_db == pytest.approx(psnr(X * 2, X * 2.5))


def test_the_output_needs_no_proof() -> None:
    culprit = _blamed(_file(out=lambda x: x * 5))
    assert (culprit.module, culprit.operations, culprit.reproduced) == ("out", ("out",), True)


@pytest.mark.parametrize("held", [1e-6, 1e-3])
def test_an_epsilon_or_its_root_is_no_fault(held: float) -> None:
    """A norm that scales its input first adds (s·√ε)²."""
    assert epsilon_faults([1e-6], {"scalar": np.array([held], np.float32), "half": np.array([0.5], np.float32)}) == []


def test_an_epsilon_of_two_factors_is_no_fault() -> None:
    """1.2314453125 · 0.000812 is the root of 1e-6."""
    factors = {"a": np.array([1.2314453125], np.float32), "b": np.array([0.00081205], np.float32)}
    assert epsilon_faults([1e-6], factors) == []
    assert len(epsilon_faults([1e-5], factors)) == 1


@pytest.mark.parametrize(("held", "faults"), [(2.0**-24, 0), (2.0**-14.5, 0), (2.0**-33, 0), (1e-6, 1), (1e-5, 1)])
def test_an_epsilon_that_float16_would_lose_is_raised_to_what_it_holds(held: float, faults: int) -> None:
    """ε = 2⁻³³: Core ML's files hold 2⁻²⁴, the form that divides by the largest deviation the root of 2⁻²⁹."""
    assert len(epsilon_faults([2.0**-33], {"epsilon": np.array([held], np.float32)})) == faults


def test_another_epsilon_is_a_fault() -> None:
    (fault,) = epsilon_faults([1e-6], {"scalar": np.array([0.1], np.float32)})
    assert fault == "PyTorch has the epsilon 1e-06; the file has 0.1 (scalar)"
