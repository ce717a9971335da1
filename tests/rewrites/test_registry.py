"""The device profile chooses the rules, the user may change the choice, and names are checked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sdmobile.device_profiles import default_profile, list_profiles, load_profile
from sdmobile.errors import UnsupportedError
from sdmobile.rewrites.attention.relu_attention import ReluAttention
from sdmobile.rewrites.attention.relu_blocked import ReluAttentionBlocked
from sdmobile.rewrites.options import RewriteOptions
from sdmobile.rewrites.registry import APPROXIMATE, FORMS, RAISING, RULES, check_names, rule_class, rules_for
from sdmobile.rewrites.rule import Exactness


def names(device: str, **options: object) -> list[str]:
    return [rule.name for rule in rules_for(load_profile(device), RewriteOptions(**options))]  # type: ignore[arg-type]


@pytest.mark.parametrize("device", [name for name in list_profiles() if load_profile(name).target != "onnx"])
def test_raising_comes_first_and_every_profile_names_forms_that_exist(device: str) -> None:
    chosen = names(device)
    assert tuple(chosen[: len(RAISING)]) == RAISING
    assert len(set(chosen)) == len(chosen)


def test_each_kind_of_device_gets_its_own_forms() -> None:
    assert {"group_norm_instance_norm", "attention_split_einsum"} <= set(names("iphone-15-pro"))
    assert {"group_norm_composite", "layer_norm_composite", "attention_composite"} <= set(names("galaxy-s23-ultra"))
    assert {"group_norm_channel_moments", "winograd_conv"} <= set(names("android-cpu"))


def test_the_witness_gets_the_graph_as_captured() -> None:
    assert names("cpu") == []


def test_plain_operators_take_the_place_of_composites() -> None:
    plain = names("galaxy-s23-ultra", plain_ops=True)
    assert not any("composite" in name for name in plain)
    assert {"group_norm_nhwc_amax", "attention_blocked", "attention_partial_softmax"} <= set(plain)
    assert names("iphone-15-pro", plain_ops=True) == names("iphone-15-pro")


def test_a_rule_can_be_left_out() -> None:
    assert "group_norm_instance_norm" not in names("iphone-15-pro", without=("group_norm_instance_norm",))


def test_what_changes_the_function_runs_only_if_it_is_named() -> None:
    assert {rule for rule in RULES if rule_class(rule).exactness == Exactness.CHANGES_FUNCTION} == set(APPROXIMATE)
    assert not set(APPROXIMATE) & {name for device in list_profiles() for name in names(device)}
    chosen = names("iphone-15-pro", approximate=("relu_attention",))
    assert chosen.index("relu_attention") < chosen.index("attention_split_einsum")


def test_scores_of_relu_attention_are_held_to_the_budget_of_the_device() -> None:
    profile = load_profile("galaxy-s23-ultra")
    rules = rules_for(profile, RewriteOptions(approximate=("relu_attention",)))
    budgets = [rule.budget_bytes for rule in rules if isinstance(rule, ReluAttention)]
    assert budgets == [profile.max_buffer_bytes]
    assert all(budgets)
    blocked = [rule.budget_bytes for rule in rules_for(profile) if isinstance(rule, ReluAttentionBlocked)]
    assert blocked == budgets


def test_names_are_checked_without_importing_torch() -> None:
    check_names(RewriteOptions(without=tuple(RULES), approximate=APPROXIMATE))
    with pytest.raises(UnsupportedError, match=r"must be a known one: nonsense.*raise_group_norm"):
        check_names(RewriteOptions(without=("nonsense",)))
    with pytest.raises(UnsupportedError, match=r"changes the function: split_constants.*gelu_swish"):
        check_names(RewriteOptions(approximate=("split_constants",)))
    code = (
        "import sys; from sdmobile.rewrites.registry import check_names; from sdmobile.rewrites.options import *;"
        "check_names(RewriteOptions(without=('raise_gelu',))); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("operation", FORMS)
def test_every_form_has_a_rule(operation: str) -> None:
    assert set(FORMS[operation].values()) <= set(RULES)


def test_an_unknown_form_is_an_error() -> None:
    profile = default_profile("ios")
    group_norm = profile.forms.group_norm.model_copy(update={"value": "whitening"})
    forms = profile.forms.model_copy(update={"group_norm": group_norm})
    with pytest.raises(UnsupportedError, match=r"instance_norm, nhwc_amax.*whitening"):
        rules_for(profile.model_copy(update={"forms": forms}))
