"""What the engine replaces, keeps and records."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sdmobile.device_profiles import default_profile
from sdmobile.errors import ParityError
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.group_norm import GroupNormInstanceNorm, GroupNormNhwcAmax
from sdmobile.rewrites.program import Draft
from sdmobile.rewrites.registry import rules_for
from sdmobile.rewrites.rule import Exactness, OperatorRule, RewriteRecord, Rule
from sdmobile.rewrites.tidy import tidy


class Block(nn.Module):
    """conv, norm, dropout, conv, and a norm as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.GroupNorm(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.conv(x))).to(torch.float32))


class Volume(nn.Module):
    """GroupNorm of rank 5, which neither form takes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class ReluAsClamp(OperatorRule):
    """relu(x) = max(x, 0), a rule with a constant in its replacement."""

    name = "relu_as_clamp"
    title = "relu as clamp"
    source = "definition of relu"
    exactness = Exactness.EXACT
    bound_db = math.inf
    operator = torch.ops.aten.relu.default

    def replacement(self, x: Tensor) -> Tensor:
        return torch.clamp(x, min=0.0)


def rewrite_(program: ExportedProgram, rules: Sequence[Rule]) -> tuple[ExportedProgram, tuple[RewriteRecord, ...]]:
    rewritten = rewrite(program, rules)
    return rewritten.program, rewritten.records


def captured(module: nn.Module, *shape: int) -> tuple[ExportedProgram, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(*shape)
    return torch.export.export(module.eval(), (x,)), x


def targets(program: ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_replaces_every_norm_and_the_output_and_keeps_the_function() -> None:
    program, x = captured(Block(), 2, 4, 6, 6)
    before = targets(program)
    rewritten, records = rewrite_(program, [GroupNormNhwcAmax()])
    assert [(r.outcome, r.module) for r in records] == [("applied", "norm"), ("applied", "last")]
    assert "aten.group_norm.default" not in targets(rewritten)
    assert targets(program) == before  # the captured program is a value, not a workpiece
    torch.testing.assert_close(rewritten.module()(x), program.module()(x), rtol=1e-5, atol=1e-5)


def test_new_nodes_know_where_they_come_from() -> None:
    program, _ = captured(Block(), 1, 4, 6, 6)
    rewritten, _ = rewrite_(program, [GroupNormInstanceNorm()])
    new = [n for n in rewritten.graph.nodes if str(n.target) == "aten.instance_norm.default"]
    assert len(new) == 2
    for node in new:
        assert node.meta["nn_module_stack"]
        assert isinstance(node.meta["val"], torch._subclasses.FakeTensor)


def test_a_refusal_has_a_reason_and_leaves_the_node() -> None:
    program, x = captured(Volume(), 1, 4, 2, 3, 3)
    rewritten, records = rewrite_(program, [GroupNormInstanceNorm()])
    assert [(r.outcome, r.module) for r in records] == [("refused", "norm")]
    assert records[0].reason is not None
    assert "rank 5" in records[0].reason
    assert torch.equal(rewritten.module()(x), program.module()(x))


def test_a_rule_that_matches_nothing_is_reported() -> None:
    program, _ = captured(nn.Conv2d(4, 4, 1), 1, 4, 2, 2)
    _, records = rewrite_(program, [GroupNormInstanceNorm()])
    assert [(r.rule, r.outcome, r.node) for r in records] == [("group_norm_instance_norm", "unmatched", None)]


def test_rules_run_in_the_order_given() -> None:
    program, x = captured(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.GroupNorm(2, 4)), 1, 4, 3, 3)
    rewritten, records = rewrite_(program, [ReluAsClamp(), GroupNormInstanceNorm()])
    assert [r.rule for r in records] == ["relu_as_clamp", "group_norm_instance_norm"]
    torch.testing.assert_close(rewritten.module()(x), program.module()(x), rtol=1e-5, atol=1e-5)


def test_rewritten_program_can_be_decomposed_and_exported_again() -> None:
    """The two things that the backends do with it."""
    program, x = captured(Block(), 1, 4, 6, 6)
    rewritten, _ = rewrite_(program, rules_for(default_profile("android")))
    expected = program.module()(x)
    torch.testing.assert_close(rewritten.run_decompositions({}).module()(x), expected, rtol=1e-5, atol=1e-5)
    again = torch.export.export(rewritten.module(), (x,))
    torch.testing.assert_close(again.module()(x), expected, rtol=1e-5, atol=1e-5)


def test_tidy_removes_what_does_nothing() -> None:
    program, x = captured(Block(), 1, 4, 6, 6)
    tidied, removed = tidy(program)
    assert removed["aten.dropout.default"] == 1
    assert not {"aten.dropout.default", "aten.to.dtype", "aten._assert_tensor_metadata.default"} & set(targets(tidied))
    assert torch.equal(tidied.module()(x), program.module()(x))


def test_tidy_keeps_casts_that_change_the_type() -> None:
    class Ids(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(torch.int32)

    program, _ = captured(Ids(), 3)
    tidied, _ = tidy(program)
    assert targets(tidied) == ["aten.to.dtype"]


class ScaledLinear(OperatorRule):
    """x Wᵀ + b = (x (2W)ᵀ) / 2 + b: a rule that changes a weight, with a constant of its own."""

    name = "scaled_linear"
    title = "linear with doubled weight"
    source = "arithmetic"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 120.0
    folds = True
    operator = torch.ops.aten.linear.default

    def replacement(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        doubled = (weight.double() * torch.tensor([[2.0]], dtype=torch.float64)).float()
        y = nn.functional.linear(input, doubled) * 0.5
        return y if bias is None else y + bias


class BrokenLinear(ScaledLinear):
    """Forgets the half."""

    name = "broken_linear"

    def replacement(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(input, weight * 2.0, bias)


def test_what_depends_on_weights_alone_becomes_a_constant_named_after_its_weight() -> None:
    program, x = captured(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), 2, 4)
    rewritten, records = rewrite_(program, [ScaledLinear()])
    assert [r.added for r in records] == [3, 3]  # linear, · 0.5, + bias: the weight's own arithmetic is gone
    assert {"scaled_linear_0_weight", "scaled_linear_1_weight"} <= set(rewritten.constants)
    doubled = rewritten.constants["scaled_linear_0_weight"]
    assert isinstance(doubled, Tensor)
    assert torch.equal(doubled, 2 * program.state_dict["0.weight"])
    assert sorted(rewritten.state_dict) == ["0.bias", "1.bias"]  # the old weights are not kept
    assert sorted(program.state_dict) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    torch.testing.assert_close(rewritten.module()(x), program.module()(x))
    torch.testing.assert_close(rewritten.run_decompositions({}).module()(x), program.module()(x))


def test_a_weight_that_others_use_stays() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.a.weight

    program, x = captured(Tied(), 4, 4)
    rewritten, _ = rewrite_(program, [ScaledLinear()])
    assert "a.weight" in rewritten.state_dict
    torch.testing.assert_close(rewritten.module()(x), program.module()(x))


def test_check_mode_measures_every_rule_that_did_something() -> None:
    program, x = captured(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), 2, 4)
    result = rewrite(program, [GroupNormInstanceNorm(), ReluAsClamp(), ScaledLinear()], [(x,), (x * 100,)])
    assert [check.rule for check in result.checks] == ["relu_as_clamp", "scaled_linear"]
    assert all(check.psnr_db >= 120 for check in result.checks)


def test_check_mode_stops_a_rule_that_breaks_its_promise() -> None:
    program, x = captured(nn.Linear(4, 5), 2, 4)
    with pytest.raises(ParityError, match=r"broken_linear promises 120 dB.*--without broken_linear"):
        rewrite(program, [BrokenLinear()], [(x,)])
    rewrite(program, [BrokenLinear()])  # without check mode nobody looks


def test_a_match_sees_what_came_in_the_place_of_its_operands() -> None:
    program, x = captured(nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), 2, 4)
    rewritten, records = rewrite_(program, [ScaledLinear()])
    assert [r.module for r in records] == ["0", "1", "2", "3"]
    torch.testing.assert_close(rewritten.module()(x), program.module()(x))


def test_copies_of_one_traced_replacement_have_values_of_their_own() -> None:
    """What takes two of them as operands is traced by the identity of their fake tensors."""
    program, _ = captured(nn.Sequential(*(nn.ReLU() for _ in range(3))), 2, 4)
    rewritten, _ = rewrite_(program, [ReluAsClamp()])
    values = [node.meta["val"] for node in rewritten.graph.nodes if node.op == "call_function"]
    assert len({id(value) for value in values}) == 3
    assert {value.fake_mode for value in values} == {
        program.graph.find_nodes(op="placeholder")[0].meta["val"].fake_mode
    }


def test_two_values_with_one_fake_tensor_are_a_fault_of_a_rule() -> None:
    program, _ = captured(nn.Sequential(nn.ReLU(), nn.ReLU()), 2, 4)
    draft = Draft(program)
    first, second = draft.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)
    second.meta["val"] = first.meta["val"]
    with pytest.raises(RuntimeError, match="relu and relu_1 have one fake tensor"):
        draft.finish()


def test_what_is_taken_out_of_a_tuple_may_be_its_fake_tensor() -> None:
    class Region(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                y = x.sin() * 2
            return y + x

    program, x = captured(Region(), 2, 4)
    tidied, _ = tidy(program)
    assert torch.equal(tidied.module()(x), program.module()(x))
