"""Which rules a device gets, in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from sdmobile.device_profiles.model import DeviceProfile
    from sdmobile.rewrites.rule import Rule

AS_CAPTURED = "as_captured"


def rules_for(profile: DeviceProfile) -> tuple[Rule, ...]:
    """Returns the rules that give a device the forms that its profile names, in the order of application.

    Raises:
        UnsupportedError: the profile names a form that no rule writes.
    """
    from sdmobile.rewrites.group_norm import GroupNormInstanceNorm, GroupNormNhwcAmax

    forms = profile.forms
    # 1. Normalisation: touches one operator only, so it neither needs nor hinders any other rule.
    group_norm = _choose(
        "group_norm", forms.group_norm.value, {"instance_norm": GroupNormInstanceNorm, "nhwc_amax": GroupNormNhwcAmax}
    )
    # 2. Attention: no rule yet.
    attention = _choose("attention", forms.attention.value, {})
    return tuple(rule for rule in (group_norm, attention) if rule is not None)


def _choose(operation: str, form: object, rules: dict[str, type[Rule]]) -> Rule | None:
    """Returns the rule that writes `form`, None for the graph as captured."""
    if form is None or form == AS_CAPTURED:
        return None
    if form not in rules:
        known = ", ".join([AS_CAPTURED, *rules])
        raise UnsupportedError(f"the form of {operation} in a device profile must be one of {known}", form)
    return rules[str(form)]()
