"""Which rules a device gets, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdmobile.basics.words import meant, nearest
from sdmobile.errors import UnsupportedError
from sdmobile.rewrites.options import FLOAT16_SCALES, RewriteOptions

if TYPE_CHECKING:
    from sdmobile.device_profiles.model import Attention, DeviceProfile, Forms
    from sdmobile.rewrites.rule import Rule

AS_CAPTURED = "as_captured"
RUNTIME = "runtime:"  # the runtime chooses by rules of its own, as in "runtime:ml-drift/adreno7xx"
_ROOM = "sdmobile.rewrites"
_FEW_AXES = 4

# The place of every rule by its name: names can be checked and listed without importing PyTorch.
RULES = {
    "raise_group_norm": f"{_ROOM}.raising.norm:RaiseGroupNorm",
    "raise_layer_norm": f"{_ROOM}.raising.norm:RaiseLayerNorm",
    "raise_rms_norm": f"{_ROOM}.raising.rms_norm:RaiseRmsNorm",
    "raise_silu": f"{_ROOM}.raising.activation:RaiseSilu",
    "raise_gelu": f"{_ROOM}.raising.activation:RaiseGelu",
    "raise_attention": f"{_ROOM}.attention.raise_attention:RaiseAttention",
    "raise_causal_mask": f"{_ROOM}.attention.raise_causal:RaiseCausalMask",
    "gelu_tanh": f"{_ROOM}.gelu:GeluTanh",
    "gelu_swish": f"{_ROOM}.gelu:GeluSwish",
    "relu_attention": f"{_ROOM}.attention.relu_attention:ReluAttention",
    "permute_rank_4": f"{_ROOM}.permute:PermuteRank4",
    "rotary_turn": f"{_ROOM}.rotary:RotaryTurn",
    "attention_mask_heads": f"{_ROOM}.attention.shared_operands:AttentionMaskHeads",
    "attention_grouped_keys": f"{_ROOM}.attention.shared_operands:AttentionGroupedKeys",
    "repeat_heads": f"{_ROOM}.repeat:RepeatHeads",
    "repeat_channels": f"{_ROOM}.repeat:RepeatChannels",
    "timestep_sinusoid": f"{_ROOM}.timestep_sinusoid:TimestepSinusoid",
    "channel_bias": f"{_ROOM}.channel_bias:ChannelBias",
    "embedding_columns": f"{_ROOM}.embedding_columns:EmbeddingColumns",
    "geglu_split": f"{_ROOM}.geglu:GegluSplit",
    "group_norm_instance_norm": f"{_ROOM}.group_norm:GroupNormInstanceNorm",
    "group_norm_nhwc_amax": f"{_ROOM}.group_norm:GroupNormNhwcAmax",
    "group_norm_channel_moments": f"{_ROOM}.group_norm:GroupNormChannelMoments",
    "group_norm_composite": f"{_ROOM}.composites.group_norm:GroupNormComposite",
    "layer_norm_plain": f"{_ROOM}.layer_norm:LayerNormPlain",
    "layer_norm_amax": f"{_ROOM}.layer_norm:LayerNormAmax",
    "layer_norm_composite": f"{_ROOM}.composites.layer_norm:LayerNormComposite",
    "rms_norm_plain": f"{_ROOM}.rms_norm:RmsNormPlain",
    "rms_norm_amax": f"{_ROOM}.rms_norm:RmsNormAmax",
    "rms_norm_composite": f"{_ROOM}.composites.rms_norm:RmsNormComposite",
    "linear_attention_amax": f"{_ROOM}.attention.linear_attention:LinearAttentionAmax",
    "attention_sdpa": f"{_ROOM}.attention.plain_forms:AttentionSdpa",
    "attention_split_einsum": f"{_ROOM}.attention.split_einsum:AttentionSplitEinsum",
    "relu_attention_blocked": f"{_ROOM}.attention.relu_blocked:ReluAttentionBlocked",
    "attention_composite": f"{_ROOM}.composites.attention:AttentionComposite",
    "attention_blocked": f"{_ROOM}.attention.blocked:AttentionBlocked",
    "attention_partial_softmax": f"{_ROOM}.attention.plain_forms:AttentionPartialSoftmax",
    "attention_plain": f"{_ROOM}.attention.plain_forms:AttentionPlain",
    "convolution_slices": f"{_ROOM}.convolution_slices:ConvolutionSlices",
    "winograd_conv": f"{_ROOM}.winograd.rule:WinogradConv",
    "split_constants": f"{_ROOM}.constants:SplitConstants",
}
RANK_4 = (
    "permute_rank_4",
    "rotary_turn",
    "attention_mask_heads",
    "attention_grouped_keys",
    "repeat_heads",
    "repeat_channels",
)
"""Rules for devices whose tensors have four axes at most; they match what has more, or what converters give more."""
RAISING = tuple(name for name in RULES if name.startswith("raise_"))
APPROXIMATE = ("gelu_tanh", "gelu_swish", "relu_attention")

# The rule that writes a form of an operation, by the name that device profiles use.
FORMS = {
    "timestep": {"table": "timestep_sinusoid"},
    "channel_bias": {"nhwc": "channel_bias"},
    "geglu": {"split": "geglu_split"},
    "group_norm": {
        "instance_norm": "group_norm_instance_norm",
        "nhwc_amax": "group_norm_nhwc_amax",
        "channel_moments": "group_norm_channel_moments",
        "composite": "group_norm_composite",
    },
    "layer_norm": {"plain": "layer_norm_plain", "amax": "layer_norm_amax", "composite": "layer_norm_composite"},
    "rms_norm": {"plain": "rms_norm_plain", "amax": "rms_norm_amax", "composite": "rms_norm_composite"},
    "linear_attention": {"amax": "linear_attention_amax"},
    "convolution": {"winograd": "winograd_conv"},
    "constants": {"split": "split_constants"},
}
# The forms of attention are tried in this order, which does not matter: the table gives each attention one form.
ATTENTION = ("sdpa", "split_einsum", "composite", "blocked", "partial_softmax", "plain")


@cache
def rule_class(name: str) -> type[Rule]:
    """Returns the class of a rule.

    Raises:
        UnsupportedError: no such rule.
    """
    _require_rule(name)
    module, _, attribute = RULES[name].partition(":")
    return getattr(import_module(module), attribute)


def _require_rule(name: str) -> None:
    if name not in RULES:
        known = f"Known are {', '.join(RULES)}"
        raise UnsupportedError("a rewrite rule must be a known one", name, meant(name, [*RULES, FLOAT16_SCALES], known))


def check_names(options: RewriteOptions) -> None:
    """Checks the rules that a user names.

    Raises:
        UnsupportedError: no such rule, or one that --allow-approximate does not need.
    """
    for name in options.without:
        if name != FLOAT16_SCALES:
            _require_rule(name)
    for name in options.approximate:
        if name not in APPROXIMATE:
            known = f"Those that change what a model computes are {', '.join(APPROXIMATE)}"
            raise UnsupportedError(
                "--allow-approximate takes a rule that changes the function", name, meant(name, APPROXIMATE, known)
            )


def rules_for(profile: DeviceProfile, options: RewriteOptions | None = None) -> tuple[Rule, ...]:
    """Returns the rules that give a device the forms that its profile names, in the order of application.

    Args:
        profile: the device.
        options: what the user changes.

    Raises:
        UnsupportedError: the profile names a form that no rule writes.
    """
    options = options or RewriteOptions()
    if profile.target == "onnx":  # the independent witness: the graph as captured, unless the user asks
        return tuple(rule for rule in _approximations(options, profile) if rule.name not in options.without)
    forms = profile.chosen_forms(options.plain_ops)
    return tuple(rule for rule in _ordered(profile, forms, options) if rule.name not in options.without)


def _ordered(profile: DeviceProfile, forms: Forms, options: RewriteOptions) -> Iterator[Rule]:
    """Yields the rules in order."""
    # 1. Raise what is written out in primitive operators, so that all later rules see one operator. Norms first:
    #    a norm's own square roots and products must not be taken for something else. Attention before its mask.
    for name in RAISING:
        yield rule_class(name)()
    # 2. What changes the function, while the operators are whole.
    yield from _approximations(options, profile)
    # 3. What has more axes than the device's tensors; what is written instead is ordinary layers and reshapes.
    if profile.max_rank is not None and profile.max_rank <= _FEW_AXES:
        for name in RANK_4:
            yield rule_class(name)()
    # 4. The timestep's sinusoids, its sum with images, and GEGLU: patterns of several operators, while their linear
    #    layers, sines and GELUs are what was captured.
    yield from _form(forms, "timestep")
    yield from _form(forms, "channel_bias")
    budget = profile.max_buffer_bytes
    if forms.of("embedding") == "float32" and budget is not None:
        embedding: Any = rule_class("embedding_columns")
        yield embedding(budget_bytes=budget)
    yield from _form(forms, "geglu")
    # 5. Normalisation: one operator each; neither needs nor hinders any other rule.
    yield from _form(forms, "group_norm")
    yield from _form(forms, "layer_norm")
    yield from _form(forms, "rms_norm")
    # 6. Attention, after GEGLU and before layout: split-einsum takes the projections around it along.
    yield from _form(forms, "linear_attention")
    yield from _attention(profile, forms)
    # 7. Convolutions, after everything that makes new ones.
    yield from _convolution(profile, forms)
    # 8. Last, on what is left: factors that float16 cannot hold.
    yield from _form(forms, "constants")


def _approximations(options: RewriteOptions, profile: DeviceProfile) -> Iterator[Rule]:
    """Yields the rules that the user allowed to change the function."""
    wanted = profile.chosen_forms(options.plain_ops).attention
    budget = _score_budget(profile, wanted)
    relu = {"approved": True, "budget_bytes": budget, "element_bytes": wanted.element_bytes}
    for name in options.approximate:
        rule: Any = rule_class(name)
        yield rule(**relu) if name == "relu_attention" else rule()


def _score_budget(profile: DeviceProfile, wanted: Attention) -> int | None:
    """Returns the most bytes that a tensor of scores may have, None for no limit."""
    return profile.max_buffer_bytes if wanted.budget_bytes is None else wanted.budget_bytes


def _form(forms: Forms, operation: str) -> Iterator[Rule]:
    """Yields the rule that writes the profile's form of an operation; nothing for the graph as captured."""
    form = forms.of(operation)
    if form is None or form == AS_CAPTURED:
        return
    check_form(operation, form)
    yield rule_class(FORMS[operation][form])()


