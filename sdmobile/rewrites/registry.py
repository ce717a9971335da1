"""Which rules a device gets, in which order."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from sdmobile.errors import UnsupportedError
from sdmobile.rewrites.options import RewriteOptions

if TYPE_CHECKING:
    from sdmobile.device_profiles.model import DeviceProfile
    from sdmobile.rewrites.rule import Rule

AS_CAPTURED = "as_captured"

# Every rule by name. Text, so that names can be checked and listed without importing PyTorch.
RULES = {
    "group_norm_instance_norm": "sdmobile.rewrites.group_norm:GroupNormInstanceNorm",
    "group_norm_nhwc_amax": "sdmobile.rewrites.group_norm:GroupNormNhwcAmax",
}
# The rule that writes a form of an operation, by the name that device profiles use.
FORMS = {
    "group_norm": {"instance_norm": "group_norm_instance_norm", "nhwc_amax": "group_norm_nhwc_amax"},
    "attention": {},
}


@cache
def rule_class(name: str) -> type[Rule]:
    """Returns the class of a rule.

    Raises:
        UnsupportedError: no such rule.
    """
    if name not in RULES:
        raise UnsupportedError("a rewrite rule must be a known one", name, f"Known are {', '.join(RULES)}")
    module, _, attribute = RULES[name].partition(":")
    return getattr(import_module(module), attribute)


def check_names(options: RewriteOptions) -> None:
    """Checks the rules that a user names.

    Raises:
        UnsupportedError: no such rule.
    """
    for name in (*options.without, *options.approximate):
        if name not in RULES:
            raise UnsupportedError("a rewrite rule must be a known one", name, f"Known are {', '.join(RULES)}")


def rules_for(profile: DeviceProfile, options: RewriteOptions | None = None) -> tuple[Rule, ...]:
    """Returns the rules that give a device the forms that its profile names, in the order of application.

    Args:
        profile: the device.
        options: what the user changes.

    Raises:
        UnsupportedError: the profile names a form that no rule writes.
    """
    options = options or RewriteOptions()
    forms = profile.forms
    names = [
        # 1. Normalisation: touches one operator only, so it neither needs nor hinders any other rule.
        _form("group_norm", forms.group_norm.value),
        # 2. Attention: no rule yet.
        _form("attention", forms.attention.value),
    ]
    return tuple(rule_class(name)() for name in names if name is not None and name not in options.without)


def _form(operation: str, form: object) -> str | None:
    """Returns the name of the rule that writes `form`, None for the graph as captured."""
    if form is None or form == AS_CAPTURED:
        return None
    if form not in FORMS[operation]:
        known = ", ".join([AS_CAPTURED, *FORMS[operation]])
        raise UnsupportedError(f"the form of {operation} in a device profile must be one of {known}", form)
    return FORMS[operation][str(form)]
