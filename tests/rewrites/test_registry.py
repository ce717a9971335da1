"""The device profile chooses the rules."""

from __future__ import annotations

import pytest

from sdmobile.device_profiles import default_profile, list_profiles, load_profile
from sdmobile.errors import UnsupportedError
from sdmobile.rewrites.registry import rules_for


@pytest.mark.parametrize(
    ("target", "names"),
    [("ios", ["group_norm_instance_norm"]), ("android", ["group_norm_nhwc_amax"]), ("onnx", [])],
)
def test_rules_of_the_default_devices(target: str, names: list[str]) -> None:
    assert [rule.name for rule in rules_for(default_profile(target))] == names


@pytest.mark.parametrize("name", list_profiles())
def test_every_profile_names_forms_that_exist(name: str) -> None:
    rules_for(load_profile(name))


def test_an_unknown_form_is_an_error() -> None:
    profile = default_profile("ios")
    group_norm = profile.forms.group_norm.model_copy(update={"value": "whitening"})
    forms = profile.forms.model_copy(update={"group_norm": group_norm})
    with pytest.raises(UnsupportedError, match=r"instance_norm, nhwc_amax.*whitening"):
        rules_for(profile.model_copy(update={"forms": forms}))