def check_form(operation: str, form: str) -> None:
    """Checks the form that a profile names for an operation of `FORMS`.

    Raises:
        UnsupportedError: no rule writes it.
    """
    known = [AS_CAPTURED, *FORMS[operation]]
    if operation == "convolution":
        from sdmobile.device_profiles.runtime_rules.winograd import RUNTIME_RULES, Gpu

        known += [f"{RUNTIME}{name}/{gpu.value}" for name in RUNTIME_RULES for gpu in Gpu]
    if form not in known:
        raise UnsupportedError(
            f"the form of {operation} in a device profile must be one of {', '.join(known)}", form, nearest(form, known)
        )


def wrong_forms(profile: DeviceProfile) -> dict[str, UnsupportedError]:
    """Returns what is wrong with the forms that a profile names, by entry ("plain.layer_norm"); loads no rule."""
    named = [("forms", name, profile.forms.of(name)) for name in FORMS]
    if profile.plain is not None:
        forms = profile.chosen_forms(plain_ops=True)
        named += [("plain", name, forms.of(name)) for name in FORMS if name in type(profile.plain).model_fields]
    found: dict[str, UnsupportedError] = {}
    for table, name, form in named:
        try:
            check_form(name, form or AS_CAPTURED)
        except UnsupportedError as error:
            found[f"{table}.{name}"] = error
    return found


