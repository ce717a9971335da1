"""Qwen3 as a text encoder: Yang et al., arXiv 2505.09388, section 2; its features are those after chosen layers.

    h = h + O·softmax(q̄·k̄ᵀ/√d + mask)·V,  h = h + W₂·(silu(W₀·h̄)·(W₁·h̄))

h̄, q̄ and k̄ are under norms without mean, the latter two for each head and then turned by their places. FLUX.2 [klein]
takes h after layers 9, 18 and 27 side by side, Z-Image after the last layer but one. What comes behind is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.families import clip, rotary
from sdmobile.families.component import Component, Config, Model, Shapes
from sdmobile.families.transformer_components import token_encoder

if TYPE_CHECKING:
    from torch import Tensor, nn

PAD = 151_643
"""Identifier that fills up a text at its end, `<|endoftext|>` of the published vocabulary: what is masked."""
_LAYERS = "layers."
_MOST_LAYERS = 128
_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "attention_bias",
)


def _build(config: Config, depth: int) -> nn.Module:
    from torch.nn import Identity
    from transformers import Qwen3Config, Qwen3Model

    settings = {key: config[key] for key in _KEYS if key in config}
    base = rotary.base_of(config)
    made = Qwen3Config(
        **settings, num_hidden_layers=depth, rope_parameters={"rope_type": "default", "rope_theta": base}
    )
    module: Any = Qwen3Model(made)
    module.norm = Identity()  # behind the last layer of all, which is not in
    rotary.keep_frequencies(module.rotary_emb, made.head_dim, base)
    return module


def _derive(shapes: Shapes) -> Config:
    facts: Config = {}
    if (token := shapes.get("embed_tokens.weight")) and len(token) == 2:
        facts |= {"vocab_size": token[0], "hidden_size": token[1]}
    if (inner := shapes.get(f"{_LAYERS}0.mlp.gate_proj.weight")) and len(inner) == 2:
        facts["intermediate_size"] = inner[0]
    if (norm := shapes.get(f"{_LAYERS}0.self_attn.q_norm.weight")) and len(norm) == 1 and norm[0]:
        facts["head_dim"] = norm[0]
        for key, name in (("num_attention_heads", "q_proj"), ("num_key_value_heads", "k_proj")):
            if projection := shapes.get(f"{_LAYERS}0.self_attn.{name}.weight"):
                facts[key] = projection[0] // norm[0]
    return facts


def _check(class_name: str, config: Config, layers: tuple[int, ...]) -> None:
    clip.MODEL.check(class_name, config)
    rule = "the text encoder must be Qwen3 as it was published"
    rotary.check(config, rule)
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise UnsupportedError(rule, f"hidden_act = {activation}: another activation")
    if config.get("use_sliding_window"):
        raise UnsupportedError(rule, "use_sliding_window = True: layers that see a window")
    total, least = config.get("num_hidden_layers"), max(layers) if min(layers) > 0 else -min(layers)
    if type(total) is not int or not least <= total <= _MOST_LAYERS:
        raise UnsupportedError(f"Qwen3 must have {least} layers at least, and {_MOST_LAYERS} at most", total)


def _depth(config: Config, layers: tuple[int, ...]) -> int | None:
    """Returns how many layers are needed, None where the configuration does not say how many there are."""
    last, total = max(layers), config.get("num_hidden_layers")
    if last >= 0:
        return last
    return total + 1 + last if type(total) is int and 0 < total <= _MOST_LAYERS else None


def _behind(config: Config, layers: tuple[int, ...]) -> tuple[str, ...]:
    """Returns what the names of weights begin with that lie behind the last layer that is needed."""
    depth = _depth(config, layers)
    return () if depth is None else tuple(f"{_LAYERS}{index}." for index in range(max(depth, 0), _MOST_LAYERS))


def positions(depth: int, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the numbers of layers, from 1 on, of a network that ends with the last one."""
    return tuple(depth + layer - max(layers) for layer in layers)


def _reference(module: Any, inputs: Mapping[str, Tensor], layers: tuple[int, ...], pad: int) -> Tensor:
    import torch

    ids = inputs["input_ids"]
    mask = (ids != pad).long()
    states = module(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True).hidden_states
    return torch.cat([states[layer] for layer in positions(len(module.layers), layers)], dim=2)


def model(layers: tuple[int, ...]) -> Model:
    """Returns the network up to the last layer that is needed.

    Args:
        layers: numbers of layers after which features are taken, 1 at least, or −2 at most: as Transformers counts
            hidden states from the end, of which the last is under a norm.
    """
    return Model(
        name="text_encoder",
        classes=("Qwen3Model", "Qwen3ForCausalLM"),
        build=lambda config: _build(config, _depth(config, layers) or 0),
        derive=_derive,
        check=lambda class_name, config: _check(class_name, config, layers),
        unused=("norm.", "lm_head."),
        unused_by=lambda config: _behind(config, layers),
        within="model.",
    )


def text_encoder(layers: tuple[int, ...], pad: int = PAD) -> Component:
    """Returns the component that encodes texts.

    Args:
        layers: as `model` takes them; several lie side by side.
        pad: identifier that fills up a text at its end.
    """

    def wrap(module: nn.Module, channels_last: bool) -> nn.Module:
        from sdmobile.families.qwen3_encoder import Qwen3TextEncoder

        own: Any = module
        return Qwen3TextEncoder(module, positions(len(own.layers), layers), pad)

    taken = ", ".join(str(layer) if layer > 0 else f"{-layer} from the end" for layer in layers)
    return token_encoder(
        f"filled up at the end to the context length with {pad}, which is masked",
        "hidden_states",
        f"Hidden states {taken}, one row per token",
        wrap,
        lambda module, inputs: _reference(module, inputs, layers, pad),
    )
