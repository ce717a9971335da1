"""What rules have in common: a replacement takes what its operator has, and nothing is swallowed."""

from __future__ import annotations

import inspect
import json
from inspect import Parameter

import pytest

from sdmobile.rewrites.registry import RULES, rule_class
from sdmobile.rewrites.rule import Exactness, OperatorRule, Outcome, RewriteRecord

# What rules choose themselves, and the forms of attention that take along more than the operator.
OWN_OPTIONS = {"winograd_conv": {"tile"}}
WIDER = {"attention_split_einsum"}


@pytest.mark.parametrize("name", RULES)
def test_no_replacement_swallows_arguments(name: str) -> None:
    kinds = {parameter.kind for parameter in inspect.signature(rule_class(name).replacement).parameters.values()}
    assert not kinds & {Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL}


@pytest.mark.parametrize("name", [n for n in RULES if issubclass(rule_class(n), OperatorRule) and n not in WIDER])
def test_a_replacement_takes_exactly_the_arguments_of_its_operator(name: str) -> None:
    rule = rule_class(name)
    assert issubclass(rule, OperatorRule)
    arguments = rule.operator._schema.arguments
    tensors = {argument.name for argument in arguments if "Tensor" in str(argument.type)}
    _, *parameters = inspect.signature(rule.replacement).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY}
    assert len(parameters) - len(named) == len(tensors)
    assert named == {argument.name for argument in arguments} - tensors | OWN_OPTIONS.get(name, set())


def test_a_record_is_json_of_plain_words() -> None:
    record = RewriteRecord("a_rule", Exactness.UP_TO_ROUNDING, Outcome.REFUSED, reason="too large").to_json()
    assert type(record["outcome"]) is type(record["exactness"]) is str
    assert json.loads(json.dumps(record))["exactness"] == "exact-up-to-rounding"