def _convolution(profile: DeviceProfile, forms: Forms) -> Iterator[Rule]:
    """Yields Winograd's rule: explicit where the runtime has none, else to say what the runtime will do.

    Before it come slices of the convolutions whose transformed weights the runtime could not hold.
    """
    form = forms.of("convolution") or AS_CAPTURED
    if not form.startswith(RUNTIME):
        yield from _form(forms, "convolution")
        return
    check_form("convolution", form)
    from sdmobile.device_profiles.runtime_rules.winograd import Gpu

    runtime, _, gpu = form.removeprefix(RUNTIME).partition("/")
    if profile.max_texture_rows is not None:
        slices: Any = rule_class("convolution_slices")
        yield slices(texture_rows=profile.max_texture_rows, runtime=runtime, gpu=Gpu(gpu))
    rule: Any = rule_class("winograd_conv")
    yield rule(runtime=runtime, gpu=Gpu(gpu))


def _attention(profile: DeviceProfile, forms: Forms) -> Iterator[Rule]:
    """Yields a rule for every form of attention that the device's table names."""
    from sdmobile.rewrites.attention.base import AttentionTable

    wanted = forms.attention
    budget = _score_budget(profile, wanted)
    table = AttentionTable(wanted.rows, budget, wanted.element_bytes, wanted.kernels)
    settings: dict[str, dict[str, Any]] = {
        "split_einsum": {"query_block": wanted.query_block},
        "blocked": {
            "element_bytes": wanted.element_bytes,
            "inner": wanted.inner,
            **({} if budget is None else {"budget_bytes": budget}),
        },
    }
    if budget is not None:
        blocks: Any = rule_class("relu_attention_blocked")
        yield blocks(budget_bytes=budget, element_bytes=wanted.element_bytes)
    named = {row.form for row in wanted.rows}
    for form in ATTENTION:
        if form in named:
            rule: Any = rule_class(f"attention_{form}")
            yield rule(table=table, **settings.get(form, {}))
