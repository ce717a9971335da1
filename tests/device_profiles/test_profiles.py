"""Device profiles: complete, sourced, and consistent with what the exporters do."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from sdmobile.device_profiles import default_profile, list_profiles, load_profile
from sdmobile.device_profiles.model import Fact
from sdmobile.errors import UnsupportedError
from sdmobile.rewrites.registry import rules_for


def test_the_known_devices() -> None:
    known = list_profiles()
    assert {"android-cpu", "cpu", "galaxy-s23-ultra", "iphone-14-pro-max", "iphone-15-pro"} <= set(known)
    assert list(known) == sorted(known)


@pytest.mark.parametrize("name", list_profiles())
def test_every_value_has_a_source(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    forms = [getattr(profile.forms, field) for field in type(profile.forms).model_fields]
    facts = [form for form in forms if isinstance(form, Fact)]
    if profile.plain is not None:
        facts += [profile.plain.group_norm, profile.plain.layer_norm]
    for fact in (*facts, profile.limits.file_bytes, profile.limits.buffer_bytes, *profile.hardware.values()):
        assert fact.source
        assert (fact.value is None) == (fact.reliability == "unknown")
    for row in profile.forms.attention.rows:
        assert row.source


@pytest.mark.parametrize("name", list_profiles())
def test_the_group_norm_form_is_the_one_that_is_exported(name: str) -> None:
    profile = load_profile(name)
    rules = {rule.name for rule in rules_for(profile)}
    form = profile.forms.group_norm.value
    assert f"group_norm_{form}" in rules if form != "as_captured" else not rules


@pytest.mark.parametrize(
    ("target", "name", "system", "file_bytes"),
    [
        ("ios", "iphone-14-pro-max", "iOS17", None),
        ("android", "galaxy-s23-ultra", None, 2**31 - 1),
        ("onnx", "cpu", None, None),
    ],
)
def test_defaults(target: str, name: str, system: str | None, file_bytes: int | None) -> None:
    profile = default_profile(target)
    assert (profile.name, profile.target) == (name, target)
    assert (profile.deployment_target, profile.max_file_bytes) == (system, file_bytes)


def test_published_figures() -> None:
    adreno = load_profile("galaxy-s23-ultra")
    assert adreno.max_buffer_bytes == 128 * 2**20
    assert adreno.hardware["dram_bandwidth"].value == 67.2
    assert adreno.hardware["dispatch_overhead"].value is None
    a17 = load_profile("iphone-15-pro").hardware
    # 6 cores with 128 ALUs, a multiply-add each per cycle.
    assert float(a17["gpu_fp32_peak"].value or 0) == pytest.approx(
        6 * 128 * 2 * float(a17["gpu_clock"].value or 0) / 1e3, rel=1e-3
    )


def test_an_unknown_device_lists_the_known() -> None:
    with pytest.raises(UnsupportedError, match=f"nokia-3310.*{', '.join(list_profiles())}"):
        load_profile("nokia-3310")
    with pytest.raises(UnsupportedError, match=r"must be a known one: \.\./cpu"):
        load_profile("../cpu")
    with pytest.raises(UnsupportedError, match="ios, android, onnx"):
        default_profile("symbian")


def test_a_value_without_source_or_honesty_is_refused() -> None:
    with pytest.raises(ValidationError):
        Fact(value=1, source="", reliability="high")
    with pytest.raises(ValidationError):
        Fact(value=1, source="somewhere", reliability="unknown")
    with pytest.raises(ValidationError):
        Fact(source="somewhere", reliability="low")


def test_importing_is_light() -> None:
    code = "import sys, sdmobile.device_profiles; print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_phones_browser_has_the_forms_of_the_phone() -> None:
    """But for the convolutions, which it cuts."""
    browser, phone = load_profile("phone-browser"), load_profile("galaxy-s23-ultra")
    for plain in (False, True):
        ours, theirs = (one.chosen_forms(plain).model_dump(exclude={"convolution"}) for one in (browser, phone))
        assert _values(ours) == _values(theirs)
    assert browser.limits.buffer_bytes.value == phone.limits.buffer_bytes.value
    assert browser.max_texture_rows == 8192


def _values(forms: object) -> object:
    """Returns forms without the sources of the choices."""
    if isinstance(forms, dict):
        return {key: _values(value) for key, value in forms.items() if key not in ("source", "reliability")}
    return [_values(one) for one in forms] if isinstance(forms, list | tuple) else forms
