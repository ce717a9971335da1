"""Patterns bind what they say, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import Node

from sdmobile.rewrites.operators import arguments
from sdmobile.rewrites.pattern import Call, Const, Either, Pattern, Var, between, match

_aten = torch.ops.aten


class Expression(nn.Module):
    """(x − mean(x)) · sigmoid(y) + x, with the mean used once more."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean = x.mean((-1,), keepdim=True)
        return torch.sigmoid(y) * (x - mean) + x + mean


def nodes() -> dict[str, Node]:
    program = torch.export.export(Expression(), (torch.zeros(2, 3), torch.zeros(2, 3)))
    return {node.name: node for node in program.graph.nodes}


def centred(x: str = "x", y: str = "x") -> Pattern:
    return Call(_aten.sub.Tensor, Var(x), Call(_aten.mean.dim, Var(y), Const("axes"), True, name="mean"))


def test_binds_nodes_and_constants() -> None:
    found = nodes()
    assert match(centred(), found["sub"]) == {"x": found["x"], "mean": found["mean"], "axes": [-1]}


def test_the_same_name_is_the_same_node() -> None:
    found = nodes()
    product = Call(_aten.mul.Tensor, Var("x"), Var("x"))
    assert match(product, found["mul"]) is None
    assert match(Call(_aten.mul.Tensor, Var("x"), Var("y")), found["mul"]) is not None


def test_products_and_sums_commute_and_differences_do_not() -> None:
    found = nodes()
    gate = Call(_aten.sigmoid.default, Var("y"))
    for order in ((gate, centred()), (centred(), gate)):
        assert match(Call(_aten.mul.Tensor, *order), found["mul"]) is not None
    swapped = Call(_aten.sub.Tensor, Call(_aten.mean.dim, Var("x")), Var("x"))
    assert match(swapped, found["sub"]) is None


def test_a_constant_must_satisfy_its_condition_and_a_plain_value_be_equal() -> None:
    found = nodes()
    assert match(Call(_aten.mean.dim, Var("x"), Const("axes", lambda v: v == [0])), found["mean"]) is None
    assert match(Call(_aten.mean.dim, Var("x"), [0]), found["mean"]) is None
    assert match(Call(_aten.mean.dim, Var("x"), [-1]), found["mean"]) is not None
    assert match(Call(_aten.mean.dim, keepdim=False), found["mean"]) is None


def test_either_takes_the_first_that_matches() -> None:
    found = nodes()
    either = Either(Call(_aten.tanh.default, Var("a")), Call(_aten.sigmoid.default, Var("b")))
    assert match(either, found["sigmoid"]) == {"b": found["y"]}
    assert match(either, found["sub"]) is None


def test_between_leaves_out_what_others_use() -> None:
    found = nodes()
    covered = between(found["mul"], [found["x"], found["y"]])
    assert set(covered) == {found["mul"], found["sigmoid"], found["sub"]}  # the mean is used by the last sum as well


def test_arguments_have_names_and_defaults() -> None:
    found = nodes()
    assert arguments(found["mean"]) == {"self": found["x"], "dim": [-1], "keepdim": True, "dtype": None}
    assert arguments(found["sub"])["alpha"] == 1
